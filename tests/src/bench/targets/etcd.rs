//! etcd's v3 key-value API.

use std::net::SocketAddr;

use bytes::Bytes;
use tonic::transport::Channel;

use super::super::etcd::kv_client::KvClient;
use super::super::etcd::{PutRequest, RangeRequest};
use super::super::load;
use super::channel;
use crate::Result;

#[derive(Clone)]
pub(super) struct Connection(KvClient<Channel>);

pub(super) async fn connect(address: SocketAddr) -> Result<Connection> {
    Ok(Connection(KvClient::new(channel(address).await?)))
}

impl load::Connection for Connection {
    async fn set(&mut self, _: usize, key: &str, value: Bytes) -> Result<()> {
        let request = PutRequest { key: Bytes::copy_from_slice(key.as_bytes()), value };
        let header = self.0.put(request).await?.into_inner().header;
        if header.is_some_and(|header| header.revision > 0) {
            return Ok(());
        }
        Err(format!("etcd answered the put of {key} without a revision").into())
    }

    async fn get(&mut self, _: usize, key: &str) -> Result<usize> {
        let request = RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()) };
        let response = self.0.range(request).await?.into_inner();
        Ok(response.kvs.first().map_or(0, |pair| pair.value.len()))
    }
}
