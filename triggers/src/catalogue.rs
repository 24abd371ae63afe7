//! What there is to call: as this node knows it, and as it certainly is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use odgm_log::Offset;
use odgm_replication::{Consistency, Definition, LookupError, Manager};
use tokio::sync::Mutex;

use crate::functions::{CONFIRM_WITHIN, CONFIRMED_CLASSES};

/// Where the definitions of classes are looked up.
pub trait Catalogue: Send + Sync + 'static {
    /// Shows the definition of a class as it is known here; none if there is no such class, or this node has not heard of it yet.
    fn look_up(&self, class: &str, see: &mut dyn FnMut(Option<&Definition>));

    /// The definition of a class, of which nothing is missing that was acknowledged before this was asked for; none if there is no
    /// such class. The error is why that cannot be known now.
    fn confirm<'a>(&'a self, class: &'a str) -> BoxFuture<'a, Result<Option<Arc<Definition>>, String>>;
}

/// The catalogue of a node. What runs on the node follows it a moment later, or, while large partitions are opened, much later: so
/// whoever is about to give something up for good because of what there is not asks here first.
pub struct ConfirmedCatalogue {
    manager: Arc<Manager>,
    /// How many confirmations have begun.
    begun: AtomicU64,
    confirmed: Mutex<Confirmed>,
}

/// What the last confirmation gave.
struct Confirmed {
    /// Which one it was, from 1.
    which: u64,
    outcome: Result<(), String>,
    /// Where the catalogue was when what follows was read out of it.
    at: Offset,
    classes: BTreeMap<String, Option<Arc<Definition>>>,
}

impl ConfirmedCatalogue {
    /// That of this node.
    pub fn new(manager: Arc<Manager>) -> Self {
        let classes = BTreeMap::new();
        let confirmed = Confirmed { which: 0, outcome: Ok(()), at: Offset::ZERO, classes };
        Self { manager, begun: AtomicU64::new(0), confirmed: Mutex::new(confirmed) }
    }

    /// All who ask while the catalogue is being confirmed share the next confirmation, and each class is read once for each change
    /// of the catalogue: a trigger on what does not exist costs little, however often it fires.
    async fn confirmed(&self, class: &str) -> Result<Option<Arc<Definition>>, String> {
        match self.manager.missing(class) {
            LookupError::NoCollection { .. } => {}
            ignorant => return Err(ignorant.to_string()),
        }
        let before = self.begun.load(Ordering::Acquire);
        let mut confirmed = self.confirmed.lock().await;
        if confirmed.which <= before {
            let which = self.begun.fetch_add(1, Ordering::AcqRel) + 1;
            let asked = self.manager.catalogue().confirm_within(Consistency::Linearizable, CONFIRM_WITHIN);
            confirmed.outcome = asked.await.map_err(|error| error.to_string());
            confirmed.which = which;
        }
        confirmed.outcome.clone()?;
        let at = self.manager.catalogue().view().header().applied;
        if confirmed.at != at || confirmed.classes.len() >= CONFIRMED_CLASSES {
            confirmed.classes.clear();
            confirmed.at = at;
        }
        if let Some(known) = confirmed.classes.get(class) {
            return Ok(known.clone());
        }
        let read = self.manager.definition(class).map_err(|error| error.to_string())?.map(Arc::new);
        confirmed.classes.insert(class.to_owned(), read.clone());
        Ok(read)
    }
}

impl Catalogue for ConfirmedCatalogue {
    fn look_up(&self, class: &str, see: &mut dyn FnMut(Option<&Definition>)) {
        match self.manager.collection(class) {
            Some(collection) => see(Some(collection.definition())),
            None => see(None),
        }
    }

    fn confirm<'a>(&'a self, class: &'a str) -> BoxFuture<'a, Result<Option<Arc<Definition>>, String>> {
        self.confirmed(class).boxed()
    }
}
