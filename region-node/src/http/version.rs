//! `Cell-Version`: what an answer shows, in a few dots, and what its reader therefore sees in every other region.
//!
//! Opaque to clients. An answer's version also carries on the one that came with its request, as far as it fits: who
//! always presents the newest sees everything they saw. It says nothing of what the changes were, and opens nothing.

use std::collections::BTreeMap;
use std::fmt;

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::response::Response;
use cell_core::id::{ActorId, EntityId};
use cell_core::version::Dot;

use super::cursor::Seen;
use super::problem::Problem;
use super::{Api, only};
use crate::session::Unmet;

const NAME: &str = "cell-version";
pub(super) const BYTES_MAX: usize = 256;
/// So many dots fit, however long their regions' names are.
const ALWAYS_FIT: usize = 2;
/// Of its text: another is another version's.
const FORMAT: &str = "1";

/// How far some actors' changes were seen; its text has at most [`BYTES_MAX`] bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Version(BTreeMap<ActorId, u64>);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(FORMAT)?;
        self.0.iter().try_for_each(|(actor, seq)| write!(f, "~{actor}.{seq}"))
    }
}

impl Version {
    /// Of these dots those that fit, the first ones first; [`ALWAYS_FIT`] of them do.
    pub(super) fn of(dots: impl IntoIterator<Item = Dot>) -> Version {
        let mut version = Version::default();
        dots.into_iter().for_each(|dot| version.add(dot));
        version
    }

    fn add(&mut self, Dot { actor, seq }: Dot) {
        let before = self.0.get(&actor).copied();
        if before.is_some_and(|before| before >= seq) {
            return;
        }
        self.0.insert(actor, seq);
        if self.0.len() > ALWAYS_FIT && self.to_string().len() > BYTES_MAX {
            match before {
                Some(before) => self.0.insert(actor, before),
                None => self.0.remove(&actor),
            };
        }
    }

    /// With what was presented behind it, the newest starts first.
    fn and(mut self, presented: &Version) -> Version {
        let mut presented = presented.dots();
        presented.sort_by_key(|dot| std::cmp::Reverse(dot.actor.start));
        presented.into_iter().for_each(|dot| self.add(dot));
        self
    }

    fn dots(&self) -> Vec<Dot> {
        self.0.iter().map(|(actor, seq)| Dot { actor: *actor, seq: *seq }).collect()
    }

    /// `None` if it is none of ours.
    fn read(text: &str) -> Option<Version> {
        if text.len() > BYTES_MAX {
            return None;
        }
        let seen: Seen = text.strip_prefix(FORMAT)?.parse().ok()?;
        let version = Version(seen.into_iter().filter(|(_, seq)| *seq > 0).collect());
        // What it is read as is what was written: nothing left out, nothing twice.
        (!version.0.is_empty() && version.to_string() == text).then_some(version)
    }
}

/// Marks what an answer shows; [`put`] makes a header of it.
pub(super) fn shows(mut response: Response, dots: impl IntoIterator<Item = Dot>) -> Response {
    response.extensions_mut().insert(Version::of(dots));
    response
}

/// Gives an answer the header, if it shows something that has a version.
pub(super) fn put(response: &mut Response, presented: Option<&Version>) {
    let Some(version) = response.extensions_mut().remove::<Version>() else { return };
    let version = match presented {
        Some(presented) => version.and(presented),
        None => version,
    };
    if !version.0.is_empty()
        && let Ok(value) = HeaderValue::from_str(&version.to_string())
    {
        response.headers_mut().insert(HeaderName::from_static(NAME), value);
    }
}

/// The version that came with a request, if one did that is one.
///
/// # Errors
/// A 400 problem: it is none of ours.
pub(super) fn presented(headers: &HeaderMap) -> Result<Option<Version>, Problem> {
    let bad = |detail: String| Problem::new("bad-version", detail);
    let Some(text) = only(headers, NAME).map_err(bad)? else { return Ok(None) };
    let none = || bad("the Cell-Version is none of this cluster's: leave it out".to_owned());
    Version::read(text).map(Some).ok_or_else(none)
}

/// What a path is about, if it is about one thing.
fn about(path: &str) -> Option<EntityId> {
    let id = path.strip_prefix("/v1/")?.split('/').nth(1)?;
    id.parse().ok()
}

