//! `ETag`, `If-None-Match` and `If-Match`: only if it is still as the client saw it.
//!
//! A tag is a hash of the answer's body, so it changes exactly when the answer does.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use cell_core::cell::Ask;
use cell_core::id::{Hash, UserId};
use serde::Serialize;

use super::problem::Problem;
use super::shapes::{order_shape, payment_shape};
use super::to_hex;
use crate::node::Condition;
use crate::writer::now_ms;

/// The bytes of an answer.
pub(super) fn json(shape: &impl Serialize) -> Vec<u8> {
    // Maps have texts as keys, and nothing in a shape refuses: it cannot fail.
    serde_json::to_vec(shape).unwrap_or_default()
}

/// An answer of these bytes.
pub(super) fn of_json(body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}

pub(super) fn etag(body: &[u8]) -> HeaderValue {
    let tag = format!("\"{}\"", to_hex(&Hash::of(body).0[..12]));
    HeaderValue::from_str(&tag).unwrap_or_else(|_| unreachable!("hexadecimal digits"))
}

/// The answer with its tag, or 304 if the client has it.
pub(super) fn unless_unchanged(headers: &HeaderMap, shape: &impl Serialize) -> Response {
    let body = json(shape);
    let tag = etag(&body);
    let known = headers.get_all(header::IF_NONE_MATCH).iter().any(|given| names(given, &tag));
    let mut response = if known { StatusCode::NOT_MODIFIED.into_response() } else { of_json(body) };
    response.headers_mut().insert(header::ETAG, tag);
    response
}

/// Whether a header's list of tags has this one. `*` fits whatever exists; a weak tag compares like a strong one here,
/// since equal tags mean equal bytes.
fn names(given: &HeaderValue, tag: &HeaderValue) -> bool {
    let (Ok(given), Ok(tag)) = (given.to_str(), tag.to_str()) else { return false };
    given.split(',').map(str::trim).any(|one| one == "*" || one.trim_start_matches("W/") == tag)
}

/// What a command's `If-Match` asks to be true at the moment of the command, if it has one.
pub(super) fn of(headers: &HeaderMap, user: &UserId, ask: &Ask) -> Result<Option<Condition>, Problem> {
    let given: Vec<HeaderValue> = headers.get_all(header::IF_MATCH).iter().cloned().collect();
    if given.is_empty() {
        return Ok(None);
    }
    if ask.entity().is_none() {
        return Err(Problem::invalid("", "If-Match is for what exists already"));
    }
    let user = user.clone();
    Ok(Some(Box::new(move |entity| {
        let tag = match order_shape(entity, &user, now_ms()) {
            Some(order) => Some(etag(&json(&order))),
            None => payment_shape(entity, &user).map(|payment| etag(&json(&payment))),
        };
        tag.is_some_and(|tag| given.iter().any(|given| names(given, &tag)))
    })))
}
