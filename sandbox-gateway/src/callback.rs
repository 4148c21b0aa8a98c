//! Signed callbacks: what happened, told to the first of the given addresses that listens.

use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use service_kit::Shutdown;
use sha2::Sha256;
use tokio::sync::Semaphore;

use crate::gateway::now_ms;
use crate::ledger::{Intent, Refund};

/// Name of the signature header: `t=<unix ms>,v1=<hex>`.
pub const SIGNATURE_HEADER: &str = "x-gateway-signature";

const ROUNDS_MAX: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What is sent.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CallbackBody<'a> {
    pub event_id: String,
    /// `capture`, `failure`, `closed` or `refund`.
    pub kind: &'static str,
    pub created_at_ms: u64,
    pub intent: &'a Intent,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refund: Option<&'a Refund>,
}

/// HMAC-SHA-256 of `"{t}.{body}"` in lower-case hex.
#[must_use]
pub fn signature(secret: &[u8], t_ms: u64, body: &[u8]) -> String {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret).unwrap_or_else(|_| unreachable!("any key length will do"));
    mac.update(t_ms.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sends callbacks, a bounded number at a time; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    client: Client<HttpConnector, Full<Bytes>>,
    secret: Arc<[u8]>,
    /// One for each callback that may be under way.
    places: Arc<Semaphore>,
    shutdown: Shutdown,
}

impl Caller {
    pub(crate) fn new(secret: Vec<u8>, under_way_max: usize, shutdown: Shutdown) -> Caller {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Caller { client, secret: secret.into(), places: Arc::new(Semaphore::new(under_way_max)), shutdown }
    }

    /// Sends in the background until it is taken, given up, or the shutdown begins. `false` if too many callbacks are
    /// under way: this one is not sent, and whoever waits for it finds out by asking.
    pub(crate) fn call(&self, urls: Arc<[String]>, body: Bytes) -> bool {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return false;
        };
        let this = self.clone();
        self.shutdown.spawn("callback", async move {
            tokio::select! {
                () = this.shutdown.begun() => {}
                () = this.send(&urls, &body) => {}
            }
            drop(place);
        });
        true
    }

    /// Tries the addresses in turn, with pauses that double, until one answers 2xx or the rounds are used up: a lost
    /// callback is found by asking, not by insisting.
    async fn send(&self, urls: &[String], body: &Bytes) {
        let mut pause = FIRST_PAUSE;
        for _ in 0..ROUNDS_MAX {
            for url in urls {
                match tokio::time::timeout(ANSWER_TIMEOUT, self.post(url, body, now_ms())).await {
                    Ok(Ok(true)) => return,
                    Ok(Ok(false)) => tracing::debug!(url, "callback refused"),
                    Ok(Err(error)) => tracing::debug!(url, error, "callback failed"),
                    Err(_) => tracing::debug!(url, "callback timed out"),
                }
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        tracing::warn!(?urls, "callback given up");
    }

    async fn post(&self, url: &str, body: &Bytes, t_ms: u64) -> Result<bool, String> {
        let signature = format!("t={t_ms},v1={}", signature(&self.secret, t_ms, body));
        let request = hyper::Request::post(url)
            .header("content-type", "application/json")
            .header(SIGNATURE_HEADER, signature)
            .body(Full::new(body.clone()))
            .map_err(|error| error.to_string())?;
        let response = self.client.request(request).await.map_err(|error| error.to_string())?;
        let fine = response.status().is_success();
        // Read to the end, so that the connection is used again.
        let _ = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok(fine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_more_callbacks_are_under_way_than_there_are_places_and_a_shutdown_ends_them() {
        // Takes connections and never answers.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let urls: Arc<[String]> = [format!("http://{}/", silent.local_addr().unwrap())].into();
        let shutdown = Shutdown::new();
        let caller = Caller::new(b"secret".to_vec(), 2, shutdown.clone());
        let call = || caller.call(Arc::clone(&urls), Bytes::from_static(b"{}"));
        assert_eq!([call(), call(), call()], [true, true, false]);
        silent.accept().await.unwrap();
        shutdown.drain(Duration::from_secs(2)).await.unwrap();
        assert_eq!(caller.places.available_permits(), 2);
    }

    #[tokio::test]
    async fn a_callback_that_was_taken_gives_its_place_back() {
        let (sender, mut heard) = tokio::sync::mpsc::channel(1);
        let app = axum::Router::new().fallback(async move |body: Bytes| {
            sender.send(body).await.unwrap();
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let urls: Arc<[String]> = [format!("http://{}/", listener.local_addr().unwrap())].into();
        tokio::spawn(async move { axum::serve(listener, app).await });
        let caller = Caller::new(b"secret".to_vec(), 1, Shutdown::new());
        for body in ["one", "two"] {
            assert!(caller.call(Arc::clone(&urls), Bytes::from_static(body.as_bytes())));
            assert_eq!(heard.recv().await.unwrap(), body);
            drop(caller.places.acquire().await.unwrap());
        }
    }
}
