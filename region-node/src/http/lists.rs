//! Lists: of a user, newest first, a page at a time.
//!
//! A page reads a bounded part of the user's index, whatever fits; so one with few items, or none, may still have a next
//! page. The cursor is the place in the index where the page ended.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use cell_core::entity::{Entity, Reading};
use cell_core::id::{EntityId, OrderId, PaymentId, PublicId, UserId};
use cell_core::order::{Order, OrderState};
use cell_core::version::Dot;
use cell_store::{Scan, Store};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use service_kit::Words;

use super::problem::Problem;
use super::shapes::{is_frozen, order_shape, payment_shape};
use super::{Api, Shared, User, version};
use crate::keys;
use crate::writer::{NodeError, now_ms};

pub(super) const PAGE_MAX: usize = 100;
const PAGE_USUAL: usize = 20;
/// Entries of the index read for one page.
const LOOKED_AT_MAX: usize = 1_000;

type Parameters = &'static [(&'static str, &'static str, &'static str)];

const PAGING: [(&str, &str, &str); 2] = [
    ("limit", "integer", "Items of one page, 1 to 100; 20 if it is left out."),
    ("cursor", "string", "`next` of the page before; with the same filters."),
];
pub(super) const ROLE: Parameters =
    &[PAGING[0], PAGING[1], ("role", "string", "`payer`: asked of me (usual). `buyer`: asked by me.")];
pub(super) const ORDER_FILTERS: Parameters = &[
    PAGING[0],
    PAGING[1],
    (
        "status",
        "string",
        "Only those whose `status` is this: PendingPayment, Paid, Refunding, Refunded, Cancelled or Expired.",
    ),
    ("created_from_ms", "integer", "Only those accepted at or after this."),
    ("created_to_ms", "integer", "Only those accepted before this."),
    ("min_total_minor", "integer", "Only those that cost at least this."),
    ("max_total_minor", "integer", "Only those that cost at most this."),
    ("counterparty", "string", "Only those that this user was asked to pay for."),
    ("external_ref", "string", "Only those with this number of the platform's own; by an index."),
];

