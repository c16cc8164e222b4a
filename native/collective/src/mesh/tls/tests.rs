use super::*;
use std::net::{Shutdown, TcpListener};

fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let accepted = listener.accept().unwrap().0;
    for stream in [&dialled, &accepted] {
        stream.set_nonblocking(true).unwrap();
        stream.set_nodelay(true).unwrap();
    }
    (dialled, accepted)
}

/// For tests with thousands of connections: closing leaves nothing that keeps the port for a minute (TIME_WAIT).
fn fleeting_sockets() -> (TcpStream, TcpStream) {
    let (dialled, accepted) = sockets();
    for stream in [&dialled, &accepted] {
        rustix::net::sockopt::set_socket_linger(stream, Some(std::time::Duration::ZERO)).unwrap();
    }
    (dialled, accepted)
}

/// Two ends that know each other; their handshake has not begun.
fn ends(dialled: TcpStream, accepted: TcpStream) -> (TlsStream, TlsStream) {
    let (a, b) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let known = [Identity::generate().unwrap().fingerprint(), a.fingerprint()];
    let client = TlsStream::connect(dialled, &a, &b.fingerprint()).unwrap();
    let server = TlsStream::accept(accepted, &b, &known).unwrap();
    (client, server)
}

/// Two ends after the handshake.
fn friends() -> (TlsStream, TlsStream) {
    let (dialled, accepted) = sockets();
    let (mut client, mut server) = ends(dialled, accepted);
    while !(client.handshake().unwrap() & server.handshake().unwrap()) {}
    (client, server)
}

/// Somebody between the two ends, who sees and forwards what they send.
struct Wire {
    left: TcpStream,
    right: TcpStream,
}

impl Wire {
    fn friends() -> (TlsStream, Wire, TlsStream) {
        let ((dialled, left), (right, accepted)) = (sockets(), sockets());
        let (mut client, mut server) = ends(dialled, accepted);
        let mut wire = Wire { left, right };
        while !(client.handshake().unwrap() & server.handshake().unwrap()) {
            let (to_server, to_client) = (seen(&mut wire.left), seen(&mut wire.right));
            wire.right.write_all(&to_server).unwrap();
            wire.left.write_all(&to_client).unwrap();
        }
        (client, wire, server)
    }

    /// What the client has sent: at least `length` bytes.
    fn sent_by_client(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            bytes.extend(seen(&mut self.left));
        }
        bytes
    }
}

fn seen(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => bytes,
        other => panic!("{other:?}"),
    }
}

fn would_block<T: fmt::Debug>(result: io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

/// Reads until something other than "not yet" comes.
fn settled(stream: &mut TlsStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
}

fn read_exactly(stream: &mut TlsStream, length: usize) -> Vec<u8> {
    let (mut bytes, mut filled) = (vec![0; length], 0);
    while filled < length {
        filled += settled(stream, &mut bytes[filled..]).unwrap();
    }
    bytes
}

/// How the handshake ends on both sides. The client needs a read to learn what the server thinks of it.
fn outcomes(mut client: TlsStream, mut server: TlsStream) -> (io::Error, io::Error) {
    let (mut of_client, mut of_server) = (None, None);
    while of_client.is_none() || of_server.is_none() {
        for (stream, outcome) in [(&mut client, &mut of_client), (&mut server, &mut of_server)] {
            match stream.read(&mut [0]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => *outcome = Some(error),
                Ok(_) => panic!("bytes from nowhere"),
            }
        }
    }
    assert_eq!(client.read(&mut [0]).unwrap_err().kind(), of_client.as_ref().unwrap().kind());
    assert_eq!(client.write(&[0]).unwrap_err().kind(), of_client.as_ref().unwrap().kind());
    (of_client.unwrap(), of_server.unwrap())
}

/// Marsaglia's xorshift64*.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.roll() % end as u64) as usize
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.roll().to_le_bytes()[7]).collect()
    }
}

