//! Dead letters that are too old, or too many: which ones are dropped, and when it is looked.

use odgm_log::Timestamp;
use odgm_log::body::calls::{Discard, Place};

use super::{LetterPage, Now, micros};
use crate::processor::limits::LOOK;
use crate::processor::settings::Settings;

/// Goes through the dead letters, a few at a time, and begins again at the end.
#[derive(Debug)]
pub(super) struct Letters {
    /// When it is looked next; none while that is under way.
    next: Option<Timestamp>,
    /// The last one that was looked at.
    after: Option<Place>,
    /// Records that drop some and are not applied yet.
    dropping: usize,
    /// Whether there were more than may be when it was looked last.
    is_excess: bool,
}

impl Letters {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { next: Some(now), after: None, dropping: 0, is_excess: false }
    }

    /// After which letter it is to be looked now, if it is.
    pub(super) fn look(&mut self, now: Now) -> Option<Option<Place>> {
        self.next.filter(|next| *next <= now.time)?;
        self.next = None;
        Some(self.after)
    }

    pub(super) fn wake(&self) -> Option<Timestamp> {
        self.next
    }

    /// So many bytes there are: if that is too much it is not waited for the next look.
    pub(super) fn weighed(&mut self, now: Now, bytes: u64, settings: &Settings) {
        if bytes > settings.dead_letter_bytes && self.next.is_some() {
            (self.next, self.after) = (Some(now.time), None);
        }
    }

    pub(super) fn unreadable(&mut self, now: Now) {
        self.next = Some(now.after(LOOK.0));
    }

    /// What is to be dropped of these.
    pub(super) fn seen(&mut self, now: Now, page: &LetterPage, settings: &Settings) -> Vec<Discard> {
        let excess = page.total_bytes.saturating_sub(settings.dead_letter_bytes);
        self.is_excess = excess > 0;
        if self.is_excess && self.after.is_some() {
            // The first ones go first.
            self.after = None;
            self.next = Some(now.time);
            return Vec::new();
        }
        let mut freed = 0;
        let (mut too_many, mut too_old) = (Vec::new(), Vec::new());
        for letter in &page.letters {
            if freed < excess {
                freed += letter.bytes;
                too_many.push(letter.place);
            } else if letter.died.0.saturating_add(micros(settings.dead_letter_age)) < now.time.0 {
                too_old.push(letter.place);
            }
        }
        let limit = settings.dead_letter_bytes;
        let age = settings.dead_letter_age;
        let discards = [
            (too_many, format!("dead letters are kept up to {limit} bytes (dead_letter_max_bytes)")),
            (too_old, format!("dead letters are kept for {} ms (dead_letter_age_ms)", age.as_millis())),
        ];
        let discards = discards.into_iter().filter(|(letters, _)| !letters.is_empty());
        let discards: Vec<_> = discards.map(|(letters, reason)| Discard { letters, reason }).collect();
        let is_behind = page.has_more && !self.is_excess;
        self.after = page.letters.last().map(|last| last.place).filter(|_| is_behind);
        self.dropping += discards.len();
        if discards.is_empty() {
            let pause = if page.has_more { LOOK.1 } else { LOOK.0 };
            self.next = Some(now.after(pause));
        }
        discards
    }

    /// A record that drops some has been applied: there may be more.
    pub(super) fn discarded(&mut self, now: Now) {
        self.dropping = self.dropping.saturating_sub(1);
        if self.dropping == 0 {
            self.next = Some(if self.is_excess { now.time } else { now.after(LOOK.1) });
        }
    }
}
