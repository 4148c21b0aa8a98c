//! The hard schedules, by name: on which earlier versions of the design, or systems in the field, broke.
//!
//! Users A and D live in north, B and F in east, C and G in south. Each schedule ends at rest, with every invariant
//! checked, unless it says otherwise.

mod entities;
mod holes;
mod messages;
mod money;

use std::collections::BTreeSet;

use cell_core::cell::{Ask, Problem, Reached, Reply};
use cell_core::id::{OrderId, PaymentId, Slot};
use cell_core::order::OrderState;
use cell_core::payment::PaymentState;
use cell_core::version::Dot;

use super::net::Channel;
use super::script::Op;
use super::world::World;

/// One named schedule: what it is called, and what happens.
#[derive(Debug)]
pub struct Schedule {
    pub name: &'static str,
    /// # Errors
    /// What did not end as stated.
    pub run: fn() -> Result<(), String>,
}

macro_rules! schedules {
    ($($module:ident :: $run:ident = $name:literal),* $(,)?) => {
        /// All of them.
        pub const ALL: &[Schedule] = &[$(Schedule { name: $name, run: $module::$run }),*];

        #[cfg(test)]
        mod tests {
            $(#[test]
            fn $run() {
                if let Err(error) = super::$module::$run() {
                    panic!("{}: {error}", $name);
                }
            })*
        }
    };
}

schedules! {
    entities::restart_forks_chain = "restart-forks-chain",
    entities::history_arrives_late = "history-arrives-late",
    entities::two_losses = "two-losses",
    entities::late_tail_is_history = "late-tail-is-history",
    entities::tail_against_decision = "tail-against-decision",
    entities::two_claimants = "two-claimants",
    entities::restored_backup = "restored-backup",
    entities::start_hears_its_peers = "start-hears-its-peers",
    entities::start_is_outranked = "start-is-outranked",
    entities::predecessors_come_late = "predecessors-come-late",
    entities::cloned_machine = "cloned-machine",
    entities::same_key_two_regions = "same-key-two-regions",
    entities::orphan_capture = "orphan-capture",
    entities::state_outlives_its_changes = "state-outlives-its-changes",
    entities::unknown_kind = "unknown-kind",
    entities::half_command = "half-command",
    holes::poisonous_change = "poisonous-change",
    holes::old_software = "old-software",
    holes::view_lost_behind_a_trim = "view-lost-behind-a-trim",
    holes::tail_behind_a_hole = "tail-behind-a-hole",
    holes::predecessor_lost_its_end = "predecessor-lost-its-end",
    money::cancel_then_captured = "cancel-then-captured",
    money::callback_at_the_zombie = "callback-at-the-zombie",
    money::capture_after_withdrawn = "capture-after-withdrawn",
    money::attempt_after_listing = "attempt-after-listing",
    money::order_and_disk_lost = "order-and-disk-lost",
    money::failure_of_a_lost_permit = "failure-of-a-lost-permit",
    money::closing_follow_up = "closing-follow-up",
    money::two_homes_one_command = "two-homes-one-command",
    money::retry_pays_twice = "retry-pays-twice",
    money::second_attempt_early = "second-attempt-early",
    money::attempt_in_lost_tail = "attempt-in-lost-tail",
    money::attempt_adopted_behind_the_bar = "attempt-adopted-behind-the-bar",
    money::attempt_never_sent = "attempt-never-sent",
    money::old_key = "old-key",
    money::other_amount_same_permit = "other-amount-same-permit",
    money::cancel_while_another_is_captured = "cancel-while-another-is-captured",
    money::second_payer = "second-payer",
    money::refund_forgotten = "refund-forgotten",
    money::two_partial_refunds = "two-partial-refunds",
    money::refund_granted_by_two_homes = "refund-granted-by-two-homes",
    money::refund_order_is_stray = "refund-order-is-stray",
    money::capture_after_expiry = "capture-after-expiry",
    messages::message_overtakes_data = "message-overtakes-data",
    messages::withdrawal_overtakes_request = "withdrawal-overtakes-request",
    messages::withdrawal_behind_parked_request = "withdrawal-behind-parked-request",
    messages::move_heard_by_message_alone = "move-heard-by-message-alone",
    messages::dead_letter_holds_order = "dead-letter-holds-order",
    messages::wake_lost_on_reconnect = "wake-lost-on-reconnect",
    messages::outcome_lost = "outcome-lost",
    messages::gate_lost = "gate-lost",
    messages::payer_moves_while_parked = "payer-moves-while-parked",
    messages::wait_for_lost_version = "wait-for-lost-version",
    messages::lost_with_an_actor_nobody_heard_of = "lost-with-an-actor-nobody-heard-of",
    messages::settle_before_command = "settle-before-command",
    messages::fetch_splits_a_change = "fetch-splits-a-change",
    messages::dead_letter_outlives_need = "dead-letter-outlives-need",
    messages::refused_then_adopted = "refused-then-adopted",
    messages::redrive_after_until = "redrive-after-until",
    messages::accept_races_expiry = "accept-races-expiry",
    messages::poison = "poison",
}

const N: usize = 0;
const E: usize = 1;
const S: usize = 2;
const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const D: usize = 3;
/// Longer than any schedule, in milliseconds.
const LONG: u64 = 3_600_000;

fn expect(holds: bool, what: impl Into<String>) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.into()) }
}

/// A calm world and short words for what happens in it.
struct Stage {
    world: World,
}

impl Stage {
    fn new() -> Stage {
        let mut world = World::new(1, true, None);
        world.callbacks = 0;
        world.run(300);
        Stage { world }
    }

    /// With order 0 of A, 900, known everywhere.
    fn with_order() -> Result<Stage, String> {
        let mut stage = Stage::new();
        stage.place(0, A, N)?;
        stage.pass(300);
        Ok(stage)
    }

