//! An object with one entry, as the grid promises it.

use super::Model;

/// One entry of one object, with the object's version. There may be another one, of which [`super::merging`] knows more.
pub struct Object;

/// Where an object is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    /// Of the object, or of its deletion; 0 before it was first created.
    pub version: u64,
    /// The entry. An object exists if it has any.
    pub value: Option<u64>,
    /// An entry that is merged in beside it.
    pub merged: Option<u64>,
}

/// All of an object that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole {
    /// Its version.
    pub version: u64,
    /// The entry that is written.
    pub value: Option<u64>,
    /// The entry that is merged in.
    pub merged: Option<u64>,
}

/// What is asked of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Write a value.
    Write(u64),
    /// Write a value if the object has this version; 0 if it must not exist.
    CompareAndSet {
        /// The version.
        expected: u64,
        /// The value.
        value: u64,
    },
    /// Delete the object.
    Delete,
    /// Read version and value.
    Read,
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// It was written, or deleted: its version now.
    Changed(u64),
    /// There was nothing to delete.
    Unchanged,
    /// It has another version; 0 if it does not exist.
    Mismatch(u64),
    /// It does not exist now; whether there was anything to delete is not told.
    Deleted,
    /// What was read; none if there is no such entry.
    Found(Option<(u64, u64)>),
    /// The whole object; none if it does not exist.
    Whole(Option<Whole>),
}

impl State {
    /// The object, if it exists.
    pub(crate) fn whole(&self) -> Option<Whole> {
        let Self { version, value, merged } = *self;
        (value.is_some() || merged.is_some()).then_some(Whole { version, value, merged })
    }
}

impl Model for Object {
    type State = State;
    type Input = Input;
    type Output = Output;

    fn step(state: &State, input: &Input, output: Option<&Output>) -> Option<State> {
        let whole = state.whole();
        let current = whole.map_or(0, |whole| whole.version);
        let version = state.version + 1;
        let write = |value| (State { version, value: Some(value), ..*state }, Output::Changed(version));
        let same = |output| (state.clone(), output);
        let (after, right) = match input {
            Input::Write(value) => write(*value),
            Input::CompareAndSet { expected, value } if *expected == current => write(*value),
            Input::CompareAndSet { .. } => same(Output::Mismatch(current)),
            Input::Delete if whole.is_some() => {
                (State { version, ..State::default() }, Output::Changed(version))
            }
            Input::Delete => same(Output::Unchanged),
            Input::Read => same(Output::Found(state.value.map(|value| (state.version, value)))),
        };
        let is_right =
            |output: &Output| *output == right || (*input == Input::Delete && *output == Output::Deleted);
        output.is_none_or(is_right).then_some(after)
    }

    /// Versions only grow.
    fn is_still_possible(state: &State, output: &Output) -> bool {
        match output {
            Output::Changed(version) => *version > state.version,
            Output::Found(Some((version, value))) => {
                *version > state.version || (*version == state.version && state.value == Some(*value))
            }
            Output::Whole(Some(whole)) => {
                whole.version > state.version || state.whole().as_ref() == Some(whole)
            }
            Output::Mismatch(version) => *version == 0 || *version >= state.version,
            Output::Unchanged | Output::Deleted | Output::Found(None) | Output::Whole(None) => true,
        }
    }

