//! What a stranger's bytes meet first, for fuzzers and for the test of their corpus: the frames and the handshake. Nothing
//! of the two leaves this file; each function says what is wrong with how the bytes were taken, if anything.

use super::frame::Frame;
use super::handshake::{self, CONTROL, Claim, HELLO, Nonces, Verdict};
use crate::secret::Secret;

/// Takes `bytes` apart as frames, as far as they are.
pub fn frame(mut bytes: &[u8]) -> Result<(), String> {
    while let Ok(Some((frame, length))) = Frame::parse(bytes) {
        let Some((whole, rest)) = bytes.split_at_checked(length) else {
            return Err(format!("a frame of {length} bytes out of {}: {frame:?}", bytes.len()));
        };
        let mut again = Vec::new();
        frame.push(&mut again);
        // Texts that are too long or not UTF-8 do not come back as they were. What was made of them does.
        if Frame::parse(&again) != Ok(Some((frame.clone(), again.len()))) && !matches!(frame, Frame::Abort(_)) {
            return Err(format!("{frame:?} does not survive the wire"));
        }
        if again != whole && !matches!(frame, Frame::Abort(_)) {
            return Err(format!("{frame:?} was read from {whole:?}, which is not how it is written"));
        }
        if let Some(short) = whole.len().checked_sub(1).and_then(|cut| whole.get(..cut))
            && Frame::parse(short) != Ok(None)
        {
            return Err(format!("{frame:?} did not wait for its last byte"));
        }
        bytes = rest;
    }
    Ok(())
}

