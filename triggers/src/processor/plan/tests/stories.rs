//! Stories of a plan.

use std::time::Duration;

use odgm_log::body::calls::{Settlement, Verdict};
use odgm_log::{Body, Offset, PayloadError, Timestamp};
use odgm_replication::ProposeError;

use super::super::{Effect, Message, Note, Room};
use super::world::{Doing, ELSEWHERE, Pending, Recording, Taking, World};
use crate::processor::limits::LETTERS;
use crate::processor::settings::Settings;

fn world(settings: Settings) -> World {
    World::new(settings, Room::default(), 1_000, 256)
}

/// With what a new leader reads read.
fn started() -> World {
    let mut world = world(Settings::default());
    settle(&mut world);
    world
}

/// Lets all happen that needs no time.
fn settle(world: &mut World) {
    world.decide();
    while !world.pending.is_empty() {
        world.advance(0);
    }
}

fn under_way(world: &World) -> Vec<String> {
    let names = world.pending.iter().map(|pending| match pending {
        Pending::Call(dispatch) => format!("call {}", dispatch.row.target.function),
        Pending::Proposal(_, payload) => format!("propose {}", payload.body.body_type().name()),
        Pending::Deliver(deliver) => format!("deliver {}", deliver.row.target.function),
        other => format!("{other:?}").chars().take_while(|c| c.is_alphanumeric()).collect(),
    });
    names.collect()
}

fn told(world: &mut World) -> Vec<String> {
    let told = std::mem::take(&mut world.notes).into_iter().map(|note| match note {
        Note::Ended { row, status, detail, .. } => {
            format!("{} ended {}", row.target.function, if status.is_complete() { "well" } else { &detail })
        }
        Note::Retried { row, reason, .. } => format!("{} is tried again: {reason}", row.target.function),
        Note::Dead { row, reason, .. } => format!("{} is dead: {reason}", row.target.function),
        Note::Held { row, pause, is_first, .. } => {
            format!("{} is {}held for {pause:?}", row.target.function, if is_first { "" } else { "still " })
        }
        Note::Unread { row, reason, is_first, .. } => {
            format!("{} is unread{}: {reason}", row.target.function, if is_first { " at first" } else { "" })
        }
        Note::Waits { reason, .. } => format!("a delivery waits: {reason}"),
        Note::Discarded { letters, reason } => format!("{letters} dropped: {reason}"),
        other => format!("{other:?}"),
    });
    told.collect()
}

#[test]
fn a_call_is_made_as_soon_as_it_is_fed_and_its_outcome_recorded_where_its_function_is() {
    let mut world = started();
    let pages = world.pages;
    world.write(&[1, ELSEWHERE]);
    world.decide();
    assert_eq!(under_way(&world), ["call f1", "call f1000"]);
    world.advance(0);
    world.advance(0);
    assert_eq!(under_way(&world), ["propose outcome", "propose trigger_settled"]);
    // Recorded, then answered.
    (0..4).for_each(|_| world.advance(0));
    assert_eq!(under_way(&world), ["deliver f1000"]);
    world.advance(0);
    assert_eq!(under_way(&world), ["propose delivered"]);
    settle(&mut world);
    assert_eq!(world.pages, pages, "nothing was read");
    assert_eq!(told(&mut world), ["f1 ended well", "f1000 ended well", "Arrived(1)"]);
}

#[test]
fn a_slow_function_leaves_room_for_others_and_what_is_behind_it_passes() {
    let mut world = started();
    world.write(&vec![0; 2_000]);
    world.write(&[1]);
    world.decide();
    while under_way(&world).iter().any(|name| !name.starts_with("call")) {
        let at = world.pending.iter().position(|pending| !matches!(pending, Pending::Call(_)));
        world.advance(at.expect("there is one"));
    }
    let calls = under_way(&world);
    assert_eq!(calls.iter().filter(|name| *name == "call f0").count(), 75);
    assert_eq!(calls.iter().filter(|name| *name == "call f1").count(), 1);
}

