//! A script of operations in, the answers and the whole view out.

use odgm_projections::storage::Engine;
use odgm_projections::{Applied, Outcome, Queued, View};

use crate::script::Line;
use crate::support::{Fixture, Log, Partition, dump, everything};

/// The answers to a script, line by line, and the view after it.
pub(crate) fn play(script: &str) -> String {
    let mut partition = Partition::new();
    let mut text = String::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let applied = partition.run(line);
        let calls = calls(partition.view(), &applied);
        text += &format!("{:>3} {line:<50} {}{calls}\n", applied.offset, answer(&applied));
    }
    text + "\n" + &dump(partition.view())
}

fn answer(applied: &Applied) -> String {
    let outcome = match &applied.outcome {
        Outcome::Changed { version } => format!("version {version}"),
        other => format!("{other:?}"),
    };
    match &applied.change {
        None => outcome,
        Some(change) => {
            let keys = change.keys.iter().map(|(key, action)| format!(" {}:{key}", action.name()));
            let triggers = if change.triggers_changed { " triggers" } else { "" };
            format!("{outcome} | {}{}{triggers}", change.kind.name(), keys.collect::<String>())
        }
    }
}

/// What was queued, and how much there is of what.
fn calls(view: &View, applied: &Applied) -> String {
    let mut text = String::new();
    for queued in &applied.queued {
        text += &match queued {
            Queued::Call { key, row, payload, .. } => {
                let (due, place) = (key.due.as_millis(), format!("{}/{}", key.offset, key.index));
                match payload {
                    Some(payload) => {
                        format!("\n      call {due}/{place} {} with {payload:?}", row.target.function)
                    }
                    None => format!("\n      call {due}/{place} {} as its record says", row.target.function),
                }
            }
            Queued::Later { key } => {
                format!("\n      later {}/{}/{}", key.due.as_millis(), key.offset, key.index)
            }
            Queued::Delivery { place, row, .. } => {
                format!("\n      deliver {}/{} to {}", place.offset, place.index, row.target.class)
            }
        };
    }
    let counts = view.header().calls;
    let counts = [
        (counts.outbox_rows, "waiting"),
        (counts.deliveries, "to deliver"),
        (counts.dead_letters, "dead"),
        (counts.pending_invocations, "invoked"),
        (counts.results, "results"),
        (counts.stale, "stale"),
    ];
    let counts: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if !counts.is_empty() {
        text += &format!(" [{}]", counts.join(", "));
    }
    text
}

#[test]
fn the_life_of_objects() {
    let view = play(
        "
        set n14228 flight=UA1545 dest=IAH
        put n14228 delay=2
        put n14228 delay=2
        merge n14228 dest=MIA gate=C12
        put n14228 -delay -never
        put n14228 -never
        set n14228 flight=UA1714
        set n14228
        set empty
        put absent -key
        delete n14228
        delete n14228
        put n14228 flight=back
        ",
    );
    insta::assert_snapshot!(view);
}

#[test]
fn compare_and_set() {
    let view = play(
        "
        put a if=0 k=1
        put a if=0 k=2
        put a if=1 k=3
        put a if=7
        delete a
        put a if=2 k=4
        put a if=0 k=5
        ",
    );
    insta::assert_snapshot!(view);
}

#[test]
fn triggers_are_kept_changed_and_cleared() {
    let view = play(
        "
        set a k=1 !k=notify
        set a k=2
        set a k=3 !k=notify
        merge a !k=other
        merge a !clear
        merge a !clear
        put b k=1
        ",
    );
    insta::assert_snapshot!(view);
}

#[test]
fn the_partitions_own_records() {
    let view = play(
        "
        semantics 1
        config set_mode=upsert index=1000
        set a k=1
        set a l=2
        cursor mirror 3 100
        cursor audit 2 0
        drop-cursor audit
        +2000 delete a
        collect 8
        put a k=again
        trim 6
        ",
    );
    insta::assert_snapshot!(view);
}

#[test]
fn repeated_requests() {
    let view = play(
        "
        config window=100
        #one put a k=1
        #one put a k=1
        #one put a k=2
        #two put a if=9 k=3
        put a k=4
        #two put a if=9 k=3
        +90 #one put a k=5
        ",
    );
    insta::assert_snapshot!(view);
}

/// What the dump shows of a view that both engines hold, in whatever batches it was applied.
#[test]
fn engines_and_batches_make_no_difference() {
    let script = [
        "#r1 set a k=1 l=2 !k=f",
        "merge a m=3",
        "#r2 put b k=1",
        "delete a",
        "#r1 set a k=1 l=2 !k=f",
        "put a k=9",
        "collect 4",
        "cursor c 3 0",
        "set b",
        "delete b",
        "delete a",
        "collect 10",
        "set b x=1",
    ];
    let mut log = Log::default();
    for (line, millis) in script.iter().zip((1_000..).step_by(400)) {
        let line = Line::parse(line);
        log.push_caused(millis, line.cause, line.body);
    }
    let whole = Fixture::new(Engine::Memory);
    whole.follow(&log);
    for engine in Engine::ALL {
        for size in 1..=4 {
            let fixture = Fixture::new(engine);
            for batch in log.committed(1.into(), log.last()).chunks(size) {
                fixture.view().apply(batch).unwrap();
            }
            assert_eq!(everything(fixture.view()), everything(whole.view()), "{engine}, batches of {size}");
        }
    }
}
