//! `421 Misdirected Request` from a node: the slot has moved, and the answer says where to.

use std::time::Duration;

use cell_core::id::RegionId;
use http::{Response, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;

use super::{Answer, Outbound, Proxy, collect_small};
use crate::decide::{Refusal, Upstream};
use crate::problem::Problem;

/// A 421 is a problem of a few hundred bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// The member of the problem that matters here; the rest is for people.
#[derive(Deserialize)]
struct Moved {
    home: String,
}

impl Proxy {
    /// Sends the request once more, to the home that `from` named. A 421 means "moved", never "failed": what cannot be
    /// followed further is answered as a move under way.
    ///
    /// The answer itself goes to the client where it names no home, or where the body was too long to be kept.
    pub(super) async fn follow<'p>(
        &'p self,
        request: &Outbound,
        from: &'p Upstream,
        response: Response<Incoming>,
    ) -> Result<Answer<'p>, Problem> {
        let (parts, body) = response.into_parts();
        let within = Duration::from_millis(self.timeouts.response_ms);
        let Some(body) = collect_small(body, ANSWER_BYTES_MAX, within).await else {
            return Err(Problem::moving());
        };
        let named = serde_json::from_slice::<Moved>(&body).ok();
        let Some(home) = named.and_then(|moved| RegionId::new(&moved.home).ok()) else {
            return Ok(Answer::held(from, parts, body));
        };
        if home == from.region {
            return Err(Problem::moving());
        }
        let to = self.upstreams.of(home).ok_or(Refusal::NoUpstream { region: home })?;
        if !request.upload.can_restart() {
            return Ok(Answer::held(from, parts, body));
        }
        tracing::debug!(from = %from.region, to = %home, "following a move");
        metrics::counter!("cell_router_followed_total").increment(1);
        match self.send(request, to).await {
            Ok(again) if again.status() == StatusCode::MISDIRECTED_REQUEST => Err(Problem::moving()),
            Ok(answer) => Ok(self.pass(to, answer)),
            Err(failure) => Err(failure.into_problem()),
        }
    }
}
