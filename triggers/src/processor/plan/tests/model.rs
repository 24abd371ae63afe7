//! Whatever happens in whatever order: every call comes to one end, within all bounds.

use std::collections::BTreeMap;
use std::time::Duration;

use odgm_log::Timestamp;
use odgm_log::body::calls::Place;
use proptest::prelude::*;

use super::super::Room;
use super::super::backlog::Bounds;
use super::world::{Doing, ELSEWHERE, Recording, Taking, World};
use crate::processor::settings::Settings;

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<u16>),
    Pass(u64),
    Decide,
    /// Lets one of what is under way go on.
    Advance(usize),
    Do(u16, Doing),
    Take(Taking),
    Record(Recording),
    Depose(u8),
    /// Tries dead letters again.
    Redrive,
    Damage(bool),
    Allow(usize),
}

fn function() -> impl Strategy<Value = u16> {
    prop_oneof![4 => 0..4_u16, 4 => ELSEWHERE..ELSEWHERE + 3, 1 => 0..16_u16, 1 => ELSEWHERE..ELSEWHERE + 16]
}

fn doing() -> impl Strategy<Value = Doing> {
    prop_oneof![
        4 => Just(Doing::Completes),
        1 => Just(Doing::Refuses),
        2 => Just(Doing::Fails),
        2 => (0..500_u64).prop_map(Doing::IsHeld),
        1 => Just(Doing::IsMissing),
        1 => Just(Doing::IsDisabled),
        1 => Just(Doing::IsUnread),
        1 => Just(Doing::IsGone),
    ]
}

fn step(deposes: bool) -> impl Strategy<Value = Step> {
    let taking = prop_oneof![2 => Just(Taking::Takes), 1 => Just(Taking::Later), 1 => Just(Taking::Gone)];
    let recording = if deposes {
        prop_oneof![
            3 => Just(Recording::Records),
            1 => Just(Recording::IsFull),
            1 => Just(Recording::IsSilent),
            1 => Just(Recording::Loses),
        ]
        .boxed()
    } else {
        prop_oneof![3 => Just(Recording::Records), 1 => Just(Recording::IsFull)].boxed()
    };
    let deposed =
        if deposes { any::<u8>().prop_map(Step::Depose).boxed() } else { Just(Step::Decide).boxed() };
    prop_oneof![
        6 => prop::collection::vec(function(), 1..8).prop_map(Step::Write),
        4 => (0..300_u64).prop_map(Step::Pass),
        6 => Just(Step::Decide),
        30 => (0..64_usize).prop_map(Step::Advance),
        3 => (function(), doing()).prop_map(|(function, doing)| Step::Do(function, doing)),
        1 => taking.prop_map(Step::Take),
        1 => recording.prop_map(Step::Record),
        2 => Just(Step::Redrive),
        1 => prop_oneof![2 => Just(false), 1 => Just(true)].prop_map(Step::Damage),
        1 => (1..5_usize).prop_map(Step::Allow),
        1 => deposed,
    ]
}

/// Rooms so small that every bound is met, and more functions and partitions than can be told apart.
fn small() -> World {
    let room = Room {
        calls: Bounds { rows: 12, lanes: 9, rows_of_one: 4 },
        deliveries: Bounds { rows: 8, lanes: 9, rows_of_one: 3 },
    };
    World::new(settings(3), room, 5, 3)
}

fn settings(max_concurrent_triggers: usize) -> Settings {
    Settings {
        max_concurrent_triggers,
        trigger_max_attempts: 4,
        trigger_backoff: Duration::from_millis(10),
        trigger_backoff_max: Duration::from_millis(100),
        ..Settings::default()
    }
}

/// Lets it happen. `written` has how many outcomes of each call there are to be.
fn take(world: &mut World, written: &mut BTreeMap<Place, u32>, step: Step) {
    match step {
        Step::Write(functions) => {
            let offset = world.write(&functions);
            let indices = 0..u32::try_from(functions.len()).expect("few");
            written.extend(indices.map(|index| (Place { offset, index }, 1)));
        }
        Step::Pass(millis) => world.pass(Duration::from_millis(millis)),
        Step::Decide => world.decide(),
        Step::Advance(at) => {
            if !world.pending.is_empty() {
                world.advance(at % world.pending.len());
            }
        }
        Step::Do(function, doing) => drop(world.functions.insert(function, doing)),
        Step::Take(taking) => world.taking = taking,
        Step::Record(recording) => world.recording = recording,
        Step::Depose(mut bits) => world.depose(|| {
            bits = bits.rotate_left(1);
            bits & 1 == 1
        }),
        Step::Redrive => {
            let dead: Vec<_> = world.dead.keys().copied().collect();
            for place in dead.into_iter().filter(|place| world.redrive(*place)) {
                *written.get_mut(&place).expect("written") += 1;
            }
        }
        Step::Damage(is_damaged) => world.is_readable = !is_damaged,
        Step::Allow(calls) => world.change(settings(calls)),
    }
    if world.started_over.is_some() {
        world.depose(|| false);
    }
}

fn tell(steps: Vec<Step>) -> World {
    let mut world = small();
    let mut written = BTreeMap::new();
    for step in steps {
        take(&mut world, &mut written, step);
    }
    // All is well from now on.
    world.functions.clear();
    (world.taking, world.recording, world.is_readable) = (Taking::Takes, Recording::Records, true);
    let end = Timestamp(world.now.time.0 + 3_600_000_000);
    world.run(end);
    assert!(world.outbox.is_empty(), "left in the outbox: {:?}", world.outbox);
    assert!(world.deliveries.is_empty(), "not delivered: {:?}", world.deliveries);
    assert_eq!(world.outcomes, written, "the outcomes of each call");
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_call_comes_to_one_end(steps in prop::collection::vec(step(false), 1..200)) {
        let world = tell(steps);
        prop_assert_eq!(world.stale, 0, "nothing is recorded twice");
    }

    #[test]
    fn so_it_does_whoever_leads(steps in prop::collection::vec(step(true), 1..200)) {
        tell(steps);
    }
}
