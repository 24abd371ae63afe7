//! Clients that make tests read like what they do.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use odgm_proto::metadata::{CONSISTENCY, REQUEST_ID, VERSION};
use odgm_proto::odgm::v1::WriteRequest;
use odgm_proto::odgm::v1::admin_client::AdminClient;
use odgm_proto::odgm::v1::calls_client::CallsClient;
use odgm_proto::odgm::v1::streams_client::StreamsClient;
use odgm_proto::odgm::v1::write_request::Operation;
use odgm_proto::odgm::v1::write_response::Result as Outcome;
use odgm_proto::odgm::v1::writes_client::WritesClient;
use odgm_proto::oprc::data_service_client::DataServiceClient;
use odgm_proto::oprc::oprc_function_client::OprcFunctionClient;
use odgm_proto::oprc::{
    BatchSetValuesRequest, ObjData, SetKeyRequest, SetObjectRequest, SingleKeyRequest, SingleObjectRequest,
    ValData,
};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

/// The entries of an object whose values are text.
pub type Fields = BTreeMap<String, String>;

/// Entries from pairs.
pub fn fields(pairs: &[(&str, &str)]) -> Fields {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Every service over one connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// `oprc.DataService`.
    pub data: DataServiceClient<Channel>,
    /// `odgm.v1.Streams`.
    pub streams: StreamsClient<Channel>,
    /// `odgm.v1.Writes`.
    pub writes: WritesClient<Channel>,
    /// `odgm.v1.Admin`.
    pub admin: AdminClient<Channel>,
    /// `odgm.v1.Calls`.
    pub calls: CallsClient<Channel>,
    /// `oprc.OprcFunction`.
    pub functions: OprcFunctionClient<Channel>,
}

impl Connection {
    /// To an address as a node names it, host:port.
    ///
    /// # Errors
    /// When it is none.
    pub fn to(address: &str) -> crate::Result<Self> {
        Ok(Self::new(Endpoint::from_shared(format!("http://{address}"))?.connect_lazy()))
    }

    pub(super) fn new(channel: Channel) -> Self {
        Self {
            data: DataServiceClient::new(channel.clone()),
            streams: StreamsClient::new(channel.clone()),
            writes: WritesClient::new(channel.clone()),
            admin: AdminClient::new(channel.clone()),
            calls: CallsClient::new(channel.clone()),
            functions: OprcFunctionClient::new(channel),
        }
    }

    /// The objects of one partition.
    pub fn objects(&self, class: &str, partition: u32) -> Objects {
        Objects {
            connection: self.clone(),
            class: class.to_owned(),
            partition,
            request_id: None,
            consistency: None,
            patience: None,
        }
    }
}

/// Where an acknowledged write stands in the log, and the object's version after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// The offset of its record.
    pub offset: u64,
    /// The version of the object; 0 if it does not exist.
    pub version: u64,
}

/// The objects of one partition, named by strings and holding text.
#[derive(Clone, Debug)]
pub struct Objects {
    /// The clients underneath.
    pub connection: Connection,
    pub(super) class: String,
    pub(super) partition: u32,
    request_id: Option<String>,
    consistency: Option<&'static str>,
    patience: Option<Duration>,
}

/// An object as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its version.
    pub version: u64,
    /// Its entries.
    pub fields: Fields,
}

impl Objects {
    /// The same, with the idempotency key `request_id` on every write.
    #[must_use]
    pub fn once(&self, request_id: &str) -> Self {
        Self { request_id: Some(request_id.to_owned()), ..self.clone() }
    }

    /// The same, with reads at that level: a word of [`odgm_proto::metadata::consistency`].
    #[must_use]
    pub fn reading(&self, consistency: &'static str) -> Self {
        Self { consistency: Some(consistency), ..self.clone() }
    }

    /// The same, with a deadline for each request, of which the node is told.
    #[must_use]
    pub fn within(&self, patience: Duration) -> Self {
        Self { patience: Some(patience), ..self.clone() }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(patience) = self.patience {
            request.set_timeout(patience);
        }
        request
    }

    pub(super) fn to_write<T>(&self, message: T) -> Request<T> {
        let mut request = self.request(message);
        let id = self.request_id.as_deref().and_then(|id| id.parse().ok());
        if let Some(id) = id {
            request.metadata_mut().insert(REQUEST_ID, id);
        }
        request
    }

