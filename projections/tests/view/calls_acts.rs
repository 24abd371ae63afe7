//! Random calls against the model of them.

use odgm_log::Offset;
use odgm_log::body::calls::{Place, RowKey};
use odgm_projections::storage::Engine;
use odgm_projections::{Outcome, Rejection};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::calls_model::Calls;
use crate::script::Line;
use crate::support::{Fixture, Log, everything};

/// What somebody does; which row, delivery or letter is chosen when it is known what there is.
#[derive(Clone, Debug)]
enum Act {
    Line(String),
    Settle(Vec<(Index, &'static str)>),
    EndRow(Index, &'static str),
    EndOwn(Index),
    Delivered(Index, bool),
    Redrive(Vec<Index>),
    Discard(Index),
    EndBatch,
    Reopen,
}

fn act() -> impl Strategy<Value = Act> {
    let id = || select(vec!["a", "b"]);
    let depth = select(vec!["", "", "^1 ", "^2 ", "^3 "]);
    let triggers = select(vec![
        "",
        "",
        " !k=f",
        " !k:create=f,o/1//g !k=g !k:delete=h",
        " !k=f !l=g,h !f:complete=x !g:error=y,y",
        " !clear",
    ]);
    let puts = select(vec![" k=1", " l=1", " k=1 l=2", ""]);
    let write = prop_oneof![
        4 => (id(), puts.clone(), triggers.clone()).prop_map(|(id, puts, t)| format!("set {id}{puts}{t}")),
        3 => (id(), puts.clone(), triggers).prop_map(|(id, puts, t)| format!("merge {id}{puts}{t}")),
        4 => (id(), puts, select(vec!["", " -k", " -l"])).prop_map(|(id, puts, gone)| {
            let is_both = puts.contains(&gone.replace(" -", " ")) && !gone.is_empty();
            format!("put {id}{puts}{}", if is_both { "" } else { gone })
        }),
        1 => id().prop_map(|id| format!("delete {id}")),
        3 => (1..4, 0..2).prop_map(|(id, text)| format!("invoke i{id} f {text}")),
        2 => (8..10, 1..30, 0..2, 0..20, id(), select(vec!["ok", "no"]))
            .prop_map(|(group, at, index, below, id, how)| format!("outcome from:{group}/{at}/{index}/{below} f {how} on={id}")),
        1 => (id(), select(vec!["ok", "no"])).prop_map(|(id, how)| format!("outcome client g {how} on={id}")),
        1 => select(vec!["", " rows=3", " rows=1", " depth=2", " kept=50", " events=off"]).prop_map(|c| format!("config{c}")),
    ];
    let line = (prop_oneof![5 => Just(0), 1 => 1..120], depth, write)
        .prop_map(|(wait, depth, write)| format!("+{wait} {depth}{write}"));
    let verdict = select(vec![
        "ended:ok",
        "ended:no",
        "retry:0:later",
        "retry:900:later",
        "dead:enough",
        "dead:enough:broken",
    ]);
    prop_oneof![
        12 => line.prop_map(Act::Line),
        3 => prop::collection::vec((any::<Index>(), verdict), 1..3).prop_map(Act::Settle),
        3 => (any::<Index>(), select(vec!["ok", "no"])).prop_map(|(row, how)| Act::EndRow(row, how)),
        1 => any::<Index>().prop_map(Act::EndOwn),
        2 => any::<(Index, bool)>().prop_map(|(at, is_lost)| Act::Delivered(at, is_lost)),
        2 => prop::collection::vec(any::<Index>(), 1..3).prop_map(Act::Redrive),
        1 => any::<Index>().prop_map(Act::Discard),
        3 => Just(Act::EndBatch),
        1 => Just(Act::Reopen),
    ]
}

/// One of those that there are, now and then one that there is not.
fn choose<T: Clone>(from: impl Iterator<Item = T>, missing: T, index: Index) -> T {
    let all: Vec<T> = from.chain([missing]).collect();
    all[index.index(all.len())].clone()
}

impl Act {
    /// As a line of a script, if it is one.
    fn line(&self, model: &Calls) -> Option<String> {
        let row = |index: &Index| {
            let rows = model.rows.iter().map(|(key, call)| (*key, call.generation, call.attempt));
            let (RowKey { due, offset, index }, generation, attempt) =
                choose(rows, (RowKey::default(), 1, 0), *index);
            format!("{}.{}/{offset}/{index}~{generation}.{attempt}", due.as_millis(), due.get() % 1_000)
        };
        let place = |Place { offset, index }: Place| format!("{offset}/{index}");
        let none = Place { offset: Offset(0), index: 0 };
        let delivery = |index: &Index| place(choose(model.deliveries.keys().copied(), none, *index));
        let letter = |index: &Index| place(choose(model.letters.keys().copied(), none, *index));
        Some(match self {
            Self::Line(line) => line.clone(),
            Self::Settle(all) => {
                let words: Vec<String> =
                    all.iter().map(|(index, verdict)| format!("{}={verdict}", row(index))).collect();
                format!("settle {}", words.join(" "))
            }
            Self::EndRow(index, how) => format!("outcome row:{} f {how} on=a", row(index)),
            Self::EndOwn(index) => format!("outcome own:{} f no on=a", delivery(index)),
            Self::Delivered(index, false) => format!("delivered {}", delivery(index)),
            Self::Delivered(index, true) => format!("delivered lost={}:gone", delivery(index)),
            Self::Redrive(all) => {
                format!("redrive {}", all.iter().map(letter).collect::<Vec<_>>().join(" "))
            }
            Self::Discard(index) => format!("discard {} because=old", letter(index)),
            Self::EndBatch | Self::Reopen => return None,
        })
    }
}

/// The model does not count bytes.
fn without_bytes(outcome: &Outcome) -> Outcome {
    match outcome {
        Outcome::Rejected(Rejection::OutboxFull { rows, .. }) => {
            Outcome::Rejected(Rejection::OutboxFull { rows: *rows, bytes: 0 })
        }
        other => other.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// The answers and all rows are those of the model; and the whole view is the same, whatever the engine, the batches
    /// and the interruptions.
    #[test]
    fn calls_follow_the_model(
        acts in prop::collection::vec(act(), 1..80),
        engine in prop_oneof![4 => Just(Engine::Memory), 1 => Just(Engine::RocksDb)],
    ) {
        let (mut log, mut model, mut now) = (Log::default(), Calls::default(), 1_000);
        let one_by_one = Fixture::new(Engine::Memory);
        let mut interrupted = Fixture::new(engine);
        let rules = log.push(now, None, Line::parse("semantics 2").body);
        one_by_one.view().apply(&[rules]).unwrap();
        for act in &acts {
            let Some(text) = act.line(&model) else {
                match act {
                    Act::Reopen => drop(interrupted.reopen()),
                    _ => drop(interrupted.follow(&log)),
                }
                continue;
            };
            let line = Line::parse(&text);
            now += line.wait;
            let committed = log.push_caused(now, line.cause, line.body);
            let expected = model.apply(now, &committed);
            let applied = one_by_one.view().apply(std::slice::from_ref(&committed)).unwrap().remove(0);
            prop_assert_eq!(without_bytes(&applied.outcome), expected, "{}", text);
            model.check(one_by_one.view())?;
        }
        interrupted.follow(&log);
        prop_assert_eq!(everything(one_by_one.view()), everything(interrupted.view()));
        prop_assert_eq!(one_by_one.view().header(), interrupted.view().header());
    }
}
