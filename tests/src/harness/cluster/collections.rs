//! Collections that are made while a cluster runs.

use odgm_proto::odgm::v1::{CreateCollectionRequest, ListPartitionsRequest};
use odgm_proto::oprc;
use tonic::Code;

use super::{ASK, Cluster, until, within};
use crate::Result;

impl Cluster {
    /// Creates a collection under Raft, and waits until all nodes that are awake know it. Its partitions need not have leaders
    /// by then.
    ///
    /// # Errors
    /// When it cannot be had, or not all know it within a minute.
    pub async fn create(
        &self,
        name: &str,
        partitions: u32,
        replicas: u64,
        options: &[(&str, &str)],
    ) -> Result<()> {
        let definition = oprc::CreateCollectionRequest {
            name: name.to_owned(),
            partition_count: i32::try_from(partitions)?,
            replica_count: i32::try_from(replicas)?,
            shard_type: "raft".to_owned(),
            options: options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            ..oprc::CreateCollectionRequest::default()
        };
        self.create_as(definition).await
    }

    /// The same as it is defined.
    ///
    /// # Errors
    /// As of that.
    pub async fn create_as(&self, definition: oprc::CreateCollectionRequest) -> Result<()> {
        let name = &definition.name.clone();
        let request = CreateCollectionRequest { collection: Some(definition) };
        let awake = self.awake();
        let first = self.client(*awake.first().ok_or("no node is awake")?)?;
        let waiting = || format!("{name} to be created");
        until(waiting, async || match first.admin.clone().create_collection(request.clone()).await {
            Ok(_) => Ok(Some(())),
            // An earlier try did it.
            Err(status) if status.code() == Code::AlreadyExists => Ok(Some(())),
            // Nobody leads the catalogue yet.
            Err(status) if matches!(status.code(), Code::Unavailable | Code::Unknown) => Ok(None),
            Err(status) => Err(status.into()),
        })
        .await?;
        for node in awake {
            let client = self.client(node)?;
            let waiting = || format!("node {node} to know {name}");
            until(waiting, async || {
                let request = ListPartitionsRequest { cls_id: name.to_owned() };
                let listed = within(ASK, client.admin.clone().list_partitions(request)).await;
                Ok(listed.is_some_and(|listed| listed.is_ok()).then_some(()))
            })
            .await?;
        }
        Ok(())
    }
}