    fn to_read<T>(&self, message: T) -> Request<T> {
        let mut request = self.request(message);
        if let Some(consistency) = self.consistency {
            request.metadata_mut().insert(CONSISTENCY, MetadataValue::from_static(consistency));
        }
        request
    }

    /// `DataService.SetValue`.
    ///
    /// # Errors
    /// The status that the node answered with.
    pub async fn set_value(&self, object: &str, key: &str, value: &str) -> Result<Acknowledged, Status> {
        let request = self.put(object, key, value);
        acknowledged(&self.connection.data.clone().set_value(self.to_write(request)).await?)
    }

    /// `DataService.GetValue`.
    ///
    /// # Errors
    /// The status that the node answered with.
    pub async fn value(&self, object: &str, key: &str) -> Result<Option<String>, Status> {
        let (value, _) = self.value_and_version(object, key).await?;
        Ok(value)
    }

    /// The same with the version of the object, none if that does not exist.
    ///
    /// # Errors
    /// The status that the node answered with.
    pub async fn value_and_version(
        &self,
        object: &str,
        key: &str,
    ) -> Result<(Option<String>, Option<u64>), Status> {
        let request = self.to_read(self.entry(object, key));
        let response = self.connection.data.clone().get_value(request).await?.into_inner();
        Ok((response.value.map(|value| as_text(&value.data)), response.object_version))
    }

    /// `DataService.DeleteValue`.
    ///
    /// # Errors
    /// The status that the node answered with.
    pub async fn delete_value(&self, object: &str, key: &str) -> Result<Acknowledged, Status> {
        let request = self.to_write(self.entry(object, key));
        acknowledged(&self.connection.data.clone().delete_value(request).await?)
    }

    /// `DataService.Set`.
    ///
    /// # Errors
    /// The status that the node answered with.
    pub async fn set(&self, object: &str, fields: &[(&str, &str)]) -> Result<Acknowledged, Status> {
        let request = self.to_write(self.whole(object, fields));
        acknowledged(&self.connection.data.clone().set(request).await?)
    }

    /// `DataService.Merge`; the whole object after it.
    ///
    /// # Errors
    /// The status that the node answered with.
    pub async fn merge(&self, object: &str, fields: &[(&str, &str)]) -> Result<Fields, Status> {
        let (_, merged) = self.merge_and_place(object, fields).await?;
        Ok(merged)
    }

    /// The same with the place of its record.
    ///
    /// # Errors
    /// The status that the node answered with.
    pub async fn merge_and_place(
        &self,
        object: &str,
        fields: &[(&str, &str)],
    ) -> Result<(Acknowledged, Fields), Status> {
        let request = self.to_write(self.whole(object, fields));
        let response = self.connection.data.clone().merge(request).await?;
        let acknowledged = acknowledged(&response)?;
        let merged = response.into_inner().obj.map(|object| entries(&object));
        Ok((acknowledged, merged.unwrap_or_default()))
    }

    /// `DataService.Get`.
    ///
    /// # Errors
    /// The status that the node answered with.
    pub async fn get(&self, object: &str) -> Result<Fields, Status> {
        let request = self.to_read(self.object(object));
        let response = self.connection.data.clone().get(request).await?.into_inner();
        Ok(response.obj.map(|object| entries(&object)).unwrap_or_default())
    }

    /// The same with the object's version; none if the object does not exist.
    ///
    /// # Errors
    /// The status that the node answered with, also where there is no such collection.
    pub async fn find(&self, object: &str) -> Result<Option<Found>, Status> {
        let request = self.to_read(self.object(object));
        let response = match self.connection.data.clone().get(request).await {
            Ok(response) => response,
            // The same code says that there is no such collection or partition.
            Err(status) if status.code() == Code::NotFound && status.message().starts_with("object ") => {
                return Ok(None);
            }
            Err(status) => return Err(status),
        };
        let version = number(response.metadata(), VERSION)?;
        let fields = response.into_inner().obj.map(|object| entries(&object)).unwrap_or_default();
        Ok(Some(Found { version, fields }))
    }

    /// `DataService.Delete`.
    ///
    /// # Errors
    /// The status that the node answered with.
    pub async fn delete(&self, object: &str) -> Result<Acknowledged, Status> {
        let request = self.to_write(self.object(object));
        acknowledged(&self.connection.data.clone().delete(request).await?)
    }

