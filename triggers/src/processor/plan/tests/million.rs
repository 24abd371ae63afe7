//! A million calls that wait.

use odgm_log::body::calls::RowKey;
use odgm_log::{Offset, Timestamp};

use super::super::Room;
use super::world::{Doing, Stored, World};
use crate::processor::limits::{FEED, PAGE, ROWS};
use crate::processor::settings::Settings;

const ROWS_THERE: u64 = 1_000_000;

/// So many rows of one function, and behind each hundred of them one of another.
fn world() -> World {
    let mut world = World::new(Settings::default(), Room::default(), FEED, PAGE);
    for offset in 1..=ROWS_THERE {
        let function = u16::from(offset % 100 == 0);
        let key = RowKey { due: Timestamp(offset), offset: Offset(offset), index: 0 };
        world.outbox.insert(key, Stored { function, generation: 0, attempt: 0 });
    }
    world.applied = Offset(ROWS_THERE);
    world
}

#[test]
fn a_million_calls_of_a_function_that_is_held_cost_a_page_for_each_probe_and_block_no_others() {
    let mut world = world();
    world.functions.insert(0, Doing::IsHeld(1_000));
    let second = |n: u64| Timestamp(1_000_000 + n * 1_000_000);
    world.run(second(5));
    let others = world.outbox.values().filter(|stored| stored.function == 1).count();
    assert_eq!(others, 0, "calls of the other function have all been made");
    let through_all = ROWS_THERE / PAGE as u64;
    assert!(world.pages < through_all + 100, "{} pages were read", world.pages);
    assert!(world.largest <= ROWS, "{} rows were in memory", world.largest);

    let (pages, dispatched) = (world.pages, world.dispatched);
    world.run(second(105));
    assert!(world.dispatched - dispatched <= 101, "{} probes", world.dispatched - dispatched);
    assert!(world.pages - pages <= 101, "{} pages for them", world.pages - pages);
    // What comes now finds its way as if there were nothing else.
    let pages = world.pages;
    world.write(&[1]);
    world.decide();
    assert_eq!(world.pages, pages);
    assert_eq!(world.pending.len(), 1);
}

#[test]
fn a_million_calls_are_made_from_the_first_one_on_with_little_in_memory() {
    let mut world = world();
    world.decide();
    while world.outcomes.len() < 50_000 {
        world.advance(0);
    }
    let first = world.outbox.keys().next().map(|key| key.offset);
    assert!(first > Some(Offset(49_000)), "{first:?} is the first that is left");
    assert!(world.largest <= ROWS, "{} rows were in memory", world.largest);
    // Once for the one function, and once to look for others.
    assert!(world.pages < 2 * 50_000 / PAGE as u64 + 20, "{} pages were read", world.pages);
    assert!(world.most_in_flight >= 75, "{} calls were under way at once", world.most_in_flight);
}
