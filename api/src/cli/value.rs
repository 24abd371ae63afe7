//! Values of entries in JSON and for people: text as text, other bytes marked.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use odgm_proto::oprc::{ValData, ValType};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, Visitor},
    ser::SerializeMap as _,
};

const BASE64_KEY: &str = "base64";
const CRDT_KEY: &str = "crdt";

/// A value of an entry. In JSON: a string if it is text, `{"base64": "..."}` if it is not, `{"crdt": "..."}` (base64
/// too) if it is an automerge document.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct EntryValue(pub(crate) ValData);

impl EntryValue {
    /// Plain bytes.
    pub(crate) fn bytes(data: impl Into<Bytes>) -> Self {
        Self(ValData { data: data.into(), r#type: ValType::Byte.into() })
    }

    /// A saved automerge document.
    pub(crate) fn crdt_map(data: impl Into<Bytes>) -> Self {
        Self(ValData { data: data.into(), r#type: ValType::CrdtMap.into() })
    }

    /// The text, unless these are other bytes or a document.
    pub(crate) fn text(&self) -> Option<&str> {
        if self.is_crdt() { None } else { std::str::from_utf8(&self.0.data).ok() }
    }

    fn is_crdt(&self) -> bool {
        self.0.r#type() == ValType::CrdtMap
    }

    fn marker(&self) -> &'static str {
        if self.is_crdt() { CRDT_KEY } else { BASE64_KEY }
    }
}

/// For people: text with its control characters escaped; other bytes as `base64:...`.
impl fmt::Display for EntryValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(text) = self.text() else {
            return write!(f, "{}:{}", self.marker(), BASE64.encode(&self.0.data));
        };
        text.chars().try_for_each(|character| {
            if character.is_control() {
                write!(f, "{}", character.escape_default())
            } else {
                write!(f, "{character}")
            }
        })
    }
}

impl Serialize for EntryValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Some(text) = self.text() {
            return serializer.serialize_str(text);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(self.marker(), &BASE64.encode(&self.0.data))?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for EntryValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = EntryValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"a string, {"base64": "..."} or {"crdt": "..."}"#)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<EntryValue, E> {
        Ok(EntryValue::bytes(text.as_bytes().to_vec()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<EntryValue, E> {
        Ok(EntryValue::bytes(text))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<EntryValue, A::Error> {
        let Some(marker) = map.next_key::<String>()? else {
            return Err(de::Error::invalid_length(0, &self));
        };
        let dress: fn(Vec<u8>) -> EntryValue = match marker.as_str() {
            BASE64_KEY => EntryValue::bytes,
            CRDT_KEY => EntryValue::crdt_map,
            _ => return Err(de::Error::unknown_field(&marker, &[BASE64_KEY, CRDT_KEY])),
        };
        let data = BASE64.decode(map.next_value::<String>()?).map_err(|error| {
            de::Error::custom(format_args!("the value of {marker:?} is not base64: {error}"))
        })?;
        let value = dress(data);
        match map.next_key::<String>()? {
            None => Ok(value),
            Some(_) => Err(de::Error::invalid_length(2, &self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(value: &EntryValue) -> String {
        let json = serde_json::to_string(value).expect("serializes");
        assert_eq!(&serde_json::from_str::<EntryValue>(&json).expect("reads back"), value);
        json
    }

    #[test]
    fn every_value_survives_json() {
        assert_eq!(round_trip(&EntryValue::bytes("grüße\n")), r#""grüße\n""#);
        assert_eq!(round_trip(&EntryValue::bytes("")), r#""""#);
        assert_eq!(round_trip(&EntryValue::bytes(vec![0xff, 0x00, 0xfe])), r#"{"base64":"/wD+"}"#);
        assert_eq!(round_trip(&EntryValue::crdt_map("text bytes")), r#"{"crdt":"dGV4dCBieXRlcw=="}"#);
        let looks_marked = EntryValue::bytes(r#"{"base64":"/wD+"}"#);
        assert_eq!(round_trip(&looks_marked), r#""{\"base64\":\"/wD+\"}""#);
    }

    #[test]
    fn people_see_text_as_text() {
        assert_eq!(EntryValue::bytes("two\nlines").to_string(), r"two\nlines");
        assert_eq!(EntryValue::bytes(vec![0xff]).to_string(), "base64:/w==");
        assert_eq!(EntryValue::crdt_map("x").to_string(), "crdt:eA==");
    }

    #[test]
    fn other_json_is_refused_with_what_was_expected() {
        let error = |json: &str| serde_json::from_str::<EntryValue>(json).expect_err("refused").to_string();
        insta::assert_snapshot!(error("12"), @r#"invalid type: integer `12`, expected a string, {"base64": "..."} or {"crdt": "..."} at line 1 column 2"#);
        insta::assert_snapshot!(error(r#"{"base64":"?"}"#), @r#"the value of "base64" is not base64: Invalid symbol 63, offset 0. at line 1 column 14"#);
        insta::assert_snapshot!(error(r#"{"hex":"00"}"#), @r#"unknown field `hex`, expected `base64` or `crdt` at line 1 column 6"#);
        insta::assert_snapshot!(error("{}"), @r#"invalid length 0, expected a string, {"base64": "..."} or {"crdt": "..."} at line 1 column 2"#);
    }
}
