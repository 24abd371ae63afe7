//! Records that are to be proposed, and those that are on their way.
//!
//! Settlements and deliveries gather while records of them are under way: the more there is to do, the more one record tells of,
//! without a timer.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use odgm_log::body::calls::{
    Attempt, Delivered, Discard, Finished, Outcome, Place, RowKey, Settlement, Source, TriggerSettled,
    Verdict,
};
use odgm_log::{Body, Cause, Payload, Timestamp};
use odgm_projections::{Applied, OutboxRow, Outcome as Became, Subject};
use odgm_replication::{Answer, ProposeError};

use super::{Effect, Home, Note, Now, doubled};
use crate::call::IdempotencyKey;
use crate::processor::limits::{
    BYTES_IN_ONE_RECORD, ENDED, ENDED_BYTES, IN_ONE_RECORD, RECORDS_AT_ONCE, REFUSED_PAUSE,
};

/// An attempt that has ended, and what is to be recorded of it.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    pub(super) attempt: Attempt,
    pub(super) row: Arc<OutboxRow>,
    pub(super) verdict: Verdict,
    /// Whether the function is this partition's: then its outcome is recorded here.
    pub(super) is_own: bool,
}

/// An outcome that is not to be delivered any more.
#[derive(Clone, Debug)]
pub(super) enum Forgetting {
    Arrived(Place),
    Undeliverable(Place, String),
}

#[derive(Debug)]
enum Sent {
    Outcome(Ending),
    Settled(Vec<Ending>),
    Delivered(Vec<Forgetting>),
    Discard(Discard),
}

#[derive(Debug)]
pub(super) struct Proposals {
    home: Home,
    last_id: u64,
    under_way: BTreeMap<u64, Sent>,
    outcomes: VecDeque<Ending>,
    settlements: VecDeque<Ending>,
    forgettings: VecDeque<Forgetting>,
    discards: VecDeque<Discard>,
    /// Records of settlements under way.
    settling: usize,
    /// Whether a record of deliveries is under way.
    is_forgetting: bool,
    /// Calls that have ended and are not settled, and the bytes of what they answered.
    ended: (usize, usize),
    /// Nothing is proposed before, since something was refused.
    paused_until: Option<Timestamp>,
    /// How often in a row.
    refused: u32,
}

/// What the answer to a proposal says.
#[derive(Debug, Default)]
pub(super) struct Came {
    /// Rows that are settled.
    pub(super) settled: Vec<RowKey>,
    /// Outcomes that need not be delivered any more.
    pub(super) forgotten: Vec<Place>,
    /// Whether dead letters were dropped.
    pub(super) discarded: bool,
    pub(super) notes: Vec<Note>,
    /// Why nothing more can be done in this term.
    pub(super) over: Option<String>,
}

impl Ending {
    fn bytes(&self) -> usize {
        let of = |finished: &Finished| {
            let headers = finished.headers.iter().map(|(name, value)| name.len() + value.len());
            finished.payload.0.len() + finished.detail.len() + headers.sum::<usize>()
        };
        match &self.verdict {
            Verdict::Ended(finished) => of(finished),
            Verdict::Retry { reason, .. } => reason.len(),
            Verdict::Dead { reason, payload, finished } => {
                let payload = payload.as_ref().map_or(0, |payload| payload.0.len());
                reason.len() + payload + finished.as_ref().map_or(0, of)
            }
        }
    }

    /// Leaves out what no record can hold: of what was given up the answer, and the payload only if it is still too large.
    fn shed(&mut self) {
        let shed = |finished: &mut Finished| {
            let bytes = finished.payload.0.len();
            finished.detail = format!("its answer of {bytes} bytes is not kept: no record can hold it");
            finished.payload = Default::default();
            finished.headers.clear();
        };
        match &mut self.verdict {
            Verdict::Ended(finished) => shed(finished),
            Verdict::Retry { .. } => {}
            Verdict::Dead { finished: Some(finished), .. } if !finished.payload.0.is_empty() => {
                shed(finished);
            }
            Verdict::Dead { payload, .. } => *payload = None,
        }
    }

    fn note(&self) -> Note {
        let (key, row) = (self.attempt.row, Arc::clone(&self.row));
        match &self.verdict {
            Verdict::Ended(Finished { status, detail, took_us, .. }) => {
                Note::Ended { key, row, status: *status, detail: detail.clone(), took_us: *took_us }
            }
            Verdict::Retry { reason, .. } => Note::Retried { key, row, reason: reason.clone() },
            Verdict::Dead { reason, .. } => Note::Dead { key, row, reason: reason.clone() },
        }
    }