    /// `DataService.BatchSetValues`, if need be only at a version.
    ///
    /// # Errors
    /// The status that the node answered with.
    pub async fn batch(
        &self,
        object: &str,
        puts: &[(&str, &str)],
        deletes: &[&str],
        expected_version: Option<u64>,
    ) -> Result<Acknowledged, Status> {
        let request = BatchSetValuesRequest {
            cls_id: self.class.clone(),
            partition_id: self.partition,
            object_id_str: Some(object.to_owned()),
            values: puts.iter().map(|(key, value)| ((*key).to_owned(), text(value))).collect(),
            delete_keys: deletes.iter().map(|key| (*key).to_owned()).collect(),
            expected_object_version: expected_version,
            ..BatchSetValuesRequest::default()
        };
        acknowledged(&self.connection.data.clone().batch_set_values(self.to_write(request)).await?)
    }

    /// Writes one value after the other down a write stream, which is much faster than as many calls; the last
    /// acknowledgement.
    ///
    /// # Errors
    /// The status that the stream ended with, or that of the first refusal.
    pub async fn set_values(&self, writes: Vec<(String, &str, String)>) -> Result<Acknowledged, Status> {
        let requests: Vec<_> = writes
            .into_iter()
            .zip(0..)
            .map(|((object, key, value), sequence)| WriteRequest {
                sequence,
                operation: Some(Operation::SetValue(self.put(&object, key, &value))),
                request_id: None,
            })
            .collect();
        let stream = self.connection.writes.clone().write(tokio_stream::iter(requests)).await?;
        let mut responses = stream.into_inner();
        let mut last = Err(Status::invalid_argument("no writes"));
        while let Some(response) = responses.message().await? {
            last = match response.result {
                Some(Outcome::Written(written)) => {
                    Ok(Acknowledged { offset: written.offset, version: written.object_version })
                }
                Some(Outcome::Refused(refused)) => {
                    return Err(Status::new(refused.code.into(), refused.message));
                }
                None => return Err(Status::internal("an empty acknowledgement")),
            };
        }
        last
    }

    /// The request that writes a value.
    pub fn put(&self, object: &str, key: &str, value: &str) -> SetKeyRequest {
        SetKeyRequest {
            cls_id: self.class.clone(),
            partition_id: i32::try_from(self.partition).unwrap_or(-1),
            value: Some(text(value)),
            key_str: Some(key.to_owned()),
            object_id_str: Some(object.to_owned()),
            ..SetKeyRequest::default()
        }
    }

    /// The request that names an object.
    pub fn object(&self, object: &str) -> SingleObjectRequest {
        SingleObjectRequest {
            cls_id: self.class.clone(),
            partition_id: self.partition,
            object_id_str: Some(object.to_owned()),
            ..SingleObjectRequest::default()
        }
    }

    /// The request that names an entry.
    pub fn entry(&self, object: &str, key: &str) -> SingleKeyRequest {
        SingleKeyRequest {
            cls_id: self.class.clone(),
            partition_id: self.partition,
            key_str: Some(key.to_owned()),
            object_id_str: Some(object.to_owned()),
            ..SingleKeyRequest::default()
        }
    }

    /// The request that carries a whole object.
    pub fn whole(&self, object: &str, fields: &[(&str, &str)]) -> SetObjectRequest {
        let entries_str = fields.iter().map(|(key, value)| ((*key).to_owned(), text(value))).collect();
        SetObjectRequest {
            cls_id: self.class.clone(),
            partition_id: i32::try_from(self.partition).unwrap_or(-1),
            object: Some(ObjData { entries_str, ..ObjData::default() }),
            object_id_str: Some(object.to_owned()),
            ..SetObjectRequest::default()
        }
    }
}

/// A plain value.
pub fn text(value: &str) -> ValData {
    ValData { data: Bytes::copy_from_slice(value.as_bytes()), r#type: 0 }
}

/// The entries of an object as text.
pub fn entries(object: &ObjData) -> Fields {
    object.entries_str.iter().map(|(key, value)| (key.clone(), as_text(&value.data))).collect()
}

pub(super) fn as_text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn acknowledged<T>(response: &Response<T>) -> Result<Acknowledged, Status> {
    let metadata = response.metadata();
    Ok(Acknowledged { offset: number(metadata, "odgm-offset")?, version: number(metadata, VERSION)? })
}

fn number(metadata: &MetadataMap, name: &str) -> Result<u64, Status> {
    let value = metadata.get(name).and_then(|value| value.to_str().ok());
    let number = value.and_then(|value| value.parse().ok());
    number.ok_or_else(|| Status::internal(format!("an answer came without {name}: {value:?}")))
}
