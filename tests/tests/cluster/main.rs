//! Stories of a cluster of real processes, told through its public API. One binary: each has to be linked.

mod backups;
mod bad_luck;
mod calls;
mod catching_up;
mod chaos;
mod deletion;
mod elsewhere;
mod failover;
mod load;
mod membership;
mod partitions;
mod referrals;
mod streams;
mod unforwarded;

/// A story fails with whatever went wrong.
type Story = odgm_tests::Result<()>;

/// The collection of all stories; it has one partition.
const CLASS: &str = "things";
