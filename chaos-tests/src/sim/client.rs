//! Users: they try again, elsewhere too, and a request that timed out is unknown to them, never failed.

use cell_core::cell::{Ask, Command, Problem, Refusal, Reply};
use cell_core::event::CommandRef;
use cell_core::id::{EntityId, OrderId, PaymentId, UserId};
use cell_core::order::{Line as OrderLine, OrderContent, OrderRecord};
use cell_core::payment::PaymentPhase;
use cell_core::version::Dot;

use super::node::Effect;
use super::script::Op;
use super::world::{Event, World};

/// Tries of one request before its user gives up, with its outcome unknown.
const TRIES_MAX: u32 = 6;

#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) id: UserId,
}

/// An order as its script knows it.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pub(crate) order: usize,
    pub(crate) id: OrderId,
    pub(crate) buyer: usize,
}

/// One request on its way.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) command: Command,
    pub(crate) tries: u32,
    pub(crate) first_place: usize,
    pub(crate) answer: Option<Result<Reply, Problem>>,
}

pub(crate) fn content(amount: u64) -> OrderContent {
    let line = OrderLine { sku: "tea".to_owned(), title: String::new(), quantity: 1, unit_minor: amount };
    OrderContent {
        currency: "CNY".to_owned(),
        lines: vec![line],
        promotions_minor: 0,
        coupon_minor: 0,
        points_minor: 0,
        foreign_shipping_minor: 0,
        forwarding_fee_minor: 0,
        service_fee_minor: 0,
        duty_minor: 0,
    }
}

impl World {
    pub(crate) fn handle(&self, order: usize) -> Option<&Handle> {
        self.orders.iter().find(|handle| handle.order == order)
    }

    /// What a user knows of the payment that `payer` was asked for, looking in one region.
    fn payment_to(&self, place: usize, order: OrderId, payer: &UserId) -> Option<PaymentId> {
        let node = self.node_at(place)?;
        let payments = self.nodes[node].shelf.entities.keys().filter_map(|id| id.payment());
        let mine = |payment: &PaymentId| {
            self.nodes[node].payment(*payment, |reading| {
                reading.state.as_ref().is_some_and(|state| {
                    state.permit.order == order
                        && state.permit.payer == *payer
                        && state.phase == PaymentPhase::Received
                })
            }) == Some(true)
        };
        payments.into_iter().find(mine)
    }

    fn open_payment(&self, place: usize, order: OrderId) -> Option<PaymentId> {
        let node = self.node_at(place)?;
        self.nodes[node].order(order, |reading| Some(*reading.state.as_ref()?.open_permit()?.0)).flatten()
    }

    /// A user acts. `None` if there is nothing to act upon yet: they look again later.
    pub(crate) fn user_acts(&mut self, nth: usize, place: usize, op: &Op) -> Option<usize> {
        if let Op::Place { order, buyer, amount, window_ms, twin_of } = op {
            return Some(self.place((*order, *buyer, *amount), *window_ms, *twin_of, place));
        }
        let (order, buyer) = match op {
            Op::Ask { order, .. }
            | Op::Pay { order, .. }
            | Op::Accept { order, .. }
            | Op::Decline { order, .. }
            | Op::Withdraw { order }
            | Op::Cancel { order }
            | Op::Refund { order, .. }
            | Op::Amend { order, .. } => self.handle(*order).map(|handle| (handle.id, handle.buyer))?,
            _ => return None,
        };
        let user = |user: usize| self.users[user].id.clone();
        let (who, ask) = match op {
            Op::Ask { payer, .. } => {
                let ask = Ask::AskPayer { order, payer: user(*payer), until_ms: None, window_ms: None };
                (buyer, ask)
            }
            Op::Pay { card, .. } => (buyer, Ask::Pay { order, card: (*card).to_owned() }),
            Op::Withdraw { .. } => (buyer, Ask::Withdraw { payment: self.open_payment(place, order)? }),
            Op::Cancel { .. } => (buyer, Ask::Cancel { order }),
            Op::Refund { amount, .. } => (buyer, Ask::Refund { order, amount_minor: *amount }),
            Op::Amend { amount, .. } => (buyer, Ask::Amend { order, content: content(*amount).into() }),
            Op::Accept { payer, card, .. } => {
                let payment = self.payment_to(place, order, &user(*payer))?;
                (*payer, Ask::Accept { payment, card: (*card).to_owned() })
            }
            Op::Decline { payer, .. } => {
                (*payer, Ask::Decline { payment: self.payment_to(place, order, &user(*payer))? })
            }
            _ => return None,
        };
        Some(self.request(who, &format!("k{nth}"), ask, place))
    }

