//! Stories of a node, told through its public API with real processes. One binary: each has to be linked.

mod backups;
mod bad_input;
mod calls;
mod collections;
mod command_line;
mod contract;
mod crash;
mod faults;
mod flights;
mod generations;
mod idempotency;
mod lists;
mod rebuild;
mod service;
mod streams;
mod time_travel;
mod write_stream;

use odgm_tests::harness::Objects;

/// A story fails with whatever went wrong.
type Story = odgm_tests::Result<()>;

/// A bit of everything that leaves something in a view.
async fn live_a_little(things: &Objects) -> Story {
    for round in 0..40 {
        let id = format!("thing-{}", round % 7);
        things.set(&id, &[("a", "1"), ("round", &round.to_string())]).await?;
        things.once(&format!("request-{round}")).merge(&id, &[("b", "2")]).await?;
        things.batch(&id, &[("c", "3")], &["a"], None).await?;
        things.delete_value(&id, "absent").await?;
        drop(things.batch(&id, &[("d", "4")], &[], Some(1)).await);
        if round % 5 == 0 {
            things.delete(&id).await?;
        }
    }
    Ok(())
}
