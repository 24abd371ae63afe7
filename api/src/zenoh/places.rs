//! The key expressions of the routes, and what is asked for under them.

use odgm_log::GroupId;
use odgm_replication::Partition;
use zenoh::query::Parameters;

/// What lists objects, where an object's id would be.
const LIST: &str = "list-objects";

/// Where a partition is in Zenoh's space of keys.
///
/// A shard's id is the number of the partition's group, which is given out once: all replicas of a partition share it.
#[derive(Debug)]
pub(super) struct Place {
    class: String,
    index: u32,
    group: GroupId,
    /// `oprc/CLASS/PARTITION/`.
    root: String,
}

/// What is asked for under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// An object.
    Get(String),
    /// An entry of an object.
    Entry(String, String),
    /// To set an object.
    Set(String),
    /// To change entries of an object.
    BatchSet(String),
    /// A page of objects.
    List,
}

/// A call as a key names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Callee {
    /// The object that the function is called on; none for a function of the class.
    pub(super) object: Option<String>,
    /// The function.
    pub(super) function: String,
}

impl Operation {
    /// Whether it makes a record.
    pub(super) fn writes(&self) -> bool {
        matches!(self, Self::Set(_) | Self::BatchSet(_))
    }
}

impl Place {
    pub(super) fn of(partition: &Partition) -> Self {
        let (class, index, group) = (partition.class(), partition.index(), partition.group());
        Self::new(class, index, group)
    }

    fn new(class: &str, index: u32, group: GroupId) -> Self {
        // Names of collections have no character that means something in a key.
        Self { class: class.to_owned(), index, group, root: format!("oprc/{class}/{index}/") }
    }

    pub(super) fn class(&self) -> &str {
        &self.class
    }

    pub(super) fn index(&self) -> u32 {
        self.index
    }

    pub(super) fn shard(&self) -> u32 {
        self.group.get()
    }

    pub(super) fn root(&self) -> &str {
        &self.root
    }

    /// Where objects are read. None of these and of [`Place::writes`] is a part of another one, so that a session is not
    /// called twice for one query, and functions have the keys beside them.
    pub(super) fn reads(&self) -> [String; 3] {
        ["objects", "objects/*", "objects/*/entries/*"].map(|suffix| self.key(suffix))
    }

    /// Where objects are written with an answer; and where clients of long ago read them.
    pub(super) fn writes(&self) -> String {
        self.key("objects/*/*")
    }

    /// Where objects are written without an answer.
    pub(super) fn puts(&self) -> String {
        self.key("objects/*")
    }

    /// Where a function is called by whoever waits for the answer; none if its name cannot be a part of a key.
    pub(super) fn function(&self, name: &str, stateless: bool) -> Option<String> {
        if !is_segment(name) {
            return None;
        }
        Some(self.key(&if stateless {
            format!("invokes/{name}")
        } else {
            format!("objects/*/invokes/{name}")
        }))
    }

    /// Where calls are accepted, of functions by themselves and on objects.
    pub(super) fn invocations(&self) -> [String; 2] {
        ["invokes/*/async/*", "objects/*/invokes/*/async/*"].map(|suffix| self.key(suffix))
    }

    /// Where it is asked what came of those.
    pub(super) fn results(&self) -> [String; 2] {
        ["results/*/async/*", "objects/*/results/*/async/*"].map(|suffix| self.key(suffix))
    }

    pub(super) fn liveliness(&self) -> String {
        self.key(&format!("liveliness/{}", self.group))
    }

    /// Where any shard of the partition is asked for what it can do.
    pub(super) fn any_capabilities(&self) -> String {
        self.key("shards/*/capabilities")
    }

    /// Where this one is.
    pub(super) fn capabilities(&self) -> String {
        self.key(&format!("shards/{}/capabilities", self.group))
    }

    pub(super) fn event(&self, object: &str) -> String {
        self.key(&format!("events/{object}"))
    }

