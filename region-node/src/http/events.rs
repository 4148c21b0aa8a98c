//! A user's notices: listed, and streamed as server-sent events that resume.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use cell_core::id::{EntityId, UserId};
use cell_store::Scan;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::cursor::{AT_BYTES, Cursor, Seen};
use super::lists::{Listed, PAGE_MAX};
use super::problem::Problem;
use super::{Api, Shared, User};
use crate::notice::{Kept, Notice};
use crate::{keys, view};

/// Notices read from the view at once.
const SCAN_MAX: usize = 1_000;
/// Events waiting for a slow reader; then it is read no further for.
const EVENTS_MAX: usize = 64;
/// A comment this often, so that neither side takes silence for death.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What both take.
pub(super) const AFTER: &[(&str, &str, &str)] = &[
    (
        "after",
        "string",
        "`next` or the id of an event: an opaque frontier, good in any region. `1`: from the beginning.",
    ),
    ("limit", "integer", "Items of one page, 1 to 100; 100 if it is left out."),
];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct After {
    #[serde(default)]
    after: Option<String>,
    #[serde(default)]
    limit: Option<usize>,
}

type AfterQuery = Result<Query<After>, QueryRejection>;

/// One notice, and the cursor behind it.
struct Owed {
    notice: Notice,
    behind: Cursor,
}

impl Api {
    /// Up to `limit` notices that the reader at `cursor` has not seen, in the order of their time, and the cursor behind
    /// them. Those of changes that arrive late come when they arrive.
    async fn owed(
        &self,
        user: &UserId,
        cursor: Cursor,
        limit: usize,
    ) -> Result<(Vec<Owed>, Cursor), Problem> {
        let (store, user, node) = (self.node.store().clone(), user.clone(), self.node.clone());
        let read = move || -> Result<(Vec<Owed>, Cursor), cell_store::StoreError> {
            // Read before the notices, which a batch brings together with it: what it covers is among them.
            let (target, mut after) = match &cursor.on_the_way {
                Some((target, at)) => (target.clone(), Some(*at)),
                None => (Seen::of(view::frontier(&store)?), None),
            };
            let head = keys::of_user(b'n', &user);
            let mut owed: Vec<Owed> = Vec::new();
            loop {
                let mut scan = Scan::prefix(head.clone(), SCAN_MAX);
                if let Some(at) = after {
                    scan = scan.after([&head[..], &at].concat());
                }
                let found = store.scan(&scan)?;
                let whole = found.len() < SCAN_MAX;
                for (key, value) in found {
                    let Some(at) = key.get(head.len()..).and_then(|at| <[u8; AT_BYTES]>::try_from(at).ok())
                    else {
                        continue;
                    };
                    after = Some(at);
                    let Some(kept) = Kept::decode(&value).filter(|kept| !cursor.seen.covers(&kept.dots))
                    else {
                        continue;
                    };
                    let Some(mut notice) = kept.notice() else { continue };
                    notice.trace = trace_of(&node, &notice);
                    let behind = Cursor { seen: cursor.seen.clone(), on_the_way: Some((target.clone(), at)) };
                    if owed.len() == limit {
                        let end = owed.last().map_or(behind, |last: &Owed| last.behind.clone());
                        return Ok((owed, end));
                    }
                    owed.push(Owed { notice, behind });
                }
                if whole {
                    let end = Cursor { seen: target, on_the_way: None };
                    if let Some(last) = owed.last_mut() {
                        last.behind = end.clone();
                    }
                    return Ok((owed, end));
                }
            }
        };
        let unavailable = |error: String| Problem::new("unavailable", error);
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(|error| unavailable(error.to_string()))?.map_err(|error| unavailable(error.to_string()))
    }
}

fn trace_of(node: &crate::node::Node, notice: &Notice) -> String {
    let about = notice.payment.as_ref().unwrap_or(&notice.order);
    about.parse::<EntityId>().map(|id| node.trace_of(&id)).unwrap_or_default()
}

