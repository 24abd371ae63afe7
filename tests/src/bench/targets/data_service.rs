//! `oprc.DataService`: this node, and the ceiling.

use std::net::SocketAddr;

use bytes::Bytes;
use odgm_proto::metadata::{CONSISTENCY, consistency};
use odgm_proto::odgm::v1::ListPartitionsRequest;
use odgm_proto::odgm::v1::admin_client::AdminClient;
use odgm_proto::oprc::data_service_client::DataServiceClient;
use odgm_proto::oprc::{SetKeyRequest, SingleKeyRequest, ValData};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;

use super::super::load;
use super::super::workload::ENTRY;
use super::{CLASS, channel};
use crate::Result;

/// A connection whose clones share it.
#[derive(Clone)]
pub(in super::super) struct Connection {
    client: DataServiceClient<Channel>,
    partitions: u32,
    by_lease: bool,
}

/// Opens a connection.
pub(in super::super) async fn connect(address: SocketAddr, partitions: u32) -> Result<Connection> {
    Ok(Connection { client: DataServiceClient::new(channel(address).await?), partitions, by_lease: false })
}

/// A connection whose reads trust the leader's lease.
pub(super) async fn connect_for_leases(address: SocketAddr, partitions: u32) -> Result<Connection> {
    Ok(Connection { by_lease: true, ..connect(address, partitions).await? })
}

/// The node, of all, that leads the first partition.
pub(super) async fn leader(nodes: &[SocketAddr]) -> Result<SocketAddr> {
    let first = nodes.first().ok_or("invariant: a cluster has nodes")?;
    let mut admin = AdminClient::new(channel(*first).await?);
    let request = ListPartitionsRequest { cls_id: CLASS.to_owned() };
    let partitions = admin.list_partitions(request).await?.into_inner().partitions;
    let leader = partitions.first().map(|partition| partition.leader).filter(|leader| *leader > 0);
    // Their numbers are 1, 2, 3 in the order of their addresses.
    let leader = usize::try_from(leader.ok_or("the partition has no leader")?)? - 1;
    nodes.get(leader).copied().ok_or_else(|| format!("node {} is not one of them", leader + 1).into())
}

/// The write of one value, as every protocol of the node takes it.
pub(in super::super) fn write(id: usize, key: &str, value: Bytes, partitions: u32) -> SetKeyRequest {
    SetKeyRequest {
        cls_id: CLASS.to_owned(),
        partition_id: i32::try_from(partition(id, partitions)).unwrap_or_default(),
        value: Some(ValData { data: value, r#type: 0 }),
        key_str: Some(ENTRY.to_owned()),
        object_id_str: Some(key.to_owned()),
        ..SetKeyRequest::default()
    }
}

fn partition(id: usize, partitions: u32) -> u32 {
    u32::try_from(id).unwrap_or_default() % partitions
}

impl load::Connection for Connection {
    async fn set(&mut self, id: usize, key: &str, value: Bytes) -> Result<()> {
        self.client.set_value(write(id, key, value, self.partitions)).await?;
        Ok(())
    }

    async fn get(&mut self, id: usize, key: &str) -> Result<usize> {
        let request = SingleKeyRequest {
            cls_id: CLASS.to_owned(),
            partition_id: partition(id, self.partitions),
            key_str: Some(ENTRY.to_owned()),
            object_id_str: Some(key.to_owned()),
            ..SingleKeyRequest::default()
        };
        let mut request = tonic::Request::new(request);
        if self.by_lease {
            request.metadata_mut().insert(CONSISTENCY, MetadataValue::from_static(consistency::LEASE));
        }
        let response = self.client.get_value(request).await?.into_inner();
        Ok(response.value.map_or(0, |value| value.data.len()))
    }
}

/// How many records the node's partitions hold durably.
pub(in super::super) async fn durable_records(address: SocketAddr) -> Result<u64> {
    let mut admin = AdminClient::new(channel(address).await?);
    let request = ListPartitionsRequest { cls_id: CLASS.to_owned() };
    let partitions = admin.list_partitions(request).await?.into_inner().partitions;
    Ok(partitions.iter().map(|partition| partition.durable_offset).sum())
}
