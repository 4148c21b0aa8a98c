//! Conversions between generated messages and cell-core's types, field by field. Wire → core is checked and total; core
//! → wire cannot fail. Byte strings are handed over, not copied: an entry costs its dot and its hash.

mod id;
mod message;
mod shape;

use cell_core::id::{EntityId, Hash, RegionId};

pub use self::shape::Frontier;

/// A message from the wire does not say what it has to. The sender is at fault, or newer; nothing was touched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}.{field}: {why}")]
pub struct BadWire {
    /// Name of the protobuf message.
    pub message: &'static str,
    /// Its field.
    pub field: &'static str,
    pub why: String,
}

/// A field of a message, so that whatever is wrong with it can be said by name.
#[derive(Clone, Copy)]
struct At(&'static str, &'static str);

impl At {
    fn bad(self, why: impl ToString) -> BadWire {
        BadWire { message: self.0, field: self.1, why: why.to_string() }
    }

    fn set<T>(self, value: Option<T>) -> Result<T, BadWire> {
        value.ok_or_else(|| self.bad("missing"))
    }

    fn nested<W, C: TryFrom<W, Error = BadWire>>(self, value: Option<W>) -> Result<C, BadWire> {
        self.set(value)?.try_into()
    }

    fn fixed<const N: usize>(self, bytes: &[u8]) -> Result<[u8; N], BadWire> {
        bytes.try_into().map_err(|_| self.bad(format_args!("{} bytes instead of {N}", bytes.len())))
    }

    fn hash(self, bytes: &[u8]) -> Result<Hash, BadWire> {
        self.fixed(bytes).map(Hash)
    }

    fn entity(self, bytes: &[u8]) -> Result<EntityId, BadWire> {
        self.fixed(bytes).map(|bytes| EntityId::from_bytes(&bytes))
    }

    fn region(self, name: &str) -> Result<RegionId, BadWire> {
        RegionId::new(name).map_err(|error| self.bad(error))
    }
}

/// Converts every item, up to the first bad one.
fn each<W, C: TryFrom<W, Error = BadWire>>(items: Vec<W>) -> Result<Vec<C>, BadWire> {
    items.into_iter().map(C::try_from).collect()
}
