//! Moments and places in a log as people type them.

use std::str::FromStr;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp, civil::DateTime};

/// What a time may look like, for help texts.
pub(crate) const HELP: &str = "\
Times:
  2026-03-01T12:30:00Z, 2026-03-01T12:30:00+01:00   RFC 3339
  2026-03-01T12:30, 2026-03-01                      in UTC
  -5m, -1h30m, -2d                                  so long ago";

/// A place in the past of a partition: `--at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// After the record at this offset.
    Offset(u64),
    /// After the last record at or before this time, in milliseconds since the Unix epoch.
    TimeMs(u64),
}

/// Where a subscription begins: `--from`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StartPoint {
    /// The first record that is kept.
    Earliest,
    /// Only what comes from now on.
    Latest,
    /// The first event at or after this offset.
    Offset(u64),
    /// The first event at or after this time, in milliseconds since the Unix epoch.
    TimeMs(u64),
    /// After these opaque cursors.
    Cursors(Vec<Bytes>),
    /// After the durable cursor of this name.
    Named(String),
}

/// Text that is neither.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseError {
    /// No time in any of the forms.
    #[error("expected a time such as 2026-03-01T12:30:00Z, 2026-03-01 or -5m (five minutes ago)")]
    Time,
    /// No place to look at the past from.
    #[error("expected an offset (a number) or a time such as 2026-03-01T12:30:00Z, 2026-03-01 or -5m")]
    Moment,
    /// No place to begin.
    #[error(
        "expected earliest, latest, offset:N, a time such as 2026-03-01T12:30:00Z or -5m, cursor:TEXT or named:NAME"
    )]
    StartPoint,
    /// A cursor that was not copied as a whole.
    #[error("this is not a cursor that `odgm watch` printed: copy all of it")]
    Cursor,
}

impl FromStr for Moment {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if let Ok(offset) = text.strip_prefix("offset:").unwrap_or(text).parse() {
            return Ok(Self::Offset(offset));
        }
        parse_time(text.strip_prefix("time:").unwrap_or(text), Timestamp::now())
            .map(Self::TimeMs)
            .map_err(|_| ParseError::Moment)
    }
}

impl FromStr for StartPoint {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text.split_once(':') {
            None if text == "earliest" => Ok(Self::Earliest),
            None if text == "latest" => Ok(Self::Latest),
            Some(("offset", offset)) => offset.parse().map(Self::Offset).map_err(|_| ParseError::StartPoint),
            Some(("time", time)) => parse_time(time, Timestamp::now()).map(Self::TimeMs),
            Some(("cursor", cursors)) => {
                cursors.split(',').map(decode_cursor).collect::<Result<_, _>>().map(Self::Cursors)
            }
            Some(("named", name)) if !name.is_empty() => Ok(Self::Named(name.to_owned())),
            _ => parse_time(text, Timestamp::now()).map(Self::TimeMs).map_err(|_| ParseError::StartPoint),
        }
    }
}

/// A cursor as it is printed: base64 that needs no quotes in a shell.
pub(crate) fn encode_cursor(cursor: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(cursor)
}

fn decode_cursor(text: &str) -> Result<Bytes, ParseError> {
    match URL_SAFE_NO_PAD.decode(text) {
        Ok(cursor) if !cursor.is_empty() => Ok(cursor.into()),
        _ => Err(ParseError::Cursor),
    }
}

/// A time as RFC 3339 in UTC with milliseconds.
pub(crate) fn format_ms(millis: u64) -> String {
    i64::try_from(millis)
        .ok()
        .and_then(|millis| Timestamp::from_millisecond(millis).ok())
        .map_or_else(|| format!("{millis} ms"), |time| format!("{time:.3}"))
}

