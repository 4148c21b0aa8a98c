//! What is large travels packed between regions, where the other side takes it so: bytes over a long link cost money.

use bytes::Bytes;
use cell_proto::v1;
use prost::Message;
use tonic::Status;
use zstd::bulk::{Compressor, Decompressor};

use crate::transport::MESSAGE_BYTES_MAX;

/// The fastest level: a higher one saves nothing more of what a log is made of.
const LEVEL: i32 = 1;
/// Smaller messages travel as they are: there is little to save, and somebody may be waiting for that very order.
const PACKED_FROM_BYTES: usize = 2 << 10;

/// A message, packed; `None` where that saves nothing.
pub(crate) struct Packer(Compressor<'static>);

impl Packer {
    /// # Errors
    /// There is no memory for it.
    pub(crate) fn new() -> Result<Packer, Status> {
        Compressor::new(LEVEL).map(Packer).map_err(|error| Status::resource_exhausted(error.to_string()))
    }

    pub(crate) fn pack<M: Message>(&mut self, message: &M) -> Option<v1::Packed> {
        if message.encoded_len() < PACKED_FROM_BYTES {
            return None;
        }
        let raw = message.encode_to_vec();
        let zstd = self.0.compress(&raw).ok().filter(|zstd| zstd.len() < raw.len())?;
        Some(v1::Packed { zstd: Bytes::from(zstd), raw_bytes: raw.len() as u64 })
    }
}

/// What was packed. A peer's bytes: nothing of them is believed.
///
/// # Errors
/// [`tonic::Code::DataLoss`]: it is no such message, or a larger one than is taken.
pub(crate) fn unpack<M: Message + Default>(packed: &v1::Packed) -> Result<M, Status> {
    let wrong = |what: String| Status::data_loss(format!("a packed message cannot be read: {what}"));
    let raw_bytes = usize::try_from(packed.raw_bytes).unwrap_or(usize::MAX);
    if raw_bytes > MESSAGE_BYTES_MAX {
        return Err(wrong(format!("{raw_bytes} bytes, and {MESSAGE_BYTES_MAX} are taken")));
    }
    let unpacked = Decompressor::new().and_then(|mut zstd| zstd.decompress(&packed.zstd, raw_bytes));
    let raw = unpacked.map_err(|error| wrong(error.to_string()))?;
    if raw.len() != raw_bytes {
        return Err(wrong(format!("{} bytes, and {raw_bytes} were said", raw.len())));
    }
    M::decode(Bytes::from(raw)).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(entries: usize) -> v1::ChangeBatch {
        let entry = |i: usize| v1::Entry {
            bytes: Bytes::from(format!("{i}: two of tea, one of rice, to be paid by whoever was asked")),
            ..v1::Entry::default()
        };
        v1::ChangeBatch { entries: (0..entries).map(entry).collect(), ..v1::ChangeBatch::default() }
    }

    #[test]
    fn what_is_packed_is_smaller_and_comes_out_as_it_went_in() {
        let (mut packer, batch) = (Packer::new().unwrap(), batch(1_000));
        for _ in 0..2 {
            let packed = packer.pack(&batch).unwrap();
            assert!(packed.zstd.len() * 3 < batch.encoded_len());
            assert_eq!(unpack::<v1::ChangeBatch>(&packed).unwrap(), batch);
        }
    }

    #[test]
    fn what_is_small_or_cannot_be_made_smaller_is_left_as_it_is() {
        let mut packer = Packer::new().unwrap();
        assert_eq!(packer.pack(&batch(3)), None);
        let mut noise = 1u64;
        let noise = std::iter::repeat_with(|| {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            noise as u8
        });
        assert_eq!(packer.pack(&v1::Packed { zstd: noise.take(5_000).collect(), raw_bytes: 0 }), None);
    }

    #[test]
    fn nothing_a_peer_packs_takes_more_than_it_says_nor_ends_the_agent() {
        let sound = Packer::new().unwrap().pack(&batch(1_000)).unwrap();
        let lies = [
            v1::Packed { raw_bytes: sound.raw_bytes - 1, ..sound.clone() },
            v1::Packed { raw_bytes: sound.raw_bytes + 1, ..sound.clone() },
            v1::Packed { raw_bytes: u64::MAX, ..sound.clone() },
            v1::Packed { zstd: sound.zstd.slice(..sound.zstd.len() / 2), ..sound.clone() },
            v1::Packed { zstd: Bytes::from_static(b"tea"), raw_bytes: 3 },
        ];
        for lie in lies {
            assert_eq!(unpack::<v1::ChangeBatch>(&lie).unwrap_err().code(), tonic::Code::DataLoss);
        }
        let mut bytes = sound.zstd.to_vec();
        for at in 0..bytes.len() {
            bytes[at] ^= 0x40;
            let flipped = v1::Packed { zstd: Bytes::from(bytes.clone()), ..sound.clone() };
            // Whatever it is now: an error, or a batch of the size that was said.
            let _ = unpack::<v1::ChangeBatch>(&flipped);
            bytes[at] ^= 0x40;
        }
    }
}