#[test]
fn ten_megabytes_go_both_ways_at_once() {
    const LENGTH: usize = 10_000_000;
    let (dialled, accepted) = sockets();
    let (client, server) = ends(dialled, accepted);
    let mut dice = Dice(1);
    let sent = [dice.bytes(LENGTH), dice.bytes(LENGTH)];
    let mut received = [vec![0; LENGTH], vec![0; LENGTH]];
    let (mut streams, mut given, mut taken) = ([client, server], [0; 2], [0; 2]);
    while taken != [LENGTH; 2] {
        for (side, stream) in streams.iter_mut().enumerate() {
            let most = 1 + dice.below(700_000);
            match stream.write(&sent[side][given[side]..(given[side] + most).min(LENGTH)]) {
                Ok(count) => given[side] += count,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
            let until = (taken[side] + 1 + dice.below(700_000)).min(LENGTH);
            match stream.read(&mut received[side][taken[side]..until]) {
                Ok(count) => taken[side] += count,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
            if given[side] == LENGTH {
                stream.flush_backlog().unwrap();
            }
        }
    }
    assert!(received[0] == sent[1] && received[1] == sent[0]);
}

#[test]
fn both_ends_know_whom_they_talk_to_after_the_handshake_and_not_before() {
    let (a, b, c) = (Identity::generate().unwrap(), Identity::generate().unwrap(), Identity::generate().unwrap());
    assert_ne!(a.fingerprint(), b.fingerprint());
    assert_eq!(a.clone().fingerprint(), a.fingerprint());
    let (dialled, accepted) = sockets();
    let mut client = TlsStream::connect(dialled, &a, &b.fingerprint()).unwrap();
    let mut server = TlsStream::accept(accepted, &b, &[c.fingerprint(), a.fingerprint()]).unwrap();
    assert_eq!((client.peer_fingerprint(), server.peer_fingerprint()), (None, None));
    while !(client.handshake().unwrap() & server.handshake().unwrap()) {}
    assert_eq!(client.peer_fingerprint(), Some(b.fingerprint()));
    assert_eq!(server.peer_fingerprint(), Some(a.fingerprint()));
}

#[test]
fn a_dialler_refuses_a_certificate_it_does_not_expect_and_both_ends_say_so() {
    let (a, b, c) = (Identity::generate().unwrap(), Identity::generate().unwrap(), Identity::generate().unwrap());
    let (dialled, accepted) = sockets();
    let client = TlsStream::connect(dialled, &a, &c.fingerprint()).unwrap();
    let server = TlsStream::accept(accepted, &b, &[a.fingerprint()]).unwrap();
    let (of_client, of_server) = outcomes(client, server);
    assert_eq!(of_client.kind(), ErrorKind::PermissionDenied);
    assert!(of_client.to_string().contains(&b.fingerprint()), "{of_client}");
    assert_eq!(of_server.kind(), ErrorKind::PermissionDenied);
    assert!(of_server.to_string().contains("refused this rank's certificate"), "{of_server}");
}

#[test]
fn an_acceptor_refuses_a_certificate_outside_the_roster_and_both_ends_say_so() {
    let (a, b, c) = (Identity::generate().unwrap(), Identity::generate().unwrap(), Identity::generate().unwrap());
    let (dialled, accepted) = sockets();
    let client = TlsStream::connect(dialled, &a, &b.fingerprint()).unwrap();
    let server = TlsStream::accept(accepted, &b, &[c.fingerprint()]).unwrap();
    let (of_client, of_server) = outcomes(client, server);
    assert_eq!(of_server.kind(), ErrorKind::PermissionDenied);
    assert!(of_server.to_string().contains(&a.fingerprint()), "{of_server}");
    assert_eq!(of_client.kind(), ErrorKind::PermissionDenied);
    assert!(of_client.to_string().contains("refused this rank's certificate"), "{of_client}");
}

#[test]
fn a_copied_certificate_without_its_key_is_refused() {
    let (a, b, thief) = (Identity::generate().unwrap(), Identity::generate().unwrap(), Identity::generate().unwrap());
    let mask = |stolen: &Identity| stolen.with_key_of(&thief);
    for (dialler, acceptor) in [(mask(&a), b.clone()), (a.clone(), mask(&b))] {
        let (dialled, accepted) = sockets();
        let client = TlsStream::connect(dialled, &dialler, &b.fingerprint()).unwrap();
        let server = TlsStream::accept(accepted, &acceptor, &[a.fingerprint()]).unwrap();
        let (of_client, of_server) = outcomes(client, server);
        assert!(format!("{of_client} {of_server}").contains("BadSignature"), "{of_client}; {of_server}");
    }
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let (a, b) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let (dialled, accepted) = sockets();
    let config = ClientConfig::builder_with_provider(Arc::clone(a.provider()))
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(a.pin(&[&b.fingerprint()]).unwrap())
        .with_no_client_auth();
    let nobody = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
    let client = TlsStream::new(dialled, ClientConnection::new(Arc::new(config), nobody).unwrap().into()).unwrap();
    let server = TlsStream::accept(accepted, &b, &[a.fingerprint()]).unwrap();
    let (_, of_server) = outcomes(client, server);
    assert!(of_server.to_string().contains("no certificates"), "{of_server}");
}

#[test]
fn whoever_speaks_plain_text_fails() {
    let (mut stranger, accepted) = sockets();
    let identity = Identity::generate().unwrap();
    let mut server = TlsStream::accept(accepted, &identity, &[identity.fingerprint()]).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let error = settled(&mut server, &mut [0; 64]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    assert!(error.to_string().starts_with("the TLS handshake failed"), "{error}");

    let (dialled, mut stranger) = sockets();
    let mut client = TlsStream::connect(dialled, &identity, &identity.fingerprint()).unwrap();
    stranger.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    assert_eq!(settled(&mut client, &mut [0; 64]).unwrap_err().kind(), ErrorKind::InvalidData);
}

#[test]
fn a_peer_that_says_nothing_is_waited_for() {
    let ((dialled, _quiet), (_silent, accepted)) = (sockets(), sockets());
    let (mut client, mut server) = ends(dialled, accepted);
    for stream in [&mut client, &mut server] {
        for _ in 0..3 {
            assert!(would_block(stream.read(&mut [0; 10])));
            assert!(would_block(stream.write(&[0; 10])));
            assert!(!stream.handshake().unwrap());
        }
        assert!(stream.is_handshaking() && !stream.wants_write() && !stream.has_buffered());
    }
}

#[test]
fn a_peer_that_leaves_in_the_handshake_is_lost() {
    let (dialled, accepted) = sockets();
    let (mut client, server) = ends(dialled, accepted);
    drop(server);
    let error = settled(&mut client, &mut [0]).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{error}");
}

#[test]
fn a_close_notify_reads_as_an_end_and_the_other_direction_goes_on() {
    let (mut client, mut server) = friends();
    assert_eq!(client.write(b"all").unwrap(), 3);
    assert!(client.shutdown_write().unwrap() && client.shutdown_write().unwrap());
    assert_eq!(client.write(b"more").unwrap_err().kind(), ErrorKind::BrokenPipe);
    assert_eq!(read_exactly(&mut server, 3), b"all");
    assert_eq!(settled(&mut server, &mut [0]).unwrap(), 0);
    assert_eq!(server.write(b"answer").unwrap(), 6);
    assert_eq!(read_exactly(&mut client, 6), b"answer");
    drop(server);
    assert_eq!(settled(&mut client, &mut [0]).unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn writing_to_a_peer_that_has_closed_and_gone_ends_in_an_error() {
    let (mut client, mut server) = friends();
    assert!(client.shutdown_write().unwrap());
    assert_eq!(settled(&mut server, &mut [0]).unwrap(), 0);
    drop(client);
    let mut rounds = 0;
    // The first writes are taken; the socket tells that nobody is there.
    while server.write(&[1; 100_000]).is_ok() || rounds < 2 {
        rounds += 1;
        assert!(rounds < 1000, "it takes what nobody reads");
    }
}

#[test]
fn a_connection_cut_in_or_after_a_record_is_not_an_end() {
    for missing in [0, 1, 5, 100, 116] {
        let (mut client, mut wire, mut server) = Wire::friends();
        assert_eq!(client.write(&[7; 100]).unwrap(), 100);
        let mut record = wire.sent_by_client(122);
        assert_eq!(record.len(), 5 + 100 + 1 + 16);
        record.truncate(122 - missing);
        wire.right.write_all(&record).unwrap();
        wire.right.shutdown(Shutdown::Write).unwrap();
        if missing == 0 {
            assert_eq!(read_exactly(&mut server, 100), [7; 100]);
        }
        for _ in 0..2 {
            assert_eq!(settled(&mut server, &mut [0; 200]).unwrap_err().kind(), ErrorKind::UnexpectedEof);
            assert_eq!(server.write(&[0]).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        }
    }
}

#[test]
fn a_record_changed_or_sent_twice_is_refused() {
    for change in [|record: &mut Vec<u8>| record[30] ^= 1, |record: &mut Vec<u8>| record.extend(record.clone())] {
        let (mut client, mut wire, mut server) = Wire::friends();
        assert_eq!(client.write(&[7; 100]).unwrap(), 100);
        let mut record = wire.sent_by_client(122);
        change(&mut record);
        wire.right.write_all(&record).unwrap();
        let mut end = settled(&mut server, &mut [0; 200]);
        if end.is_ok() {
            end = settled(&mut server, &mut [0; 200]);
        }
        assert_eq!(end.unwrap_err().kind(), ErrorKind::InvalidData);
    }
}

#[test]
fn a_head_shares_the_record_of_what_follows() {
    let (mut client, mut wire, mut server) = Wire::friends();
    let count = client.write_vectored(&[IoSlice::new(b"head"), IoSlice::new(&[1; 1000])]).unwrap();
    assert_eq!(count, 1004);
    let record = wire.sent_by_client(5 + 1004 + 1 + 16);
    assert_eq!(record[..5], [23, 3, 3, 0x03, 0xFD]);
    assert_eq!(record.len(), 5 + 0x03FD);
    wire.right.write_all(&record).unwrap();
    let bytes = read_exactly(&mut server, 1004);
    assert_eq!((&bytes[..4], &bytes[4..]), (&b"head"[..], &[1; 1000][..]));
}

#[test]
fn bytes_that_poll_cannot_see_are_announced() {
    let (mut client, mut server) = friends();
    assert_eq!(client.write(&[1; 50_000]).unwrap(), 50_000);
    assert_eq!(read_exactly(&mut server, 10).len(), 10);
    assert!(server.has_buffered());
    assert_eq!(read_exactly(&mut server, 49_990).len(), 49_990);
    assert!(would_block(server.read(&mut [0])));
    assert!(!server.has_buffered());
}

#[test]
fn a_full_connection_takes_no_more_than_one_backlog() {
    let (mut client, mut server) = friends();
    let data = vec![5; 4 * BACKLOG];
    let mut given = 0;
    loop {
        match client.write(&data) {
            Ok(count) => {
                assert!(count <= BACKLOG, "{count}");
                given += count;
            }
            Err(error) => break assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
    }
    assert!(client.wants_write() && !client.flush_backlog().unwrap());
    assert!(would_block(client.flush()));
    let (mut taken, mut room) = (0, vec![0; 1 << 20]);
    while taken < given {
        taken += match server.read(&mut room) {
            Ok(count) => count,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                client.flush_backlog().unwrap();
                0
            }
        };
    }
    assert_eq!(taken, given);
    assert!(client.flush_backlog().unwrap() && !client.wants_write());
}

/// Long runs outlive a key: rustls changes it every 2^24 records.
#[test]
fn new_keys_in_the_midst_of_data_go_unnoticed() {
    let (mut client, mut server) = friends();
    for round in 0..3 {
        client.session.refresh_traffic_keys().unwrap();
        assert_eq!(client.write(&[round; 40_000]).unwrap(), 40_000);
        assert_eq!(read_exactly(&mut server, 40_000), [round; 40_000]);
        assert_eq!(server.write(&[round; 40_000]).unwrap(), 40_000);
        assert_eq!(read_exactly(&mut client, 40_000), [round; 40_000]);
    }
}

#[test]
fn a_fingerprint_that_is_none_is_refused_by_name() {
    let identity = Identity::generate().unwrap();
    let right = identity.fingerprint();
    assert_eq!(right.len(), 64);
    for text in ["", "ab", &right[1..], &right.to_uppercase(), &format!("{right}00"), &format!("{}é", &right[2..])] {
        let (dialled, accepted) = sockets();
        let errors = [
            TlsStream::connect(dialled, &identity, text).unwrap_err(),
            TlsStream::accept(accepted, &identity, &[right.clone(), text.to_owned()]).unwrap_err(),
        ];
        assert!(errors.iter().all(|error| error.to_string().contains(&format!("{text:?}"))), "{errors:?}");
    }
}

#[test]
fn random_bytes_are_refused_without_a_panic() {
    let (a, b) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let mut dice = Dice(2);
    for round in 0..3000 {
        let (dialled, accepted) = fleeting_sockets();
        let (mut stranger, mut stream) = if round % 2 == 0 {
            (accepted, TlsStream::connect(dialled, &a, &b.fingerprint()).unwrap())
        } else {
            (dialled, TlsStream::accept(accepted, &a, &[b.fingerprint()]).unwrap())
        };
        let length = dice.below(600);
        let mut noise = dice.bytes(length);
        // Mostly in the form of a record, so that it gets past the first check.
        if round % 4 < 3 {
            let header = [20 + dice.below(5) as u8, 3, 3, (length >> 8) as u8, length as u8];
            noise.splice(..0, header);
            if round % 3 == 0 && length > 4 {
                let [high, low] = (length as u16 - 4).to_be_bytes();
                noise[5..9].copy_from_slice(&[1 + dice.below(25) as u8, 0, high, low]);
            }
        }
        stranger.write_all(&noise).unwrap();
        stranger.shutdown(Shutdown::Write).unwrap();
        assert!(settled(&mut stream, &mut [0; 100]).is_err());
        assert!(stream.write(&[0]).is_err());
    }
}

#[test]
fn a_handshake_or_a_record_with_a_changed_byte_never_panics_nor_gives_false_bytes() {
    let mut dice = Dice(3);
    let (mut whole, mut broken) = (0, 0);
    for _ in 0..600 {
        let ((dialled, left), (right, accepted)) = (fleeting_sockets(), fleeting_sockets());
        let (client, server) = ends(dialled, accepted);
        let (mut wires, mut streams) = ([left, right], [client, server]);
        let (at, bit, mut passed) = (dice.below(2200), dice.below(8), 0);
        let (mut said, mut quiet) = ([false; 2], 0);
        // Ten rounds without a byte mean that nothing more will happen.
        while quiet < 10 {
            quiet += 1;
            for side in 0..2 {
                let stream = &mut streams[side];
                said[side] = said[side] || stream.write(b"payload").is_ok();
                let mut room = [0; 16];
                if let Ok(count) = stream.read(&mut room) {
                    assert_eq!(room[..count], b"payload"[..]);
                }
                let mut bytes = seen(&mut wires[side]);
                if let Some(byte) = at.checked_sub(passed).and_then(|index| bytes.get_mut(index)) {
                    *byte ^= 1 << bit;
                }
                passed += bytes.len();
                quiet = if bytes.is_empty() { quiet } else { 0 };
                wires[1 - side].write_all(&bytes).unwrap();
            }
        }
        whole += usize::from(said == [true; 2]);
        broken += usize::from(streams.iter().any(|stream| stream.failure.is_some()));
    }
    assert!(whole > 0 && broken > 300, "{whole} {broken}");
}
