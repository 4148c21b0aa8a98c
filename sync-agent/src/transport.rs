//! How agents reach each other and their node. gRPC is the one transport there is; another one gets its file beside it.

mod addressed;
mod grpc;

pub(crate) use addressed::{PeerChannel, channel_to, only_for};
pub(crate) use grpc::{MESSAGE_BYTES_MAX, Served, cause, channel, http2_limits, is_address};
