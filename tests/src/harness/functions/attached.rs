//! Collections with functions, and triggers on their objects.

use std::collections::BTreeMap;

use odgm_proto::odgm::v1;
use odgm_proto::oprc::{
    CreateCollectionRequest, DataTrigger, FuncInvokeRoute, FuncTrigger, InvocationRoute, ObjData,
    ObjectEvent, SetObjectRequest, TriggerTarget,
};
use tonic::Status;

use crate::Result;
use crate::harness::clients::{Acknowledged, Connection, Objects};

/// A collection of one replica whose functions are all at one place.
pub fn routed(name: &str, partitions: u32, functions: &[&str], url: &str) -> CreateCollectionRequest {
    let route = || FuncInvokeRoute { url: url.to_owned(), ..FuncInvokeRoute::default() };
    let routes = functions.iter().map(|function| ((*function).to_owned(), route()));
    CreateCollectionRequest {
        name: name.to_owned(),
        // A story's own number.
        partition_count: i32::try_from(partitions).unwrap_or(i32::MAX),
        replica_count: 1,
        shard_type: "basic".to_owned(),
        invocations: Some(InvocationRoute { fn_routes: routes.collect(), disabled_fn: Vec::new() }),
        ..CreateCollectionRequest::default()
    }
}

/// What a trigger calls: a function on an object, or by itself.
pub fn target(class: &str, partition: u32, object: Option<&str>, function: &str) -> TriggerTarget {
    TriggerTarget {
        cls_id: class.to_owned(),
        partition_id: partition,
        fn_id: function.to_owned(),
        object_id_str: object.map(str::to_owned),
        ..TriggerTarget::default()
    }
}

/// Triggers that are put together.
#[derive(Clone, Debug, Default)]
pub struct Attached {
    data: BTreeMap<String, DataTrigger>,
    functions: BTreeMap<String, FuncTrigger>,
}

impl Attached {
    /// None, which clears those that an object has.
    pub fn none() -> Self {
        Self::default()
    }

    /// What is called when an entry appears.
    #[must_use]
    pub fn on_create(mut self, key: &str, target: TriggerTarget) -> Self {
        self.data.entry(key.to_owned()).or_default().on_create.push(target);
        self
    }

    /// What is called when it is written again.
    #[must_use]
    pub fn on_update(mut self, key: &str, target: TriggerTarget) -> Self {
        self.data.entry(key.to_owned()).or_default().on_update.push(target);
        self
    }

    /// What is called when it appears and when it is written again.
    #[must_use]
    pub fn on_write(self, key: &str, target: TriggerTarget) -> Self {
        self.on_create(key, target.clone()).on_update(key, target)
    }

    /// What is called when it is removed.
    #[must_use]
    pub fn on_delete(mut self, key: &str, target: TriggerTarget) -> Self {
        self.data.entry(key.to_owned()).or_default().on_delete.push(target);
        self
    }

    /// What is called when a function of the object has completed.
    #[must_use]
    pub fn on_complete(mut self, function: &str, target: TriggerTarget) -> Self {
        self.functions.entry(function.to_owned()).or_default().on_complete.push(target);
        self
    }

    /// What is called when a function of the object has failed.
    #[must_use]
    pub fn on_error(mut self, function: &str, target: TriggerTarget) -> Self {
        self.functions.entry(function.to_owned()).or_default().on_error.push(target);
        self
    }
}

impl From<Attached> for ObjectEvent {
    fn from(attached: Attached) -> Self {
        Self { data_trigger_str: attached.data, func_trigger: attached.functions, ..Self::default() }
    }
}

impl Objects {
    /// Attaches triggers to an object in place of those that it has, by a merge that writes nothing else.
    ///
    /// # Errors
    /// The status that the node answered with.
    pub async fn attach(&self, object: &str, triggers: Attached) -> Result<(), Status> {
        self.attach_event(object, triggers.into()).await
    }

    /// The same with the message itself.
    ///
    /// # Errors
    /// The status that the node answered with.
    pub async fn attach_event(&self, object: &str, event: ObjectEvent) -> Result<(), Status> {
        let whole = self.whole(object, &[]);
        let object = whole.object.map(|data| ObjData { event: Some(event), ..data });
        self.connection.data.clone().merge(SetObjectRequest { object, ..whole }).await?;
        Ok(())
    }

    /// The triggers of an object, if it has some.
    ///
    /// # Errors
    /// The status that the node answered with.
    pub async fn attached(&self, object: &str) -> Result<Option<ObjectEvent>, Status> {
        let found = self.connection.data.clone().get(self.object(object)).await?.into_inner();
        Ok(found.obj.and_then(|object| object.event))
    }

    /// Writes values one after the other to the same entry of an object, each acknowledged.
    ///
    /// # Errors
    /// The status that the node answered with.
    pub async fn write_all(&self, object: &str, key: &str, count: u64) -> Result<Vec<Acknowledged>, Status> {
        let mut written = Vec::new();
        for number in 0..count {
            written.push(self.set_value(object, key, &number.to_string()).await?);
        }
        Ok(written)
    }
}

impl Connection {
    /// Creates a collection.
    ///
    /// # Errors
    /// The status that the node answered with.
    pub async fn create(&self, collection: CreateCollectionRequest) -> Result<(), Status> {
        let request = v1::CreateCollectionRequest { collection: Some(collection) };
        self.admin.clone().create_collection(request).await?;
        Ok(())
    }
}
