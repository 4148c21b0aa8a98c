//! The only wire and disk format between processes: generated messages and services, and total conversions to and from
//! cell-core; and the one file that all of them read. It decides nothing.

mod convert;
pub mod placement_file;
mod protocol;

pub use convert::{BadWire, Frontier};
pub use protocol::{NotSpoken, PROTOCOLS, Protocols};

/// Generated from `proto/homecell/v1/*.proto`.
#[expect(missing_docs, clippy::all, clippy::allow_attributes, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("homecell.v1");
}

/// The descriptors of every message and service, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
