//! Canonical bytes: what is hashed, stored and forwarded.
//!
//! The encoding is the protobuf wire format under three extra rules that make it unique: fields in tag order, proto3
//! defaults left out, no unknown fields added. `proto` holds the same shapes as `.proto` files and proves byte for byte
//! that prost agrees. An event keeps the bytes it was born with and is never re-encoded for
//! storing or forwarding. (An id that covers a record is computed from the record's own encoding, which is unique.)

use std::sync::Arc;

use bytes::Bytes;

/// Why bytes could not be read. Nothing is touched when this is returned; the writer of the bytes is at fault, or newer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The bytes end early, or a varint or tag is not one.
    #[error("not canonical protobuf: {0}")]
    Wire(&'static str),
    /// A required field is absent.
    #[error("field {field} of {message} is missing")]
    Missing { message: &'static str, field: &'static str },
    /// A value is outside what its type allows.
    #[error("{0}")]
    Value(&'static str),
    /// A kind or code that only a newer version knows. The bytes are sound: keep and forward them.
    #[error("needs a newer version: unknown {0}")]
    Newer(&'static str),
}

/// A decoded wire value, borrowed from the input.
#[derive(Clone, Copy, Debug)]
pub enum Raw<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
}

impl<'a> Raw<'a> {
    /// # Errors
    /// [`Malformed::Wire`] if the value is not length-delimited.
    pub fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Raw::Bytes(bytes) => Ok(bytes),
            Raw::Varint(_) => Err(Malformed::Wire("expected a length-delimited value")),
        }
    }

    /// # Errors
    /// [`Malformed::Wire`] if the value is not a varint.
    pub fn varint(self) -> Result<u64, Malformed> {
        match self {
            Raw::Varint(value) => Ok(value),
            Raw::Bytes(_) => Err(Malformed::Wire("expected a varint")),
        }
    }
}

/// A whole message: a sequence of fields.
pub trait Message: Sized {
    /// Appends the canonical bytes.
    fn encode(&self, out: &mut Vec<u8>);
    /// # Errors
    /// [`Malformed`] naming what is wrong; unknown fields are skipped.
    fn decode(bytes: &[u8]) -> Result<Self, Malformed>;

    /// The canonical bytes, freshly allocated.
    fn to_canon(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        self.encode(&mut out);
        out
    }
}

/// A value that can stand in a field of a message.
pub trait Field: Sized {
    /// Appends tag and value, or nothing where proto3 leaves a default out.
    fn put(&self, tag: u32, out: &mut Vec<u8>);
    /// Takes one occurrence of the field.
    ///
    /// # Errors
    /// [`Malformed`] if the value does not fit.
    fn take(slot: &mut Option<Self>, raw: Raw<'_>) -> Result<(), Malformed>;
    /// What an absent field means; `None` if it must be present.
    fn absent() -> Option<Self>;
}

const WIRE_VARINT: u32 = 0;
const WIRE_FIXED64: u32 = 1;
const WIRE_LEN: u32 = 2;
const WIRE_FIXED32: u32 = 5;

/// Appends `value` as a base-128 varint.
pub fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a length-delimited field, also when it is empty.
pub fn put_bytes(tag: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(u64::from(tag << 3 | WIRE_LEN), out);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Appends a nested message, also when it is empty.
pub fn put_message<M: Message>(tag: u32, message: &M, out: &mut Vec<u8>) {
    put_varint(u64::from(tag << 3 | WIRE_LEN), out);
    // One byte is reserved for the length and widened in the rare case of 128 bytes or more: no second buffer.
    let at = out.len();
    out.push(0);
    message.encode(out);
    let len = out.len() - at - 1;
    if len < 0x80 {
        out[at] = len as u8;
    } else {
        let mut prefix = Vec::with_capacity(5);
        put_varint(len as u64, &mut prefix);
        out.splice(at..=at, prefix);
    }
}

/// Walks the fields of a message.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or(Malformed::Wire("a varint ends early"))?;
            self.rest = rest;
            if shift == 63 && byte > 1 {
                return Err(Malformed::Wire("a varint is longer than 64 bits"));
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed::Wire("a varint is longer than ten bytes"))
    }

    fn split(&mut self, len: u64) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(len).map_err(|_| Malformed::Wire("a length overflows"))?;
        if len > self.rest.len() {
            return Err(Malformed::Wire("a value ends early"));
        }
        let (head, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(head)
    }