#[test]
fn a_call_that_fails_is_tried_again_later_and_later_and_given_up_in_the_end() {
    let settings = Settings {
        trigger_backoff: Duration::from_millis(100),
        trigger_backoff_max: Duration::from_millis(300),
        trigger_max_attempts: 5,
        ..Settings::default()
    };
    let mut world = world(settings);
    settle(&mut world);
    world.functions.insert(ELSEWHERE, Doing::Fails);
    let offset = world.write(&[ELSEWHERE]);
    let mut pauses = Vec::new();
    while !world.outbox.is_empty() {
        let before = world.now.time;
        settle(&mut world);
        if let Some(next) = world.outbox.keys().next() {
            pauses.push((next.due.0 - before.0) / 1_000);
            world.pass(Duration::from_micros(next.due.0 - world.now.time.0));
        }
    }
    // Half of what they are at most, as chance has it here.
    assert_eq!(pauses, [50, 100, 150, 150]);
    assert_eq!(world.dispatched, 5);
    let place = *world.dead.keys().next().expect("a dead letter");
    assert_eq!(place.offset, offset);
    assert_eq!(world.outcomes.len(), 1, "its partition was told that it failed");
    let told = told(&mut world);
    assert_eq!(told[0], "f1000 is tried again: the function was not reached: nobody is there");
    let end = "f1000 is dead: given up after 5 attempts: the function was not reached: nobody is there";
    assert!(told.iter().any(|line| line == end), "{told:?}");

    world.functions.clear();
    assert!(world.redrive(place));
    settle(&mut world);
    assert!(world.outbox.is_empty() && world.dead.is_empty());
}

#[test]
fn what_cannot_be_called_is_dead_at_once_and_what_is_refused_has_ended() {
    let mut world = started();
    world.functions.extend([(0, Doing::IsMissing), (1, Doing::Refuses)]);
    world.write(&[0, 1]);
    settle(&mut world);
    let told = told(&mut world);
    assert!(
        told.contains(&"f0 is dead: there is no class \"home\": expected the name of a collection".into())
    );
    assert!(told.contains(&"f1 ended the function answered with INVALID_ARGUMENT: no".into()), "{told:?}");
    assert!(world.deliveries.is_empty() && world.outbox.is_empty());
}

#[test]
fn what_cannot_be_read_costs_no_attempts_and_holds_nothing_else() {
    let mut world = started();
    world.functions.insert(0, Doing::IsUnread);
    world.write(&[0, 1, 0]);
    settle(&mut world);
    let told_of = told(&mut world);
    assert_eq!(
        told_of.iter().filter(|line| line.starts_with("f0 is unread at first")).count(),
        1,
        "{told_of:?}"
    );
    assert!(told_of.contains(&"f1 ended well".to_owned()), "{told_of:?}");
    assert!(world.outbox.len() == 2 && world.outbox.values().all(|stored| stored.attempt == 0));
    // What comes now of the same function is called, if its record can be read.
    world.functions.clear();
    world.write(&[0]);
    settle(&mut world);
    assert_eq!(world.outbox.len(), 2, "those that were put aside wait for the end of the pause");
    world.pass(Duration::from_secs(1));
    settle(&mut world);
    assert!(world.outbox.is_empty() && world.dead.is_empty());
    assert_eq!((world.outcomes.len(), world.stale), (4, 0));
}

#[test]
fn what_is_gone_for_good_is_a_dead_letter_without_a_payload_and_without_an_outcome() {
    let mut world = started();
    world.functions.insert(ELSEWHERE, Doing::IsGone);
    world.write(&[ELSEWHERE]);
    world.decide();
    world.advance(0);
    let Some(Pending::Proposal(_, payload)) = world.pending.last() else { panic!("{:?}", world.pending) };
    let Body::TriggerSettled(settled) = &payload.body else { panic!("{payload:?}") };
    let [Settlement { verdict: Verdict::Dead { payload: None, finished: None, .. }, .. }] =
        settled.settlements.as_slice()
    else {
        panic!("{settled:?}")
    };
    settle(&mut world);
    assert_eq!(told(&mut world), ["f1000 is dead: record 1 is not there"]);
    assert!(world.deliveries.is_empty());
}