/// A user's notices that the cursor does not cover; at least once, told apart by id.
pub(super) async fn notifications(
    State(api): Shared,
    User(user): User,
    after: AfterQuery,
) -> Result<Response, Problem> {
    let Query(After { after, limit }) = after.map_err(|error| Problem::invalid("", error.body_text()))?;
    let limit = limit.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX);
    let cursor = after.map_or_else(|| Ok(Cursor::default()), |after| Cursor::read(&after))?;
    let (owed, end) = api.owed(&user, cursor, limit).await?;
    let items: Vec<Notice> = owed.into_iter().map(|owed| owed.notice).collect();
    Ok(Json(Listed { items, next: Some(end.to_string()) }).into_response())
}

/// The same as a stream. It goes on from `Last-Event-ID`, or from `after`; without either, from now.
pub(super) async fn events(
    State(api): Shared,
    User(user): User,
    headers: HeaderMap,
    after: AfterQuery,
) -> Result<Response, Problem> {
    let Query(After { after, limit }) = after.map_err(|error| Problem::invalid("", error.body_text()))?;
    if limit.is_some() {
        return Err(Problem::invalid("/limit", "a stream has no limit"));
    }
    let last = headers.get("last-event-id").map(HeaderValue::to_str).transpose();
    let last = last.map_err(|_| Problem::new("bad-cursor", "Last-Event-ID is no text"))?;
    let Ok(place) = api.streams.clone().try_acquire_owned() else {
        let full = Problem::new("too-many-streams", "this node streams to as many as it can");
        return Ok(([(header::RETRY_AFTER, "5")], full).into_response());
    };
    // Listened to before the place to begin is chosen.
    let shown = api.node.shown();
    let cursor = match last.map(str::to_owned).or(after) {
        Some(text) => Cursor::read(&text)?,
        None => {
            let frontier = view::frontier(api.node.store());
            let frontier = frontier.map_err(|error| Problem::new("unavailable", error.to_string()))?;
            Cursor { seen: Seen::of(frontier), on_the_way: None }
        }
    };
    let (events, streamed) = mpsc::channel(EVENTS_MAX);
    let (shutdown, stop) = (api.shutdown.clone(), api.shutdown.clone());
    shutdown.spawn("event stream", async move {
        tokio::select! {
            () = stop.begun() => {}
            () = feed(&api, &user, cursor, shown, &events, place) => {}
        }
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(ReceiverStream::new(streamed)).keep_alive(keep_alive).into_response())
}

/// Sends what is owed, and again when there is more; until the reader is gone.
async fn feed(
    api: &Api,
    user: &UserId,
    mut cursor: Cursor,
    mut shown: broadcast::Receiver<std::sync::Arc<Vec<UserId>>>,
    events: &mpsc::Sender<Result<Event, Infallible>>,
    _place: OwnedSemaphorePermit,
) {
    // Where it begins, so that a reader who hears nothing before the link breaks resumes there all the same.
    if events.send(Ok(Event::default().id(cursor.to_string()))).await.is_err() {
        return;
    }
    loop {
        loop {
            let owed = match api.owed(user, cursor.clone(), EVENTS_MAX).await {
                Ok((owed, end)) => {
                    cursor = end;
                    owed
                }
                // The reader comes back and goes on from its last event.
                Err(_) => return,
            };
            for Owed { notice, behind } in owed {
                let event = Event::default().id(behind.to_string()).event(&notice.kind).json_data(&notice);
                let Ok(event) = event else { continue };
                if events.send(Ok(event)).await.is_err() {
                    return;
                }
            }
            if cursor.on_the_way.is_none() {
                break;
            }
        }
        loop {
            let news = tokio::select! {
                () = events.closed() => return,
                news = shown.recv() => news,
            };
            match news {
                Ok(users) if users.contains(user) => break,
                Ok(_) => {}
                // Something was missed: look.
                Err(broadcast::error::RecvError::Lagged(_)) => break,
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }
}
