//! The payment gateway's HTTP API, and its callbacks: what it says becomes facts.
//!
//! Every intent and refund carries the whole permit and both epochs as metadata, so that what comes back can be written
//! down in any region, also where neither the order nor the payment is known yet.

use std::collections::BTreeMap;
use std::time::Duration;

use cell_core::canon::Message;
use cell_core::duty::Charge;
use cell_core::event::{Barred, Capture, Fact, Failure, FailureKind, Refund};
use cell_core::id::{Hash, OrderId, PaymentId};
use cell_core::order::RefundCase;
use cell_core::payment::Permit;
use cell_core::placement::Epoch;
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// A callback older or newer than this is stale, however well it is signed.
const CALLBACK_WINDOW_MS: u64 = 5 * 60_000;
/// Largest answer read.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// What asking the gateway came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// What it knows for sure; empty while it is pending.
    Facts(Vec<Fact>),
    /// It does not know the key.
    UnknownKey,
    /// No answer, or one that cannot be understood: *unknown*, never *failed*.
    Unknown(String),
}

/// Why a callback is refused; nothing was changed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallbackError {
    #[error("the signature header is missing or not `t=…,v1=…`")]
    Unsigned,
    #[error("the signature does not fit the body")]
    Forged,
    #[error("the callback is outside its time window")]
    Stale,
    #[error("the callback cannot be understood: {0}")]
    Malformed(String),
}

#[derive(Debug, Deserialize)]
struct IntentShape {
    id: String,
    key: String,
    reference: String,
    status: String,
    #[serde(default)]
    failure: Option<FailureShape>,
    currency: String,
    captured_minor: u64,
    #[serde(default)]
    refunded_minor: u64,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    captured_at_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct FailureShape {
    code: String,
    retryable: bool,
}

#[derive(Debug, Deserialize)]
struct RefundShape {
    id: String,
    key: String,
    intent_id: String,
    status: String,
    amount_minor: u64,
    currency: String,
    reference: String,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    created_at_ms: u64,
}

#[derive(Debug, Deserialize)]
struct CallbackShape {
    intent: IntentShape,
    #[serde(default)]
    refund: Option<RefundShape>,
}

/// A payment gateway. Every operation has an idempotency key and may be repeated by anybody at any time; what it answers
/// is written down as facts. Whoever adds another provider implements this and gives its callbacks a verifier.
#[tonic::async_trait]
pub(crate) trait Gateway: Send + Sync + std::fmt::Debug {
    /// Takes the money, once per key: creates the intent, or asks after it where it was created or its time is over.
    async fn charge(&self, charge: &Charge, now_ms: u64) -> Answer;
    /// Closes by reference and lists: no money will be taken under this payment any more.
    async fn close(&self, payment: PaymentId, order: OrderId) -> Answer;
    /// Gives money back, once per case.
    async fn refund(&self, case: &RefundCase, order: OrderId) -> Answer;
    /// Asks after a refund without starting it.
    async fn ask_refund(&self, case: &[u8; 16]) -> Answer;
}

/// The gateway's JSON API over HTTP.
#[derive(Debug)]
pub(crate) struct HttpGateway {
    client: Client<HttpConnector, Full<Bytes>>,
    url: String,
    callback_urls: Vec<String>,
    timeout: Duration,
}

/// Verifies what the gateway reports by itself; cheap to clone.
#[derive(Clone)]
pub(crate) struct Callbacks {
    secret: std::sync::Arc<Vec<u8>>,
}

impl std::fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Callbacks")
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect())
}

fn key16(text: &str) -> Option<[u8; 16]> {
    unhex(text)?.try_into().ok()
}

impl HttpGateway {
    pub(crate) fn new(url: String, callback_urls: Vec<String>, timeout: Duration) -> HttpGateway {
        let client = Client::builder(TokioExecutor::new()).build_http();
        HttpGateway { client, url, callback_urls, timeout }
    }

