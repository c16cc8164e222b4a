//! Who has not come: a question that one rank sends round the ring of control links, to which every rank adds itself if
//! it is behind, and which comes back to the one that asked.

/// Why a rank asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To log whom a long wait is for.
    Stall,
    /// To name whom the deadline was missed for.
    Deadline,
}

/// Which ranks have not started the operation `sequence`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Census {
    /// The rank that asks.
    pub(super) origin: u32,
    pub(super) purpose: Purpose,
    pub(super) sequence: u64,
    /// Ranks that have not started it, each with how many operations it has started, the rendezvous among them.
    pub(super) behind: Vec<(u32, u64)>,
}

impl Census {
    /// The rank that is furthest behind, and a sentence about all of them. None when all have started.
    pub(super) fn verdict(&self) -> Option<(usize, String)> {
        let (culprit, _) = self.behind.iter().min_by_key(|(_, started)| *started)?;
        let mut ranks: Vec<u32> = self.behind.iter().map(|(rank, _)| *rank).collect();
        ranks.sort_unstable();
        let names: Vec<String> = ranks.iter().map(u32::to_string).collect();
        let detail =
            format!("it has not started the operation, but its process answers (missing: rank {})", names.join(", "));
        Some((usize::try_from(*culprit).unwrap_or(usize::MAX), detail))
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.origin.to_le_bytes());
        out.push(match self.purpose {
            Purpose::Stall => 0,
            Purpose::Deadline => 1,
        });
        out.extend_from_slice(&self.sequence.to_le_bytes());
        for (rank, started) in &self.behind {
            out.extend_from_slice(&rank.to_le_bytes());
            out.extend_from_slice(&started.to_le_bytes());
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Census> {
        let (origin, rest) = bytes.split_first_chunk::<4>()?;
        let (purpose, rest) = rest.split_first()?;
        let (sequence, rest) = rest.split_first_chunk::<8>()?;
        let (entries, more) = rest.as_chunks::<12>();
        if !more.is_empty() {
            return None;
        }
        let entry = |[r0, r1, r2, r3, started @ ..]: &[u8; 12]| {
            (u32::from_le_bytes([*r0, *r1, *r2, *r3]), u64::from_le_bytes(*started))
        };
        Some(Census {
            origin: u32::from_le_bytes(*origin),
            purpose: match purpose {
                0 => Purpose::Stall,
                1 => Purpose::Deadline,
                _ => return None,
            },
            sequence: u64::from_le_bytes(*sequence),
            behind: entries.iter().map(entry).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rank_that_is_furthest_behind_is_the_culprit_and_all_are_listed() {
        let census = Census { origin: 0, purpose: Purpose::Stall, sequence: 9, behind: vec![(4, 8), (2, 3), (3, 8)] };
        let (culprit, detail) = census.verdict().unwrap();
        assert_eq!(culprit, 2);
        assert!(detail.ends_with("(missing: rank 2, 3, 4)"), "{detail}");
        assert_eq!(Census { behind: vec![], ..census }.verdict(), None);
    }
}
