//! Creating, changing and deleting collections.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use odgm_log::{GroupId, NodeId, Payload, Timestamp};
use odgm_projections::Outcome;
use odgm_proto::oprc::InvocationRoute;

use crate::catalogue::{Catalogue, Placed};
use crate::collection::Collection;
use crate::definition::{Definition, Invalid};
use crate::limits::RESTORED_APART;
use crate::manager::{Manager, OpenError};
use crate::plans::PlanError;
use crate::proposal::ProposeError;
use crate::reading::ReadError;

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
    /// The nodes of the cluster do not allow it.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Whether the catalogue here is up to date cannot be told.
    #[error(transparent)]
    Unconfirmed(#[from] ReadError),
    /// The catalogue cannot be read.
    #[error(transparent)]
    Read(#[from] OpenError),
}

/// How often a change of the catalogue is tried again that somebody else's has come before.
const ATTEMPTS: usize = 8;

/// What is said where a change was proposed, and what came of it here is not what should have.
pub(crate) fn stands(error: &dyn std::fmt::Display) -> CatalogueError {
    let reason = format!("the catalogue was changed, but this node does not follow it: {error}");
    ProposeError::Unknown { reason }.into()
}

impl Manager {
    /// Creates a collection and waits until its partitions on this node are up or have failed.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub fn create_collection(
        self: &Arc<Self>,
        definition: Definition,
    ) -> BoxFuture<'_, Result<Arc<Collection>, CatalogueError>> {
        async move {
            self.edit(|manager, catalogue| {
                if catalogue.collections.contains_key(&definition.name) {
                    return Err(CatalogueError::AlreadyExists(definition.name.clone()));
                }
                manager.creation(catalogue, &definition, false).map(Some)
            })
            .await?;
            self.settled().await;
            self.collection(&definition.name).ok_or(CatalogueError::NotFound(definition.name))
        }
        .boxed()
    }

    /// Creates the collections that have never been proposed this way; a deleted one does not come back, and a
    /// definition that differs from the existing one is logged and ignored.
    pub(crate) async fn create_missing(
        self: &Arc<Self>,
        definitions: &[Definition],
    ) -> Result<(), CatalogueError> {
        for definition in definitions {
            let name = &definition.name;
            self.edit(|manager, catalogue| {
                if let Some(existing) = catalogue.collections.get(name) {
                    if existing.definition != *definition {
                        tracing::warn!(
                            collection = %name,
                            "the definition to bootstrap differs from the existing collection's and is ignored"
                        );
                    }
                    return Ok(None);
                }
                if catalogue.was_bootstrapped(name) {
                    tracing::info!(collection = %name, "bootstrapped before and deleted since: not created again");
                    return Ok(None);
                }
                manager.creation(catalogue, definition, true).map(Some)
            })
            .await?;
        }
        Ok(())
    }

    /// Changes options of a collection that are not fixed when it is created, and if given all of its routes of functions,
    /// on every node.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub fn update_collection<'a>(
        self: &'a Arc<Self>,
        name: &'a str,
        options: BTreeMap<String, String>,
        routes: Option<InvocationRoute>,
    ) -> BoxFuture<'a, Result<Arc<Collection>, CatalogueError>> {
        async move {
            let missing = || CatalogueError::NotFound(name.to_owned());
            self.edit(|_, catalogue| {
                let placed = catalogue.collections.get(name).ok_or_else(missing)?;
                let mut definition = placed.definition.with_options(options.clone())?;
                if let Some(routes) = routes.clone() {
                    definition.wire.invocations = Some(routes);
                    definition = Definition::from_catalogue(definition.wire)?;
                }
                let is_new = definition != placed.definition;
                Ok(is_new.then(|| {
                    catalogue.edit([(name.to_owned(), Placed { definition, ..placed.clone() })], [], [])
                }))
            })
            .await?;
            self.collection(name).ok_or_else(missing)
        }
        .boxed()
    }

    /// Deletes a collection with its logs, views and snapshots.
    ///
    /// # Errors
    /// [`CatalogueError`].
    pub fn delete_collection<'a>(
        self: &'a Arc<Self>,
        name: &'a str,
    ) -> BoxFuture<'a, Result<(), CatalogueError>> {
        async move {
            let missing = || CatalogueError::NotFound(name.to_owned());
            self.edit(|_, catalogue| catalogue.delete(name).map(Some).ok_or_else(missing)).await
        }
        .boxed()
    }

    /// Takes groups for a collection that is to be restored; until it is created they stay although no collection has them.
    pub(crate) async fn reserve_groups(
        self: &Arc<Self>,
        definition: &Definition,
        wanted: &[GroupId],
    ) -> Result<Vec<GroupId>, CatalogueError> {
        let mut reserved = Vec::new();
        let no_number =
            |error| ProposeError::Unavailable { reason: format!("there is no random number: {error}") };
        let apart = getrandom::u32().map_err(no_number)? % RESTORED_APART;
        let edited = self.edit(|manager, catalogue| {
            if catalogue.collections.contains_key(&definition.name) {
                return Err(CatalogueError::AlreadyExists(definition.name.clone()));
            }
            // For its checks: there is room for so many partitions, and on the disk.
            manager.creation(catalogue, definition, false)?;
            let (groups, change) = catalogue.reserve(wanted, definition.partitions, apart);
            let mut restoring = manager.restoring.lock();
            restoring.retain(|group| !reserved.contains(group));
            restoring.extend(groups.iter().copied());
            reserved = groups;
            Ok(Some(change))
        });
        if let Err(error) = edited.await {
            self.restoring.lock().retain(|group| !reserved.contains(group));
            return Err(error);
        }
        Ok(reserved)
    }

    /// Creates a collection whose data are in place on this node, the first of `replicas`.
    pub(crate) async fn create_restored(
        self: &Arc<Self>,
        definition: &Definition,
        groups: &[GroupId],
        replicas: &[NodeId],
    ) -> Result<(), CatalogueError> {
        self.edit(|manager, catalogue| {
            if catalogue.collections.contains_key(&definition.name) {
                return Err(CatalogueError::AlreadyExists(definition.name.clone()));
            }
            // Nobody takes it off a node that was told to leave while the data came.
            let places = manager.places(catalogue);
            if let Some(leaving) = replicas.iter().find(|node| !places.contains(node)) {
                return Err(PlanError::IsLeaving(*leaving).into());
            }
            Ok(Some(catalogue.create_restored(definition, groups, replicas, Timestamp::now())))
        })
        .await
    }

    /// Changes the catalogue as it is now, and makes this node match it. `make` says how, or that nothing is to be done;
    /// it is asked again if somebody else changes the catalogue at the same moment.
    pub(crate) async fn edit(
        self: &Arc<Self>,
        mut make: impl FnMut(&Self, &Catalogue) -> Result<Option<Payload>, CatalogueError>,
    ) -> Result<(), CatalogueError> {
        let _changing = self.changing.lock().await;
        for _ in 0..ATTEMPTS {
            self.confirm_catalogue().await?;
            let Some(change) = make(self, &self.read_catalogue()?)? else { return Ok(()) };
            match self.change(change).await {
                Err(CatalogueError::Conflict) => {}
                changed => {
                    changed?;
                    return self.reconcile().await.map_err(|error| stands(&error));
                }
            }
        }
        Err(CatalogueError::Conflict)
    }

    fn creation(
        &self,
        catalogue: &Catalogue,
        definition: &Definition,
        bootstrap: bool,
    ) -> Result<Payload, CatalogueError> {
        let (wanted, existing) = (definition.partitions as usize, catalogue.partitions());
        let limit = self.limits.partitions;
        if existing + wanted > limit {
            return Err(CatalogueError::TooManyPartitions { wanted, existing, limit });
        }
        // The catalogue itself takes records when space is low, so that collections can be deleted.
        self.catalogue.require_space()?;
        let nodes = self.places(catalogue);
        if nodes.len() < definition.replicas {
            tracing::warn!(
                collection = %definition.name,
                asked = definition.replicas,
                nodes = nodes.len(),
                "fewer replicas than asked for: there are not so many nodes"
            );
        }
        Ok(catalogue.create(definition, &nodes, bootstrap, Timestamp::now()))
    }

    /// Proposes a change of the catalogue; returns when this node has it.
    pub(crate) async fn change(&self, change: Payload) -> Result<(), CatalogueError> {
        let applied = self.catalogue.propose(change).await?;
        match applied.outcome {
            Outcome::Changed { .. } => {
                self.catalogue.applied(applied.offset).await.map_err(|error| stands(&error))
            }
            _ => Err(CatalogueError::Conflict),
        }
    }
}
