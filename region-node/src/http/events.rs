//! A user's notices: listed, and streamed as server-sent events that resume.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use cell_core::id::UserId;
use cell_store::{Scan, StoreError};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::cursor::{Cursor, Here, Seen};
use super::lists::{Listed, PAGE_MAX, limit_of, read};
use super::problem::Problem;
use super::{Api, Shared, User};
use crate::keys::NOTICE_BYTES;
use crate::node::Node;
use crate::notice::{Kept, Notice};
use crate::quarantine::first_open;
use crate::{keys, view};

/// Notices read from the view at once for a reader who may have seen most of them.
const SCAN_MAX: usize = 1_000;
/// Events waiting for a slow reader; then it is read no further for.
const EVENTS_MAX: usize = 64;
/// A comment this often, so that neither side takes silence for death.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What both take.
pub(super) const AFTER: &[(&str, &str, &str)] = &[
    ("after", "string", "`next` or the id of an event: opaque, good in any region. `1`: from the beginning."),
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

/// What a reader is given at once, and the cursor behind all of it.
struct Page {
    owed: Vec<Owed>,
    end: Cursor,
    /// Nothing more is owed now.
    whole: bool,
}

impl Api {
    /// Up to `limit` notices that the reader at `cursor` has not seen, in the order in which they came here.
    async fn owed(&self, user: &UserId, cursor: Cursor, limit: usize) -> Result<Page, Problem> {
        let (node, user) = (self.node.clone(), user.clone());
        super::read(move || owed(&node, &user, cursor, limit)).await
    }

    /// The cursor of a reader who wants only what comes.
    async fn newest(&self, user: &UserId) -> Result<Cursor, Problem> {
        let (node, head) = (self.node.clone(), keys::of_user(b'n', user));
        super::read(move || -> Result<Cursor, StoreError> {
            let seen = Seen::of(&view::frontier(node.store())?, &first_open(node.working())?);
            let newest = node.store().scan(&Scan::prefix(head.clone(), 1).reversed())?;
            let place = newest.first().and_then(|(key, _)| key.get(head.len()..)?.try_into().ok());
            let place = place.unwrap_or([0; NOTICE_BYTES]);
            Ok(Cursor { seen, here: Some(Here { view: node.lineage().now(), place, newcomer: false }) })
        })
        .await
    }
}

fn owed(node: &Node, user: &UserId, cursor: Cursor, limit: usize) -> Result<Page, StoreError> {
    // Read before the notices, which a batch brings together with it: what it covers is among them.
    let frontier = view::frontier(node.store())?;
    let target = Seen::of(&frontier, &first_open(node.working())?);
    let seen = cursor.seen.in_view(&frontier);
    let lineage = node.lineage();
    let at_the_door = Here { view: lineage.now(), place: [0; NOTICE_BYTES], newcomer: true };
    let known = cursor.here.filter(|here| lineage.has(here.view, &here.place));
    let mut here = known.map_or(at_the_door, |here| Here { view: lineage.now(), ..here });
    let head = keys::of_user(b'n', user);
    // A newcomer passes over much; whoever was here is given what is found.
    let at_once = if here.newcomer { SCAN_MAX } else { limit + 1 };
    let mut owed: Vec<Owed> = Vec::new();
    loop {
        let behind = [&head[..], &here.place].concat();
        let found = node.store().scan(&Scan::prefix(head.clone(), at_once).after(behind))?;
        let whole = found.len() < at_once;
        for (key, value) in found {
            let Some(place) = key.get(head.len()..).and_then(|place| place.try_into().ok()) else { continue };
            let kept = Kept::decode(&value).filter(|kept| !here.newcomer || !seen.covers(&kept.dots));
            if let Some(notice) = kept.and_then(|kept| kept.notice()) {
                if owed.len() == limit {
                    let end = Cursor { seen: cursor.seen, here: Some(here) };
                    return Ok(Page { owed, end, whole: false });
                }
                let behind = Cursor { seen: cursor.seen.clone(), here: Some(Here { place, ..here }) };
                owed.push(Owed { notice, behind });
            }
            here.place = place;
        }
        if whole {
            let end = Cursor { seen: target, here: Some(Here { newcomer: false, ..here }) };
            if let Some(last) = owed.last_mut() {
                last.behind = end.clone();
            }
            return Ok(Page { owed, end, whole: true });
        }
    }
}

/// A user's notices, in the order in which they came here, that the cursor does not cover; at least once, told apart by id.
pub(super) async fn notifications(
    State(api): Shared,
    User(user): User,
    after: AfterQuery,
) -> Result<Response, Problem> {
    let After { after, limit } = read(after)?;
    let limit = limit_of(limit, PAGE_MAX)?;
    let cursor = after.map_or_else(|| Ok(Cursor::default()), |after| Cursor::read(&after))?;
    api.may_list(&user)?;
    let Page { owed, end, .. } = api.owed(&user, cursor, limit).await?;
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
    let After { after, limit } = read(after)?;
    if limit.is_some() {
        return Err(Problem::invalid("/limit", "a stream has no limit"));
    }
    let last = headers.get("last-event-id").map(HeaderValue::to_str).transpose();
    let last = last.map_err(|_| Problem::new("bad-cursor", "Last-Event-ID is no text"))?;
    api.may_list(&user)?;
    let Ok(place) = api.streams.clone().try_acquire_owned() else {
        let full = Problem::new("too-many-streams", "this node streams to as many as it can");
        return Ok(([(header::RETRY_AFTER, "5")], full).into_response());
    };
    // Listened to before the place to begin is chosen.
    let shown = api.node.shown();
    let cursor = match last.map(str::to_owned).or(after) {
        Some(text) => Cursor::read(&text)?,
        None => api.newest(&user).await?,
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
            // Without an answer the stream ends: the reader comes back and goes on from its last event.
            let Ok(Page { owed, end, whole }) = api.owed(user, cursor.clone(), EVENTS_MAX).await else {
                return;
            };
            cursor = end;
            for Owed { notice, behind } in owed {
                let event = Event::default().id(behind.to_string()).event(&notice.kind).json_data(&notice);
                let Ok(event) = event else { continue };
                if events.send(Ok(event)).await.is_err() {
                    return;
                }
            }
            if whole {
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
