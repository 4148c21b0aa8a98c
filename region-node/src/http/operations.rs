//! What the admin port answers beyond every service's own: the conflict journal, as `cellctl conflict` shows it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use cell_proto::v1;
use serde::Deserialize;
use serde_json::value::RawValue;
use service_kit::Shutdown;
use tonic::{Code, Status};

use super::lists::{self, Listed};
use super::problem::Problem;
use super::{from_hex, to_hex};
use crate::grpc::conflicts;
use crate::node::Node;

/// The node until the shutdown begins: the admin port outlives it.
#[derive(Clone, Debug)]
struct Asked(Arc<Mutex<Option<Node>>>);

impl Asked {
    fn held(&self) -> MutexGuard<'_, Option<Node>> {
        // Only assignments run under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node(&self) -> Result<Node, Problem> {
        self.held().clone().ok_or_else(|| Problem::new("unavailable", "the node is being shut down"))
    }
}

/// `GET /conflicts` and `GET /conflicts/{id}`. Nothing here changes anything.
pub(crate) fn operations(node: Node, shutdown: &Shutdown) -> Router {
    let asked = Asked(Arc::new(Mutex::new(Some(node))));
    let (let_go, stop) = (asked.clone(), shutdown.clone());
    shutdown.spawn("operations", async move {
        stop.begun().await;
        drop(let_go.held().take());
    });
    Router::new().route("/conflicts", get(list)).route("/conflicts/{id}", get(show)).with_state(asked)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConflictQuery {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    class: String,
    /// An order, or a payment; what stands beside it too.
    #[serde(default)]
    order: String,
    #[serde(default)]
    user: String,
    /// That decided either side.
    #[serde(default)]
    of: String,
    #[serde(default)]
    since_ms: u64,
    #[serde(default)]
    open: bool,
    #[serde(default)]
    limit: u32,
    #[serde(default)]
    cursor: String,
}

async fn list(
    State(asked): State<Asked>,
    query: Result<Query<ConflictQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let ConflictQuery { kind, class, order, user, of, since_ms, open, limit, cursor } = lists::read(query)?;
    let after = match cursor.is_empty() {
        true => Bytes::new(),
        false => from_hex(&cursor)
            .map(Bytes::from)
            .ok_or_else(|| Problem::new("bad-cursor", "not the `next` of an earlier answer"))?,
    };
    let request = v1::ConflictsRequest {
        kind,
        class,
        about: order,
        user,
        region: of,
        since_ms,
        open_only: open,
        limit,
        after,
    };
    let reply = conflicts::list(&asked.node()?, request).await.map_err(problem)?;
    let items = reply.json.into_iter().map(RawValue::from_string).collect::<Result<_, _>>();
    let items = items.map_err(|error| Problem::new("unavailable", error.to_string()))?;
    let next = (!reply.next.is_empty()).then(|| to_hex(&reply.next));
    Ok(Json(Listed::<Box<RawValue>> { items, next }).into_response())
}

async fn show(State(asked): State<Asked>, Path(id): Path<String>) -> Result<Response, Problem> {
    let json = conflicts::get(&asked.node()?, &id).map_err(problem)?.json;
    if json.is_empty() {
        return Err(Problem::new("not-found", format!("{id} is unknown here")));
    }
    Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
}

fn problem(status: Status) -> Problem {
    match status.code() {
        Code::InvalidArgument => Problem::invalid("", status.message()),
        Code::NotFound => Problem::new("not-found", status.message()),
        _ => Problem::new("unavailable", status.message()),
    }
}
