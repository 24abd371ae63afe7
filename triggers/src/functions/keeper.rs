//! Who looks after an endpoint as long as it is used: closes connections that nobody uses, and asks how it is.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::endpoint::{Duty, Endpoint, Health};
use super::exchange::is_unsent;
use super::link::{Wire, chain};
use super::registry::Registry;
use super::settings::SENDS;

/// Looks after an endpoint until nobody has asked for it for long, or all is over.
pub(crate) async fn look_after(endpoint: Weak<Endpoint>, registry: Weak<Registry>, stop: CancellationToken) {
    loop {
        // Not held while there is nothing to do, so that an endpoint ends with its last user.
        let Some(held) = endpoint.upgrade() else { return };
        let next = match held.duty(Instant::now()) {
            Duty::Wait(next) => next,
            Duty::Look => {
                tokio::select! {
                    () = look(&held) => continue,
                    () = stop.cancelled() => return,
                }
            }
            Duty::Forget => {
                if registry.upgrade().is_none_or(|registry| registry.forget(&held)) {
                    return;
                }
                continue;
            }
        };
        let woken = Arc::clone(&held.woken);
        drop(held);
        tokio::select! {
            () = sleep_until(next) => {}
            () = woken.notified() => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Finds out how an endpoint is.
async fn look(endpoint: &Arc<Endpoint>) {
    let mut closed = String::new();
    for _ in 0..SENDS {
        let seen = match endpoint.look().made().await {
            Ok(wire) => ask(endpoint, wire).await,
            Err(reason) => Err(Some(reason.to_string())),
        };
        match seen {
            Ok(health) => return endpoint.seen(Ok(health)),
            Err(Some(error)) => return endpoint.seen(Err(&error)),
            // The connection had just been closed.
            Err(None) => "every connection is closed at once".clone_into(&mut closed),
        }
    }
    endpoint.seen(Err(&closed));
}

/// What an endpoint says, or why it says nothing; no reason if that is the connection's end, which it did not hear of.
async fn ask(endpoint: &Endpoint, wire: Wire) -> Result<Health, Option<String>> {
    let within = endpoint.health_timeout();
    let heard = wire.heard();
    let mut client = HealthClient::with_origin(wire, endpoint.origin());
    let asked = client.check(HealthCheckRequest::default());
    let status = match timeout(within, asked).await {
        Ok(Ok(response)) => {
            let is_serving = response.get_ref().status == ServingStatus::Serving as i32;
            return Ok(if is_serving { Health::Serving } else { Health::NotServing });
        }
        Ok(Err(status)) => status,
        Err(_) => return Err(Some(format!("it did not say within {} ms how it is", within.as_millis()))),
    };
    match Code::from_i32(heard.load(Ordering::Relaxed)) {
        // It has no such service, or none for everybody.
        Code::Unimplemented | Code::NotFound | Code::PermissionDenied | Code::Unauthenticated => {
            Ok(Health::Silent)
        }
        Code::Ok if is_unsent(&status) => Err(None),
        _ => Err(Some(format!("it was asked how it is: {}", chain(&status)))),
    }
}
