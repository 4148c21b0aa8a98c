//! What clients were told. Everything in it was acknowledged: none of it may be lost.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// An order that was accepted, and what is known of it by answers alone.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) id: String,
    pub(super) user: String,
    /// The idempotency key it was placed under.
    pub(super) key: String,
    pub(super) total_minor: u64,
    /// Somebody else who was asked to pay.
    pub(super) payer: Option<String>,
    /// Its cancelling was acknowledged.
    pub(super) cancelled: bool,
    /// An answer showed it as paid.
    pub(super) paid: bool,
}

/// Every order that was acknowledged, by its id.
#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    pub(super) orders: BTreeMap<String, Order>,
}

/// The body that places an order of this total; the key is the platform's own number, too.
pub(super) fn placing(total_minor: u64, key: &str) -> Value {
    json!({
        "content": { "currency": "CNY", "lines": [{ "sku": "tea", "quantity": 1, "unit_minor": total_minor }] },
        "external_ref": format!("ref-{key}"),
    })
}

impl Book {
    /// An order was accepted.
    pub(super) fn placed(&mut self, id: String, user: &str, key: &str, total_minor: u64) {
        let order = Order {
            id: id.clone(),
            user: user.to_owned(),
            key: key.to_owned(),
            total_minor,
            payer: None,
            cancelled: false,
            paid: false,
        };
        self.orders.entry(id).or_insert(order);
    }

    /// Orders by who placed them.
    pub(super) fn by_user(&self) -> BTreeMap<&str, Vec<&Order>> {
        let mut by_user: BTreeMap<&str, Vec<&Order>> = BTreeMap::new();
        for order in self.orders.values() {
            by_user.entry(&order.user).or_default().push(order);
        }
        by_user
    }
}