    pub(crate) fn place(
        &mut self,
        (order, buyer, amount): (usize, usize, u64),
        pay_window_ms: u64,
        twin_of: Option<usize>,
        place: usize,
    ) -> usize {
        let key = format!("place-{}", twin_of.unwrap_or(order));
        let record = OrderRecord {
            user: self.users[buyer].id.clone(),
            key: key.clone(),
            content: content(amount).into(),
            pay_window_ms,
            external_ref: String::new(),
            sealed: bytes::Bytes::new(),
            sealed_key: String::new(),
            attributes: String::new(),
            time_ms: 0,
        };
        let id = record.order_id();
        self.journal.placed.insert(id);
        self.orders.push(Handle { order, id, buyer });
        self.request(buyer, &key, Ask::Place { record: Box::new(record) }, place)
    }

    /// Sends a command, tried again with the same key until it is answered.
    pub(crate) fn request(&mut self, user: usize, key: &str, ask: Ask, place: usize) -> usize {
        let command = Command {
            user: self.users[user].id.clone(),
            key: key.to_owned(),
            body: format!("{ask:?}").into_bytes(),
            trace: String::new(),
            ask,
        };
        let entity: Option<EntityId> = match &command.ask {
            Ask::Place { .. } => None,
            Ask::Amend { order, .. }
            | Ask::Pay { order, .. }
            | Ask::AskPayer { order, .. }
            | Ask::Cancel { order }
            | Ask::Refund { order, .. } => Some((*order).into()),
            Ask::Withdraw { payment } | Ask::Accept { payment, .. } | Ask::Decline { payment } => {
                Some((*payment).into())
            }
        };
        let reference = CommandRef::new(&command.user, command.ask.op(), entity, &command.key, &command.body);
        self.journal.asked.insert(reference.id);
        let nth = self.requests.len();
        self.requests.push(Request { command, tries: 0, first_place: place, answer: None });
        self.send_request(nth, place);
        nth
    }

    fn send_request(&mut self, nth: usize, place: usize) {
        let request = &mut self.requests[nth];
        request.tries += 1;
        let tries = request.tries;
        let first = request.first_place;
        if place != first && tries > 1 {
            self.coverage.fault("retried-elsewhere");
        }
        let delay_ms = if self.calm { 1 } else { self.rng.between(1, 20) };
        if let Some(node) = self.node_at(place) {
            self.after(delay_ms, Event::Request { node, nth });
        }
        if tries < TRIES_MAX {
            self.after(2_500, Event::Unanswered { nth, tries });
        }
    }

    pub(crate) fn unanswered(&mut self, nth: usize, tries: u32) {
        let request = &self.requests[nth];
        if request.answer.is_none() && request.tries == tries {
            let first = request.first_place;
            let place = if self.rng.chance(600) { first } else { self.rng.index(3) };
            self.send_request(nth, place);
        }
    }

    pub(crate) fn requested(&mut self, i: usize, nth: usize) {
        if !self.nodes[i].up {
            return;
        }
        let command = self.requests[nth].command.clone();
        let now_ms = self.nodes[i].local(self.now_ms);
        let node = &mut self.nodes[i];
        let Ok((step, reply)) = node.cell.command(&node.shelf, &command, now_ms) else { return };
        if node.lacking && reply.as_ref().is_err_and(|refusal| refusal.problem == Problem::NotFound) {
            // It may be what is lacking: nothing is denied, and the user comes again.
            return self.commit(i, step, None);
        }
        let own = step.entries.last().map(|entry| entry.dot);
        self.note(|| format!("{i} {:?} by {}: {reply:?}", command.ask.op(), command.user));
        self.commit(i, step, Some(Effect::Reply { call: nth, reply: Box::new(reply), dot: own }));
    }

    /// The answer leaves; from now on its change counts as acknowledged.
    pub(crate) fn reply(&mut self, i: usize, nth: usize, reply: Result<Reply, Refusal>, dot: Option<Dot>) {
        if let (Ok(_), Some(dot)) = (&reply, dot) {
            self.journal.acked.push(dot);
        }
        if !self.calm && self.rng.chance(40) {
            self.coverage.fault("reply-lost");
            return;
        }
        if let Ok(reply) = &reply {
            self.begins_to_read(i, reply.order.into(), dot);
            if let Some(payment) = reply.payment {
                self.begins_to_read(i, payment.into(), dot);
            }
        }
        if reply.as_ref().is_err_and(|refusal| refusal.problem == Problem::Recovering) {
            return self.after(100, Event::Request { node: i, nth });
        }
        let home =
            reply.as_ref().err().and_then(|refusal| refusal.home.as_ref()).map(|home| home.node.region);
        if let Some(place) = home.and_then(|region| self.place_of(region))
            && place != self.nodes[i].place
            && self.requests[nth].tries < TRIES_MAX
        {
            self.send_request(nth, place);
            return;
        }
        self.requests[nth].answer = Some(reply.map_err(|refusal| refusal.problem));
    }
}
