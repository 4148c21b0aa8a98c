//! What events say: records, decisions, facts, and the cell's own.

use cell_core::event as ev;
use cell_core::order as or;
use cell_core::payment as pa;

use super::Samples;

impl Samples {
    fn content(&self) -> or::OrderContent {
        let n = self.num();
        let line = || or::Line {
            sku: self.text(),
            title: self.text(),
            quantity: self.num(),
            unit_minor: self.num(),
        };
        or::OrderContent {
            currency: self.text(),
            lines: self.many(line),
            promotions_minor: n,
            coupon_minor: n,
            points_minor: n,
            foreign_shipping_minor: n,
            forwarding_fee_minor: n,
            service_fee_minor: n,
            duty_minor: n,
        }
    }
    pub(super) fn permit(&self) -> pa::Permit {
        pa::Permit {
            order: self.order(),
            buyer: self.user(),
            payer: self.user(),
            amount_minor: self.num(),
            currency: self.text(),
            content: self.hash(),
            until_ms: self.num(),
            until_from_command: self.flag(),
            command: self.sized_id16(),
        }
    }
    pub(super) fn refund(&self) -> or::RefundCase {
        let case = self.sized_id16();
        or::RefundCase { case, intent: self.text(), payment: self.payment(), amount_minor: self.num() }
    }
    fn reconciled(&self) -> or::Reconciled {
        let verdict = || or::Verdict {
            place: self.num(),
            hash: self.hash(),
            ruling: self.one_of(or::Ruling::Withdrawn, or::Ruling::ALL),
            asks: self.maybe(|| self.refund()),
            user: self.maybe(|| self.user()),
            command: self.maybe(|| self.id16(1)),
        };
        or::Reconciled { epoch: self.epoch(), from: self.num(), to: self.num(), verdicts: self.many(verdict) }
    }
    fn noted(&self) -> or::FactNoted {
        or::FactNoted { kind: self.num(), outside: self.text() }
    }
    fn case(&self) -> or::CaseOpened {
        or::CaseOpened { subject: self.text(), reason: self.text() }
    }

    fn resolved(&self) -> or::CaseResolved {
        let with = self.one_of(or::Remedy::Refund, or::Remedy::ALL);
        or::CaseResolved { subject: self.text(), with, identity: self.text(), reason: self.text() }
    }

    fn order_decisions(&self) -> Vec<or::OrderDecision> {
        use or::OrderDecision as D;
        let (payment, refund) = (self.payment(), self.maybe(|| self.refund()));
        vec![
            D::PermitOpened(or::PermitOpened { permit: self.permit() }),
            D::PermitClosing(or::PermitClosing { payment, why: self.one_of(or::Why::Cancel, or::Why::ALL) }),
            D::PermitClosed(or::PermitClosed { payment, how: self.one_of(or::How::Expired, or::How::ALL) }),
            D::CaptureSettled(or::CaptureSettled {
                intent: self.text(),
                payment,
                amount_minor: self.num(),
                verdict: self.one_of(or::CaptureVerdict::Applied, or::CaptureVerdict::ALL),
                refund: refund.clone(),
            }),
            D::RefundSettled(or::RefundSettled {
                refund: self.text(),
                intent: self.text(),
                case: self.id16(2),
                amount_minor: self.num(),
                verdict: self.one_of(or::RefundVerdict::Settled, or::RefundVerdict::ALL),
            }),
            D::Cancelled(or::Cancelled { refund }),
            D::Expired(or::Expired {}),
            D::Reconciled(self.reconciled()),
            D::Stalled(or::Stalled { payment, missing: self.text() }),
            D::CaseOpened(self.case()),
            D::RefundGranted(or::RefundGranted { refund: self.refund() }),
            D::Amended(or::Amended { content: self.content().into() }),
            D::FactNoted(self.noted()),
            D::CaseResolved(self.resolved()),
        ]
    }