    fn outcome(&self, home: &Home, finished: Finished) -> Payload {
        let Self { attempt, row, .. } = self;
        let parent = home.cause(row.origin, attempt.row.offset);
        let invocation = match &row.subject {
            Subject::Invocation { invocation } => invocation.clone(),
            Subject::Data { .. } | Subject::Function { .. } => {
                IdempotencyKey { cause: parent, target: attempt.row.index }.to_string()
            }
        };
        let cause = Cause {
            request_id: None,
            depth: row.depth,
            parent: Some(parent),
            traceparent: row.traceparent.clone(),
        };
        let body = Body::Outcome(Outcome {
            source: Source::Outbox(*attempt),
            invocation,
            object: row.target.object.clone(),
            function: row.target.function.clone(),
            finished,
        });
        Payload { cause, body }
    }
}

impl Sent {
    fn payload(&self, home: &Home) -> Payload {
        let body = match self {
            Self::Outcome(ending) => match &ending.verdict {
                Verdict::Ended(finished) => return ending.outcome(home, finished.clone()),
                Verdict::Retry { .. } | Verdict::Dead { .. } => settled(std::slice::from_ref(ending)),
            },
            Self::Settled(endings) => settled(endings),
            Self::Delivered(forgettings) => {
                let mut delivered = Delivered::default();
                for forgetting in forgettings {
                    match forgetting {
                        Forgetting::Arrived(place) => delivered.arrived.push(*place),
                        Forgetting::Undeliverable(place, reason) => {
                            delivered.undeliverable.push((*place, reason.clone()));
                        }
                    }
                }
                Body::Delivered(delivered)
            }
            Self::Discard(discard) => Body::Discard(discard.clone()),
        };
        Payload { cause: Cause::default(), body }
    }
}

fn settled(endings: &[Ending]) -> Body {
    let settlements = endings
        .iter()
        .map(|Ending { attempt, verdict, .. }| Settlement { attempt: *attempt, verdict: verdict.clone() });
    Body::TriggerSettled(TriggerSettled { settlements: settlements.collect() })
}

impl Proposals {
    pub(super) fn new(home: Home) -> Self {
        Self {
            home,
            last_id: 0,
            under_way: BTreeMap::new(),
            outcomes: VecDeque::new(),
            settlements: VecDeque::new(),
            forgettings: VecDeque::new(),
            discards: VecDeque::new(),
            settling: 0,
            is_forgetting: false,
            ended: (0, 0),
            paused_until: None,
            refused: 0,
        }
    }

    /// Whether more calls may end than have.
    pub(super) fn has_room(&self) -> bool {
        self.ended.0 < ENDED && self.ended.1 < ENDED_BYTES
    }

    pub(super) fn ended(&mut self, ending: Ending) {
        self.ended.0 += 1;
        self.ended.1 += ending.bytes();
        if ending.is_own && matches!(ending.verdict, Verdict::Ended(_)) {
            self.outcomes.push_back(ending);
        } else {
            self.settlements.push_back(ending);
        }
    }

    pub(super) fn delivered(&mut self, forgetting: Option<Forgetting>) {
        self.forgettings.extend(forgetting);
    }

    pub(super) fn discard(&mut self, discard: Discard) {
        self.discards.push_back(discard);
    }

    pub(super) fn effects(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.paused_until.is_some_and(|until| until > now.time) {
            return;
        }
        self.paused_until = None;
        while let Some(ending) = self.outcomes.pop_front() {
            self.propose(Sent::Outcome(ending), effects);
        }
        while self.settling < RECORDS_AT_ONCE && !self.settlements.is_empty() {
            let (mut endings, mut bytes) = (Vec::new(), 0);
            while let Some(next) = self.settlements.front()
                && endings.len() < IN_ONE_RECORD
                && (endings.is_empty() || bytes + next.bytes() <= BYTES_IN_ONE_RECORD)
            {
                bytes += next.bytes();
                endings.extend(self.settlements.pop_front());
            }
            self.settling += 1;
            self.propose(Sent::Settled(endings), effects);
        }
        if !self.is_forgetting && !self.forgettings.is_empty() {
            let some = self.forgettings.len().min(IN_ONE_RECORD);
            let forgettings = self.forgettings.drain(..some).collect();
            self.is_forgetting = true;
            self.propose(Sent::Delivered(forgettings), effects);
        }
        while let Some(discard) = self.discards.pop_front() {
            self.propose(Sent::Discard(discard), effects);
        }
    }