    fn key(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.root)
    }

    /// Whether a key is plainly about objects of the partition.
    pub(super) fn has_objects(&self, key: &str) -> bool {
        key.strip_prefix(&self.root).is_some_and(|rest| rest == "objects" || rest.starts_with("objects/"))
    }

    /// Whether a key is plainly about calls of the partition's functions, or about their results.
    pub(super) fn has_calls(&self, key: &str) -> bool {
        let Some(rest) = key.strip_prefix(&self.root) else { return false };
        let mut segments = rest.split('/');
        let word = match segments.next() {
            Some("objects") => segments.nth(1),
            word => word,
        };
        matches!(word, Some("invokes" | "results"))
    }

    /// What a query asks for; none if its key is none of the routes.
    pub(super) fn operation(&self, key: &str, parameters: &Parameters<'_>) -> Option<Operation> {
        let segments: Vec<&str> = key.strip_prefix(&self.root)?.split('/').collect();
        let ["objects", segments @ ..] = segments.as_slice() else { return None };
        if segments.iter().any(|segment| segment.contains('*')) {
            return None;
        }
        let given = match (parameters.get("oid_str"), parameters.get("oid")) {
            (Some(text), _) => Some(text.to_owned()),
            (None, Some(number)) => Some(as_number(number)),
            (None, None) => None,
        };
        // A parameter wins over the place in the key.
        let object = |segment: &str| given.clone().unwrap_or_else(|| as_number(segment));
        Some(match *segments {
            [] => Operation::Get(given?),
            [LIST] => Operation::List,
            [id] => Operation::Get(object(id)),
            [id, "set"] => Operation::Set(object(id)),
            [id, "batch-set"] => Operation::BatchSet(object(id)),
            ["get", id] => Operation::Get(object(id)),
            ["set", id] => Operation::Set(object(id)),
            ["batch-set", id] => Operation::BatchSet(object(id)),
            [id, "entries", key] => Operation::Entry(object(id), key.to_owned()),
            _ => return None,
        })
    }

    /// The call that a query asks for.
    pub(super) fn called(&self, key: &str) -> Option<Callee> {
        let (object, rest) = self.named(key)?;
        let ["invokes", function] = rest.as_slice() else { return None };
        Some(Callee { object, function: (*function).to_owned() })
    }

    /// The call that a PUT asks for, and its id.
    pub(super) fn accepted(&self, key: &str) -> Option<(Callee, String)> {
        self.with_id(key, "invokes")
    }

    /// The call whose result a query asks for, and its id.
    pub(super) fn result(&self, key: &str) -> Option<(Callee, String)> {
        self.with_id(key, "results")
    }

    fn with_id(&self, key: &str, word: &str) -> Option<(Callee, String)> {
        let (object, rest) = self.named(key)?;
        let [begin, function, "async", id] = *rest.as_slice() else { return None };
        (begin == word).then(|| (Callee { object, function: function.to_owned() }, id.to_owned()))
    }

    /// The object that a key is about, if any, and what stands behind it; none of a key with wildcards.
    fn named<'a>(&self, key: &'a str) -> Option<(Option<String>, Vec<&'a str>)> {
        let mut segments: Vec<&str> = key.strip_prefix(&self.root)?.split('/').collect();
        if segments.iter().any(|segment| segment.contains('*')) {
            return None;
        }
        if segments.first() != Some(&"objects") {
            return Some((None, segments));
        }
        let rest = segments.split_off(segments.len().min(2));
        Some((Some(as_number(segments.get(1)?)), rest))
    }

    /// The object that a PUT or a DELETE is about.
    pub(super) fn object(&self, key: &str) -> Option<String> {
        let id = key.strip_prefix(&self.root)?.strip_prefix("objects/")?;
        Some(as_number(id))
    }
}

/// Whether a name can be one part of a key.
pub(super) fn is_segment(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '*', '$', '?', '#'])
}

