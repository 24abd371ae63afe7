//! `odgm.v1.Writes`: the pipelined stream of this node, and of the ceiling.

use std::net::SocketAddr;

use bytes::Bytes;
use odgm_proto::odgm::v1::writes_client::WritesClient;
use odgm_proto::odgm::v1::{WriteRequest, WriteResponse, write_request, write_response};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::super::load::{self, Pipeline as _, Shape};
use super::super::workload::{Random, Workload};
use super::{channel, data_service};
use crate::Result;

/// One stream on a connection of its own.
pub(in super::super) struct Pipeline {
    requests: mpsc::Sender<WriteRequest>,
    responses: Streaming<WriteResponse>,
    partitions: u32,
    sent: u64,
    acknowledged: u64,
}

/// Writes every object of `workload` once, from several streams.
pub(in super::super) async fn write_all(
    address: SocketAddr,
    partitions: u32,
    workload: &Workload,
    shape: Shape,
) -> Result<()> {
    let mut writers = Vec::new();
    for writer in 0..shape.connections {
        let mut pipeline = open(address, partitions, shape).await?;
        let mut random = Random::new(writer as u64);
        writers.push(async move {
            let mut outstanding = 0;
            for (id, key) in workload.ids().iter().enumerate().skip(writer).step_by(shape.connections) {
                if outstanding == shape.in_flight {
                    pipeline.acknowledged().await?;
                    outstanding -= 1;
                }
                pipeline.send(id, key, workload.value(&mut random)).await?;
                outstanding += 1;
            }
            for _ in 0..outstanding {
                pipeline.acknowledged().await?;
            }
            Ok::<_, crate::Error>(())
        });
    }
    futures_util::future::try_join_all(writers).await.map(drop)
}

pub(in super::super) async fn open(address: SocketAddr, partitions: u32, shape: Shape) -> Result<Pipeline> {
    let (requests, outgoing) = mpsc::channel(shape.in_flight);
    let mut client = WritesClient::new(channel(address).await?);
    let responses = client.write(ReceiverStream::new(outgoing)).await?.into_inner();
    Ok(Pipeline { requests, responses, partitions, sent: 0, acknowledged: 0 })
}

impl load::Pipeline for Pipeline {
    async fn send(&mut self, id: usize, key: &str, value: Bytes) -> Result<()> {
        self.sent += 1;
        let write = data_service::write(id, key, value, self.partitions);
        let request = WriteRequest {
            sequence: self.sent,
            operation: Some(write_request::Operation::SetValue(write)),
            request_id: None,
        };
        self.requests.send(request).await.map_err(|_| "the server closed the write stream".into())
    }

    async fn acknowledged(&mut self) -> Result<()> {
        let response = self.responses.message().await?.ok_or("the server ended the write stream")?;
        self.acknowledged += 1;
        match response.result {
            Some(write_response::Result::Written(_)) if response.sequence == self.acknowledged => Ok(()),
            result => Err(format!(
                "acknowledgement {} was expected to be `written`; {} came as {result:?}",
                self.acknowledged, response.sequence
            )
            .into()),
        }
    }
}
