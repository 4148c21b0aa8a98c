//! What changes in a message on its way through: headers of one hop go, those that follow the request come.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use cell_core::id::{RegionId, UserId};
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use service_kit::TraceParent;

use crate::identify::USER_HEADER;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
/// Means nothing without the `traceparent` it came with.
const TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Which region answered.
pub(crate) const CELL_REGION: HeaderName = HeaderName::from_static("cell-region");

const REQUEST_ID_BYTES_MAX: usize = 128;

/// Unique, not secret: a counter mixed by SplitMix64 (Steele, Lea and Flood 2014), begun at a random place.
#[derive(Debug)]
pub(crate) struct Entropy(AtomicU64);

/// What a request is known by in logs everywhere.
#[derive(Debug)]
pub(crate) struct Correlation {
    pub(crate) trace: TraceParent,
    pub(crate) request_id: HeaderValue,
    /// The trace was begun here, so a `tracestate` that came along belongs to none.
    begun_here: bool,
}

impl Entropy {
    pub(crate) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    fn next(&self) -> [u8; 8] {
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.0.fetch_add(GOLDEN, Ordering::Relaxed).wrapping_add(GOLDEN);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_be_bytes()
    }
}

impl Correlation {
    /// Continues the client's trace and request id if they are well-formed, and begins new ones otherwise.
    pub(crate) fn of_request(headers: &HeaderMap, entropy: &Entropy) -> Self {
        let given =
            headers.get(TRACE_PARENT).and_then(|value| value.to_str().ok()?.parse::<TraceParent>().ok());
        let trace = match &given {
            Some(parent) => parent.child(entropy.next()),
            None => {
                let mut random = [0; 24];
                random.chunks_exact_mut(8).for_each(|part| part.copy_from_slice(&entropy.next()));
                TraceParent::from_random(random)
            }
        };
        let sane = |value: &&HeaderValue| {
            (1..=REQUEST_ID_BYTES_MAX).contains(&value.len())
                && value.as_bytes().iter().all(u8::is_ascii_graphic)
        };
        let request_id = headers.get(REQUEST_ID).filter(sane).cloned().unwrap_or_else(|| {
            let (high, low) = (u64::from_be_bytes(entropy.next()), u64::from_be_bytes(entropy.next()));
            visible(format!("{high:016x}{low:016x}"))
        });
        Self { trace, request_id, begun_here: given.is_none() }
    }
}

/// Prepares a client's headers for the region.
pub(crate) fn to_region(
    headers: &mut HeaderMap,
    user: Option<&UserId>,
    peer: IpAddr,
    correlation: &Correlation,
) {
    strip_hop_by_hop(headers);
    // `Expect` is answered here; host and length are set anew from where the request goes and what is sent.
    for name in [EXPECT, HOST, CONTENT_LENGTH] {
        headers.remove(name);
    }
    if let Some(user) = user {
        // A user id has no control characters, which is all a header value refuses.
        if let Ok(value) = HeaderValue::from_bytes(user.as_str().as_bytes()) {
            headers.insert(USER_HEADER, value);
        }
    }
    if correlation.begun_here {
        headers.remove(TRACE_STATE);
    }
    headers.insert(TRACE_PARENT, visible(correlation.trace.to_string()));
    headers.insert(REQUEST_ID, correlation.request_id.clone());
    // Appended as an entry of its own: the last one is the only one that nobody else can have written.
    headers.append(FORWARDED_FOR, visible(peer.to_canonical().to_string()));
}

/// Prepares a region's headers for the client.
pub(crate) fn to_client(headers: &mut HeaderMap, region: RegionId) {
    strip_hop_by_hop(headers);
    headers.insert(CELL_REGION, visible(region.to_string()));
}

/// Removes what concerns one connection only (RFC 9110, section 7.6.1), including what `Connection` names.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ] {
        headers.remove(name);
    }
}

/// For text made here of visible ASCII only.
fn visible(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("visible ASCII is a header value")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    fn sent(given: HeaderMap, user: Option<&str>) -> HeaderMap {
        let mut headers = given;
        let correlation = Correlation::of_request(&headers, &Entropy::new(7));
        let user = user.map(|user| UserId::new(user).unwrap());
        to_region(&mut headers, user.as_ref(), [192, 0, 2, 1].into(), &correlation);
        headers
    }

    #[test]
    fn headers_of_one_hop_and_those_that_connection_names_stay_behind() {
        let sent = sent(
            headers(&[
                ("connection", "close, x-private"),
                ("x-private", "1"),
                ("keep-alive", "timeout=5"),
                ("transfer-encoding", "chunked"),
                ("te", "trailers"),
                ("upgrade", "websocket"),
                ("expect", "100-continue"),
                ("accept", "text/event-stream"),
            ]),
            None,
        );
        let mut names: Vec<&str> = sent.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "traceparent", "x-forwarded-for", "x-request-id"]);
    }

    #[test]
    fn naming_the_user_header_in_connection_does_not_lose_the_user() {
        let given = headers(&[("connection", "x-user-id"), ("x-user-id", "alice")]);
        assert_eq!(sent(given, Some("alice"))["x-user-id"], "alice");
    }

    #[test]
    fn a_trace_is_continued_by_a_span_of_its_own() {
        let sent = sent(headers(&[("traceparent", TRACE), ("tracestate", "v=1")]), None);
        let text = sent["traceparent"].to_str().unwrap();
        assert_eq!(text[..36], TRACE[..36]);
        assert_ne!(text[36..52], TRACE[36..52]);
        assert_eq!(sent["tracestate"], "v=1");
    }

    #[test]
    fn a_trace_that_is_none_is_begun_anew_without_its_state() {
        let sent = sent(headers(&[("traceparent", "00-zz"), ("tracestate", "v=1")]), None);
        assert!(sent["traceparent"].to_str().unwrap().parse::<TraceParent>().is_ok());
        assert!(!sent.contains_key("tracestate"));
    }

    #[test]
    fn a_request_id_is_kept_if_it_is_short_and_visible() {
        assert_eq!(sent(headers(&[("x-request-id", "abc-1")]), None)["x-request-id"], "abc-1");
        let long = "x".repeat(129);
        for bad in ["", "a b", &long] {
            let id = &sent(headers(&[("x-request-id", bad)]), None)["x-request-id"];
            assert_eq!(id.len(), 32, "{bad:?} gave {id:?}");
        }
    }

    #[test]
    fn the_peer_is_the_last_entry_whatever_the_client_claims() {
        let sent = sent(headers(&[("x-forwarded-for", "203.0.113.9")]), None);
        let entries: Vec<_> = sent.get_all("x-forwarded-for").iter().collect();
        assert_eq!(entries, ["203.0.113.9", "192.0.2.1"]);
    }

    #[test]
    fn ids_differ_from_one_request_to_the_next() {
        let entropy = Entropy::new(1);
        let mut seen: Vec<_> = (0..1000).map(|_| entropy.next()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 1000);
    }
}
