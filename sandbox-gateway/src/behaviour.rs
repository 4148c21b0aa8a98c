//! How the sandbox behaves, as data: by the last two digits of the amount, or as the control endpoint said.

use serde::{Deserialize, Serialize};

/// What happens to an intent that is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Behaviour {
    /// Captured at once.
    Capture,
    /// Refused for good.
    Refuse,
    /// The first attempt of a reference is refused but may be retried; later ones are captured.
    RefuseOnce,
    /// Pending, captured after the delay.
    CaptureLater,
    /// Captured at once, and no callback is ever sent.
    DropCallback,
    /// Captured at once, and every callback is sent three times.
    TripleCallback,
    /// Captured at once, and the answer to the request comes late.
    AnswerLate,
    /// Captured at once, and the request is answered 500.
    AnswerBroken,
    /// Pending until it is completed, closed or expires.
    StayPending,
    /// Pending with a redirect for the payer, until completed, closed or expired.
    Redirect,
}

/// One row of the table: amounts that end in `cents` behave like this.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct MagicAmount {
    pub cents: u64,
    pub behaviour: Behaviour,
    pub delay_ms: u64,
    pub what: &'static str,
}

/// Every other amount is captured at once.
pub const MAGIC_AMOUNTS: &[MagicAmount] = &[
    row(91, Behaviour::Refuse, 0, "refused for good (card_declined)"),
    row(92, Behaviour::RefuseOnce, 0, "refused once (try_again), captured when tried again"),
    row(93, Behaviour::CaptureLater, 1_500, "pending, captured after 1.5 s"),
    row(94, Behaviour::DropCallback, 0, "captured, the callback is never sent"),
    row(95, Behaviour::TripleCallback, 0, "captured, each callback is sent three times"),
    row(96, Behaviour::AnswerLate, 5_000, "captured, the answer takes 5 s"),
    row(97, Behaviour::AnswerBroken, 0, "captured, the answer is a 500"),
    row(98, Behaviour::StayPending, 0, "pending until completed, closed or expired"),
    row(99, Behaviour::Redirect, 0, "pending with a redirect until completed, closed or expired"),
];

const fn row(cents: u64, behaviour: Behaviour, delay_ms: u64, what: &'static str) -> MagicAmount {
    MagicAmount { cents, behaviour, delay_ms, what }
}

/// The behaviour of an amount, and its delay.
#[must_use]
pub(crate) fn of_amount(amount_minor: u64) -> (Behaviour, u64) {
    let magic = MAGIC_AMOUNTS.iter().find(|magic| magic.cents == amount_minor % 100);
    magic.map_or((Behaviour::Capture, 0), |magic| (magic.behaviour, magic.delay_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_every_amount_that_misbehaves_and_no_other() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/sandbox.md");
        let text = std::fs::read_to_string(path).unwrap();
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| 9")).collect();
        assert_eq!(rows.len(), MAGIC_AMOUNTS.len());
        for (row, magic) in rows.iter().zip(MAGIC_AMOUNTS) {
            assert!(row.starts_with(&format!("| {} | {} | ", magic.cents, magic.what)), "{row}");
        }
    }
}