    /// Status and JSON body, or why there is none.
    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> Result<(u16, Value), String> {
        let request = hyper::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.map(|body| body.to_string()).unwrap_or_default())))
            .map_err(|error| error.to_string())?;
        let answer = async {
            let response = self.client.request(request).await.map_err(|error| error.to_string())?;
            let status = response.status().as_u16();
            let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX);
            let bytes = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
            let json = serde_json::from_slice(&bytes).map_err(|error| format!("{status}: {error}"))?;
            Ok((status, json))
        };
        let timeout = tokio::time::timeout(self.timeout, answer).await;
        timeout.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }

    async fn ask_intent(&self, key: &[u8; 16]) -> Answer {
        match self.call("GET", &format!("/v1/intents/by-key/{}", hex(key)), None).await {
            Ok((200, intent)) => self.read_intent(intent).await,
            Ok((404, _)) => Answer::UnknownKey,
            Ok((status, _)) => Answer::Unknown(format!("status {status}")),
            Err(error) => Answer::Unknown(error),
        }
    }

    async fn read_intent(&self, intent: Value) -> Answer {
        let intent: IntentShape = match serde_json::from_value(intent) {
            Ok(intent) => intent,
            Err(error) => return Answer::Unknown(error.to_string()),
        };
        match self.facts_of(&intent).await {
            Ok(facts) => Answer::Facts(facts),
            Err(error) => Answer::Unknown(error),
        }
    }

    /// An intent's own fact, and its refunds: a refund names its capture, so both are written down together.
    async fn facts_of(&self, intent: &IntentShape) -> Result<Vec<Fact>, String> {
        let mut facts: Vec<Fact> = intent_fact(intent)?.into_iter().collect();
        if intent.refunded_minor > 0 {
            let path = format!("/v1/refunds?reference={}", intent.reference);
            let (status, refunds) = self.call("GET", &path, None).await?;
            if status != 200 {
                return Err(format!("status {status}"));
            }
            let refunds: Vec<RefundShape> =
                serde_json::from_value(refunds).map_err(|error| error.to_string())?;
            let permit = permit_of(intent)?;
            let of_intent = refunds.iter().filter(|refund| refund.intent_id == intent.id);
            facts.extend(of_intent.filter_map(|refund| refund_fact(refund, Some(&permit)).ok().flatten()));
        }
        Ok(facts)
    }
}

#[tonic::async_trait]
impl Gateway for HttpGateway {
    async fn charge(&self, charge: &Charge, now_ms: u64) -> Answer {
        if now_ms >= charge.expires_at_ms {
            return self.ask_intent(&charge.key).await;
        }
        let permit = &charge.permit;
        let body = json!({
            "key": hex(&charge.key),
            "reference": charge.payment.to_string(),
            "amount_minor": permit.amount_minor,
            "currency": permit.currency,
            "expires_at_ms": charge.expires_at_ms,
            "card_token": charge.card,
            "metadata": metadata(charge),
            "callback_urls": self.callback_urls,
        });
        match self.call("POST", "/v1/intents", Some(body)).await {
            Ok((200, intent)) => self.read_intent(intent).await,
            Ok((409, problem)) if problem["type"] == "reference-closed" => {
                self.close(charge.payment, permit.order).await
            }
            // Another body under the key, or too late: look it up, never charge under another key.
            Ok((409 | 410, _)) => self.ask_intent(&charge.key).await,
            Ok((status, _)) => Answer::Unknown(format!("status {status}")),
            Err(error) => Answer::Unknown(error),
        }
    }

    async fn close(&self, payment: PaymentId, order: OrderId) -> Answer {
        let body = json!({ "reference": payment.to_string() });
        let (status, intents) = match self.call("POST", "/v1/intents/close", Some(body)).await {
            Ok(answer) => answer,
            Err(error) => return Answer::Unknown(error),
        };
        let intents: Vec<IntentShape> = match (status, serde_json::from_value(intents)) {
            (200, Ok(intents)) => intents,
            (status, _) => return Answer::Unknown(format!("status {status}")),
        };
        let mut facts = Vec::new();
        for intent in &intents {
            match self.facts_of(intent).await {
                Ok(found) => facts.extend(found),
                Err(error) => return Answer::Unknown(error),
            }
        }
        facts.push(Fact::Barred(Barred { payment, order }));
        Answer::Facts(facts)
    }

