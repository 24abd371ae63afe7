//! Creating and deleting collections.

use std::path::Path;
use std::sync::Arc;

use odgm_log::store::ChangeError;
use odgm_log::{GroupId, Payload, Timestamp};
use odgm_projections::Outcome;

use crate::catalogue::Catalogue;
use crate::collection::Collection;
use crate::definition::{Definition, Invalid};
use crate::manager::{Manager, OpenError, blocking};
use crate::proposal::ProposeError;

/// Why the catalogue was not changed.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// There is one already.
    #[error("there is a collection {0:?} already")]
    AlreadyExists(String),
    /// There is none.
    #[error("there is no collection {0:?}")]
    NotFound(String),
    /// The definition cannot be had.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The node has enough partitions.
    #[error("{wanted} more partitions beside the {existing} of this node; it takes {limit} in all")]
    TooManyPartitions {
        /// How many the definition asks for.
        wanted: usize,
        /// How many there are.
        existing: usize,
        /// The limit.
        limit: usize,
    },
    /// Somebody else changed the catalogue at the same moment. Nothing was changed.
    #[error("the catalogue was changed by somebody else at the same moment: try again")]
    Conflict,
    /// The record was not made, or it is unknown whether it was.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The catalogue cannot be read.
    #[error(transparent)]
    Read(#[from] OpenError),
}

impl Manager {
    /// Creates a collection and waits until its partitions are up or have failed.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn create_collection(
        self: &Arc<Self>,
        definition: Definition,
    ) -> Result<Arc<Collection>, CatalogueError> {
        let collection = {
            let _changing = self.changing.lock().await;
            let catalogue = self.read_catalogue()?;
            if catalogue.collections.contains_key(&definition.name) {
                return Err(CatalogueError::AlreadyExists(definition.name));
            }
            self.create(&catalogue, &definition, false).await?
        };
        self.ready().await;
        Ok(collection)
    }

    /// Creates the collections that have never been proposed this way; a deleted one does not come back, and a
    /// definition that differs from the existing one is logged and ignored.
    ///
    /// # Errors
    /// [`CatalogueError`] of the first that could not be created.
    pub async fn bootstrap(self: &Arc<Self>, definitions: Vec<Definition>) -> Result<(), CatalogueError> {
        let _changing = self.changing.lock().await;
        for definition in definitions {
            let catalogue = self.read_catalogue()?;
            let name = &definition.name;
            if let Some(existing) = catalogue.collections.get(name) {
                if existing.definition != definition {
                    tracing::warn!(
                        collection = %name,
                        "the definition to bootstrap differs from the existing collection's and is ignored"
                    );
                }
            } else if catalogue.was_bootstrapped(name) {
                tracing::info!(collection = %name, "bootstrapped before and deleted since: not created again");
            } else {
                self.create(&catalogue, &definition, true).await?;
            }
        }
        Ok(())
    }

    /// Deletes a collection with its logs, views and snapshots.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub async fn delete_collection(self: &Arc<Self>, name: &str) -> Result<(), CatalogueError> {
        let _changing = self.changing.lock().await;
        let collection = self.collection(name).ok_or_else(|| CatalogueError::NotFound(name.to_owned()))?;
        self.ready().await;
        let deletion =
            self.read_catalogue()?.delete(name).ok_or_else(|| CatalogueError::NotFound(name.to_owned()))?;
        self.change(deletion).await?;
        self.collections.write().remove(name);
        self.recount();
        blocking(move || {
            for partition in collection.partitions().flatten() {
                partition.close("the collection was deleted");
            }
        })
        .await;
        self.finish_removals(&self.read_catalogue()?).await;
        Ok(())
    }

    async fn create(
        self: &Arc<Self>,
        catalogue: &Catalogue,
        definition: &Definition,
        bootstrap: bool,
    ) -> Result<Arc<Collection>, CatalogueError> {
        let (wanted, existing) = (definition.partitions as usize, catalogue.partitions());
        let limit = self.limits.partitions;
        if existing + wanted > limit {
            return Err(CatalogueError::TooManyPartitions { wanted, existing, limit });
        }
        // The catalogue itself takes records when space is low, so that collections can be deleted.
        self.catalogue.require_space()?;
        self.change(catalogue.create(definition, bootstrap, Timestamp::now())).await?;
        let name = definition.name.clone();
        let created = self.read_catalogue()?;
        let placed = created.collections.get(&name).ok_or_else(|| CatalogueError::NotFound(name.clone()))?;
        let collection = Collection::new(placed);
        self.collections.write().insert(name, Arc::clone(&collection));
        self.start(&collection);
        Ok(collection)
    }

    async fn change(&self, change: Payload) -> Result<(), CatalogueError> {
        match self.catalogue.propose(change).await?.outcome {
            Outcome::Changed { .. } => Ok(()),
            _ => Err(CatalogueError::Conflict),
        }
    }

    /// Removes the data of deleted collections. What fails is tried again at the next start.
    pub(crate) async fn finish_removals(&self, catalogue: &Catalogue) {
        if catalogue.removing.is_empty() {
            return;
        }
        let groups: Vec<_> = catalogue.removing.iter().copied().collect();
        let opener = Arc::clone(&self.opener);
        let removed =
            blocking(move || groups.into_iter().filter(|&group| remove(&opener, group)).collect::<Vec<_>>())
                .await;
        if removed.is_empty() {
            return;
        }
        if let Err(error) = self.change(catalogue.removed(&removed)).await {
            tracing::warn!(%error, "the removal of deleted partitions is noted at the next start");
        }
    }
}

fn remove(opener: &crate::opening::Opener, group: GroupId) -> bool {
    let removed = remove_folder(&opener.data.view(group))
        .and_then(|()| remove_folder(&opener.data.snapshots(group)))
        .map_err(|error| error.to_string())
        .and_then(|()| match opener.log.remove_group(group) {
            // Removed before a crash kept that from being noted, or never written to.
            Ok(()) | Err(ChangeError::NoGroup { .. }) => Ok(()),
            Err(error) => Err(error.to_string()),
        });
    if let Err(error) = &removed {
        tracing::error!(%group, error, "the data of a deleted partition could not be removed");
    }
    removed.is_ok()
}

fn remove_folder(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
