//! Making what runs on this node match the catalogue: every node does so whenever the catalogue changes, whoever
//! changed it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Weak};

use odgm_log::GroupId;
use odgm_log::store::ChangeError;
use tokio_util::sync::CancellationToken;

use crate::catalogue::Catalogue;
use crate::collection::Collection;
use crate::manager::{Manager, OpenError, blocking};
use crate::opening::Opener;

impl Manager {
    /// Reconciles after every change of the catalogue, until the node stops.
    pub(crate) async fn follow_catalogue(manager: Weak<Self>, stopping: CancellationToken) {
        let Some(mut visible) = manager.upgrade().map(|manager| manager.catalogue.visible()) else { return };
        loop {
            tokio::select! {
                changed = visible.changed() => if changed.is_err() { return },
                () = stopping.cancelled() => return,
            }
            let Some(manager) = manager.upgrade() else { return };
            if let Err(error) = manager.reconcile().await {
                tracing::error!(%error, "the catalogue of collections cannot be followed");
            }
        }
    }

    /// Starts what is new, ends what has gone, and removes the data of what has gone.
    pub(crate) async fn reconcile(self: &Arc<Self>) -> Result<(), OpenError> {
        let _alone = self.reconciling.lock().await;
        let knows_catalogue = self.knows_catalogue();
        let catalogue = self.read_catalogue()?;
        // First, since who founded the cluster and is not in the catalogue yet is known only by it.
        self.nodes.replace_members(self.council().unwrap_or_default().all());
        self.nodes.replace(&catalogue.nodes);
        let gone: Vec<_> = {
            let here = self.collections.read();
            let gone = here.iter().filter(|(name, collection)| {
                catalogue.collections.get(*name).is_none_or(|placed| !collection.is(placed))
            });
            gone.map(|(name, collection)| (name.clone(), Arc::clone(collection))).collect()
        };
        for (name, collection) in gone {
            self.end(&name, collection).await;
        }
        let mut come = self.take_over(&catalogue).await;
        // Until the node knows the catalogue as it is, a group that is not its own may have become so since. Before any
        // starts: what comes back must not find what it was before.
        if knows_catalogue {
            self.remove_strays(&catalogue).await;
        }
        for (name, placed) in &catalogue.collections {
            if self.collection(name).is_none() {
                let collection = Collection::new(placed, self.node_id());
                self.collections.write().insert(name.clone(), Arc::clone(&collection));
                let here = collection.here();
                come.push((collection, here));
            }
        }
        // Not before: clients would be told that there is no such collection, and believe it.
        if knows_catalogue {
            self.has_followed_catalogue();
            self.recount();
        }
        for (collection, come) in come {
            self.start(&collection, come);
        }
        Ok(())
    }

    /// Follows collections whose options were changed, and partitions that were moved: ends those that are here no more, and answers which are to be started.
    async fn take_over(&self, catalogue: &Catalogue) -> Vec<(Arc<Collection>, Vec<usize>)> {
        let changed = || {
            let changed = catalogue.collections.iter().filter_map(|(name, placed)| {
                let existing = self.collection(name)?;
                Some((name.clone(), existing.changed(placed, self.node_id())?))
            });
            changed.collect::<Vec<_>>()
        };
        if changed().is_empty() {
            return Vec::new();
        }
        // One that is being opened holds its files until it is.
        self.settled().await;
        let (mut come, mut gone) = (Vec::new(), Vec::new());
        for (name, changed) in changed() {
            self.collections.write().insert(name, Arc::clone(&changed.collection));
            come.push((changed.collection, changed.come));
            gone.extend(changed.gone);
        }
        self.recount();
        let opener = Arc::clone(&self.opener);
        blocking(move || opener.give_up(gone, "it was moved to other nodes: ask again at one of them")).await;
        come
    }

    async fn end(&self, name: &str, collection: Arc<Collection>) {
        // One that is being opened holds its files until it is.
        self.settled().await;
        self.collections.write().remove(name);
        self.recount();
        let opener = Arc::clone(&self.opener);
        let partitions = collection.partitions().flatten().collect();
        drop(collection);
        blocking(move || opener.give_up(partitions, "the collection was deleted")).await;
    }

    /// Removes the data of groups that belong to no collection, or not to this node, any more. What fails is tried again at
    /// the next change.
    async fn remove_strays(&self, catalogue: &Catalogue) {
        let opener = Arc::clone(&self.opener);
        let found = blocking(move || groups_on_disk(&opener)).await;
        let node = self.node_id();
        let strays: Vec<_> = {
            let restoring = self.restoring.lock();
            let is_stray = |group: &GroupId| catalogue.is_stray(*group, node) && !restoring.contains(group);
            found.into_iter().filter(is_stray).collect()
        };
        if strays.is_empty() {
            return;
        }
        let opener = Arc::clone(&self.opener);
        blocking(move || {
            for group in strays {
                if let Err(error) = remove(&opener, group) {
                    tracing::error!(%group, error, "the data of a partition that is not here any more could not be removed");
                }
            }
        })
        .await;
    }
}

/// Every group of which there is a log, a view or a snapshot.
fn groups_on_disk(opener: &Opener) -> BTreeSet<GroupId> {
    let folders = [opener.data.views(), opener.data.all_snapshots()];
    let named = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    let named = named.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(GroupId));
    named.chain(opener.log.groups()).collect()
}

/// Removes all data of a group.
pub(crate) fn remove(opener: &Opener, group: GroupId) -> Result<(), String> {
    remove_folder(&opener.data.view(group))
        .and_then(|()| remove_folder(&opener.data.snapshots(group)))
        .map_err(|error| error.to_string())?;
    match opener.log.remove_group(group) {
        // Removed before a crash kept the folders from it, or never written to.
        Ok(()) | Err(ChangeError::NoGroup { .. }) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

fn remove_folder(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
