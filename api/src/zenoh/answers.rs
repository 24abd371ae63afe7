//! What queries are answered: the same as requests over gRPC, in the words of the contract.

use std::sync::Arc;

use bytes::Bytes;
use odgm_proto::oprc::data_service_server::DataService as _;
use odgm_proto::oprc::{
    BatchSetValuesRequest, CapabilitiesRequest, ListObjectsRequest, ObjData, SetObjectRequest,
    SingleKeyRequest, SingleObjectRequest,
};
use prost::Message;
use serde::Serialize;
use tokio_stream::StreamExt as _;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

use super::attachment;
use super::calls::CallAnswers;
use super::desk::{About, Asked};
use super::leading::{Leading, leading};
use super::places::{Operation, Place};
use crate::identity::Kind;
use crate::services::{Data, Shared};

/// The answer to a query: no messages, one, or the items of a list.
#[derive(Default)]
pub(super) struct Answered {
    /// The key it is about, if that is not the one that was asked for.
    pub(super) key: Option<String>,
    pub(super) bodies: Vec<Bytes>,
    pub(super) attachment: Option<Vec<u8>>,
}

/// Why there is none: the text of an error reply.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refusal(String);

impl From<String> for Refusal {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Refusal {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self(status.message().to_owned())
    }
}

/// What comes of a query.
pub(super) type Found = Result<Answered, Refusal>;

/// Finds answers.
pub(super) struct Answers {
    shared: Arc<Shared>,
    service: Data,
    calls: CallAnswers,
}

/// What a replica of a partition can do, as clients read it.
#[derive(Serialize)]
struct Capabilities<'a> {
    class: &'a str,
    partition: u32,
    shard_id: u32,
    event_pipeline_v2: bool,
    storage_backend: &'a str,
    odgm_version: &'static str,
    features: Features,
}

#[derive(Serialize)]
struct Features {
    granular_storage: bool,
    bridge_mode: bool,
    wasm_runtime: bool,
}

