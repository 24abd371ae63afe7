//! Which partition an object belongs to, when the client is the one to decide.

/// How it is done, for help texts.
pub(crate) const RULE: &str = "the first 8 bytes of BLAKE3 of the lower-cased id, \
read as a little-endian number, modulo the number of partitions";

/// The partition of an id: see [`RULE`]. Stable for ever, since it decides where data lies; other clients that want to
/// find imported objects compute the same.
pub(crate) fn partition_of(id: &str, partitions: u16) -> u16 {
    let hash = blake3::hash(id.to_ascii_lowercase().as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    let partition = u64::from_le_bytes(first) % u64::from(partitions.max(1));
    // Less than `partitions`, which is a u16.
    #[allow(clippy::cast_possible_truncation)]
    let partition = partition as u16;
    partition
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These values decide where stored objects lie: they must never change.
    #[test]
    fn placement_is_fixed_for_ever() {
        let placed: Vec<_> = ["alice", "bob", "n14228", "n24211", "0"]
            .into_iter()
            .map(|id| (id, partition_of(id, 8)))
            .collect();
        insta::assert_compact_debug_snapshot!(placed, @r#"[("alice", 1), ("bob", 4), ("n14228", 0), ("n24211", 0), ("0", 5)]"#);
    }

    #[test]
    fn case_does_not_matter_and_one_partition_takes_all() {
        assert_eq!(partition_of("N14228", 8), partition_of("n14228", 8));
        assert_eq!(partition_of("anything", 1), 0);
    }

    #[test]
    fn ids_spread_evenly() {
        let mut counts = [0_u32; 8];
        for number in 0..8_000 {
            counts[usize::from(partition_of(&format!("object-{number}"), 8))] += 1;
        }
        assert!(counts.iter().all(|count| (900..1_100).contains(count)), "{counts:?}");
    }
}
