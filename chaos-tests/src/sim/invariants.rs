//! What has to hold, each under its name in the design: some at every moment, some at rest.

mod d10_settled;
mod d1_durable_ack;
mod d2_no_silent_loss;
mod d3_prefix;
mod d4_once;
mod d5_convergence;
mod d7_nothing_invented;
mod d8_session;
mod d9_state_machine;
mod f1_one_home;
mod o2_fresh_by_itself;
mod p1_one_capture;
mod p2_books_agree;
mod p3_as_named;
mod p4_one_end;
mod p5_no_endless_wait;
mod p6_redrive;

use std::fmt;

use cell_core::entity::{Entity, Reading};
use cell_core::id::{OrderId, PaymentId};
use cell_core::order::Order;
use cell_core::payment::Payment;

use super::world::World;

type Check = fn(&World) -> Result<(), String>;

/// One invariant: its name, and how to look.
#[derive(Debug)]
pub struct Invariant {
    pub name: &'static str,
    during: Option<Check>,
    at_rest: Option<Check>,
}

/// All that are checked here.
pub const ALL: &[Invariant] = &[
    d1_durable_ack::INVARIANT,
    d2_no_silent_loss::INVARIANT,
    d3_prefix::INVARIANT,
    d4_once::INVARIANT,
    d5_convergence::INVARIANT,
    d7_nothing_invented::INVARIANT,
    d8_session::INVARIANT,
    d9_state_machine::INVARIANT,
    d10_settled::INVARIANT,
    f1_one_home::INVARIANT,
    o2_fresh_by_itself::INVARIANT,
    p1_one_capture::INVARIANT,
    p2_books_agree::INVARIANT,
    p3_as_named::INVARIANT,
    p4_one_end::INVARIANT,
    p5_no_endless_wait::INVARIANT,
    p6_redrive::INVARIANT,
];

/// An invariant that did not hold.
#[derive(Clone, Debug)]
pub struct Violation {
    pub invariant: &'static str,
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "violated: {}: {}", self.invariant, self.detail)
    }
}

impl World {
    pub(crate) fn check_safety(&mut self) {
        self.check(|invariant| invariant.during);
        self.checked = self.journal.born.len();
    }
    pub(crate) fn check_rest(&mut self) {
        self.check(|invariant| invariant.at_rest);
    }
    fn check(&mut self, which: impl Fn(&Invariant) -> Option<Check>) {
        for invariant in ALL {
            if let Some(Err(detail)) = which(invariant).map(|check| check(self)) {
                self.journal.violate(invariant.name, detail);
            }
        }
    }

    /// Every order in one region's view.
    fn each_order(
        &self,
        i: usize,
        mut look: impl FnMut(OrderId, &Reading<'_, Order>) -> Result<(), String>,
    ) -> Result<(), String> {
        let entities = &self.nodes[i].shelf.entities;
        let orders = entities.iter().filter_map(|(id, entity)| Some((id.order()?, entity)));
        orders.into_iter().try_for_each(|(id, entity)| look(id, &Reading::<Order>::of(entity)))
    }
    fn each_payment(
        &self,
        i: usize,
        mut look: impl FnMut(PaymentId, &Reading<'_, Payment>) -> Result<(), String>,
    ) -> Result<(), String> {
        let entities = &self.nodes[i].shelf.entities;
        let payments = entities.iter().filter_map(|(id, entity)| Some((id.payment()?, entity)));
        payments.into_iter().try_for_each(|(id, entity)| look(id, &Reading::<Payment>::of(entity)))
    }
}

fn ensure(holds: bool, detail: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(detail()) }
}

/// How many events of an entity; for messages.
fn size(entity: &Entity) -> usize {
    entity.items().count()
}
