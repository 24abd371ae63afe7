//! What the node tells of its calls, and how triggers are attached.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use odgm_proto::odgm::v1::calls_client::CallsClient;
use odgm_proto::odgm::v1::{CallTotals, ListCallsRequest};
use odgm_proto::oprc::data_service_client::DataServiceClient;
use odgm_proto::oprc::{DataTrigger, ObjData, ObjectEvent, SetObjectRequest, TriggerTarget, ValData};
use tonic::transport::Channel;

use super::super::targets::{CLASS, channel, data_service};
use super::super::workload::{ENTRY, Random, Workload};
use crate::Result;

/// How long the calls of a visit may take to be settled.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often the node is asked whether they are: what that may add to a time of seconds does not show.
const INTERVAL: Duration = Duration::from_millis(5);

/// Writes at once while triggers are attached.
const AT_ONCE: usize = 64;

/// The node, beside the load.
pub(super) struct Node {
    pub(super) address: SocketAddr,
    calls: CallsClient<Channel>,
}

impl Node {
    /// Opens a connection.
    pub(super) async fn connect(address: SocketAddr) -> Result<Self> {
        Ok(Self { address, calls: CallsClient::new(channel(address).await?) })
    }

    /// Writes all objects of `workload`; with a function, each update of their entry calls it from then on.
    pub(super) async fn fill(&self, workload: &Workload, function: Option<&str>) -> Result<()> {
        let client = DataServiceClient::new(channel(self.address).await?);
        let mut random = Random::new(u64::MAX);
        let event = ObjectEvent {
            data_trigger_str: function
                .map(|function| (ENTRY.to_owned(), on_update(function)))
                .into_iter()
                .collect(),
            ..ObjectEvent::default()
        };
        let writes: Vec<_> = workload
            .ids()
            .iter()
            .map(|id| {
                let value = ValData { data: workload.value(&mut random), r#type: 0 };
                let object = ObjData {
                    entries_str: BTreeMap::from([(ENTRY.to_owned(), value)]),
                    event: Some(event.clone()),
                    ..ObjData::default()
                };
                SetObjectRequest {
                    cls_id: CLASS.to_owned(),
                    object_id_str: Some(id.clone()),
                    object: Some(object),
                    ..SetObjectRequest::default()
                }
            })
            .collect();
        let writing = stream::iter(writes).map(|write| {
            let mut client = client.clone();
            async move { client.set(write).await }
        });
        Ok(writing.buffer_unordered(AT_ONCE).try_for_each(|_| std::future::ready(Ok(()))).await?)
    }

    /// How many calls are not settled. An error if any was given up.
    pub(super) async fn unsettled(&self) -> Result<u64> {
        let request = ListCallsRequest { cls_id: CLASS.to_owned(), partition_id: Some(0), limit: 1 };
        let response = self.calls.clone().list_calls(request).await?.into_inner();
        let CallTotals { outbox_rows, deliveries, dead_letters, .. } =
            response.totals.first().ok_or("the node tells nothing of its partition")?;
        if *dead_letters > 0 {
            return Err(format!("{dead_letters} calls were given up").into());
        }
        Ok(outbox_rows + deliveries)
    }

    /// Waits until all calls are settled.
    pub(super) async fn settled(&self) -> Result<()> {
        self.settled_within(PATIENCE).await
    }

    /// Waits for so long until all calls are settled.
    pub(super) async fn settled_within(&self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let unsettled = self.unsettled().await?;
            if unsettled == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("{unsettled} calls are not settled after {patience:?}").into());
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// How many records are durable.
    pub(super) async fn records(&self) -> Result<u64> {
        data_service::durable_records(self.address).await
    }
}

/// Calls a function, by itself, whenever the entry is written again.
fn on_update(function: &str) -> DataTrigger {
    let target =
        TriggerTarget { cls_id: CLASS.to_owned(), fn_id: function.to_owned(), ..TriggerTarget::default() };
    DataTrigger { on_update: vec![target], ..DataTrigger::default() }
}
