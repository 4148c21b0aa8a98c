//! W3C Trace Context: the `traceparent` that follows one request through every process.
//!
//! <https://www.w3.org/TR/trace-context/>

use std::fmt::{self, Write as _};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::str::FromStr;

use tracing::Span;

/// Trace id, id of the sending span, and flags; as text `00-<32 hex>-<16 hex>-<2 hex>`. Never all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    flags: u8,
}

/// A `traceparent` that the standard says to ignore; start a new trace instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TraceParentError {
    /// Not the four fields of lower-case hex, or version `ff`.
    #[error("traceparent is not 00-<32 hex>-<16 hex>-<2 hex>")]
    Malformed,
    /// Trace or span id is all zero, which means "none".
    #[error("traceparent has an all-zero id")]
    ZeroId,
}

const FLAG_SAMPLED: u8 = 1;

impl TraceParent {
    /// A new, sampled trace.
    pub fn fresh() -> Self {
        let mut random = [0; 24];
        random.chunks_exact_mut(8).for_each(|id| id.copy_from_slice(&fresh_id()));
        Self::from_random(random)
    }

    /// A new, sampled trace from 24 random bytes: 16 of the trace id, 8 of the span id.
    pub fn from_random(random: [u8; 24]) -> Self {
        let mut trace_id = [0; 16];
        let mut span_id = [0; 8];
        trace_id.copy_from_slice(&random[..16]);
        span_id.copy_from_slice(&random[16..]);
        Self { trace_id: nonzero(trace_id), span_id: nonzero(span_id), flags: FLAG_SAMPLED }
    }

    /// The same trace, sent on by a span of its own; `random` is its id.
    pub fn child(&self, random: [u8; 8]) -> Self {
        Self { span_id: nonzero(random), ..*self }
    }

    /// The 32 hex digits that all spans of a request share.
    pub fn trace_id(&self) -> impl fmt::Display + use<> {
        Hex(self.trace_id)
    }

    /// The 16 hex digits of the sending span.
    pub fn span_id(&self) -> impl fmt::Display + use<> {
        Hex(self.span_id)
    }

    /// A tracing span of this trace, under which logs of this step can be found: it has an id of its own, and the sender's
    /// as its parent. `step` is what the process does, e.g. `place` or `deliver`.
    pub fn span(&self, step: &'static str) -> Span {
        let own = self.child(fresh_id());
        let (trace_id, parent_id, span_id) = (self.trace_id(), self.span_id(), own.span_id());
        tracing::info_span!("traced", step, %trace_id, %span_id, %parent_id)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", Hex(self.trace_id), Hex(self.span_id), self.flags)
    }
}

impl fmt::Debug for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceParent({self})")
    }
}

impl FromStr for TraceParent {
    type Err = TraceParentError;

    /// Reads version 00 exactly, and of later versions the part the standard promises to keep.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut fields = text.split('-');
        let mut field = || fields.next().ok_or(TraceParentError::Malformed);
        let [version] = hex(field()?)?;
        let trace_id: [u8; 16] = hex(field()?)?;
        let span_id: [u8; 8] = hex(field()?)?;
        let [flags] = hex(field()?)?;
        if version == 0xff || (version == 0 && fields.next().is_some()) {
            return Err(TraceParentError::Malformed);
        }
        if trace_id == [0; 16] || span_id == [0; 8] {
            return Err(TraceParentError::ZeroId);
        }
        // Flags this version does not know must not be passed on.
        Ok(Self { trace_id, span_id, flags: flags & FLAG_SAMPLED })
    }
}

struct Hex<const N: usize>([u8; N]);

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digits = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        digits.map(|digit| char::from(DIGITS[usize::from(digit)])).try_for_each(|digit| f.write_char(digit))
    }
}

/// Seeded by the system once for each thread: ids need only differ.
fn fresh_id() -> [u8; 8] {
    RandomState::new().build_hasher().finish().to_be_bytes()
}

fn hex<const N: usize>(text: &str) -> Result<[u8; N], TraceParentError> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return Err(TraceParentError::Malformed);
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(bytes)
}

fn digit(character: u8) -> Result<u8, TraceParentError> {
    match character {
        b'0'..=b'9' => Ok(character - b'0'),
        b'a'..=b'f' => Ok(character - b'a' + 10),
        _ => Err(TraceParentError::Malformed),
    }
}

fn nonzero<const N: usize>(mut id: [u8; N]) -> [u8; N] {
    if id == [0; N] {
        id[N - 1] = 1;
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_parsed_prints_the_same() {
        assert_eq!(GOOD.parse::<TraceParent>().unwrap().to_string(), GOOD);
    }

    #[test]
    fn a_child_keeps_the_trace_and_changes_the_span() {
        let parent: TraceParent = GOOD.parse().unwrap();
        let child = parent.child([7; 8]);
        assert_eq!(child.to_string(), "00-0af7651916cd43dd8448eb211c80319c-0707070707070707-01");
    }

    #[test]
    fn a_later_version_is_read_by_its_known_part_and_sent_on_as_ours() {
        let later = format!("01{}-what-comes-later", &GOOD[2..]);
        assert_eq!(later.parse::<TraceParent>().unwrap().to_string(), GOOD);
    }

    #[test]
    fn unknown_flags_are_not_passed_on() {
        let flagged = format!("{}ff", &GOOD[..GOOD.len() - 2]);
        assert_eq!(flagged.parse::<TraceParent>().unwrap().to_string(), GOOD);
    }

    #[test]
    fn no_id_is_ever_all_zero() {
        let zero = TraceParent::from_random([0; 24]);
        assert_eq!(zero.to_string().parse(), Ok(zero));
        let text = format!("00-{}-b7ad6b7169203331-01", "0".repeat(32));
        assert_eq!(text.parse::<TraceParent>(), Err(TraceParentError::ZeroId));
    }

    #[test]
    fn whatever_the_standard_forbids_is_refused() {
        let upper = GOOD.to_uppercase();
        let long = format!("{GOOD}-more");
        let version_ff = format!("ff{}", &GOOD[2..]);
        for bad in ["", "00", "00-é", &upper, &long, &version_ff, &GOOD[..54], &GOOD[1..]] {
            assert_eq!(bad.parse::<TraceParent>(), Err(TraceParentError::Malformed), "{bad}");
        }
    }
}