    pub(super) fn wake(&self) -> Option<Timestamp> {
        self.paused_until
    }

    fn propose(&mut self, sent: Sent, effects: &mut Vec<Effect>) {
        self.last_id += 1;
        effects.push(Effect::Propose { id: self.last_id, payload: Box::new(sent.payload(&self.home)) });
        self.under_way.insert(self.last_id, sent);
    }

    /// What the answer to a proposal says.
    pub(super) fn answered(&mut self, now: Now, id: u64, answer: Answer) -> Came {
        let Some(sent) = self.under_way.remove(&id) else { return Came::default() };
        match sent {
            Sent::Settled(_) => self.settling -= 1,
            Sent::Delivered(_) => self.is_forgetting = false,
            Sent::Outcome(_) | Sent::Discard(_) => {}
        }
        match answer {
            Ok(applied) => self.applied(sent, &applied),
            Err(
                error @ (ProposeError::Overloaded { .. }
                | ProposeError::LowSpace { .. }
                | ProposeError::Unavailable { .. }
                | ProposeError::TooLarge(_)),
            ) => {
                self.again(sent, matches!(error, ProposeError::TooLarge(_)));
                // Others that were under way with it say the same.
                if self.paused_until.is_none() {
                    self.paused_until = Some(now.after(doubled(REFUSED_PAUSE, self.refused)));
                    self.refused = self.refused.saturating_add(1);
                }
                let notes = (self.refused == 1).then(|| Note::Refused { reason: error.to_string() });
                Came { notes: notes.into_iter().collect(), ..Came::default() }
            }
            Err(
                error @ (ProposeError::NotLeader { .. }
                | ProposeError::Stopped { .. }
                | ProposeError::Unknown { .. }),
            ) => Came { over: Some(error.to_string()), ..Came::default() },
        }
    }

    fn applied(&mut self, sent: Sent, applied: &Applied) -> Came {
        self.refused = 0;
        let is_stale = match &applied.outcome {
            Became::Changed { .. } | Became::Unchanged { .. } | Became::Noted => false,
            Became::Stale => true,
            other => {
                let reason = format!("record {} did not take effect: {other:?}", applied.offset);
                return Came { over: Some(reason), ..Came::default() };
            }
        };
        let mut came = Came::default();
        match sent {
            Sent::Outcome(ending) => self.settled(&ending, is_stale, &mut came),
            Sent::Settled(endings) => {
                for ending in &endings {
                    self.settled(ending, is_stale, &mut came);
                }
            }
            Sent::Delivered(forgettings) => {
                let (mut arrived, mut reasons) = (0, Vec::new());
                for forgetting in forgettings {
                    match forgetting {
                        Forgetting::Arrived(place) => {
                            arrived += 1;
                            came.forgotten.push(place);
                        }
                        Forgetting::Undeliverable(place, reason) => {
                            came.forgotten.push(place);
                            reasons.push((place, reason));
                        }
                    }
                }
                came.notes.extend((arrived > 0).then_some(Note::Arrived(arrived)));
                came.notes.extend((!reasons.is_empty()).then_some(Note::Undeliverable { reasons }));
            }
            Sent::Discard(Discard { letters, reason }) => {
                came.discarded = true;
                came.notes.push(Note::Discarded { letters: letters.len(), reason });
            }
        }
        came
    }

    fn settled(&mut self, ending: &Ending, is_stale: bool, came: &mut Came) {
        self.ended.0 -= 1;
        self.ended.1 -= ending.bytes();
        came.settled.push(ending.attempt.row);
        came.notes.push(if is_stale { Note::Stale { key: ending.attempt.row } } else { ending.note() });
    }

    /// Puts what was not recorded back where it came from, before all that came since.
    fn again(&mut self, sent: Sent, is_too_large: bool) {
        match sent {
            Sent::Outcome(mut ending) => {
                self.shed(&mut ending, is_too_large);
                self.outcomes.push_front(ending);
            }
            Sent::Settled(endings) => {
                for mut ending in endings.into_iter().rev() {
                    self.shed(&mut ending, is_too_large);
                    self.settlements.push_front(ending);
                }
            }
            Sent::Delivered(forgettings) => {
                forgettings.into_iter().rev().for_each(|forgetting| self.forgettings.push_front(forgetting));
            }
            Sent::Discard(discard) => self.discards.push_front(discard),
        }
    }

    fn shed(&mut self, ending: &mut Ending, is_too_large: bool) {
        if is_too_large {
            self.ended.1 -= ending.bytes();
            ending.shed();
            self.ended.1 += ending.bytes();
        }
    }
}
