//! Clients that call a function: through the node or the proxy, and by the way of the node's outbox.

use bytes::Bytes;
use odgm_proto::odgm::v1::InvokeRequest;
use odgm_proto::odgm::v1::calls_client::CallsClient;
use odgm_proto::oprc::ResponseStatus;
use odgm_proto::oprc::oprc_function_client::OprcFunctionClient;
use tonic::transport::Channel;

use super::super::load::Asking;
use super::super::targets::CLASS;
use super::function::{NOOP, call};
use crate::Result;

/// Calls the function and waits for what it answers.
#[derive(Clone)]
pub(super) struct InvokeFn(OprcFunctionClient<Channel>);

impl InvokeFn {
    /// Through whoever listens at the other end.
    pub(super) fn through(channel: Channel) -> Self {
        Self(OprcFunctionClient::new(channel))
    }
}

impl Asking for InvokeFn {
    async fn ask(&mut self, _: usize, _: &str, value: Bytes) -> Result<()> {
        let response = self.0.invoke_fn(call(CLASS, value)).await?.into_inner();
        match response.status() {
            ResponseStatus::Okay => Ok(()),
            status => {
                Err(format!("the function was expected to answer OKAY, not {}", status.as_str_name()).into())
            }
        }
    }
}

/// Has the node accept calls.
#[derive(Clone)]
pub(super) struct Invoke(CallsClient<Channel>);

impl Invoke {
    /// Of the node at the other end.
    pub(super) fn of(channel: Channel) -> Self {
        Self(CallsClient::new(channel))
    }
}

impl Asking for Invoke {
    async fn ask(&mut self, _: usize, _: &str, value: Bytes) -> Result<()> {
        let request = InvokeRequest {
            cls_id: CLASS.to_owned(),
            fn_id: NOOP.to_owned(),
            payload: value,
            ..InvokeRequest::default()
        };
        self.0.invoke(request).await?;
        Ok(())
    }
}