/// Waits until the node has what the request's reader has seen.
///
/// # Errors
/// What the reader is told instead of an answer.
pub(super) async fn at_least(api: &Api, parts: &Parts) -> Result<(), Problem> {
    let Some(version) = presented(&parts.headers)? else { return Ok(()) };
    let about = about(parts.uri.path());
    let in_lists = about.is_none() && parts.method == Method::GET;
    let dots = version.dots();
    let waited = api.node.at_least(&dots, about, in_lists, api.session_wait).await;
    waited.map_err(|unmet| match unmet {
        Unmet::NotHere => Problem::new(
            "version-not-here",
            format!("what the Cell-Version names is not here within {} ms", api.session_wait.as_millis()),
        ),
        Unmet::Never(dot) => Problem::new(
            "lost-or-late",
            format!(
                "what the Cell-Version names of {} is not known here and may never be: go on without it",
                dot.actor.node
            ),
        ),
        Unmet::Node(error) => error.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actor(text: &str) -> ActorId {
        text.parse().unwrap()
    }
    fn dot(text: &str, seq: u64) -> Dot {
        Dot { actor: actor(text), seq }
    }

    #[test]
    fn a_version_is_read_as_it_was_written_and_nothing_else_is_one() {
        let version =
            Version::of([dot("north-0.3.9f2c0000deadbeef", 17), dot("east-0.1.0000000000000001", 4)]);
        let text = version.to_string();
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.~".contains(&byte)), "{text}");
        assert_eq!(Version::read(&text), Some(version));
        let one = "~north-0.3.9f2c0000deadbeef";
        for bad in [
            String::new(),
            "1".to_owned(),
            "2~north-0.3.9f2c0000deadbeef.17".to_owned(),
            "1~north-0.3.9f2c0000deadbeef".to_owned(),
            format!("1{one}.0"),
            format!("1{one}.+7"),
            format!("1{one}.007"),
            format!("1x{one}.7"),
            format!("1{one}.7~"),
            format!("1{one}.7{one}.8"),
            format!("1{one}.8{one}.7"),
            format!("1{one}.18446744073709551616"),
            "é".to_owned(),
            "~".repeat(257),
        ] {
            assert_eq!(Version::read(&bad), None, "{bad}");
        }
    }

    #[test]
    fn it_is_bounded_and_what_was_answered_comes_before_what_was_presented() {
        let long = |start: u64| ActorId {
            start,
            ..actor("a-region-of-16-c-18446744073709551615.0.ffffffffffffffff")
        };
        let dots = (1..=9).map(|start| Dot { actor: long(u64::MAX - start), seq: u64::MAX });
        let bounded = Version::of(dots);
        assert_eq!(bounded.dots().len(), 2);
        assert!(bounded.to_string().len() <= BYTES_MAX);
        let presented =
            Version::of((1..=6).map(|start| dot(&format!("north-0.{start}.0000000000000001"), 5)));
        let answered =
            Version::of([dot("north-0.2.0000000000000001", 9), dot("east-0.1.0000000000000001", 1)]);
        let both = answered.clone().and(&presented);
        assert!(both.to_string().len() <= BYTES_MAX);
        let seen: Vec<(u64, u64)> = both.0.iter().map(|(actor, seq)| (actor.start, *seq)).collect();
        assert!(seen.contains(&(2, 9)) && seen.contains(&(6, 5)), "{both}");
        let older = Version::of([dot("north-0.2.0000000000000001", 3)]);
        assert_eq!(answered.clone().and(&older), answered, "it never goes back");
    }

    #[test]
    fn what_a_path_is_about_is_its_order_or_payment() {
        let order = "ord_00000000000000000000000000";
        assert_eq!(about(&format!("/v1/orders/{order}")).map(|id| id.to_string()), Some(order.to_owned()));
        assert!(about(&format!("/v1/orders/{order}/pay")).is_some());
        assert!(about("/v1/payments/pay_00000000000000000000000000").is_some());
        for list in ["/v1/orders", "/v1/orders/quote", "/v1/notifications", "/v1/orders/nothing"] {
            assert_eq!(about(list), None, "{list}");
        }
    }
}
