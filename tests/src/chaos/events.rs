//! Compares what a subscriber has seen with what clients know of their writes.
//!
//! Each acknowledged write that changed something has exactly one event, at the offset and with the version that its client
//! was told. There is none of a write that was refused, none that nobody asked for, and none twice. Versions of an object
//! grow by one from event to event, over deletions too.

use std::collections::{BTreeMap, BTreeSet};

use odgm_proto::odgm::v1::{self, EventKind};

use super::client::{MERGED, WRITTEN, request_id};
use super::journal::{Fate, Key, Kind, Sent};

/// An event, as far as it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) offset: u64,
    object: String,
    version: u64,
    kind: EventKind,
    /// What was written; none unless it is one entry of those that clients write, with a number.
    put: Option<(Kind, u64)>,
    request_id: Option<String>,
}

impl Event {
    pub(super) fn of(event: &v1::Event) -> Self {
        let put = match event.changes.as_slice() {
            [change] => {
                let text = change.value.as_ref().and_then(|value| std::str::from_utf8(&value.data).ok());
                let number = text.and_then(|text| text.parse().ok());
                let kind = match change.key.as_str() {
                    WRITTEN => Some(Kind::SetValue),
                    MERGED => Some(Kind::Merge),
                    _ => None,
                };
                kind.zip(number)
            }
            _ => None,
        };
        Self {
            offset: event.offset,
            object: event.object_id.clone(),
            version: event.object_version,
            kind: event.kind(),
            put,
            request_id: event.cause.as_ref().and_then(|cause| cause.request_id.clone()),
        }
    }
}

/// What is wrong with the events of all partitions.
pub(super) fn judge(sent: &BTreeMap<u64, Sent>, events: &BTreeMap<u32, Vec<Event>>) -> Vec<String> {
    let mut judge = Judge::new(sent);
    for (partition, events) in events {
        for event in events {
            judge.event(*partition, event);
        }
    }
    judge.acknowledged();
    judge.deletions();
    judge.complaints
}

/// What is known of one object from its events.
#[derive(Clone, Debug, Default)]
struct Track {
    version: u64,
    /// From which offsets on it existed, or did not.
    turns: Vec<(u64, bool)>,
    /// Offsets of deletions that no client has been told of.
    untold: Vec<u64>,
}

impl Track {
    fn exists(&self) -> bool {
        self.turns.last().is_some_and(|(_, exists)| *exists)
    }

    fn existed_before(&self, offset: u64) -> bool {
        self.turns.iter().rev().find(|(at, _)| *at < offset).is_some_and(|(_, exists)| *exists)
    }
}

struct Judge<'a> {
    sent: &'a BTreeMap<u64, Sent>,
    /// Where each acknowledged write is, by partition and offset.
    places: BTreeMap<(u32, u64), u64>,
    tracks: BTreeMap<Key, Track>,
    /// Where each write was seen.
    seen: BTreeMap<u64, u64>,
    /// Where anything was seen.
    offsets: BTreeSet<(u32, u64)>,
    complaints: Vec<String>,
}

impl<'a> Judge<'a> {
    fn new(sent: &'a BTreeMap<u64, Sent>) -> Self {
        let mut places = BTreeMap::new();
        let mut complaints = Vec::new();
        for (number, sent) in sent {
            let Fate::Applied(place) = sent.fate else { continue };
            if let Some(other) = places.insert((sent.key.partition, place.offset), *number) {
                complaints.push(format!(
                    "writes {other} and {number} to {} were both acknowledged at offset {}",
                    sent.key, place.offset
                ));
            }
        }
        Self {
            sent,
            places,
            tracks: BTreeMap::new(),
            seen: BTreeMap::new(),
            offsets: BTreeSet::new(),
            complaints,
        }
    }

    fn complain(&mut self, key: &Key, event: &Event, text: &str) {
        self.complaints.push(format!("{key}: {text}: {event:?}"));
    }