#[test]
fn an_answer_that_no_record_can_hold_does_not_cost_a_dead_letter_its_payload() {
    let mut world = started();
    world.change(Settings { trigger_max_attempts: 1, ..Settings::default() });
    world.functions.insert(ELSEWHERE, Doing::BreaksAtLength);
    world.write(&[ELSEWHERE]);
    world.decide();
    world.advance(0);
    let mut kept = Vec::new();
    for _ in 0..3 {
        let Some(Pending::Proposal(id, payload)) = world.pending.pop() else { panic!("a proposal") };
        let Body::TriggerSettled(settled) = &payload.body else { panic!("{payload:?}") };
        let Verdict::Dead { payload, finished: Some(finished), .. } = &settled.settlements[0].verdict else {
            panic!("{settled:?}")
        };
        kept.push((payload.is_some(), !finished.payload.0.is_empty()));
        let answer = Err(ProposeError::TooLarge(PayloadError::TooLarge { bytes: 1 << 30 }));
        world.plan.handle(world.now, Message::Proposed { id, answer });
        world.pass(Duration::from_secs(2));
        world.decide();
    }
    assert_eq!(kept, [(true, true), (true, false), (false, false)]);
}

#[test]
fn more_partitions_that_take_nothing_than_half_of_the_rows_stop_no_delivery() {
    let mut world = started();
    world.taking = Taking::Later;
    let all: Vec<u16> = (ELSEWHERE..ELSEWHERE + 1_000).collect();
    world.write(&all);
    settle(&mut world);
    assert_eq!(world.deliveries.len(), 1_000);
    // And as many functions of this partition, which are held.
    let functions: Vec<u16> = (0..1_000).collect();
    world.functions = functions.iter().map(|function| (*function, Doing::IsHeld(100))).collect();
    for _ in 0..5 {
        world.write(&functions);
        settle(&mut world);
        world.pass(Duration::from_millis(200));
    }
    world.taking = Taking::Takes;
    world.functions.clear();
    world.run(Timestamp(world.now.time.0 + 60_000_000));
    assert_eq!((world.deliveries.len(), world.outbox.len()), (0, 0));
    assert!(world.dead.is_empty());
}

#[test]
fn a_function_that_is_held_costs_no_attempts_and_is_probed_by_one_call() {
    let mut world = started();
    world.functions.insert(0, Doing::IsHeld(500));
    world.write(&[0; 20]);
    settle(&mut world);
    assert_eq!(told(&mut world), ["f0 is held for 500ms"]);
    assert!(world.outbox.values().all(|stored| stored.attempt == 0), "no attempt is recorded");
    let dispatched = world.dispatched;
    world.write(&[0, 1]);
    settle(&mut world);
    assert_eq!(world.dispatched - dispatched, 1, "only the other function is called");

    world.pass(Duration::from_millis(500));
    world.decide();
    world.advance(0);
    world.advance(0);
    assert_eq!(under_way(&world), ["call f0"], "one call finds out");
    world.advance(0);
    assert!(world.pending.is_empty());
    world.functions.clear();
    world.pass(Duration::from_millis(500));
    settle(&mut world);
    assert!(world.outbox.is_empty());
    assert_eq!(world.stale, 0);
}

#[test]
fn a_function_that_was_held_and_fails_when_it_is_probed_is_called_one_by_one() {
    let mut world = started();
    world.functions.insert(0, Doing::IsHeld(100));
    world.write(&[0; 9]);
    settle(&mut world);
    world.functions.insert(0, Doing::Fails);
    world.pass(Duration::from_millis(100));
    world.decide();
    for _ in 0..30 {
        if !world.pending.is_empty() {
            world.advance(0);
        }
        assert!(under_way(&world).iter().filter(|name| *name == "call f0").count() <= 1);
    }
}

#[test]
fn what_was_not_fed_is_read() {
    let mut world = World::new(Settings::default(), Room::default(), 10, 256);
    settle(&mut world);
    world.write(&[0; 50]);
    settle(&mut world);
    assert!(world.outbox.is_empty());
    assert_eq!(world.outcomes.len(), 50);
    assert_eq!(world.stale, 0);
}

