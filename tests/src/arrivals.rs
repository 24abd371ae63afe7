//! Flights with a function: a trigger on the destination of every aircraft counts arrivals by airport.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use odgm_proto::oprc::{CreateCollectionRequest, ListObjectsRequest, ObjectEvent};
use serde_json::json;

use crate::Result;
use crate::flights::Operation;
use crate::harness::{Attached, Connection, routed, target};

/// The collection of airports; it has one partition. Each arrival is an entry of its airport.
pub const AIRPORTS: &str = "airports";

/// The function that notes an arrival.
const FUNCTION: &str = "arrive";

/// The entry that says where an aircraft flies to.
const DESTINATION: &str = "dest";

/// The collection of aircraft, and that of airports, whose function is served at `url`.
pub fn collections(class: &str, partitions: u32, url: &str) -> [CreateCollectionRequest; 2] {
    [routed(class, partitions, &[], url), routed(AIRPORTS, 1, &[FUNCTION], url)]
}

/// Lines for `odgm import` that attach the trigger to each aircraft.
pub fn attach(operations: &[Operation]) -> String {
    let call = target(AIRPORTS, 0, None, FUNCTION);
    let triggers = ObjectEvent::from(Attached::none().on_write(DESTINATION, call));
    let aircraft: BTreeSet<_> = operations.iter().map(Operation::id).collect();
    aircraft.into_iter().fold(String::new(), |mut lines, id| {
        let line = json!({ "op": "merge", "id": id, "entries": {}, "triggers": triggers });
        // Writing to a string does not fail.
        let _ = writeln!(lines, "{line}");
        lines
    })
}

/// How many arrivals each airport has seen, by its id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrivals(BTreeMap<String, u64>);

impl Arrivals {
    /// What the operations say.
    pub fn expected(operations: &[Operation]) -> Self {
        let mut arrivals = BTreeMap::new();
        for operation in operations {
            if let Operation::Merge { entries, .. } = operation
                && let Some(airport) = entries.get(DESTINATION)
            {
                *arrivals.entry(airport.to_ascii_lowercase()).or_default() += 1;
            }
        }
        Self(arrivals)
    }

    /// What the function has noted.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn counted(connection: &Connection) -> Result<Self> {
        let request = ListObjectsRequest {
            cls_id: AIRPORTS.to_owned(),
            // Far more than there are.
            limit: 1_000,
            ..ListObjectsRequest::default()
        };
        let mut airports = connection.data.clone().list_objects(request).await?.into_inner();
        let mut arrivals = BTreeMap::new();
        while let Some(airport) = airports.message().await? {
            arrivals.insert(airport.object_id, airport.entry_count);
        }
        Ok(Self(arrivals))
    }

    /// How many there are.
    pub fn airports(&self) -> usize {
        self.0.len()
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}
