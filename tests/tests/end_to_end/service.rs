//! The node as a service: health, reflection, an orderly end.

use std::collections::BTreeSet;

use odgm_proto::oprc::oprc_function_client::OprcFunctionClient;
use odgm_proto::oprc::{CapabilitiesRequest, InvocationRequest};
use odgm_tests::harness::{Home, Node};
use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::Story;

#[tokio::test]
async fn reflection_lists_every_service_and_describes_it() -> Story {
    let home = Home::new()?.with("ODGM_REFLECTION_ENABLED", "true");
    let node = home.start().await?;

    let listed = reflect(&node, MessageRequest::ListServices(String::new())).await?;
    let Some(MessageResponse::ListServicesResponse(listed)) = listed.message_response else {
        return Err(format!("expected a list of services, got {listed:?}").into());
    };
    let services: BTreeSet<_> = listed.service.iter().map(|service| service.name.as_str()).collect();
    let expected = [
        "grpc.health.v1.Health",
        "odgm.v1.Admin",
        "odgm.v1.Calls",
        "odgm.v1.Streams",
        "odgm.v1.Writes",
        "oprc.DataService",
        "oprc.OprcFunction",
    ];
    for service in expected {
        assert!(services.contains(service), "{service} is not among {services:?}");
        let file = reflect(&node, MessageRequest::FileContainingSymbol(service.to_owned())).await?;
        let described = matches!(file.message_response, Some(MessageResponse::FileDescriptorResponse(_)));
        assert!(described, "{service}: {file:?}");
    }
    Ok(())
}

#[tokio::test]
async fn without_the_setting_there_is_no_reflection() -> Story {
    let home = Home::new()?;
    let node = home.start().await?;
    let refused = reflect(&node, MessageRequest::ListServices(String::new())).await;
    let refused = refused.expect_err("reflection is off by default");
    assert!(refused.to_string().to_lowercase().contains("implemented"), "{refused}");
    Ok(())
}

async fn reflect(node: &Node<'_>, message: MessageRequest) -> odgm_tests::Result<ServerReflectionResponse> {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    let mut client = ServerReflectionClient::new(node.channel());
    let mut responses = client.server_reflection_info(tokio_stream::once(request)).await?.into_inner();
    Ok(responses.next().await.ok_or("reflection ended without an answer")??)
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_for_the_node_and_each_service_until_it_stops() -> Story {
    let home = Home::new()?.collection("things", 2);
    let node = home.start().await?;
    let mut health = HealthClient::new(node.channel());
    for service in ["", "oprc.DataService", "odgm.v1.Streams", "odgm.v1.Writes", "odgm.v1.Admin"] {
        let answer = health.check(HealthCheckRequest { service: service.to_owned() }).await?.into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let unknown = health.check(HealthCheckRequest { service: "oprc.Nothing".into() }).await;
    assert_eq!(unknown.expect_err("no such service").code(), Code::NotFound);

    let mut watch = health.watch(HealthCheckRequest::default()).await?.into_inner();
    assert_eq!(watch.message().await?.map(|answer| answer.status()), Some(ServingStatus::Serving));
    tokio::task::block_in_place(|| node.stop())?;
    assert_eq!(watch.message().await?.map(|answer| answer.status()), Some(ServingStatus::NotServing));
    Ok(())
}

#[tokio::test]
async fn a_node_says_what_it_can_do_and_which_functions_it_knows() -> Story {
    let home = Home::new()?.collection("things", 1);
    let node = home.start().await?;
    let capabilities = node.connection().data.capabilities(CapabilitiesRequest {}).await?.into_inner();
    assert!(capabilities.string_ids && capabilities.string_entry_keys && capabilities.granular_entry_storage);

    let mut functions = OprcFunctionClient::new(node.channel());
    let request = InvocationRequest { cls_id: "things".into(), fn_id: "greet".into(), ..Default::default() };
    let refused = functions.invoke_fn(request).await.expect_err("there is no such function");
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
    assert!(refused.message().contains("greet"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn a_node_that_was_stopped_finds_everything_again() -> Story {
    let home = Home::new()?.collection("things", 4);
    let node = home.start().await?;
    for partition in 0..4 {
        let things = node.objects("things", partition);
        for number in 0..50 {
            things.set_value(&format!("thing-{number}"), "k", &format!("{partition}/{number}")).await?;
        }
        things.delete("thing-13").await?;
    }
    node.stop()?;

    let node = home.start().await?;
    for partition in 0..4 {
        let things = node.objects("things", partition);
        for number in 0..50 {
            let expected = (number != 13).then(|| format!("{partition}/{number}"));
            assert_eq!(things.value(&format!("thing-{number}"), "k").await?, expected);
        }
    }
    Ok(())
}