/// A time in milliseconds since the Unix epoch.
fn parse_time(text: &str, now: Timestamp) -> Result<u64, ParseError> {
    let time = match text.strip_prefix('-') {
        Some(ago) => now.checked_sub(duration(ago)?).map_err(|_| ParseError::Time)?,
        None => match text.parse::<Timestamp>() {
            Ok(time) => time,
            Err(_) => {
                let civil: DateTime = text.parse().map_err(|_| ParseError::Time)?;
                jiff::tz::Offset::UTC.to_timestamp(civil).map_err(|_| ParseError::Time)?
            }
        },
    };
    u64::try_from(time.as_millisecond()).map_err(|_| ParseError::Time)
}

/// `5m`, `1h30m`, `2d`; a day is 24 hours.
fn duration(text: &str) -> Result<SignedDuration, ParseError> {
    let span: Span = text.parse().map_err(|_| ParseError::Time)?;
    span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| ParseError::Time)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-03-01T12:30:00Z
    const NOON: u64 = 1_772_368_200_000;

    fn at(text: &str) -> Option<u64> {
        let now = "2026-03-01T12:35:00Z".parse().expect("a time");
        parse_time(text, now).ok()
    }

    #[test]
    fn times_are_absolute_or_so_long_ago() {
        assert_eq!(at("2026-03-01T12:30:00Z"), Some(NOON));
        assert_eq!(at("2026-03-01T13:30:00+01:00"), Some(NOON));
        assert_eq!(at("2026-03-01T12:30"), Some(NOON));
        assert_eq!(at("-5m"), Some(NOON));
        assert_eq!(at("-1h30m"), Some(NOON - 85 * 60_000));
        assert_eq!(at("-1d"), at("2026-02-28T12:35:00Z"));
        assert_eq!(at("2026-03-01"), Some(NOON - 750 * 60_000));
        for wrong in ["", "-", "yesterday", "-5", "-1000000y", "1960-01-01"] {
            assert_eq!(at(wrong), None, "{wrong:?}");
        }
        assert_eq!(format_ms(NOON + 7), "2026-03-01T12:30:00.007Z");
        assert_eq!(format_ms(u64::MAX), "18446744073709551615 ms");
    }

    #[test]
    fn a_moment_is_an_offset_or_a_time() {
        assert_eq!("12".parse(), Ok(Moment::Offset(12)));
        assert_eq!("offset:12".parse(), Ok(Moment::Offset(12)));
        assert_eq!("2026-03-01T12:30:00Z".parse(), Ok(Moment::TimeMs(NOON)));
        assert_eq!("last week".parse::<Moment>(), Err(ParseError::Moment));
    }

    #[test]
    fn a_start_is_a_word_an_offset_a_time_or_a_cursor() {
        assert_eq!("earliest".parse(), Ok(StartPoint::Earliest));
        assert_eq!("latest".parse(), Ok(StartPoint::Latest));
        assert_eq!("offset:5".parse(), Ok(StartPoint::Offset(5)));
        assert_eq!("time:2026-03-01T12:30:00Z".parse(), Ok(StartPoint::TimeMs(NOON)));
        assert_eq!("2026-03-01T12:30:00Z".parse(), Ok(StartPoint::TimeMs(NOON)));
        assert_eq!("named:billing".parse(), Ok(StartPoint::Named("billing".into())));
        let cursors = format!("cursor:{},{}", encode_cursor(&[1, 255]), encode_cursor(b"x"));
        let expected = vec![Bytes::from_static(&[1, 255]), Bytes::from_static(b"x")];
        assert_eq!(cursors.parse(), Ok(StartPoint::Cursors(expected)));
        assert!(matches!("-5m".parse(), Ok(StartPoint::TimeMs(_))));
        assert_eq!("cursor:".parse::<StartPoint>(), Err(ParseError::Cursor));
        assert_eq!("begin".parse::<StartPoint>(), Err(ParseError::StartPoint));
        assert_eq!("offset:-1".parse::<StartPoint>(), Err(ParseError::StartPoint));
    }
}
