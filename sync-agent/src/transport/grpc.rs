//! Channels and servers with windows that fill a long link, and pings that notice a dead one.

use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use service_kit::Http2Limits;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// Largest message taken: a batch of entities that somebody waits for.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// 64 KiB, the protocol's default, would allow half a megabyte per second over 120 ms.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// A link that swallows packets is noticed within the sum of the two.
const PING_EVERY: Duration = Duration::from_secs(2);
const PONG_WITHIN: Duration = Duration::from_secs(4);

pub(crate) type Served<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What a call failed on: what the other side says, or the first cause where there was no other side. The layers between
/// say the same in other words.
pub(crate) fn cause(status: &Status) -> String {
    let source = std::error::Error::source(status);
    match std::iter::successors(source, |cause| cause.source()).last() {
        Some(first) => format!("no connection: {first}"),
        None => status.message().to_owned(),
    }
}

/// Whether `address` can be dialled: `http://host:port`.
pub(crate) fn is_address(address: &str) -> bool {
    address.starts_with("http://") && Endpoint::from_shared(address.to_owned()).is_ok()
}

/// A channel that connects when it is used, and again after it broke.
///
/// # Errors
/// What is wrong with the address.
pub(crate) fn channel(address: &str) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|error| error.to_string())?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_WITHIN)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_WITHIN)
        .keep_alive_while_idle(true);
    Ok(endpoint.connect_lazy())
}

/// The same for who serves.
pub(crate) fn http2_limits() -> Http2Limits {
    Http2Limits {
        streams_max: 256,
        stream_window_bytes: STREAM_WINDOW_BYTES,
        connection_window_bytes: CONNECTION_WINDOW_BYTES,
        ping_every: PING_EVERY,
        pong_within: PONG_WITHIN,
    }
}
