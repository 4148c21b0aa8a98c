//! The published graph, pair by pair: every (status, command) is allowed, or refused by name.

use cell_core::event::Op;
use cell_core::graph::{OrderStatus, PaymentStatus, order_admits, payment_admits};

/// One line per status; columns in the order of [`Op::ALL`]. A change of the graph must show here.
const ORDERS: &str = "\
payable: place=allowed amend=allowed pay=allowed ask=allowed withdraw=no-permit-open cancel=allowed refund=not-paid accept=wrong-kind decline=wrong-kind discard=wrong-kind
permit-open: place=allowed amend=permit-open pay=permit-open ask=permit-open withdraw=allowed cancel=allowed refund=not-paid accept=wrong-kind decline=wrong-kind discard=wrong-kind
permit-closing: place=allowed amend=permit-open pay=permit-open ask=permit-open withdraw=closing cancel=allowed refund=not-paid accept=wrong-kind decline=wrong-kind discard=wrong-kind
cancel-pending: place=allowed amend=cancel-pending pay=cancel-pending ask=cancel-pending withdraw=cancel-pending cancel=cancel-pending refund=not-paid accept=wrong-kind decline=wrong-kind discard=wrong-kind
paid: place=allowed amend=already-paid pay=already-paid ask=already-paid withdraw=already-paid cancel=allowed refund=allowed accept=wrong-kind decline=wrong-kind discard=wrong-kind
cancelled: place=allowed amend=already-cancelled pay=already-cancelled ask=already-cancelled withdraw=already-cancelled cancel=already-cancelled refund=already-cancelled accept=wrong-kind decline=wrong-kind discard=wrong-kind
expired: place=allowed amend=already-expired pay=already-expired ask=already-expired withdraw=already-expired cancel=already-expired refund=already-expired accept=wrong-kind decline=wrong-kind discard=wrong-kind
";

const PAYMENTS: &str = "\
requested: place=wrong-kind amend=wrong-kind pay=wrong-kind ask=wrong-kind withdraw=wrong-kind cancel=wrong-kind refund=wrong-kind accept=not-received decline=not-received discard=allowed
received: place=wrong-kind amend=wrong-kind pay=wrong-kind ask=wrong-kind withdraw=wrong-kind cancel=wrong-kind refund=wrong-kind accept=allowed decline=allowed discard=allowed
accepted: place=wrong-kind amend=wrong-kind pay=wrong-kind ask=wrong-kind withdraw=wrong-kind cancel=wrong-kind refund=wrong-kind accept=already-accepted decline=already-accepted discard=already-accepted
closing: place=wrong-kind amend=wrong-kind pay=wrong-kind ask=wrong-kind withdraw=wrong-kind cancel=wrong-kind refund=wrong-kind accept=closing decline=closing discard=closing
ended: place=wrong-kind amend=wrong-kind pay=wrong-kind ask=wrong-kind withdraw=wrong-kind cancel=wrong-kind refund=wrong-kind accept=already-ended decline=already-ended discard=already-ended
try-again: place=wrong-kind amend=wrong-kind pay=wrong-kind ask=wrong-kind withdraw=wrong-kind cancel=wrong-kind refund=wrong-kind accept=allowed decline=allowed discard=already-accepted
";

#[test]
fn every_pair_of_order_status_and_command_is_allowed_or_refused_by_name() {
    let line = |status: &OrderStatus| {
        let cells = Op::ALL.iter().map(|op| format!(" {op}={}", order_admits(*status, *op)));
        format!("{status}:{}\n", cells.collect::<String>())
    };
    assert_eq!(OrderStatus::ALL.iter().map(line).collect::<String>(), ORDERS);
}

#[test]
fn every_pair_of_payment_status_and_command_is_allowed_or_refused_by_name() {
    let line = |status: &PaymentStatus| {
        let cells = Op::ALL.iter().map(|op| format!(" {op}={}", payment_admits(*status, *op)));
        format!("{status}:{}\n", cells.collect::<String>())
    };
    assert_eq!(PaymentStatus::ALL.iter().map(line).collect::<String>(), PAYMENTS);
}