#[test]
fn settlements_gather_while_some_are_recorded() {
    let mut world = started();
    world.write(&[ELSEWHERE; 40]);
    world.decide();
    (0..40).for_each(|_| world.advance(0));
    assert_eq!(under_way(&world), ["propose trigger_settled"; 4]);
    let sizes = world.pending.iter().map(|pending| match pending {
        Pending::Proposal(_, payload) => match &payload.body {
            Body::TriggerSettled(settled) => settled.settlements.len(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    });
    assert_eq!(sizes.collect::<Vec<_>>(), [1; 4], "each was alone when it was proposed");
    world.advance(0);
    world.advance(3);
    let last = world.pending.last().expect("proposed");
    let Pending::Proposal(_, payload) = last else { panic!("{last:?}") };
    let Body::TriggerSettled(settled) = &payload.body else { panic!("{payload:?}") };
    assert_eq!(settled.settlements.len(), 36, "the others go together");
    assert!(settled.settlements.iter().all(|one| matches!(one.verdict, Verdict::Ended(_))));
    settle(&mut world);
    assert!(world.deliveries.is_empty());
}

#[test]
fn a_record_that_is_refused_is_proposed_again_after_a_pause() {
    let mut world = started();
    world.recording = Recording::IsFull;
    world.write(&[0, ELSEWHERE]);
    settle(&mut world);
    assert!(world.pending.is_empty() && world.outbox.len() == 2);
    assert_eq!(world.plan.wake(), Some(Timestamp(world.now.time.0 + 50_000)));
    world.pass(Duration::from_millis(50));
    settle(&mut world);
    assert_eq!(world.plan.wake(), Some(Timestamp(world.now.time.0 + 100_000)), "pauses grow");
    world.recording = Recording::Records;
    world.pass(Duration::from_millis(100));
    settle(&mut world);
    assert!(world.outbox.is_empty());
    assert_eq!(world.dispatched, 2, "no call was made again");
}

#[test]
fn where_another_one_leads_nothing_more_is_done() {
    let mut world = started();
    world.write(&[0, 1]);
    world.decide();
    world.advance(0);
    let Some(Pending::Proposal(id, _)) = world.pending.pop() else { panic!("a proposal") };
    let answer = Err(ProposeError::NotLeader { leader: None });
    world.plan.handle(world.now, Message::Proposed { id, answer });
    let effects = world.plan.effects(world.now);
    assert!(matches!(effects.as_slice(), [Effect::StartOver { .. }]), "{effects:?}");
    assert_eq!(world.plan.wake(), None);
}

#[test]
fn an_outcome_that_cannot_be_delivered_waits_or_is_given_up() {
    let mut world = started();
    world.taking = Taking::Later;
    world.write(&[ELSEWHERE, ELSEWHERE]);
    settle(&mut world);
    assert_eq!(world.deliveries.len(), 2);
    let told_of = told(&mut world);
    assert_eq!(told_of.iter().filter(|line| *line == "a delivery waits: nobody leads").count(), 1);
    assert_eq!(world.plan.wake(), Some(Timestamp(world.now.time.0 + 100_000)));
    world.pass(Duration::from_millis(100));
    settle(&mut world);
    assert_eq!(world.plan.wake(), Some(Timestamp(world.now.time.0 + 200_000)), "pauses grow");
    world.taking = Taking::Gone;
    world.pass(Duration::from_millis(200));
    settle(&mut world);
    assert!(world.deliveries.is_empty());
    assert_eq!(world.dead.len(), 2);
}

#[test]
fn dead_letters_beyond_their_bounds_are_dropped_the_oldest_first() {
    let settings = Settings {
        dead_letter_age: Duration::from_secs(3_600),
        dead_letter_bytes: 10_000,
        ..Settings::default()
    };
    let mut world = world(settings);
    settle(&mut world);
    world.functions.insert(0, Doing::IsMissing);
    let first = world.write(&vec![0; 150]);
    settle(&mut world);
    assert_eq!(world.dead.len(), 150);
    told(&mut world);
    // Until it is looked, which is by and by.
    let soon = Timestamp(world.now.time.0 + 60_000_000);
    world.write(&[1]);
    world.functions.insert(1, Doing::IsHeld(1_000));
    world.run(soon);
    let dropped: Vec<_> = told(&mut world).into_iter().filter(|line| line.contains("dropped")).collect();
    assert_eq!(dropped, ["50 dropped: dead letters are kept up to 10000 bytes (dead_letter_max_bytes)"]);
    let kept = world.dead.keys().next().copied().expect("some are kept");
    assert_eq!((kept.offset, kept.index, world.dead.len()), (first, 50, 100));

    world.run(Timestamp(world.now.time.0 + 3_700_000_000));
    let dropped: Vec<_> = told(&mut world).into_iter().filter(|line| line.contains("dropped")).collect();
    assert_eq!(dropped.len(), 1, "{dropped:?}");
    assert!(dropped[0].ends_with("dead letters are kept for 3600000 ms (dead_letter_age_ms)"));
    assert!(world.dead.is_empty());
}

#[test]
fn dead_letters_stay_within_their_bounds_however_many_come() {
    let settings = Settings { dead_letter_bytes: 10_000, ..Settings::default() };
    let mut world = world(settings);
    settle(&mut world);
    world.functions.insert(0, Doing::IsMissing);
    for _ in 0..20 {
        world.write(&vec![0; 1_000]);
        settle(&mut world);
        let bytes = 100 * world.dead.len() as u64;
        world.tell(Message::DeadLetters(bytes));
        settle(&mut world);
        assert_eq!(world.dead.len(), 100, "no time has passed at all");
    }
    let dropped = |line: &String| line.split(" dropped: ").next()?.parse::<usize>().ok();
    assert_eq!(told(&mut world).iter().filter_map(dropped).sum::<usize>(), 20 * 1_000 - 100);
    let letters = Settings { dead_letter_bytes: 0, ..Settings::default() };
    world.write(&vec![0; 3 * LETTERS]);
    settle(&mut world);
    world.change(letters);
    world.tell(Message::DeadLetters(1));
    settle(&mut world);
    assert!(world.dead.is_empty());
    let records: Vec<_> = told(&mut world).iter().filter_map(dropped).collect();
    assert!(records.iter().all(|letters| *letters <= LETTERS), "{records:?}");
}

#[test]
fn a_function_that_is_disabled_or_on_standby_is_waited_for() {
    let mut world = started();
    world.functions.insert(0, Doing::IsDisabled);
    world.write(&[0; 3]);
    settle(&mut world);
    world.pass(Duration::from_secs(1));
    settle(&mut world);
    assert_eq!(told(&mut world), ["f0 is held for 1s", "f0 is still held for 1s"]);
    assert_eq!((world.plan.held(), world.dead.len()), (1, 0));
    world.functions.clear();
    world.pass(Duration::from_secs(1));
    settle(&mut world);
    assert!(world.outbox.is_empty());
    assert_eq!((world.plan.held(), world.outcomes.len()), (0, 3));
}

#[test]
fn what_a_deposed_leader_has_under_way_is_lost() {
    let mut world = started();
    world.write(&[0, 1, 2]);
    world.decide();
    assert_eq!(world.plan.begun(), 3);
    world.advance(0);
    let Some(Pending::Proposal(id, _)) = world.pending.pop() else { panic!("a proposal") };
    let answer = Err(ProposeError::NotLeader { leader: None });
    world.plan.handle(world.now, Message::Proposed { id, answer });
    assert_eq!(world.plan.begun(), 3, "one that was refused, and two that are not answered");
}

#[test]
fn more_calls_are_under_way_as_soon_as_more_may_be() {
    let mut world = world(Settings { max_concurrent_triggers: 1, ..Settings::default() });
    settle(&mut world);
    world.write(&[0, 0, 1]);
    world.decide();
    assert_eq!(under_way(&world), ["call f0"]);
    let settings = Settings { max_concurrent_triggers: 4, ..Settings::default() };
    world.change(settings);
    assert_eq!(under_way(&world), ["call f0", "call f0", "call f1"]);
    assert_eq!(world.write(&[0]), Offset(2));
}
