//! An object into which a second entry is merged, as the grid promises it.

use super::Model;
use super::object::{Input, Object, Output, State};

/// An object with an entry that is written and one that is merged in.
pub struct Merging;

/// What is asked of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Something about the entry that is written.
    Entry(Input),
    /// Merge the other entry in, and answer the whole object as it is then.
    Merge(u64),
    /// Read the whole object.
    ReadWhole,
}

impl Model for Merging {
    type State = State;
    type Input = Request;
    type Output = Output;

    fn step(state: &State, request: &Request, output: Option<&Output>) -> Option<State> {
        let after = match request {
            Request::Entry(input) => return Object::step(state, input, output),
            Request::Merge(value) => State { version: state.version + 1, merged: Some(*value), ..*state },
            Request::ReadWhole => state.clone(),
        };
        let right = Output::Whole(after.whole());
        output.is_none_or(|output| *output == right).then_some(after)
    }

    fn is_still_possible(state: &State, output: &Output) -> bool {
        Object::is_still_possible(state, output)
    }

    fn is_telling(output: &Output) -> bool {
        Object::is_telling(output)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::object::Whole;
    use crate::{Operation, Verdict, check};

    type Done = Operation<Request, Output>;

    const STEPS: usize = 1_000_000;

    fn done(called: u64, returned: u64, input: Request, output: Output) -> Done {
        Operation { called, returned: Some((returned, output)), input }
    }

    fn found(version: u64, value: u64) -> Output {
        Output::Found(Some((version, value)))
    }

    fn verdict(history: &[Done]) -> Verdict {
        check::<Merging>(history, STEPS)
    }

    #[test]
    fn a_merge_keeps_the_other_entry_and_answers_with_all_of_its_own_moment() {
        let whole = |version, value, merged| Output::Whole(Some(Whole { version, value, merged }));
        let history = |merged| {
            [
                done(0, 10, Request::Entry(Input::Write(1)), Output::Changed(1)),
                done(20, 40, Request::Merge(5), merged),
                done(21, 39, Request::Entry(Input::Write(2)), Output::Changed(3)),
                done(50, 60, Request::ReadWhole, whole(3, Some(2), Some(5))),
                done(61, 62, Request::Entry(Input::Read), found(3, 2)),
            ]
        };
        assert_eq!(verdict(&history(whole(2, Some(1), Some(5)))), Verdict::Linearizable);
        for wrong in [whole(2, Some(2), Some(5)), whole(2, None, Some(5)), whole(2, Some(1), None)] {
            let found = verdict(&history(wrong.clone()));
            assert!(matches!(found, Verdict::NotLinearizable { .. }), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_only_merged_in_exists_and_is_deleted_with_all_else() {
        let merged = Whole { version: 1, value: None, merged: Some(5) };
        let history = |deleted, after| {
            [
                done(0, 1, Request::Merge(5), Output::Whole(Some(merged))),
                done(2, 3, Request::Entry(Input::Read), Output::Found(None)),
                done(
                    4,
                    5,
                    Request::Entry(Input::CompareAndSet { expected: 0, value: 1 }),
                    Output::Mismatch(1),
                ),
                done(6, 7, Request::Entry(Input::Delete), deleted),
                done(8, 9, Request::ReadWhole, after),
            ]
        };
        for deleted in [Output::Changed(2), Output::Deleted] {
            assert_eq!(verdict(&history(deleted, Output::Whole(None))), Verdict::Linearizable);
        }
        let untouched = history(Output::Unchanged, Output::Whole(Some(merged)));
        assert!(
            matches!(verdict(&untouched), Verdict::NotLinearizable { .. }),
            "there was something to delete"
        );
        let still_there = history(Output::Deleted, Output::Whole(Some(merged)));
        assert!(matches!(verdict(&still_there), Verdict::NotLinearizable { .. }));
    }

    fn request() -> impl Strategy<Value = Request> {
        prop_oneof![
            (0..3u64).prop_map(|value| Request::Entry(Input::Write(value))),
            (0..3u64).prop_map(Request::Merge),
            Just(Request::Entry(Input::Delete)),
            Just(Request::Entry(Input::Read)),
            Just(Request::ReadWhole),
        ]
    }

    /// What is right in a state, and the state after it.
    fn right(state: &State, request: &Request) -> (State, Output) {
        let next = state.version + 1;
        let merged = match request {
            Request::Merge(value) => Some(Whole { version: next, value: state.value, merged: Some(*value) }),
            _ => state.whole(),
        };
        let outputs = [
            Output::Whole(merged),
            Output::Deleted,
            Output::Changed(next),
            Output::Found(state.value.map(|value| (state.version, value))),
        ];
        let right = outputs
            .into_iter()
            .find_map(|output| Merging::step(state, request, Some(&output)).map(|after| (after, output)));
        right.expect("one answer is right")
    }

    proptest! {
        #[test]
        fn what_happened_one_after_the_other_is_found_out_and_no_half_of_a_merge(
            requests in vec((request(), 0..25u64, 0..25u64), 0..40)
        ) {
            let mut state = State::default();
            let mut history = Vec::new();
            for (at, (request, before, after)) in (0..).zip(&requests) {
                let (next, output) = right(&state, request);
                state = next;
                let moment = 1_000 + 10 * at;
                history.push(done(moment - before, moment + after, request.clone(), output));
            }
            prop_assert_eq!(verdict(&history), Verdict::Linearizable);
            let end = 1_000 + 10 * requests.len() as u64 + 100;
            let (version, value) = (state.version + 1, state.value);
            let half = Whole { version, value: value.map_or(Some(9), |_| None), merged: Some(5) };
            history.push(done(end, end + 1, Request::Merge(5), Output::Whole(Some(half))));
            let found = verdict(&history);
            prop_assert!(matches!(found, Verdict::NotLinearizable { .. }), "{:?}: {:?}", found, history);
        }
    }
}