    fn event(&mut self, partition: u32, event: &Event) {
        let key = Key { partition, object: event.object.clone() };
        self.offsets.insert((partition, event.offset));
        let track = self.tracks.entry(key.clone()).or_default();
        let (before, existed) = (track.version, track.exists());
        track.version = event.version;
        track.turns.push((event.offset, event.kind != EventKind::Deleted));
        if event.version != before + 1 {
            self.complain(&key, event, &format!("the version before was {before}"));
        }
        if existed == (event.kind == EventKind::Created) {
            let text = if existed { "it existed already" } else { "it did not exist" };
            self.complain(&key, event, text);
        }
        match event.put {
            _ if event.kind == EventKind::Deleted => self.deletion(&key, event),
            Some((kind, number)) => self.put(&key, event, kind, number),
            None => self.complain(&key, event, "nobody writes this"),
        }
    }

    fn put(&mut self, key: &Key, event: &Event, kind: Kind, number: u64) {
        if let Some(before) = self.seen.insert(number, event.offset) {
            self.complain(key, event, &format!("applied twice, before at offset {before}"));
        }
        let Some(sent) = self.sent.get(&number) else {
            self.complain(key, event, "nobody wrote this");
            return;
        };
        let merges = |kind| kind == Kind::Merge;
        if sent.key != *key || sent.kind == Kind::Delete || merges(sent.kind) != merges(kind) {
            self.complain(key, event, &format!("this is not what was written: {sent:?}"));
        }
        match sent.fate {
            Fate::Unknown => {}
            Fate::NotApplied => self.complain(key, event, "its client was told that it was not applied"),
            Fate::Applied(place) => {
                if (place.offset, place.version) != (event.offset, event.version) {
                    self.complain(key, event, &format!("its client was told {place:?}"));
                }
            }
        }
    }

    fn deletion(&mut self, key: &Key, event: &Event) {
        let told = self.places.get(&(key.partition, event.offset)).and_then(|number| self.sent.get(number));
        match told {
            None => self.tracks.entry(key.clone()).or_default().untold.push(event.offset),
            Some(sent) if sent.kind == Kind::Delete && sent.key == *key => {}
            Some(sent) => {
                let text = format!("a client was told that {sent:?} is here");
                self.complain(key, event, &text);
            }
        }
        // Where it carries the id of a write, that must be one of this object that was not refused.
        let number =
            event.request_id.as_deref().and_then(|id| id.strip_prefix("chaos-")?.parse::<u64>().ok());
        let Some((number, sent)) = number.and_then(|number| Some((number, self.sent.get(&number)?))) else {
            return;
        };
        if sent.kind != Kind::Delete || sent.key != *key || sent.fate == Fate::NotApplied {
            let text = format!("{} is the id of {sent:?}", request_id(number));
            self.complain(key, event, &text);
        }
        if let Some(before) = self.seen.insert(number, event.offset) {
            self.complain(key, event, &format!("applied twice, before at offset {before}"));
        }
    }

    /// Whether all that was acknowledged was seen.
    fn acknowledged(&mut self) {
        for (number, sent) in self.sent {
            let Fate::Applied(place) = sent.fate else { continue };
            let is_there = self.offsets.contains(&(sent.key.partition, place.offset));
            let is_missing = match sent.kind {
                // One that found nothing has no event.
                Kind::Delete => {
                    let track = self.tracks.get(&sent.key);
                    !is_there && track.is_some_and(|track| track.existed_before(place.offset))
                }
                _ => !self.seen.contains_key(number),
            };
            if is_missing {
                self.complaints.push(format!("{number} was acknowledged and has no event: {sent:?}"));
            }
        }
    }