    fn pass(&mut self, ms: u64) {
        self.world.run(ms);
    }

    // === users ===

    /// Plays a user's operation and waits a moment for its answer.
    fn act(&mut self, region: usize, op: Op) -> Result<Result<Reply, Problem>, String> {
        let text = format!("{op:?}");
        let nth = self.world.act_now(region, op).ok_or(format!("{text}: nothing to act upon"))?;
        self.pass(8);
        self.world.requests[nth].answer.ok_or(format!("{text}: no answer"))
    }
    fn ok(&mut self, region: usize, op: Op) -> Result<Reply, String> {
        let text = format!("{op:?}");
        self.act(region, op)?.map_err(|problem| format!("{text}: {problem:?}"))
    }
    fn place(&mut self, order: usize, buyer: usize, region: usize) -> Result<Reply, String> {
        self.place_for(order, buyer, region, 180_000)
    }
    fn place_for(
        &mut self,
        order: usize,
        buyer: usize,
        region: usize,
        window_ms: u64,
    ) -> Result<Reply, String> {
        self.ok(region, Op::Place { order, buyer, amount: 900, window_ms, twin_of: None })
    }
    fn ask(&mut self, region: usize, payer: usize) -> Result<PaymentId, String> {
        let reply = self.ok(region, Op::Ask { order: 0, payer })?;
        reply.payment.ok_or("no payment in the reply".to_owned())
    }
    fn accept(&mut self, region: usize, payer: usize, card: &'static str) -> Result<Reply, String> {
        self.ok(region, Op::Accept { order: 0, payer, card })
    }
    /// A command under a key of its own, to be repeated elsewhere.
    fn keyed(
        &mut self,
        region: usize,
        user: usize,
        key: &str,
        ask: Ask,
    ) -> Result<Result<Reply, Problem>, String> {
        let nth = self.world.request(user, key, ask, region);
        self.pass(8);
        self.world.requests[nth].answer.ok_or(format!("{key}: no answer"))
    }

    // === faults ===

    fn cut(&mut self, a: usize, b: usize, channel: Channel) {
        let until = self.world.now_ms + LONG;
        self.world.net.cut(a, b, channel, until);
        self.world.net.cut(b, a, channel, until);
    }
    /// Nobody hears the region and it hears nobody.
    fn isolate(&mut self, region: usize) {
        for other in [N, E, S] {
            if other != region {
                self.cut(region, other, Channel::Data);
                self.cut(region, other, Channel::Message);
            }
        }
    }
    /// Changes of the region reach nobody; messages do.
    fn mute_data(&mut self, region: usize) {
        for other in [N, E, S] {
            if other != region {
                let until = self.world.now_ms + LONG;
                self.world.net.cut(region, other, Channel::Data, until);
            }
        }
    }
    fn mend(&mut self) {
        self.world.net.heal();
    }
    fn slots(&self, user: usize) -> BTreeSet<Slot> {
        BTreeSet::from([self.world.users[user].id.slot()])
    }
    fn decree(&mut self, region: usize, user: usize) {
        let slots = self.slots(user);
        self.world.decree(region, slots);
        self.pass(20);
    }

    // === what is seen ===

    fn order(&self) -> Result<OrderId, String> {
        self.world.handle(0).map(|handle| handle.id).ok_or("no order".to_owned())
    }
    fn state(&self, region: usize) -> Result<OrderState, String> {
        let order = self.order()?;
        let state = self.world.nodes[region].order(order, |reading| reading.state.clone());
        state.flatten().ok_or(format!("{region} does not know the order"))
    }
    fn label(&self, region: usize) -> Result<&'static str, String> {
        self.state(region).map(|state| state.label())
    }
    fn total(&self, region: usize) -> Result<u64, String> {
        self.state(region)?.content.total_minor().map_err(|error| error.to_string())
    }
    fn strays(&self, region: usize) -> Result<usize, String> {
        let order = self.order()?;
        self.world.nodes[region].order(order, |reading| reading.strays.len()).ok_or("unknown".to_owned())
    }
    fn payment(&self, region: usize, payment: PaymentId) -> Result<PaymentState, String> {
        let state = self.world.nodes[region].payment(payment, |reading| reading.state.clone());
        state.flatten().ok_or(format!("{region} does not know the payment"))
    }
    /// What a reader of the payment is told who presents this version.
    fn reached(&self, region: usize, payment: PaymentId, version: &Dot) -> Result<Reached, String> {
        let node = &self.world.nodes[region];
        let reached = node.cell.reached(&node.shelf, Some(payment.into()), version);
        reached.map_err(|error| error.to_string())
    }
    fn kept(&self, region: usize) -> usize {
        let gate = &self.world.nodes[region].agent.gate;
        gate.list(0, &cell_core::gate::Filter::default(), None, usize::MAX).len()
    }
    fn balance(&self) -> Result<u64, String> {
        Ok(self.world.gateway.balance_minor(self.order()?))
    }
    fn captures(&self) -> usize {
        self.world.gateway.intents.values().filter(|intent| intent.captured_minor() > 0).count()
    }

    fn is(&self, label: &str) -> Result<(), String> {
        for region in [N, E, S] {
            let seen = self.label(region)?;
            expect(seen == label, format!("region {region} shows {seen}, not {label}"))?;
        }
        Ok(())
    }

    /// Heals everything and checks every invariant at rest.
    fn rest(&mut self) -> Result<(), String> {
        self.world.settle_down();
        match self.world.journal.violations.first() {
            None => Ok(()),
            Some(violation) => Err(format!("{violation}\n{}", self.world.explain(&violation.detail))),
        }
    }
}