/// Takes `bytes` for a hello, for a proof and for a verdict, under a secret that is known: 32 bytes of 7. None but the
/// messages that are made with it may be believed.
pub fn handshake(bytes: &[u8]) -> Result<(), String> {
    if let Ok(nonce) = handshake::read_hello(bytes)
        && bytes.get(..HELLO) != Some(&*handshake::hello(&nonce))
    {
        return Err(format!("a hello that is none was believed: {bytes:?}"));
    }
    let secret = Secret::from([7; 32]);
    let nonces = Nonces { connector: [1; 32], acceptor: [2; 32] };
    let claim = |channel: u32| Claim { run: "fuzz".into(), attempt: 1, world: 2, from: 0, to: 1, channel };
    let claims = [claim(0), claim(CONTROL)];
    match handshake::judge(&secret, &claims, &nonces, bytes) {
        (Verdict::Unproven, None) => {}
        (Verdict::Welcome, Some(number)) => {
            if claims.get(number).map(|claim| handshake::proof(&secret, claim, &nonces)).as_deref() != Some(bytes) {
                return Err(format!("a proof that is none was believed: {bytes:?}"));
            }
        }
        // Proved, for a place that is not expected: the corpus has such, a fuzzer cannot make any.
        (Verdict::OtherAttempt { .. } | Verdict::OtherPlace, None) => {}
        odd => return Err(format!("{odd:?} is no judgement of a proof: {bytes:?}")),
    }
    for claim in &claims {
        if Verdict::decode(bytes, &secret, claim, &nonces) == Some(Verdict::Welcome)
            && Verdict::Welcome.encode(&secret, claim, &nonces) != bytes
        {
            return Err(format!("a welcome that is none was believed: {bytes:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::census::{Census, Purpose};
    use super::*;
    use crate::cause::Cause;
    use crate::operation::{Kind, Operation, Wire};
    use crate::{DType, ReduceOp};
    use std::path::{Path, PathBuf};

    fn frames() -> Vec<(&'static str, Vec<u8>)> {
        let operation =
            Operation { kind: Kind::AllReduce(ReduceOp::Sum), dtype: DType::F32, wire: Wire::BF16, elements: 9 };
        let other = Operation::plain(Kind::Barrier);
        let behind = vec![(1, 8), (2, 0)];
        let frames = [
            ("operation", Frame::Operation { sequence: 7, operation }),
            (
                "transfer",
                Frame::Operation { sequence: 1, operation: Operation::plain(Kind::Transfer { from: 0, to: 1 }) },
            ),
            ("abort-lost", Frame::Abort(Cause::Lost { rank: 2, detail: "gone".into() })),
            ("abort-aborted", Frame::Abort(Cause::Aborted { rank: 0, reason: "né".into() })),
            (
                "abort-mismatch",
                Frame::Abort(Cause::Mismatch { sequence: 9, ranks: [1, 2], operations: [operation, other] }),
            ),
            ("farewell", Frame::Farewell),
            ("heartbeat", Frame::Heartbeat),
            ("census", Frame::Census(Census { origin: 3, purpose: Purpose::Deadline, sequence: 9, behind })),
            ("heard", Frame::Heard),
        ];
        let mut all: Vec<(&str, Vec<u8>)> = Vec::new();
        let mut together = Vec::new();
        for (name, frame) in frames {
            frame.push(&mut together);
            let mut bytes = Vec::new();
            frame.push(&mut bytes);
            all.push((name, bytes));
        }
        let cut = |name: &str, count: usize| {
            let (_, bytes) = all.iter().find(|(known, _)| *known == name).unwrap();
            bytes[..bytes.len() - count].to_vec()
        };
        let truncated = [("truncated-operation", cut("operation", 1)), ("truncated-header", cut("heartbeat", 3))];
        let mut odd = cut("operation", 0);
        odd[4] += 1;
        odd.push(0);
        let mut torn = cut("census", 1);
        torn[4] -= 1;
        all.extend(truncated);
        all.extend([
            ("together", together),
            ("oversized", vec![2, 0, 0, 0, 255, 255, 255, 255]),
            ("oversized-by-one", vec![2, 0, 0, 0, 1, 0, 1, 0]),
            ("longer-than-an-operation", odd),
            ("census-of-half-an-entry", torn),
            ("heartbeat-with-a-body", vec![4, 0, 0, 0, 1, 0, 0, 0, 9]),
            ("heartbeat-without-its-zeros", vec![4, 1, 0, 0, 0, 0, 0, 0]),
            ("unknown-kind", vec![77, 0, 0, 0, 0, 0, 0, 0]),
            ("abort-not-utf-8", [&[2, 0, 0, 0, 7, 0, 0, 0, 0, 1, 0, 0, 0][..], &[0xff, 0xfe]].concat()),
            ("random", (0..300u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()),
            ("empty", Vec::new()),
        ]);
        all
    }

    fn messages() -> Vec<(&'static str, Vec<u8>)> {
        let secret = Secret::from([7; 32]);
        let nonces = Nonces { connector: [1; 32], acceptor: [2; 32] };
        let claim = Claim { run: "fuzz".into(), attempt: 1, world: 2, from: 0, to: 1, channel: 0 };
        let proof = |claim: &Claim, secret: &Secret| handshake::proof(secret, claim, &nonces);
        let control = Claim { channel: CONTROL, ..claim.clone() };
        let verdict = |verdict: Verdict| verdict.encode(&secret, &claim, &nonces);
        let mut newer = handshake::hello(&[1; 32]);
        newer[8] += 1;
        let mut forged = verdict(Verdict::Welcome);
        forged[39] ^= 1;
        let mut renumbered = proof(&claim, &secret);
        renumbered[8] ^= 1;
        let mut padded = verdict(Verdict::Welcome);
        padded.push(0);
        vec![
            ("hello", handshake::hello(&[1; 32])),
            ("hello-truncated", handshake::hello(&[1; 32])[..43].to_vec()),
            ("hello-of-another-version", newer),
            ("proof", proof(&claim, &secret)),
            ("proof-control", proof(&control, &secret)),
            ("proof-of-another-secret", proof(&claim, &Secret::from([8; 32]))),
            ("proof-of-another-attempt", proof(&Claim { attempt: 0, ..claim.clone() }, &secret)),
            ("proof-of-another-world", proof(&Claim { world: 3, ..claim.clone() }, &secret)),
            ("proof-with-another-rank", renumbered),
            ("proof-truncated", proof(&claim, &secret)[..51].to_vec()),
            ("welcome", verdict(Verdict::Welcome)),
            ("welcome-forged", forged),
            ("welcome-with-more", padded),
            ("refusal", verdict(Verdict::Unproven)),
            ("refusal-of-an-attempt", verdict(Verdict::OtherAttempt { attempt: 4 })),
            ("refusal-of-a-place", verdict(Verdict::OtherPlace)),
            ("http", b"GET / HTTP/1.1\r\nHost: somewhere or other\r\nAccept: */*\r\n\r\n".to_vec()),
            ("oversized-frame", vec![2, 0, 0, 0, 255, 255, 255, 255]),
            ("random", (0..100u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect()),
            ("empty", Vec::new()),
        ]
    }

    fn folder(target: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
    }

    /// The committed corpus is what this protocol says. `KINDLING_WRITE_CORPUS=1` writes it anew.
    #[test]
    fn the_corpus_holds_the_messages_of_this_version() {
        for (target, files) in [("frame", frames()), ("handshake", messages())] {
            for (name, bytes) in files {
                let path = folder(target).join(name);
                if std::env::var_os("KINDLING_WRITE_CORPUS").is_some() {
                    std::fs::create_dir_all(folder(target)).unwrap();
                    std::fs::write(&path, &bytes).unwrap();
                }
                assert!(std::fs::read(&path).unwrap() == bytes, "{} is of another version", path.display());
            }
        }
    }

    #[test]
    fn a_frame_that_is_read_otherwise_than_written_would_be_told() {
        // The checks themselves: all that is valid passes, and each truncation of it.
        for (name, bytes) in frames() {
            (0..=bytes.len()).for_each(|cut| assert_eq!(frame(&bytes[..cut]), Ok(()), "{name} {cut}"));
        }
        for (name, bytes) in messages() {
            (0..=bytes.len()).for_each(|cut| assert_eq!(handshake(&bytes[..cut]), Ok(()), "{name} {cut}"));
        }
    }
}