    /// The next field as (tag, value), or `None` at the end.
    ///
    /// # Errors
    /// [`Malformed::Wire`] if the bytes are not protobuf.
    pub fn next_field(&mut self) -> Result<Option<(u32, Raw<'a>)>, Malformed> {
        loop {
            if self.rest.is_empty() {
                return Ok(None);
            }
            let key = self.varint()?;
            let tag = u32::try_from(key >> 3).map_err(|_| Malformed::Wire("a tag overflows"))?;
            match (key & 7) as u32 {
                WIRE_VARINT => return Ok(Some((tag, Raw::Varint(self.varint()?)))),
                WIRE_LEN => {
                    let len = self.varint()?;
                    return Ok(Some((tag, Raw::Bytes(self.split(len)?))));
                }
                // No shape of ours uses fixed widths; a newer version may.
                WIRE_FIXED64 => drop(self.split(8)?),
                WIRE_FIXED32 => drop(self.split(4)?),
                _ => return Err(Malformed::Wire("unknown wire type")),
            }
        }
    }
}

// === scalars ===

impl Field for u64 {
    fn put(&self, tag: u32, out: &mut Vec<u8>) {
        if *self != 0 {
            put_varint(u64::from(tag << 3 | WIRE_VARINT), out);
            put_varint(*self, out);
        }
    }
    fn take(slot: &mut Option<Self>, raw: Raw<'_>) -> Result<(), Malformed> {
        *slot = Some(raw.varint()?);
        Ok(())
    }
    fn absent() -> Option<Self> {
        Some(0)
    }
}

impl Field for bool {
    fn put(&self, tag: u32, out: &mut Vec<u8>) {
        u64::from(*self).put(tag, out);
    }
    fn take(slot: &mut Option<Self>, raw: Raw<'_>) -> Result<(), Malformed> {
        *slot = Some(raw.varint()? != 0);
        Ok(())
    }
    fn absent() -> Option<Self> {
        Some(false)
    }
}

impl Field for String {
    fn put(&self, tag: u32, out: &mut Vec<u8>) {
        if !self.is_empty() {
            put_bytes(tag, self.as_bytes(), out);
        }
    }
    fn take(slot: &mut Option<Self>, raw: Raw<'_>) -> Result<(), Malformed> {
        let text = std::str::from_utf8(raw.bytes()?).map_err(|_| Malformed::Value("text is not UTF-8"))?;
        *slot = Some(text.to_owned());
        Ok(())
    }
    fn absent() -> Option<Self> {
        Some(String::new())
    }
}

impl Field for Bytes {
    fn put(&self, tag: u32, out: &mut Vec<u8>) {
        if !self.is_empty() {
            put_bytes(tag, self, out);
        }
    }
    fn take(slot: &mut Option<Self>, raw: Raw<'_>) -> Result<(), Malformed> {
        *slot = Some(Bytes::copy_from_slice(raw.bytes()?));
        Ok(())
    }
    fn absent() -> Option<Self> {
        Some(Bytes::new())
    }
}

/// Fixed-size byte strings are always written: an all-zero id is an id.
impl<const N: usize> Field for [u8; N] {
    fn put(&self, tag: u32, out: &mut Vec<u8>) {
        put_bytes(tag, self, out);
    }
    fn take(slot: &mut Option<Self>, raw: Raw<'_>) -> Result<(), Malformed> {
        *slot = Some(
            raw.bytes()?.try_into().map_err(|_| Malformed::Value("a byte string has the wrong length"))?,
        );
        Ok(())
    }
    fn absent() -> Option<Self> {
        None
    }
}

// === containers ===

impl<T: Field> Field for Vec<T>
where
    T: Repeated,
{
    fn put(&self, tag: u32, out: &mut Vec<u8>) {
        for item in self {
            item.put_always(tag, out);
        }
    }
    fn take(slot: &mut Option<Self>, raw: Raw<'_>) -> Result<(), Malformed> {
        let mut item = None;
        T::take(&mut item, raw)?;
        slot.get_or_insert_default().extend(item);
        Ok(())
    }
    fn absent() -> Option<Self> {
        Some(Vec::new())
    }
}

