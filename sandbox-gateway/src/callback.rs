//! Signed callbacks: what happened, told to the first of the given addresses that listens.

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use sha2::Sha256;

use crate::ledger::{Intent, Refund};

/// Name of the signature header: `t=<unix ms>,v1=<hex>`.
pub const SIGNATURE_HEADER: &str = "x-gateway-signature";

const ROUNDS_MAX: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

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

/// Sends callbacks; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    client: Client<HttpConnector, Full<Bytes>>,
    secret: std::sync::Arc<Vec<u8>>,
}

impl Caller {
    pub(crate) fn new(secret: Vec<u8>) -> Caller {
        Caller { client: Client::builder(TokioExecutor::new()).build_http(), secret: secret.into() }
    }

    /// Tries the addresses in turn, with pauses that double, until one answers 2xx or the rounds are used up: a lost
    /// callback is found by asking, not by insisting.
    pub(crate) async fn send(&self, urls: Vec<String>, body: Vec<u8>, now_ms: fn() -> u64) {
        let mut pause = FIRST_PAUSE;
        for _ in 0..ROUNDS_MAX {
            for url in &urls {
                match tokio::time::timeout(ANSWER_TIMEOUT, self.post(url, &body, now_ms())).await {
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

    async fn post(&self, url: &str, body: &[u8], t_ms: u64) -> Result<bool, String> {
        let signature = format!("t={t_ms},v1={}", signature(&self.secret, t_ms, body));
        let request = hyper::Request::post(url)
            .header("content-type", "application/json")
            .header(SIGNATURE_HEADER, signature)
            .body(Full::new(Bytes::copy_from_slice(body)))
            .map_err(|error| error.to_string())?;
        let response = self.client.request(request).await.map_err(|error| error.to_string())?;
        let fine = response.status().is_success();
        // Read to the end, so that the connection is used again.
        let _ = response.into_body().collect().await;
        Ok(fine)
    }
}