    fn is_telling(output: &Output) -> bool {
        *output != Output::Deleted
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::{Operation, Verdict, check};

    type Done = Operation<Input, Output>;

    const STEPS: usize = 1_000_000;

    fn done(called: u64, returned: u64, input: Input, output: Output) -> Done {
        Operation { called, returned: Some((returned, output)), input }
    }

    fn open(called: u64, input: Input) -> Done {
        Operation { called, returned: None, input }
    }

    fn found(version: u64, value: u64) -> Output {
        Output::Found(Some((version, value)))
    }

    fn verdict(history: &[Done]) -> Verdict {
        check::<Object>(history, STEPS)
    }

    #[test]
    fn a_read_after_a_write_must_see_it() {
        let write = done(0, 10, Input::Write(7), Output::Changed(1));
        assert_eq!(verdict(&[write.clone(), done(11, 12, Input::Read, found(1, 7))]), Verdict::Linearizable);
        let stale = done(11, 12, Input::Read, Output::Found(None));
        assert_eq!(verdict(&[write.clone(), stale]), Verdict::NotLinearizable { explained: 1 });
        let overlapping = done(5, 12, Input::Read, Output::Found(None));
        assert_eq!(verdict(&[write, overlapping]), Verdict::Linearizable, "the read may have been first");
    }

    #[test]
    fn two_reads_do_not_go_back_in_time() {
        let history = [
            done(0, 100, Input::Write(7), Output::Changed(1)),
            done(10, 20, Input::Read, found(1, 7)),
            done(30, 40, Input::Read, Output::Found(None)),
        ];
        assert_eq!(verdict(&history), Verdict::NotLinearizable { explained: 2 });
    }

    #[test]
    fn what_was_never_answered_may_have_happened_late_or_not_at_all() {
        let lost = open(0, Input::Write(7));
        let absent = done(10, 20, Input::Read, Output::Found(None));
        let there = |called| done(called, called + 5, Input::Read, found(1, 7));
        assert_eq!(verdict(&[lost.clone(), absent.clone()]), Verdict::Linearizable, "not at all");
        assert_eq!(verdict(&[lost.clone(), absent, there(30)]), Verdict::Linearizable, "late");
        let undone = [lost, there(5), done(30, 40, Input::Read, Output::Found(None))];
        assert_eq!(verdict(&undone), Verdict::NotLinearizable { explained: 2 }, "but it stays");
        let before = [there(0), open(10, Input::Write(7))];
        assert!(matches!(verdict(&before), Verdict::NotLinearizable { .. }), "never before it was asked for");
    }

    #[test]
    fn of_two_who_compare_and_set_one_wins() {
        let set = |value, output| done(0, 10, Input::CompareAndSet { expected: 0, value }, output);
        let history = [set(1, Output::Changed(1)), set(2, Output::Mismatch(1))];
        assert_eq!(verdict(&history), Verdict::Linearizable);
        let both = [set(1, Output::Changed(1)), set(2, Output::Changed(2))];
        assert!(matches!(verdict(&both), Verdict::NotLinearizable { .. }));
    }

    #[test]
    fn versions_go_on_over_a_deletion() {
        let history = |version| {
            [
                done(0, 1, Input::Write(1), Output::Changed(1)),
                done(2, 3, Input::Delete, Output::Changed(2)),
                done(4, 5, Input::Delete, Output::Unchanged),
                done(6, 7, Input::Write(2), Output::Changed(version)),
            ]
        };
        assert_eq!(verdict(&history(3)), Verdict::Linearizable);
        assert!(matches!(verdict(&history(1)), Verdict::NotLinearizable { .. }));
    }

    #[test]
    fn a_deletion_that_does_not_tell_may_have_had_nothing_to_delete_or_something() {
        let history = |read| {
            [
                done(0, 100, Input::Delete, Output::Deleted),
                done(10, 20, Input::Write(7), Output::Changed(1)),
                done(30, 40, Input::Read, read),
            ]
        };
        assert_eq!(
            verdict(&history(found(1, 7))),
            Verdict::Linearizable,
            "before the write, or after the read"
        );
        assert_eq!(verdict(&history(Output::Found(None))), Verdict::Linearizable, "between them");
        let again = [done(50, 60, Input::Delete, Output::Deleted), done(70, 80, Input::Read, found(1, 7))];
        let undone = history(found(1, 7)).into_iter().chain(again).collect::<Vec<_>>();
        assert!(matches!(verdict(&undone), Verdict::NotLinearizable { .. }), "there was something to delete");
    }

    #[test]
    fn a_search_that_is_cut_short_is_no_pass() {
        let writes: Vec<_> = (0..12).map(|n| open(0, Input::Write(n))).collect();
        let mut history = writes;
        history.push(done(50, 60, Input::Read, found(12, 99)));
        assert_eq!(check::<Object>(&history, 1_000), Verdict::Unknown);
    }

    /// Runs operations one after the other, and stretches each over others.
    fn stretched(inputs: &[(Input, u64, u64, bool)]) -> Vec<Done> {
        let mut state = State::default();
        let run = |(at, (input, before, after, answered)): (u64, &(Input, u64, u64, bool))| {
            let outputs = [
                Output::Changed(state.version + 1),
                Output::Unchanged,
                Output::Mismatch(state.whole().map_or(0, |whole| whole.version)),
                Output::Found(state.value.map(|value| (state.version, value))),
            ];
            let right = outputs
                .into_iter()
                .find_map(|output| Object::step(&state, input, Some(&output)).map(|after| (after, output)));
            let (next, output) = right.expect("one answer is right");
            state = next;
            let moment = 1_000 + 10 * at;
            let returned = answered.then_some((moment + after, output));
            Operation { called: moment - before, returned, input: input.clone() }
        };
        (0..).zip(inputs).map(run).collect()
    }

    fn input() -> impl Strategy<Value = Input> {
        prop_oneof![
            (0..3u64).prop_map(Input::Write),
            (0..4u64, 0..3u64).prop_map(|(expected, value)| Input::CompareAndSet { expected, value }),
            Just(Input::Delete),
            Just(Input::Read),
        ]
    }

    proptest! {
        #[test]
        fn what_happened_one_after_the_other_is_found_out(
            inputs in vec((input(), 0..25u64, 0..25u64, prop::bool::weighted(0.9)), 0..40)
        ) {
            prop_assert_eq!(verdict(&stretched(&inputs)), Verdict::Linearizable);
        }

        #[test]
        fn a_planted_stale_read_is_caught(
            inputs in vec((input(), 0..25u64, 0..25u64, Just(true)), 1..30)
        ) {
            let mut history = stretched(&inputs);
            let end = 1_000 + 10 * inputs.len() as u64 + 100;
            history.push(done(end, end + 1, Input::Write(9), Output::Changed(u64::MAX)));
            // The last write's version is whatever comes next; so both its answer and a read before it are known.
            let versions = inputs.len() as u64 + 1;
            let right = (1..=versions).find(|version| {
                let last = history.len() - 1;
                history[last].returned = Some((end + 1, Output::Changed(*version)));
                verdict(&history) == Verdict::Linearizable
            });
            prop_assert!(right.is_some());
            let stale = Output::Found(None);
            history.push(done(end + 2, end + 3, Input::Read, stale));
            prop_assert!(matches!(verdict(&history), Verdict::NotLinearizable { .. }), "{:?}", history);
        }
    }
}