/// As what it holds, which copies share.
impl<T: Field> Field for Arc<T> {
    fn put(&self, tag: u32, out: &mut Vec<u8>) {
        T::put(self, tag, out);
    }
    fn take(slot: &mut Option<Self>, raw: Raw<'_>) -> Result<(), Malformed> {
        let mut held = None;
        T::take(&mut held, raw)?;
        *slot = held.map(Arc::new);
        Ok(())
    }
    fn absent() -> Option<Self> {
        T::absent().map(Arc::new)
    }
}

impl<T> Field for Option<T>
where
    T: Repeated,
{
    fn put(&self, tag: u32, out: &mut Vec<u8>) {
        if let Some(item) = self {
            item.put_always(tag, out);
        }
    }
    fn take(slot: &mut Option<Self>, raw: Raw<'_>) -> Result<(), Malformed> {
        let mut item = None;
        T::take(&mut item, raw)?;
        *slot = Some(item);
        Ok(())
    }
    fn absent() -> Option<Self> {
        Some(None)
    }
}

/// A value that may stand in a `repeated` or `optional` field: written also when it is the default.
pub trait Repeated: Field {
    /// Appends tag and value, default or not.
    fn put_always(&self, tag: u32, out: &mut Vec<u8>) {
        self.put(tag, out);
    }
}

impl<const N: usize> Repeated for [u8; N] {}
impl Repeated for u64 {
    fn put_always(&self, tag: u32, out: &mut Vec<u8>) {
        put_varint(u64::from(tag << 3 | WIRE_VARINT), out);
        put_varint(*self, out);
    }
}
impl Repeated for String {
    fn put_always(&self, tag: u32, out: &mut Vec<u8>) {
        put_bytes(tag, self.as_bytes(), out);
    }
}
impl Repeated for Bytes {
    fn put_always(&self, tag: u32, out: &mut Vec<u8>) {
        put_bytes(tag, self, out);
    }
}

