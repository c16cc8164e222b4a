//! Ranks as processes: the parent starts itself once per rank and speaks one JSON value per line with each.
//!
//! Parent: request. Child: its shards and where it serves them. Parent: all shards. Child: its endpoint. Parent: the roster. Child: its
//! report, after which it ends.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use kindling_shards::ShardStore;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{Held, Request, Result, ingest, open};

struct Rank {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Rank {
    fn start(rank: usize) -> Result<Rank> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--rank", &rank.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().ok_or("no stdin")?;
        let output = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
        Ok(Rank { child, input, output })
    }

    fn tell(&mut self, value: &impl Serialize) -> Result<()> {
        writeln!(self.input, "{}", serde_json::to_string(value)?)?;
        Ok(self.input.flush()?)
    }

    fn hear<T: DeserializeOwned>(&mut self) -> Result<T> {
        hear(&mut self.output)
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        // A child that is done has already ended; one that is not must not outlive the test.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn hear<T: DeserializeOwned>(lines: &mut Lines<impl BufRead>) -> Result<T> {
    let line = lines.next().ok_or("the other side ended early")??;
    Ok(serde_json::from_str(&line)?)
}

/// Runs the request with a process per rank and returns their reports.
pub fn fit(request: &Request) -> Result<Vec<Value>> {
    let mut ranks = (0..request.world).map(Rank::start).collect::<Result<Vec<_>>>()?;
    let mut shards: Vec<Held> = Vec::new();
    for rank in &mut ranks {
        rank.tell(request)?;
        shards.extend(rank.hear::<Vec<Held>>()?);
    }
    let mut roster: Vec<Value> = Vec::new();
    for rank in &mut ranks {
        rank.tell(&shards)?;
        roster.push(rank.hear()?);
    }
    for rank in &mut ranks {
        rank.tell(&roster)?;
    }
    ranks.iter_mut().map(Rank::hear).collect()
}

/// The child's side: rank `rank` holds every `world`-th partition, and fetches what else is its own.
pub fn serve(rank: usize) -> Result<()> {
    let mut lines = std::io::stdin().lock().lines();
    let request: Request = hear(&mut lines)?;
    let store = ShardStore::new();
    tell(&ingest(&request, &store, |partition| partition % request.world == rank, true)?)?;
    let shards: Vec<Held> = hear(&mut lines)?;
    let session = open(&request, &store, rank, &shards)?;
    tell(&session.endpoint()?)?;
    let roster: Vec<kindling_collective::Endpoint> = hear(&mut lines)?;
    session.connect(&roster)?;
    let report = session.fit(&mut |_| Ok(()))?;
    if let (0, Some(path)) = (rank, &request.weights) {
        std::fs::write(path, session.weights()?)?;
    }
    tell(&report)
}

fn tell(value: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(value)?)?;
    Ok(out.flush()?)
}
