//! What clients of the API and of the gateway's control port see: plain HTTP and JSON.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// A call that takes longer counts as unanswered.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Why a call has no answer. Whether it took effect is unknown.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("{method} {path}: {what}")]
    NoAnswer { method: String, path: String, what: String },
}

/// An answer: status and JSON body (`null` if it has none).
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

/// A caller; cheap to clone, connections are kept.
#[derive(Clone, Debug)]
pub struct Api {
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Default for Api {
    fn default() -> Api {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Api { client: Client::builder(TokioExecutor::new()).build(connector) }
    }
}

impl Api {
    /// One request, named by what a client names: the user, and for a `POST` the idempotency key.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn call(
        &self,
        at: SocketAddr,
        method: &str,
        path: &str,
        user: &str,
        key: &str,
        body: &Value,
    ) -> Result<Answer, ApiError> {
        let failed = |what: String| ApiError::NoAnswer {
            method: method.to_owned(),
            path: path.to_owned(),
            what: format!("{at}: {what}"),
        };
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let mut request = Request::builder().method(method).uri(format!("http://{at}{path}"));
        for (name, value) in [("x-user-id", user), ("idempotency-key", key)] {
            if !value.is_empty() {
                request = request.header(name, value);
            }
        }
        if !body.is_null() {
            request = request.header("content-type", "application/json");
        }
        let request =
            request.body(Full::new(Bytes::from(text))).map_err(|error| failed(error.to_string()))?;
        let asked = async {
            let response = self.client.request(request).await.map_err(|error| failed(error.to_string()))?;
            let status = response.status().as_u16();
            let bytes = response.into_body().collect().await.map_err(|error| failed(error.to_string()))?;
            let body = serde_json::from_slice(&bytes.to_bytes()).unwrap_or(Value::Null);
            Ok(Answer { status, body })
        };
        tokio::time::timeout(ANSWER_WITHIN, asked)
            .await
            .unwrap_or_else(|_| Err(failed(format!("no answer within {ANSWER_WITHIN:?}"))))
    }

    /// # Errors
    /// [`ApiError`].
    pub async fn get(&self, at: SocketAddr, path: &str, user: &str) -> Result<Answer, ApiError> {
        self.call(at, "GET", path, user, "", &Value::Null).await
    }

    /// What `/metrics` at an admin port says, each metric summed up over its labels.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn metrics(&self, at: SocketAddr) -> Result<BTreeMap<String, f64>, ApiError> {
        Ok(sums(&self.text(at, "/metrics").await?))
    }

    /// The text of a page.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn text(&self, at: SocketAddr, path: &str) -> Result<String, ApiError> {
        let failed = |what: String| ApiError::NoAnswer {
            method: "GET".to_owned(),
            path: path.to_owned(),
            what: format!("{at}: {what}"),
        };
        let uri = format!("http://{at}{path}").parse().map_err(|_| failed("no address".to_owned()))?;
        let response = self.client.get(uri).await.map_err(|error| failed(error.to_string()))?;
        let bytes = response.into_body().collect().await.map_err(|error| failed(error.to_string()))?;
        Ok(String::from_utf8_lossy(&bytes.to_bytes()).into_owned())
    }

    /// Opens a user's event stream, from `after` on (empty: from now).
    ///
    /// # Errors
    /// [`ApiError`]: no stream was given.
    pub async fn events(&self, at: SocketAddr, user: &str, after: &str) -> Result<Events, ApiError> {
        let path = "/v1/events".to_owned();
        let failed = |what: String| ApiError::NoAnswer {
            method: "GET".to_owned(),
            path: path.clone(),
            what: format!("{at}: {what}"),
        };
        let mut request = Request::get(format!("http://{at}{path}"))
            .header("x-user-id", user)
            .header("accept", "text/event-stream");
        if !after.is_empty() {
            request = request.header("last-event-id", after);
        }
        let request = request.body(Full::default()).map_err(|error| failed(error.to_string()))?;
        let asked = tokio::time::timeout(ANSWER_WITHIN, self.client.request(request));
        let response = asked.await.map_err(|_| failed("no answer".to_owned()))?;
        let response = response.map_err(|error| failed(error.to_string()))?;
        if response.status() != 200 {
            return Err(failed(format!("status {}", response.status())));
        }
        Ok(Events { body: response.into_body(), text: String::new(), ready: VecDeque::new() })
    }
}

/// One server-sent event.
#[derive(Clone, Debug)]
pub struct Event {
    /// The cursor to resume behind it.
    pub id: String,
    pub kind: String,
    pub data: Value,
}

/// An open event stream.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    text: String,
    ready: VecDeque<Event>,
}

impl Events {
    /// The next event; `None` at the end of the stream, or after `within` without one.
    pub async fn next(&mut self, within: Duration) -> Option<Event> {
        tokio::time::timeout(within, self.next_ever()).await.ok().flatten()
    }

    async fn next_ever(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let frame = self.body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                self.text.push_str(&String::from_utf8_lossy(&data));
                self.read();
            }
        }
    }

    fn read(&mut self) {
        while let Some(end) = self.text.find("\n\n") {
            let block: String = self.text.drain(..end + 2).collect();
            let mut event = Event { id: String::new(), kind: String::new(), data: Value::Null };
            for line in block.lines() {
                match line.split_once(':') {
                    Some(("id", value)) => value.trim().clone_into(&mut event.id),
                    Some(("event", value)) => value.trim().clone_into(&mut event.kind),
                    Some(("data", value)) => {
                        event.data = serde_json::from_str(value.trim()).unwrap_or(Value::Null);
                    }
                    _ => {}
                }
            }
            if !event.data.is_null() {
                self.ready.push_back(event);
            }
        }
    }
}

fn sums(page: &str) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, value)) = line.rsplit_once(' ') else { continue };
        let name = name.split('{').next().unwrap_or(name);
        *sums.entry(name.to_owned()).or_insert(0.0) += value.parse().unwrap_or(0.0);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_the_sum_of_its_samples() {
        let sums = sums("# TYPE a gauge\na 3\na_b 4\nc{peer=\"x\"} 5\nc{peer=\"y\"} 6\n");
        assert_eq!(["a", "c", "d"].map(|name| sums.get(name)), [Some(&3.0), Some(&11.0), None]);
    }
}