/// Declares a message: a struct whose fields carry tags, or an enum whose variants are a `oneof`. An `open` struct skips
/// fields it does not know; every other refuses them as [`Malformed::Newer`], because a reader that overlooked one would
/// fold, or hash, something else than was said.
macro_rules! message {
    // An envelope: fields that a newer version added are skipped.
    ($(#[$meta:meta])* open pub struct $name:ident { $($body:tt)* }) => {
        $crate::canon::message! { @shape (_ => {}) $(#[$meta])* pub struct $name { $($body)* } }
    };
    // What an event says: a field that a newer version added changes its meaning, so it is not read at all.
    ($(#[$meta:meta])* pub struct $name:ident { $($body:tt)* }) => {
        $crate::canon::message! {
            @shape (_ => return Err($crate::canon::Malformed::Newer(stringify!($name))))
            $(#[$meta])* pub struct $name { $($body)* }
        }
    };
    (@shape ($unknown:pat => $then:expr) $(#[$meta:meta])* pub struct $name:ident { $( $(#[$fmeta:meta])* $tag:literal => $field:ident : $ty:ty ),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name { $( $(#[$fmeta])* pub $field: $ty ),* }

        impl $crate::canon::Message for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                let _ = &out;
                $( $crate::canon::Field::put(&self.$field, $tag, out); )*
            }
            fn decode(bytes: &[u8]) -> Result<Self, $crate::canon::Malformed> {
                $( let mut $field: Option<$ty> = None; )*
                let mut reader = $crate::canon::Reader::new(bytes);
                while let Some((tag, raw)) = reader.next_field()? {
                    let _ = &raw;
                    match tag {
                        $( $tag => <$ty as $crate::canon::Field>::take(&mut $field, raw)?, )*
                        $unknown => $then,
                    }
                }
                Ok($name { $(
                    $field: match $field.or_else(<$ty as $crate::canon::Field>::absent) {
                        Some(value) => value,
                        None => return Err($crate::canon::Malformed::Missing {
                            message: stringify!($name), field: stringify!($field),
                        }),
                    },
                )* })
            }
        }
        $crate::canon::nested!($name);
    };
    ($(#[$meta:meta])* pub enum $name:ident { $( $(#[$vmeta:meta])* $tag:literal => $variant:ident ( $ty:ty ) ),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum $name { $( $(#[$vmeta])* $variant($ty) ),* }

        impl $crate::canon::Message for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                match self { $( $name::$variant(value) => $crate::canon::Repeated::put_always(value, $tag, out), )* }
            }
            fn decode(bytes: &[u8]) -> Result<Self, $crate::canon::Malformed> {
                let mut found = None;
                let mut reader = $crate::canon::Reader::new(bytes);
                while let Some((tag, raw)) = reader.next_field()? {
                    match tag {
                        $( $tag => {
                            let mut value: Option<$ty> = None;
                            <$ty as $crate::canon::Field>::take(&mut value, raw)?;
                            found = value.map($name::$variant);
                        } )*
                        _ => {}
                    }
                }
                found.ok_or($crate::canon::Malformed::Newer(stringify!($name)))
            }
        }
        $crate::canon::nested!($name);
    };
}

/// Lets a message stand in a field of another.
macro_rules! nested {
    ($name:ident) => {
        impl $crate::canon::Field for $name {
            fn put(&self, tag: u32, out: &mut Vec<u8>) {
                $crate::canon::put_message(tag, self, out);
            }
            fn take(
                slot: &mut Option<Self>,
                raw: $crate::canon::Raw<'_>,
            ) -> Result<(), $crate::canon::Malformed> {
                *slot = Some(<$name as $crate::canon::Message>::decode(raw.bytes()?)?);
                Ok(())
            }
            fn absent() -> Option<Self> {
                None
            }
        }
        impl $crate::canon::Repeated for $name {}
    };
}

/// Declares an enum of codes, written as a varint; code 0 is never used, so an absent code is an error.
macro_rules! codes {
    ($(#[$meta:meta])* pub enum $name:ident { $( $(#[$vmeta:meta])* $code:literal => $variant:ident : $text:literal ),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $( $(#[$vmeta])* $variant ),* }

        impl $name {
            /// Every value, in code order.
            pub const ALL: &'static [$name] = &[ $( $name::$variant ),* ];
            /// The name used in APIs, logs and metrics.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $( $name::$variant => $text ),* }
            }
            /// The code on the wire.
            #[must_use]
            pub fn code(self) -> u64 {
                match self { $( $name::$variant => $code ),* }
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl $crate::canon::Field for $name {
            fn put(&self, tag: u32, out: &mut Vec<u8>) {
                $crate::canon::Field::put(&self.code(), tag, out);
            }
            fn take(slot: &mut Option<Self>, raw: $crate::canon::Raw<'_>) -> Result<(), $crate::canon::Malformed> {
                *slot = Some(match raw.varint()? {
                    $( $code => $name::$variant, )*
                    _ => return Err($crate::canon::Malformed::Newer(stringify!($name))),
                });
                Ok(())
            }
            fn absent() -> Option<Self> {
                None
            }
        }
        impl $crate::canon::Repeated for $name {}
    };
}

pub(crate) use {codes, message, nested};

#[cfg(test)]
mod tests {
    use super::*;

    message! {
        /// A shape with every container.
        #[expect(unreachable_pub, reason = "the macro declares public shapes")]
        pub struct Sample {
            1 => number: u64,
            2 => text: String,
            3 => list: Vec<String>,
            4 => inner: Option<Inner>,
        }
    }
    message! {
        #[expect(unreachable_pub, reason = "the macro declares public shapes")]
        pub struct Inner { 1 => id: [u8; 4], 2 => long: String }
    }

    #[test]
    fn what_is_written_is_read_again_also_with_long_nested_messages() {
        for len in [0, 1, 120, 126, 127, 128, 300, 20_000] {
            let sample = Sample {
                number: 300,
                text: "x".repeat(len),
                list: vec![String::new(), "b".into()],
                inner: Some(Inner { id: [0; 4], long: "y".repeat(len) }),
            };
            assert_eq!(Sample::decode(&sample.to_canon()), Ok(sample));
        }
    }

    #[test]
    fn every_truncation_is_an_error_or_a_shorter_message_and_never_a_panic() {
        let sample = Sample { number: 1 << 60, text: "abc".into(), list: vec!["d".into()], inner: None };
        let bytes = sample.to_canon();
        for cut in 0..bytes.len() {
            assert_ne!(Sample::decode(&bytes[..cut]), Ok(sample.clone()), "cut at {cut}");
        }
    }

    #[test]
    fn a_missing_id_names_message_and_field() {
        assert_eq!(Inner::decode(&[]), Err(Malformed::Missing { message: "Inner", field: "id" }));
    }
}