    /// Whether somebody may have asked for each deletion that nobody was told of.
    fn deletions(&mut self) {
        let mut unknown: BTreeMap<&Key, usize> = BTreeMap::new();
        for sent in self.sent.values() {
            if sent.kind == Kind::Delete && sent.fate == Fate::Unknown {
                *unknown.entry(&sent.key).or_default() += 1;
            }
        }
        for (key, track) in &self.tracks {
            let asked = unknown.get(key).copied().unwrap_or_default();
            if track.untold.len() > asked {
                let Track { untold, .. } = track;
                self.complaints.push(format!(
                    "{key}: deleted at offsets {untold:?}, but only {asked} unanswered deletions were sent"
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::Acknowledged;

    fn key() -> Key {
        Key { partition: 0, object: "a".to_owned() }
    }

    fn put(offset: u64, version: u64, number: u64) -> Event {
        let kind = if version == 1 { EventKind::Created } else { EventKind::Updated };
        let put = Some((Kind::SetValue, number));
        Event { offset, object: "a".to_owned(), version, kind, put, request_id: None }
    }

    fn deleted(offset: u64, version: u64) -> Event {
        Event { kind: EventKind::Deleted, put: None, ..put(offset, version, 0) }
    }

    fn sent(writes: &[(u64, Kind, Fate)]) -> BTreeMap<u64, Sent> {
        writes
            .iter()
            .map(|(number, kind, fate)| (*number, Sent { key: key(), kind: *kind, fate: *fate }))
            .collect()
    }

    fn at(offset: u64, version: u64) -> Fate {
        Fate::Applied(Acknowledged { offset, version })
    }

    /// Two writes, a deletion, and one that was refused.
    fn writes() -> BTreeMap<u64, Sent> {
        sent(&[
            (1, Kind::SetValue, at(10, 1)),
            (2, Kind::SetValue, Fate::Unknown),
            (3, Kind::Delete, at(12, 0)),
            (4, Kind::BatchSetValues, Fate::NotApplied),
            (5, Kind::Delete, at(14, 0)),
        ])
    }

    fn complaints(events: Vec<Event>) -> String {
        judge(&writes(), &BTreeMap::from([(0, events)])).join("\n")
    }

    #[test]
    fn what_happened_as_told_is_right() {
        assert_eq!(complaints(vec![put(10, 1, 1), deleted(12, 2)]), "");
        assert_eq!(complaints(vec![put(10, 1, 1), put(11, 2, 2), deleted(12, 3)]), "", "an unanswered write");
    }

    #[test]
    fn what_is_missing_or_too_much_is_named() {
        let wrong = [
            (vec![deleted(12, 1)], "1 was acknowledged and has no event"),
            (vec![put(10, 1, 1)], "3 was acknowledged and has no event"),
            (vec![put(10, 1, 1), put(11, 2, 2), deleted(12, 3), put(13, 4, 2)], "applied twice"),
            (vec![put(10, 1, 1), put(11, 2, 9), deleted(12, 3)], "nobody wrote this"),
            (vec![put(10, 1, 1), put(11, 2, 4), deleted(12, 3)], "told that it was not applied"),
            (vec![put(11, 1, 1), deleted(12, 2)], "its client was told"),
            (vec![put(10, 1, 1), deleted(12, 3)], "the version before was 1"),
            (vec![put(10, 1, 1), deleted(11, 2), deleted(12, 3)], "it did not exist"),
            (vec![put(10, 1, 1), deleted(11, 2)], "only 0 unanswered deletions were sent"),
        ];
        for (events, expected) in wrong {
            let found = complaints(events);
            assert!(found.contains(expected), "expected {expected:?}, found:\n{found}");
        }
    }

    #[test]
    fn a_write_that_was_sent_again_and_applied_twice_is_found_by_its_id() {
        let writes = sent(&[
            (1, Kind::SetValue, at(1, 1)),
            (2, Kind::Delete, Fate::Unknown),
            (3, Kind::Delete, Fate::Unknown),
        ]);
        let by_id = |event: Event| Event { request_id: Some(request_id(2)), ..event };
        let again = Event { kind: EventKind::Created, ..put(3, 3, 1) };
        let events = vec![put(1, 1, 1), by_id(deleted(2, 2)), again, by_id(deleted(4, 4))];
        let found = judge(&writes, &BTreeMap::from([(0, events)]));
        assert_eq!(
            found.iter().filter(|complaint| complaint.contains("applied twice")).count(),
            2,
            "{found:#?}"
        );
    }
}