    fn payment_decisions(&self) -> Vec<pa::PaymentDecision> {
        use pa::PaymentDecision as D;
        let (k, text) = (self.num(), self.text());
        vec![
            D::Received(pa::Received {}),
            D::Accepted(pa::Accepted { card: text.clone() }),
            D::AttemptStarted(pa::AttemptStarted { k, key: self.id16(4), expires_at_ms: k }),
            D::AttemptEnded(pa::AttemptEnded {
                k,
                end: self.one_of(pa::AttemptEnd::Closed, pa::AttemptEnd::ALL),
                code: text.clone(),
            }),
            D::Ended(pa::Ended { how: self.one_of(or::How::Declined, or::How::ALL), code: text.clone() }),
            D::EndAmended(pa::EndAmended { intent: text }),
            D::FactNoted(self.noted()),
            D::Reconciled(self.reconciled()),
            D::ClosingAsked(pa::ClosingAsked { why: self.one_of(or::Why::Expiry, or::Why::ALL) }),
            D::RefundOrphan(pa::RefundOrphan { refund: self.refund() }),
            D::CaseOpened(self.case()),
            D::CaseResolved(self.resolved()),
        ]
    }

    fn facts(&self) -> Vec<ev::Fact> {
        let (payment, order, n) = (self.payment(), self.order(), self.num());
        vec![
            ev::Fact::Capture(ev::Capture {
                intent: self.text(),
                key: self.id16(5),
                k: n,
                permit: self.permit(),
                amount_minor: n,
                currency: self.text(),
                at_ms: n,
                order_epoch: self.maybe(|| self.epoch()),
                payment_epoch: self.maybe(|| self.epoch()),
            }),
            ev::Fact::Refund(ev::Refund {
                refund: self.text(),
                intent: self.text(),
                case: self.id16(6),
                payment,
                order,
                amount_minor: n,
                currency: self.text(),
                at_ms: n,
            }),
            ev::Fact::Failure(ev::Failure {
                intent: self.text(),
                key: self.id16(7),
                k: n,
                payment,
                order,
                kind: self.one_of(ev::FailureKind::Retryable, ev::FailureKind::ALL),
                code: self.text(),
            }),
            ev::Fact::Barred(ev::Barred { payment, order }),
        ]
    }

    pub(super) fn bodies(&self) -> Vec<(String, ev::Body)> {
        use ev::Body as B;
        let record = or::OrderRecord {
            user: self.user(),
            key: self.text(),
            content: self.content().into(),
            pay_window_ms: self.num(),
            external_ref: self.text(),
            sealed: self.blob(),
            sealed_key: self.text(),
            attributes: self.text(),
            time_ms: self.num(),
        };
        let command = ev::CommandRef {
            user: self.user(),
            op: self.one_of(ev::Op::Ask, ev::Op::ALL),
            id: self.id16(8),
            digest: self.id16(9),
        };
        let decided = |body| {
            let inherits = self.many(|| self.hash());
            let command = self.maybe(|| command.clone());
            B::Decided(ev::Decided { epoch: self.epoch(), place: self.num(), command, inherits, body })
        };
        let origin = self.event_id();
        let others = [
            ("record-order", B::Record(ev::Record::Order(record))),
            ("record-permit", B::Record(ev::Record::Permit(self.permit()))),
            ("carried", B::Carried(ev::Carried { origin, at: self.hlc(), event: self.blob() })),
            (
                "succeeds",
                B::Succeeds(ev::Succeeds { old: self.actor(), last: self.num(), hash: self.hash() }),
            ),
            ("beat", B::Beat(ev::Beat { wall_ms: self.num() })),
            ("placed", B::Placed(ev::Placed { slots: self.many(|| self.slot()), epoch: self.epoch() })),
            ("closed", B::Closed(ev::Closed { actor: self.actor(), last: self.num() })),
            (
                "audit",
                B::Audit(ev::Audit {
                    identity: self.text(),
                    action: self.text(),
                    subject: self.text(),
                    reason: self.text(),
                }),
            ),
        ];
        let others = others.into_iter().map(|(name, body)| (name.to_owned(), body));
        let of_order = self.order_decisions().into_iter();
        let of_order = of_order.map(|d| (d.name().to_owned(), decided(ev::Decision::Order(d))));
        let of_payment = self.payment_decisions().into_iter();
        let of_payment =
            of_payment.map(|d| (format!("payment-{}", d.name()), decided(ev::Decision::Payment(d))));
        let facts = self.facts().into_iter().map(|fact| {
            let name = match &fact {
                ev::Fact::Capture(_) => "fact-capture",
                ev::Fact::Refund(_) => "fact-refund",
                ev::Fact::Failure(_) => "fact-failure",
                ev::Fact::Barred(_) => "fact-barred",
            };
            (name.to_owned(), ev::Body::Fact(fact))
        });
        others.chain(of_order).chain(of_payment).chain(facts).collect()
    }
}
