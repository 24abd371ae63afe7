//! What a node answers others that pass requests on to it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use odgm_proto::oprc::data_service_server::DataService as _;
use prost::Message;
use tonic::{Request, Response, Status};

use super::{ANSWERED, Answered, Passed, pick, put};
use crate::services::data::Data;
use crate::services::{Shared, post};
use crate::status::{self, OFFSET, not_applied};

/// Answers another node.
pub(super) async fn answer(shared: Weak<Shared>, request: Bytes) -> Bytes {
    let answered = match (shared.upgrade(), Passed::decode(request)) {
        (Some(shared), Ok(passed)) => of_method(shared, passed).await,
        (None, _) => Err(not_applied(status::unavailable("the node is stopping"))),
        (_, Err(error)) => Err(Status::invalid_argument(format!("another node's request: {error}"))),
    };
    let answered = answered.unwrap_or_else(|status| Answered {
        code: status.code() as i32,
        reason: status.message().to_owned(),
        details: Bytes::copy_from_slice(status.details()),
        metadata: pick(status.metadata(), &ANSWERED),
        messages: Vec::new(),
    });
    Bytes::from(answered.encode_to_vec())
}

async fn of_method(shared: Arc<Shared>, passed: Passed) -> Result<Answered, Status> {
    let Passed { method, metadata, message } = passed;
    let data = Data(Arc::clone(&shared));
    match method.as_str() {
        "Get" => one(data.get(asked(&metadata, message)?).await?),
        "GetValue" => one(data.get_value(asked(&metadata, message)?).await?),
        "Set" => one(data.set(asked(&metadata, message)?).await?),
        "SetValue" => one(data.set_value(asked(&metadata, message)?).await?),
        "Merge" => one(data.merge(asked(&metadata, message)?).await?),
        "Delete" => one(data.delete(asked(&metadata, message)?).await?),
        "DeleteValue" => one(data.delete_value(asked(&metadata, message)?).await?),
        "BatchSetValues" => one(data.batch_set_values(asked(&metadata, message)?).await?),
        "ListObjects" => all(data.list_objects(asked(&metadata, message)?).await?).await,
        "ListValues" => all(data.list_values(asked(&metadata, message)?).await?).await,
        post::METHOD => {
            let offset = post::receive(&shared, message).await?;
            let metadata = [(OFFSET.to_owned(), offset.get().to_string())].into();
            Ok(Answered { metadata, ..Answered::default() })
        }
        other => Err(Status::unimplemented(format!("another node asked for {other:?}: upgrade this node"))),
    }
}

fn asked<Q: Message + Default>(
    metadata: &HashMap<String, String>,
    message: Bytes,
) -> Result<Request<Q>, Status> {
    let message = Q::decode(message).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let mut request = Request::new(message);
    put(metadata, request.metadata_mut());
    Ok(request)
}

fn one<A: Message>(response: Response<A>) -> Result<Answered, Status> {
    let metadata = pick(response.metadata(), &ANSWERED);
    let messages = vec![response.into_inner().encode_to_vec().into()];
    Ok(Answered { metadata, messages, ..Answered::default() })
}

async fn all<A, S>(response: Response<S>) -> Result<Answered, Status>
where
    A: Message,
    S: futures_util::Stream<Item = Result<A, Status>>,
{
    let messages = response.into_inner().map_ok(|message| message.encode_to_vec().into());
    Ok(Answered { messages: messages.try_collect().await?, ..Answered::default() })
}