#[derive(Debug, Serialize)]
pub(super) struct Listed<T> {
    pub(super) items: Vec<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OrderQuery {
    #[serde(default)]
    limit: Option<usize>,
    #[serde(default)]
    cursor: Option<String>,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    created_from_ms: Option<u64>,
    #[serde(default)]
    created_to_ms: Option<u64>,
    #[serde(default)]
    min_total_minor: Option<u64>,
    #[serde(default)]
    max_total_minor: Option<u64>,
    #[serde(default)]
    counterparty: Option<String>,
    #[serde(default)]
    external_ref: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RequestQuery {
    #[serde(default)]
    limit: Option<usize>,
    #[serde(default)]
    cursor: Option<String>,
    #[serde(default)]
    role: Option<String>,
}

impl OrderQuery {
    fn fits(&self, entity: &Entity) -> bool {
        let reading = Reading::<Order>::of(entity);
        let Some(state) = &reading.state else { return false };
        let total = state.content.total_minor().unwrap_or(0);
        let created = reading.created.wall_ms;
        let asked = |user: &String| {
            cell_core::duty::every_permit(&reading).any(|(_, permit)| permit.payer.as_str() == user)
        };
        self.status.as_ref().is_none_or(|status| state.label() == status)
            && self.created_from_ms.is_none_or(|from| created >= from)
            && self.created_to_ms.is_none_or(|to| created < to)
            && self.min_total_minor.is_none_or(|min| total >= min)
            && self.max_total_minor.is_none_or(|max| total <= max)
            && self.counterparty.as_ref().is_none_or(asked)
            && self.external_ref.as_ref().is_none_or(|wanted| {
                reading.record.as_ref().is_some_and(|record| record.external_ref == *wanted)
            })
    }
}

/// Where in which index a page reads.
struct Index {
    head: Bytes,
    limit: usize,
    cursor: Option<String>,
}

impl Index {
    fn scan(&self) -> Result<Scan, Problem> {
        let scan = Scan::prefix(self.head.clone(), LOOKED_AT_MAX).reversed();
        let Some(cursor) = &self.cursor else { return Ok(scan) };
        let bad = || Problem::new("bad-cursor", "the cursor is none of this list");
        let rest =
            super::from_hex(cursor).filter(|rest| rest.len() == keys::STAMPED_BYTES).ok_or_else(bad)?;
        Ok(scan.before([&self.head[..], &rest].concat()))
    }
}

impl Api {
    /// A list that may lack what was lost is not given.
    pub(super) fn may_list(&self, user: &UserId) -> Result<(), NodeError> {
        let why = self.node.working().why_a_list_may_be_short(user.slot());
        why.map_or(Ok(()), |why| Err(NodeError::Unavailable(why.into_owned())))
    }

    /// Reads the index and gives each id to `item`, until the page is full or enough was looked at. All of it may read
    /// the disk, so it is done off the runtime.
    async fn page<T: Serialize + Send + 'static>(
        &self,
        index: Index,
        item: impl FnMut(PublicId) -> Result<Option<T>, NodeError> + Send + 'static,
        version: fn(&T) -> Option<Dot>,
    ) -> Result<Response, Problem> {
        let scan = index.scan()?;
        let store = self.node.store().clone();
        let page = super::read(move || page_of(store.as_ref(), &scan, &index, item)).await?;
        // The first of a page are the newest.
        let versions: Vec<Dot> = page.items.iter().filter_map(version).collect();
        Ok(version::shows(Json(page).into_response(), versions))
    }
}

fn page_of<T>(
    store: &dyn Store,
    scan: &Scan,
    index: &Index,
    mut item: impl FnMut(PublicId) -> Result<Option<T>, NodeError>,
) -> Result<Listed<T>, NodeError> {
    let found = store.scan(scan).map_err(|error| NodeError::Unavailable(error.to_string()))?;
    let more = found.len() == LOOKED_AT_MAX;
    let (mut items, mut next) = (Vec::new(), None);
    let last = found.len().saturating_sub(1);
    for (i, (key, _)) in found.into_iter().enumerate() {
        let Some(id) = keys::id_of_user_entry(&key) else { continue };
        items.extend(item(PublicId(id))?);
        let full = items.len() == index.limit;
        if (full && i < last) || ((full || i == last) && more) {
            next = Some(super::to_hex(&key[index.head.len()..]));
            break;
        }
    }
    Ok(Listed { items, next })
}

/// How many items a page has.
pub(super) fn limit_of(limit: Option<usize>, usual: usize) -> Result<usize, Problem> {
    match limit.unwrap_or(usual) {
        limit @ 1..=PAGE_MAX => Ok(limit),
        limit => Err(Problem::invalid("/limit", format!("a page has 1 to {PAGE_MAX} items, not {limit}"))),
    }
}

/// The query's parameters; what is wrong with one is said of it, in our words.
pub(super) fn read<T: DeserializeOwned>(query: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    query.map(|Query(query)| query).map_err(|error| {
        let text = error.body_text();
        let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
        match text.split_once(": ") {
            Some((name, what)) if !name.contains(' ') => {
                Problem::invalid(format!("/{name}"), Words::Query.say(what))
            }
            _ => Problem::invalid("", Words::Query.say(text)),
        }
    })
}

fn check_user(pointer: &str, user: &str) -> Result<UserId, Problem> {
    UserId::new(user).map_err(|error| Problem::invalid(pointer, error.to_string()))
}

pub(super) async fn list_orders(
    State(api): Shared,
    User(user): User,
    query: Result<Query<OrderQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let mut query = read(query)?;
    if let Some(counterparty) = &query.counterparty {
        check_user("/counterparty", counterparty)?;
    }
    if let Some(status) = query.status.as_deref().filter(|status| !OrderState::LABELS.contains(status)) {
        let detail = format!("no order is '{status}'; they are {}", OrderState::LABELS.join(", "));
        return Err(Problem::invalid("/status", detail));
    }
    let head = match &query.external_ref {
        Some(wanted) => keys::of_ref(wanted, &user),
        None => keys::of_user(b'u', &user),
    };
    let limit = limit_of(query.limit, PAGE_USUAL)?;
    api.may_list(&user)?;
    let index = Index { head, limit, cursor: query.cursor.take() };
    let node = api.node.clone();
    let order = move |id: PublicId| {
        let entity = readable(node.entity(EntityId::from(OrderId(id)))?, &user)?;
        let entity = entity.filter(|entity| query.fits(entity));
        Ok(entity.and_then(|entity| order_shape(&entity, &user, now_ms())))
    };
    api.page(index, order, |order| order.version).await
}

/// A list that left out what it cannot read would lie.
fn readable(entity: Option<Arc<Entity>>, user: &UserId) -> Result<Option<Arc<Entity>>, NodeError> {
    match entity.as_ref().filter(|entity| is_frozen(entity, user)) {
        Some(frozen) => Err(NodeError::Unavailable(format!("{} needs a newer version", frozen.id))),
        None => Ok(entity),
    }
}

pub(super) async fn list_pay_requests(
    State(api): Shared,
    User(user): User,
    query: Result<Query<RequestQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let query = read(query)?;
    let prefix = match query.role.as_deref() {
        None | Some("payer") => b'p',
        Some("buyer") => b'b',
        Some(_) => return Err(Problem::invalid("/role", "a role is 'payer' or 'buyer'")),
    };
    let limit = limit_of(query.limit, PAGE_USUAL)?;
    api.may_list(&user)?;
    let index = Index { head: keys::of_user(prefix, &user), limit, cursor: query.cursor };
    let node = api.node.clone();
    let payment = move |id: PublicId| {
        let entity = readable(node.entity(EntityId::from(PaymentId(id)))?, &user)?;
        Ok(entity.and_then(|entity| payment_shape(&entity, &user)))
    };
    api.page(index, payment, |payment| payment.version).await
}
