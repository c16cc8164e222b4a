//! A server that is worse than any real one: it answers a ticket with what a twist makes of the right messages.

use super::*;

/// What a bad server does next.
pub(super) enum Step {
    Send(FlightData),
    Fail(Status),
    /// Nothing, for ever.
    Hang,
}

/// Twists what a good server would have sent for a ticket, given the number of the stream.
pub(super) type Twist = Box<dyn Fn(usize, Vec<FlightData>) -> Vec<Step> + Send + Sync>;

pub(super) struct Bad {
    shard: Arc<Shard>,
    twist: Twist,
    streams: AtomicUsize,
    /// First row of every ticket.
    asked: Arc<Mutex<Vec<u64>>>,
}

/// Rows of a good message of a bad server.
const SMALL: u64 = 100;

impl Bad {
    /// Serves the shard badly; says where, and from which rows it was asked.
    pub(super) fn serve(shard: Arc<Shard>, twist: Twist) -> (Endpoint, Arc<Mutex<Vec<u64>>>, Arc<Shared>) {
        let shared = Shared::get().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let bad = Bad { shard, twist, streams: AtomicUsize::new(0), asked: Arc::clone(&asked) };
        let runtime = shared.runtime().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = stream::unfold(listener, async |listener| {
            Some((listener.accept().await.map(|(socket, _)| socket), listener))
        });
        let service = FlightServiceServer::new(bad);
        runtime.spawn(async move {
            let connections = connections.boxed();
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(connections).await
        });
        (here(port), asked, shared)
    }

    fn good(&self, ticket: &Ticket) -> Vec<FlightData> {
        let mut messages = vec![chunk::schema(&self.shard.schema().arrow)];
        let mut next = ticket.first;
        while next < ticket.first + ticket.rows {
            let most = SMALL.min(ticket.first + ticket.rows - next) as usize;
            let piece = self.shard.piece(Split::Train, next as u32, most).unwrap();
            messages.push(chunk::encode(&piece, next, ticket.compressed).unwrap());
            next += piece.num_rows() as u64;
        }
        messages
    }
}

type Answer<T> = std::result::Result<Response<T>, Status>;
type Stream<T> = BoxStream<'static, std::result::Result<T, Status>>;

#[tonic::async_trait]
impl FlightService for Bad {
    type HandshakeStream = Stream<HandshakeResponse>;
    type ListFlightsStream = Stream<FlightInfo>;
    type DoGetStream = Stream<FlightData>;
    type DoPutStream = Stream<PutResult>;
    type DoExchangeStream = Stream<FlightData>;
    type DoActionStream = Stream<arrow_flight::Result>;
    type ListActionsStream = Stream<ActionType>;

    async fn do_get(&self, request: Request<FlightTicket>) -> Answer<Self::DoGetStream> {
        let ticket: Ticket = serde_json::from_slice(&request.into_inner().ticket).unwrap();
        self.asked.lock().unwrap().push(ticket.first);
        let steps = (self.twist)(self.streams.fetch_add(1, Ordering::SeqCst), self.good(&ticket));
        let steps = stream::iter(steps).then(async |step| match step {
            Step::Send(data) => Ok(data),
            Step::Fail(status) => Err(status),
            Step::Hang => std::future::pending().await,
        });
        Ok(Response::new(steps.boxed()))
    }

    async fn handshake(&self, _: Request<Streaming<HandshakeRequest>>) -> Answer<Self::HandshakeStream> {
        Err(Status::unimplemented(""))
    }
    async fn list_flights(&self, _: Request<Criteria>) -> Answer<Self::ListFlightsStream> {
        Err(Status::unimplemented(""))
    }
    async fn get_flight_info(&self, _: Request<FlightDescriptor>) -> Answer<FlightInfo> {
        Err(Status::unimplemented(""))
    }
    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Answer<PollInfo> {
        Err(Status::unimplemented(""))
    }
    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Answer<SchemaResult> {
        Err(Status::unimplemented(""))
    }
    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Answer<Self::DoPutStream> {
        Err(Status::unimplemented(""))
    }
    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Answer<Self::DoExchangeStream> {
        Err(Status::unimplemented(""))
    }
    async fn do_action(&self, _: Request<Action>) -> Answer<Self::DoActionStream> {
        Err(Status::unimplemented(""))
    }
    async fn list_actions(&self, _: Request<Empty>) -> Answer<Self::ListActionsStream> {
        Err(Status::unimplemented(""))
    }
}

pub(super) fn send(messages: Vec<FlightData>) -> Vec<Step> {
    messages.into_iter().map(Step::Send).collect()
}

/// Fetches 450 rows from a server that twists its streams: the outcome, and from which rows it was asked.
pub(super) fn from_bad(twist: Twist, timeout_ms: u64) -> (Result<Vec<i64>>, Vec<u64>) {
    let (theirs, ours) = (ShardStore::new(), ShardStore::new());
    let report = fill(&theirs, "r", Budget::default(), &[450]);
    let (endpoint, asked, _shared) = Bad::serve(theirs.shard(report.key).unwrap(), twist);
    let request = FetchSpec { timeout_ms, ..spec(vec![piece(&endpoint, &report, 0, 450)]) };
    let fetched = fetch(&ours, &request).map(|reports| labels(&ours.shard(reports[0].key).unwrap()));
    if fetched.is_err() {
        assert_eq!((ours.bytes(), ours.release("r")), (0, 0), "a failed fetch leaves no shard");
    }
    let asked = asked.lock().unwrap().clone();
    (fetched, asked)
}

/// A reason that all attempts end with, and that they were as many as are allowed.
pub(super) fn reason(twist: impl Fn(&mut Vec<FlightData>) + Send + Sync + 'static) -> String {
    let twist: Twist = Box::new(move |_, mut messages| {
        twist(&mut messages);
        send(messages)
    });
    let (fetched, asked) = from_bad(twist, 30_000);
    let Error::Peer { reason, tries: 3, .. } = fetched.unwrap_err() else { panic!("{asked:?}") };
    reason
}

/// Makes the checksum fit again.
pub(super) fn reseal(message: &mut FlightData, row: u64) {
    let forms = message.app_metadata.slice(16..);
    message.app_metadata = chunk::seal(message, row, &forms);
}

pub(super) fn flip(message: &mut FlightData) {
    let mut body = message.data_body.to_vec();
    let last = body.len() - 1;
    body[last] ^= 1;
    message.data_body = body.into();
}