    async fn refund(&self, case: &RefundCase, order: OrderId) -> Answer {
        let body = json!({
            "key": hex(&case.case),
            "intent_id": case.intent,
            "amount_minor": case.amount_minor,
            "reference": case.payment.to_string(),
            "metadata": {
                "order": order.to_string(),
                "payer_slot": case.payment.slot().to_string(),
                "buyer_slot": order.slot().to_string(),
            },
            "callback_urls": self.callback_urls,
        });
        match self.call("POST", "/v1/refunds", Some(body)).await {
            Ok((200, refund)) => read_refund(refund),
            // It was asked for with another amount before: what happened is what happened.
            Ok((409, problem)) if problem["type"] == "key-reused" => self.ask_refund(&case.case).await,
            Ok((status, problem)) => {
                if (400..500).contains(&status) {
                    tracing::warn!(
                        status, %problem, payment = %case.payment, %order, amount_minor = case.amount_minor,
                        "the gateway refuses a refund that is owed; it is asked again"
                    );
                }
                Answer::Unknown(format!("status {status}"))
            }
            Err(error) => Answer::Unknown(error),
        }
    }

    async fn ask_refund(&self, case: &[u8; 16]) -> Answer {
        match self.call("GET", &format!("/v1/refunds/by-key/{}", hex(case)), None).await {
            Ok((200, refund)) => read_refund(refund),
            Ok((404, _)) => Answer::UnknownKey,
            Ok((status, _)) => Answer::Unknown(format!("status {status}")),
            Err(error) => Answer::Unknown(error),
        }
    }
}

impl Callbacks {
    pub(crate) fn new(secret: Vec<u8>) -> Callbacks {
        Callbacks { secret: secret.into() }
    }

    /// The facts in a callback, if it is genuine and recent.
    pub(crate) fn callback(
        &self,
        signature: &str,
        body: &[u8],
        now_ms: u64,
    ) -> Result<Vec<Fact>, CallbackError> {
        let parts = signature.split_once(',').and_then(|(t, v1)| {
            let t = t.strip_prefix("t=")?;
            Some((t, t.parse::<u64>().ok()?, unhex(v1.strip_prefix("v1=")?)?))
        });
        let Some((t, t_ms, sent)) = parts else { return Err(CallbackError::Unsigned) };
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret).map_err(|_| CallbackError::Forged)?;
        mac.update(t.as_bytes());
        mac.update(b".");
        mac.update(body);
        let expected = mac.finalize().into_bytes();
        if !bool::from(expected.as_slice().ct_eq(&sent)) {
            return Err(CallbackError::Forged);
        }
        if t_ms.abs_diff(now_ms) > CALLBACK_WINDOW_MS {
            return Err(CallbackError::Stale);
        }
        let shape: CallbackShape =
            serde_json::from_slice(body).map_err(|error| CallbackError::Malformed(error.to_string()))?;
        let mut facts: Vec<Fact> =
            intent_fact(&shape.intent).map_err(CallbackError::Malformed)?.into_iter().collect();
        if let Some(refund) = &shape.refund {
            let permit = permit_of(&shape.intent).map_err(CallbackError::Malformed)?;
            facts.extend(refund_fact(refund, Some(&permit)).map_err(CallbackError::Malformed)?);
        }
        Ok(facts)
    }
}

