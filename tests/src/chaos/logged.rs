//! What the nodes have complained about themselves.

use std::collections::BTreeMap;

use crate::Result;
use crate::harness::Cluster;

/// Counted instead of who said it.
const PANIC: &str = "panic";

/// How often which part of a node has logged an error, of all nodes together.
pub(super) fn errors(cluster: &Cluster) -> Result<BTreeMap<String, u64>> {
    let mut errors = BTreeMap::new();
    for node in cluster.nodes() {
        for line in cluster.output(node)?.lines() {
            if let Some(who) = complaint(line) {
                *errors.entry(who.to_owned()).or_default() += 1;
            }
        }
    }
    Ok(errors)
}

/// How often a node has panicked, which none ever should.
pub(super) fn panics(errors: &BTreeMap<String, u64>) -> u64 {
    errors.get(PANIC).copied().unwrap_or_default()
}

/// Who complains in a line, if anybody does. A line has a time, a level, and the part of the program.
fn complaint(line: &str) -> Option<&str> {
    if line.contains("panicked at") {
        return Some(PANIC);
    }
    let mut words = line.split_whitespace().skip(1);
    let is_error = words.next() == Some("ERROR");
    words.next().filter(|_| is_error).map(|part| part.trim_end_matches(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_panics_are_told_from_the_rest() {
        let line = "2026-11-22T10:33:00.07Z ERROR openraft::raft::raft_inner: failed to send";
        assert_eq!(complaint(line), Some("openraft::raft::raft_inner"));
        assert_eq!(complaint("2026-11-22T10:33:00.07Z  INFO odgm_api::node: ERROR is a word"), None);
        assert_eq!(complaint("thread 'main' panicked at src/main.rs:1:1:"), Some(PANIC));
        assert_eq!(complaint(""), None);
    }
}
