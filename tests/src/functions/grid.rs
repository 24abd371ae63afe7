//! What functions read and write in the grid.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use odgm_proto::metadata::REQUEST_ID;
use odgm_proto::oprc::data_service_client::DataServiceClient;
use odgm_proto::oprc::{BatchSetValuesRequest, SetKeyRequest, SingleKeyRequest, ValData};
use parking_lot::RwLock;
use tonic::metadata::{MetadataKey, MetadataMap};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::call::{Call, PASSED_ON};

/// How long a connection to a node may take.
const CONNECT: Duration = Duration::from_millis(500);

/// How long a node may take to answer before another one is asked. It may be in the middle of an election.
const ANSWER: Duration = Duration::from_secs(5);

/// The nodes that are asked, one after the other until one answers.
#[derive(Clone, Debug, Default)]
pub struct Grid {
    nodes: Arc<RwLock<Vec<DataServiceClient<Channel>>>>,
}

/// An entry as it was read.
pub(super) struct Entry {
    /// None if it does not exist.
    pub(super) value: Option<Bytes>,
    /// The version of its object; 0 if that does not exist.
    pub(super) version: u64,
}

impl Grid {
    /// The nodes at these URLs. Connections are made when they are needed.
    ///
    /// # Errors
    /// When one is no URL.
    pub fn at(urls: &[String]) -> crate::Result<Self> {
        let grid = Self::default();
        grid.is_now_at(urls)?;
        Ok(grid)
    }

    /// From now on the nodes are at these URLs.
    ///
    /// # Errors
    /// When one is no URL.
    pub fn is_now_at(&self, urls: &[String]) -> crate::Result<()> {
        let clients = urls.iter().map(|url| {
            let endpoint = Endpoint::from_shared(url.clone())
                .map_err(|error| format!("{url:?}: expected the URL of a node: {error}"))?;
            let endpoint = endpoint.connect_timeout(CONNECT).timeout(ANSWER).tcp_nodelay(true);
            Ok(DataServiceClient::new(endpoint.connect_lazy()))
        });
        *self.nodes.write() = clients.collect::<crate::Result<_>>()?;
        Ok(())
    }

    /// An entry of an object beside the call's.
    pub(super) async fn entry(&self, call: &Call, object: &str, key: &str) -> Result<Entry, Status> {
        let request = SingleKeyRequest {
            cls_id: call.class.clone(),
            partition_id: call.partition,
            key_str: Some(key.to_owned()),
            object_id_str: Some(object.to_owned()),
            ..SingleKeyRequest::default()
        };
        let asked = |mut node: DataServiceClient<Channel>| {
            let request = request.clone();
            async move { node.get_value(request).await }
        };
        let answer = self.ask(asked).await?.into_inner();
        Ok(Entry {
            value: answer.value.map(|value| value.data),
            version: answer.object_version.unwrap_or_default(),
        })
    }

    /// Writes an entry; with a request id, it is written once however often this is asked.
    pub(super) async fn put(
        &self,
        call: &Call,
        object: &str,
        key: &str,
        value: &str,
        request_id: Option<&str>,
    ) -> Result<(), Status> {
        let request = SetKeyRequest {
            cls_id: call.class.clone(),
            partition_id: i32::try_from(call.partition).map_err(|_| Status::invalid_argument("partition"))?,
            value: Some(plain(value)),
            key_str: Some(key.to_owned()),
            object_id_str: Some(object.to_owned()),
            ..SetKeyRequest::default()
        };
        let asked = |mut node: DataServiceClient<Channel>| {
            let request = passed_on(call, request.clone(), request_id);
            async move { node.set_value(request).await }
        };
        self.ask(asked).await.map(drop)
    }

    /// Writes entries at once if the object still has that version; else the status is `ABORTED`.
    pub(super) async fn put_at(
        &self,
        call: &Call,
        object: &str,
        puts: &[(&str, &str)],
        version: u64,
    ) -> Result<(), Status> {
        let request = BatchSetValuesRequest {
            cls_id: call.class.clone(),
            partition_id: call.partition,
            object_id_str: Some(object.to_owned()),
            values: puts.iter().map(|(key, value)| ((*key).to_owned(), plain(value))).collect(),
            expected_object_version: Some(version),
            ..BatchSetValuesRequest::default()
        };
        let asked = |mut node: DataServiceClient<Channel>| {
            let request = passed_on(call, request.clone(), None);
            async move { node.batch_set_values(request).await }
        };
        self.ask(asked).await.map(drop)
    }

    /// Asks one node after the other, until one can be asked.
    async fn ask<T, F: Future<Output = Result<T, Status>>>(
        &self,
        ask: impl Fn(DataServiceClient<Channel>) -> F,
    ) -> Result<T, Status> {
        let nodes = self.nodes.read().clone();
        let mut last = Status::unavailable("the function knows no node of the grid");
        for node in nodes {
            match ask(node).await {
                // Whatever may have come of it: everything that is written here may be written again.
                Err(status) if is_of_the_node(&status) => last = status,
                answer => return answer,
            }
        }
        // The caller tries again later.
        Err(Status::unavailable(format!("the grid does not answer: {}", last.message())))
    }
}

fn is_of_the_node(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded | Code::Internal
    )
}

fn plain(value: &str) -> ValData {
    ValData { data: Bytes::copy_from_slice(value.as_bytes()), r#type: 0 }
}

/// The request with what the call passes on.
fn passed_on<T>(call: &Call, message: T, request_id: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    for name in PASSED_ON {
        if let Some(value) = call.beside.get(name) {
            insert(metadata, name, value);
        }
    }
    if let Some(id) = request_id {
        insert(metadata, REQUEST_ID, id);
    }
    request
}

fn insert(metadata: &mut MetadataMap, name: &'static str, value: &str) {
    // It came as metadata, or is of printable characters.
    if let Ok(value) = value.parse() {
        metadata.insert(MetadataKey::from_static(name), value);
    }
}