impl Answers {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let (service, calls) = (Data(Arc::clone(&shared)), CallAnswers::new(&shared));
        Self { shared, service, calls }
    }

    pub(super) async fn find(&self, asked: &Asked) -> Found {
        match asked.about {
            About::Capabilities => self.capabilities(&asked.place, asked.query.key_expr()).await,
            About::Objects => self.operation(asked).await,
            About::Results => self.calls.result(asked).await,
            About::Call => self.calls.call(asked).await,
        }
    }

    async fn operation(&self, asked: &Asked) -> Found {
        let key = asked.query.key_expr();
        let Some(operation) = asked.place.operation(key, asked.query.parameters()) else {
            // With wildcards it may be about something else, that others answer.
            if !asked.place.has_objects(key) {
                return Ok(Answered::default());
            }
            let text = format!(
                "{key} is nothing that can be asked for: expected one object, its entries/KEY, set or batch-set, or \
                 list-objects, without wildcards"
            );
            return Err(text.into());
        };
        let (bytes, max) = (asked.payload.as_ref().map_or(0, Bytes::len), self.shared.limits.request_bytes);
        if bytes > max {
            let text =
                format!("the payload has {bytes} bytes: expected at most {max} (ODGM_MAX_REQUEST_BYTES)");
            return Err(text.into());
        }
        if operation.writes() {
            match leading(&self.shared.manager, &asked.place, asked.since).await {
                Leading::Here => {}
                // Where several nodes are asked, another one answers; where only this one is, nothing was applied.
                Leading::Elsewhere => return Ok(Answered::default()),
                Leading::Nobody => {
                    let text = "the partition has no leader at present: not applied; try again in a moment";
                    return Err(text.into());
                }
            }
        }
        let metadata = attachment::metadata(asked.attachment.as_deref())?;
        let (place, payload) = (&*asked.place, asked.payload.clone());
        match operation {
            Operation::Get(object) => self.get(place, self.id(object)?, metadata).await,
            Operation::Entry(object, key) => self.entry(place, self.id(object)?, key, metadata).await,
            Operation::Set(object) => self.set(place, self.id(object)?, payload, metadata).await,
            Operation::BatchSet(object) => self.batch_set(place, self.id(object)?, payload, metadata).await,
            Operation::List => self.list(place, payload, metadata).await,
        }
    }

    fn id(&self, object: String) -> Result<String, Refusal> {
        let checked = self.shared.rules.identity.check(Kind::Object, object);
        checked.map_err(|_| Refusal::from("invalid object id"))
    }

    async fn get(&self, place: &Place, object: String, metadata: MetadataMap) -> Found {
        let message = SingleObjectRequest {
            cls_id: place.class().to_owned(),
            partition_id: place.index(),
            object_id_str: Some(object),
            ..SingleObjectRequest::default()
        };
        let response = self.service.get(request(message, metadata)).await.map_err(|status| {
            let is_here = self.shared.manager.partition(place.class(), place.index()).is_ok();
            match status.code() {
                Code::NotFound if is_here => Refusal::from("object not found"),
                _ => Refusal::from(format!("get failed: {}", status.message())),
            }
        })?;
        let attachment = attachment::of_answer(response.metadata());
        let object = response.into_inner().obj.unwrap_or_default();
        Ok(Answered { attachment, ..one(&object) })
    }

    async fn entry(&self, place: &Place, object: String, key: String, metadata: MetadataMap) -> Found {
        let checked = self.shared.rules.identity.check(Kind::Key, key);
        let key = checked.map_err(|error| Refusal::from(format!("invalid entry key: {error}")))?;
        let message = SingleKeyRequest {
            cls_id: place.class().to_owned(),
            partition_id: place.index(),
            object_id_str: Some(object),
            key_str: Some(key),
            ..SingleKeyRequest::default()
        };
        let found = self.service.get_value(request(message, metadata)).await?.into_inner();
        if found.value.is_none() {
            return Err("entry not found".into());
        }
        Ok(one(&found))
    }

    async fn set(
        &self,
        place: &Place,
        object: String,
        payload: Option<Bytes>,
        metadata: MetadataMap,
    ) -> Found {
        let data: ObjData = required(payload, "an ObjData, which may be empty")?;
        let message = set_request(place, object, data);
        Ok(acknowledged(&self.service.set(request(message, metadata)).await?))
    }

    async fn batch_set(
        &self,
        place: &Place,
        object: String,
        payload: Option<Bytes>,
        metadata: MetadataMap,
    ) -> Found {
        let asked: BatchSetValuesRequest = required(payload, "a BatchSetValuesRequest")?;
        let message = BatchSetValuesRequest {
            cls_id: place.class().to_owned(),
            partition_id: place.index(),
            object_id: 0,
            object_id_str: Some(object),
            ..asked
        };
        Ok(acknowledged(&self.service.batch_set_values(request(message, metadata)).await?))
    }

    async fn list(&self, place: &Place, payload: Option<Bytes>, metadata: MetadataMap) -> Found {
        let asked: ListObjectsRequest = decoded(payload.unwrap_or_default(), "a ListObjectsRequest")?;
        let message =
            ListObjectsRequest { cls_id: place.class().to_owned(), partition_id: place.index(), ..asked };
        let mut page = self.service.list_objects(request(message, metadata)).await?.into_inner();
        let mut bodies = Vec::new();
        while let Some(envelope) = page.next().await {
            bodies.push(envelope?.encode_to_vec().into());
        }
        Ok(Answered { bodies, ..Answered::default() })
    }

    /// A query with wildcards is about the shard here, so it is answered for that one's own key.
    async fn capabilities(&self, place: &Place, asked: &str) -> Found {
        let own = place.capabilities();
        if asked != own && !asked.contains('*') {
            return Ok(Answered { bodies: vec![r#"{"error":"not_found"}"#.into()], ..Answered::default() });
        }
        let known = self.service.capabilities(Request::new(CapabilitiesRequest {})).await?.into_inner();
        let collection = self.shared.manager.collection(place.class());
        let storage = collection.as_ref().and_then(|it| it.definition().wire.options.get("storage"));
        let capabilities = Capabilities {
            class: place.class(),
            partition: place.index(),
            shard_id: place.shard(),
            event_pipeline_v2: known.event_pipeline_v2,
            storage_backend: storage.map_or("rocksdb", String::as_str),
            odgm_version: env!("CARGO_PKG_VERSION"),
            features: Features {
                granular_storage: known.granular_entry_storage,
                bridge_mode: false,
                wasm_runtime: false,
            },
        };
        let json = serde_json::to_vec(&capabilities).map_err(|error| Refusal::from(error.to_string()))?;
        Ok(Answered { key: Some(own), bodies: vec![json.into()], attachment: None })
    }
}

/// The request that sets an object: whatever the object says of itself, it is the one that the key names.
pub(super) fn set_request(place: &Place, object: String, data: ObjData) -> SetObjectRequest {
    SetObjectRequest {
        cls_id: place.class().to_owned(),
        // At most 65,535.
        partition_id: i32::try_from(place.index()).unwrap_or(-1),
        object_id_str: Some(object),
        object: Some(data),
        ..SetObjectRequest::default()
    }
}

fn request<T>(message: T, metadata: MetadataMap) -> Request<T> {
    Request::from_parts(metadata, tonic::Extensions::default(), message)
}

fn one(message: &impl Message) -> Answered {
    Answered { bodies: vec![message.encode_to_vec().into()], ..Answered::default() }
}

fn acknowledged<T: Message>(response: &Response<T>) -> Answered {
    Answered { attachment: attachment::of_answer(response.metadata()), ..one(response.get_ref()) }
}

fn required<T: Message + Default>(payload: Option<Bytes>, expected: &str) -> Result<T, Refusal> {
    let payload = payload.ok_or_else(|| Refusal::from(format!("payload required: expected {expected}")))?;
    decoded(payload, expected)
}

pub(super) fn decoded<T: Message + Default>(payload: Bytes, expected: &str) -> Result<T, Refusal> {
    T::decode(payload)
        .map_err(|error| Refusal::from(format!("invalid payload: expected {expected}: {error}")))
}