/// Over Zenoh an id that is a number is that number, however it is written: "007" is "7".
fn as_number(id: &str) -> String {
    let number = id.bytes().all(|byte| byte.is_ascii_digit()).then(|| id.parse::<u64>().ok()).flatten();
    number.map_or_else(|| id.to_owned(), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place::new("Video", 3, GroupId(7))
    }

    fn asked(key: &str, parameters: &str) -> Option<Operation> {
        place().operation(&format!("oprc/Video/3/{key}"), &Parameters::from(parameters))
    }

    #[test]
    fn every_form_of_a_key_is_understood() {
        let get = |id: &str| Some(Operation::Get(id.to_owned()));
        assert_eq!(asked("objects/cat", ""), get("cat"));
        assert_eq!(asked("objects/007", ""), get("7"), "a number is a number");
        assert_eq!(
            asked("objects/18446744073709551616", ""),
            get("18446744073709551616"),
            "no number has so many digits"
        );
        assert_eq!(asked("objects", "oid=007"), get("7"));
        assert_eq!(asked("objects/-", "oid_str=007"), get("007"), "said to be text");
        assert_eq!(asked("objects/get/cat", ""), get("cat"));
        assert_eq!(asked("objects/cat/entries/007", ""), Some(Operation::Entry("cat".into(), "007".into())));
        assert_eq!(asked("objects/cat/set", ""), Some(Operation::Set("cat".into())));
        assert_eq!(asked("objects/-/set", "oid=12"), Some(Operation::Set("12".into())));
        assert_eq!(asked("objects/set/cat", ""), Some(Operation::Set("cat".into())));
        assert_eq!(asked("objects/cat/batch-set", ""), Some(Operation::BatchSet("cat".into())));
        assert_eq!(asked("objects/batch-set/cat", ""), Some(Operation::BatchSet("cat".into())));
        assert_eq!(asked("objects/list-objects", ""), Some(Operation::List));
        for none in ["objects", "objects/a/b/c", "objects/a/remove", "objects/*", "objects/*/set", "events/a"]
        {
            assert_eq!(asked(none, ""), None, "{none}");
        }
        assert_eq!(place().operation("oprc/*/3/objects/cat", &Parameters::from("")), None);
    }

    #[test]
    fn no_key_of_a_route_is_a_part_of_another_one() {
        use zenoh::key_expr::KeyExpr;

        let place = place();
        let functions = ["set", "async", "entries"]
            .into_iter()
            .flat_map(|name| [false, true].map(|stateless| place.function(name, stateless).expect("a key")));
        let asked = [place.writes(), place.any_capabilities()].into_iter();
        let asked = asked.chain(place.reads()).chain(place.results()).chain(functions);
        let put = place.invocations().into_iter().chain([place.puts()]);
        // What listeners are told of, which nodes take no heed of.
        let told = ["async/f/1", "objects/cat/async/f/1", "events/cat"].map(|suffix| place.key(suffix));
        for keys in [asked.collect::<Vec<_>>(), put.chain(told).collect()] {
            let keys: Vec<_> = keys.into_iter().map(|key| KeyExpr::new(key).expect("valid")).collect();
            for (at, key) in keys.iter().enumerate() {
                let others = keys.iter().enumerate().filter(|(other, _)| *other != at);
                assert!(others.into_iter().all(|(_, other)| !key.intersects(other)), "{key}");
            }
        }
    }

    #[test]
    fn a_call_is_named_by_its_key() {
        let place = place();
        let callee = |object: Option<&str>, function: &str| Callee {
            object: object.map(str::to_owned),
            function: function.to_owned(),
        };
        let called = |suffix: &str| place.called(&place.key(suffix));
        assert_eq!(called("invokes/f"), Some(callee(None, "f")));
        assert_eq!(called("objects/007/invokes/f"), Some(callee(Some("7"), "f")));
        for none in ["invokes", "invokes/f/async/1", "objects/cat", "objects/*/invokes/f", "objects/cat/set"]
        {
            assert_eq!(called(none), None, "{none}");
        }
        let accepted = |suffix: &str| place.accepted(&place.key(suffix));
        assert_eq!(accepted("invokes/f/async/i-1"), Some((callee(None, "f"), "i-1".to_owned())));
        assert_eq!(
            accepted("objects/cat/invokes/f/async/1"),
            Some((callee(Some("cat"), "f"), "1".to_owned()))
        );
        assert_eq!(accepted("results/f/async/1"), None);
        let result = |suffix: &str| place.result(&place.key(suffix));
        assert_eq!(result("objects/cat/results/f/async/1"), Some((callee(Some("cat"), "f"), "1".to_owned())));
        assert_eq!(result("results/f/async/*"), None);
        assert_eq!(place.function("a/b", true), None, "no part of a key");
        for about in ["invokes/*", "objects/*/invokes/f", "objects/cat/results/**"] {
            assert!(place.has_calls(&place.key(about)), "{about}");
        }
        for other in ["**", "objects/**", "*/f", "objects/cat/set"] {
            assert!(!place.has_calls(&place.key(other)), "{other}");
        }
        assert!(!place.has_calls("oprc/**/shards/**/capabilities"));
    }
}
