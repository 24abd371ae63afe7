//! Redis over RESP; the requests in flight on a connection are pipelined by its client.

use std::net::SocketAddr;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, cmd};

use super::super::load;
use crate::Result;

#[derive(Clone)]
pub(super) struct Connection(MultiplexedConnection);

pub(super) async fn connect(address: SocketAddr) -> Result<Connection> {
    let client = Client::open(format!("redis://{address}/"))?;
    // As the gRPC clients: no time limit of its own.
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    Ok(Connection(client.get_multiplexed_async_connection_with_config(&config).await?))
}

impl load::Connection for Connection {
    async fn set(&mut self, _: usize, key: &str, value: Bytes) -> Result<()> {
        let answer: String = cmd("SET").arg(key).arg(value.as_ref()).query_async(&mut self.0).await?;
        if answer == "OK" {
            return Ok(());
        }
        Err(format!("Redis answered SET {key} with {answer}").into())
    }

    async fn get(&mut self, _: usize, key: &str) -> Result<usize> {
        let value: Option<Vec<u8>> = cmd("GET").arg(key).query_async(&mut self.0).await?;
        Ok(value.map_or(0, |value| value.len()))
    }
}