fn metadata(charge: &Charge) -> BTreeMap<&'static str, String> {
    let mut metadata = BTreeMap::from([
        ("permit", hex(&charge.permit.to_canon())),
        ("order", charge.permit.order.to_string()),
        ("k", charge.k.to_string()),
        ("payer_slot", charge.payment.slot().to_string()),
        ("buyer_slot", charge.permit.order.slot().to_string()),
    ]);
    // Not the epochs of this very call: the body of a key must be the same whoever repeats it.
    let _ = charge.payment_epoch;
    if let Some(epoch) = charge.order_epoch {
        metadata.insert("order_epoch", hex(&epoch.to_canon()));
    }
    metadata
}

fn bytes_of(intent: &IntentShape, name: &str) -> Option<Vec<u8>> {
    unhex(intent.metadata.get(name)?)
}

/// Who pays how much for what, as the intent carries it.
fn permit_of(intent: &IntentShape) -> Result<Permit, String> {
    let permit = bytes_of(intent, "permit").ok_or("the intent names no permit")?;
    Permit::decode(&permit).map_err(|error| error.to_string())
}

/// The fact that an intent stands for; `None` while it is pending.
fn intent_fact(intent: &IntentShape) -> Result<Option<Fact>, String> {
    let permit = permit_of(intent)?;
    let payment = permit.payment_id();
    if payment.to_string() != intent.reference {
        return Err("the permit does not prove the payment".to_owned());
    }
    let key = key16(&intent.key).ok_or("the key is none of ours")?;
    let k = intent.metadata.get("k").and_then(|k| k.parse().ok()).unwrap_or(1);
    let failed = |kind, code: &str| {
        Fact::Failure(Failure {
            intent: intent.id.clone(),
            key,
            k,
            payment,
            order: permit.order,
            kind,
            code: code.to_owned(),
        })
    };
    Ok(match (intent.status.as_str(), &intent.failure) {
        ("captured", _) => Some(Fact::Capture(Capture {
            intent: intent.id.clone(),
            key,
            k,
            amount_minor: intent.captured_minor,
            currency: intent.currency.clone(),
            at_ms: intent.captured_at_ms.unwrap_or(0),
            order_epoch: bytes_of(intent, "order_epoch").and_then(|bytes| Epoch::decode(&bytes).ok()),
            payment_epoch: None,
            permit,
        })),
        ("failed", Some(failure)) if failure.retryable => Some(failed(FailureKind::Retryable, &failure.code)),
        ("failed", failure) => {
            let code = failure.as_ref().map_or("", |failure| &failure.code);
            Some(failed(FailureKind::Refused, code))
        }
        ("closed", _) => Some(failed(FailureKind::Closed, "")),
        ("expired", _) => Some(failed(FailureKind::Expired, "")),
        _ => None,
    })
}

fn read_refund(refund: Value) -> Answer {
    match serde_json::from_value::<RefundShape>(refund) {
        Ok(refund) => Answer::Facts(refund_fact(&refund, None).ok().flatten().into_iter().collect()),
        Err(error) => Answer::Unknown(error.to_string()),
    }
}

/// The fact that a refund stands for; `None` before it is done. What this cluster asked for has its case as the key; what
/// somebody gave back by hand has any key, and may name nothing but its intent, whose `permit` this is.
fn refund_fact(refund: &RefundShape, permit: Option<&Permit>) -> Result<Option<Fact>, String> {
    if refund.status != "done" {
        return Ok(None);
    }
    let by_hand = || Hash::of_parts(&[b"refund by hand", refund.key.as_bytes()]).short();
    let payment = refund.reference.parse().ok().or(permit.map(Permit::payment_id));
    let order = refund.metadata.get("order").and_then(|id| id.parse().ok()).or(permit.map(|it| it.order));
    let (Some(payment), Some(order)) = (payment, order) else {
        return Err("the refund names no payment or no order".to_owned());
    };
    Ok(Some(Fact::Refund(Refund {
        refund: refund.id.clone(),
        intent: refund.intent_id.clone(),
        case: key16(&refund.key).unwrap_or_else(by_hand),
        payment,
        order,
        amount_minor: refund.amount_minor,
        currency: refund.currency.clone(),
        at_ms: refund.created_at_ms,
    })))
}
