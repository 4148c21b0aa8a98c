//! The JSON of requests and answers. Clients must expect new fields in answers; unknown fields in requests are refused.

use std::fmt;
use std::marker::PhantomData;

use cell_core::entity::{Blocked, Entity, Reading};
use cell_core::id::UserId;
use cell_core::order::{Line, Order, OrderContent, OrderRecord, uuid7_time_ms};
use cell_core::payment::Payment;
use cell_core::rules::PAY_WINDOW_MS;
use cell_core::settle::expires_at_ms;
use cell_core::version::Dot;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::problem::Problem;

/// Longest attributes document, in bytes.
const ATTRIBUTES_BYTES_MAX: usize = 4 * 1024;
/// Longest sealed field, in bytes of its base text.
const SEALED_BYTES_MAX: usize = 8 * 1024;
const TEXT_BYTES_MAX: usize = 256;
/// Longest time to pay.
const PAY_WINDOW_S_MAX: u64 = 7 * 24 * 3_600;

/// A JSON object and nothing else: the plain reader of a shape would take an array of its members, too.
#[derive(Debug)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<T>, D::Error> {
        struct Members<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = T;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(Members(PhantomData)).map(Object)
    }
}

fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Object::deserialize(deserializer).map(|Object(shape)| shape)
}

fn objects<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let objects = Vec::<Object<T>>::deserialize(deserializer)?;
    Ok(objects.into_iter().map(|Object(shape)| shape).collect())
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct LineShape {
    pub(crate) sku: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) title: String,
    pub(crate) quantity: u64,
    pub(crate) unit_minor: u64,
}

/// What is bought and what it costs.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ContentShape {
    pub(crate) currency: String,
    #[serde(deserialize_with = "objects")]
    pub(crate) lines: Vec<LineShape>,
    #[serde(default)]
    pub(crate) promotions_minor: u64,
    #[serde(default)]
    pub(crate) coupon_minor: u64,
    #[serde(default)]
    pub(crate) points_minor: u64,
    #[serde(default)]
    pub(crate) foreign_shipping_minor: u64,
    #[serde(default)]
    pub(crate) forwarding_fee_minor: u64,
    #[serde(default)]
    pub(crate) service_fee_minor: u64,
    #[serde(default)]
    pub(crate) duty_minor: u64,
}

impl ContentShape {
    pub(crate) fn content(self) -> OrderContent {
        let line = |line: LineShape| Line {
            sku: line.sku,
            title: line.title,
            quantity: line.quantity,
            unit_minor: line.unit_minor,
        };
        OrderContent {
            currency: self.currency,
            lines: self.lines.into_iter().map(line).collect(),
            promotions_minor: self.promotions_minor,
            coupon_minor: self.coupon_minor,
            points_minor: self.points_minor,
            foreign_shipping_minor: self.foreign_shipping_minor,
            forwarding_fee_minor: self.forwarding_fee_minor,
            service_fee_minor: self.service_fee_minor,
            duty_minor: self.duty_minor,
        }
    }

    fn of(content: &OrderContent) -> ContentShape {
        let line = |line: &Line| LineShape {
            sku: line.sku.clone(),
            title: line.title.clone(),
            quantity: line.quantity,
            unit_minor: line.unit_minor,
        };
        ContentShape {
            currency: content.currency.clone(),
            lines: content.lines.iter().map(line).collect(),
            promotions_minor: content.promotions_minor,
            coupon_minor: content.coupon_minor,
            points_minor: content.points_minor,
            foreign_shipping_minor: content.foreign_shipping_minor,
            forwarding_fee_minor: content.forwarding_fee_minor,
            service_fee_minor: content.service_fee_minor,
            duty_minor: content.duty_minor,
        }
    }
}

/// `POST /v1/orders`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlaceShape {
    #[serde(deserialize_with = "object")]
    pub(crate) content: ContentShape,
    #[serde(default)]
    pub(crate) pay_window_s: Option<u64>,
    #[serde(default)]
    pub(crate) external_ref: String,
    /// Ciphertext, opaque here.
    #[serde(default)]
    pub(crate) sealed: String,
    #[serde(default)]
    pub(crate) sealed_key: String,
    /// Any JSON, returned as given.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub(crate) attributes: Option<Box<RawValue>>,
}

impl PlaceShape {
    /// The record that this request makes, the same in every region.
    pub(crate) fn record(self, user: &UserId, key: &str) -> Result<OrderRecord, Problem> {
        let attributes = self.attributes.map(|raw| raw.get().to_owned()).unwrap_or_default();
        for (pointer, len, max) in [
            ("/attributes", attributes.len(), ATTRIBUTES_BYTES_MAX),
            ("/sealed", self.sealed.len(), SEALED_BYTES_MAX),
            ("/sealed_key", self.sealed_key.len(), TEXT_BYTES_MAX),
            ("/external_ref", self.external_ref.len(), TEXT_BYTES_MAX),
        ] {
            if len > max {
                return Err(Problem::invalid(pointer, format!("{len} bytes; at most {max}")));
            }
        }
        for (i, line) in self.content.lines.iter().enumerate() {
            if line.sku.len() > TEXT_BYTES_MAX || line.title.len() > TEXT_BYTES_MAX {
                let detail = format!("sku and title have at most {TEXT_BYTES_MAX} bytes");
                return Err(Problem::invalid(format!("/content/lines/{i}"), detail));
            }
        }
        if self.pay_window_s.is_some_and(|window| window == 0 || window > PAY_WINDOW_S_MAX) {
            let detail = format!("a time to pay has 1 to {PAY_WINDOW_S_MAX} seconds");
            return Err(Problem::invalid("/pay_window_s", detail));
        }
        Ok(OrderRecord {
            user: user.clone(),
            key: key.to_owned(),
            content: self.content.content().into(),
            pay_window_ms: self.pay_window_s.map_or(PAY_WINDOW_MS, |window| window * 1_000),
            external_ref: self.external_ref,
            sealed: self.sealed.into_bytes().into(),
            sealed_key: self.sealed_key,
            attributes,
            time_ms: uuid7_time_ms(key).unwrap_or(0),
        })
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CardShape {
    /// The gateway's token of a card, 1 to 256 bytes; never a card's number.
    pub(crate) card_token: String,
}

impl CardShape {
    pub(crate) fn card(self) -> Result<String, Problem> {
        if (1..=TEXT_BYTES_MAX).contains(&self.card_token.len()) {
            return Ok(self.card_token);
        }
        Err(Problem::invalid("/card_token", format!("a card's token has 1 to {TEXT_BYTES_MAX} bytes")))
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AskShape {
    pub(crate) payer: String,
    #[serde(default)]
    pub(crate) window_s: Option<u64>,
    #[serde(default)]
    pub(crate) until_ms: Option<u64>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RefundShape {
    #[serde(default)]
    pub(crate) amount_minor: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EmptyShape {}

/// An order as a reader sees it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OrderShape {
    id: String,
    user: String,
    status: &'static str,
    content: ContentShape,
    total_minor: u64,
    created_at_ms: u64,
    expires_at_ms: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    external_ref: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    attributes: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "String::is_empty")]
    sealed: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    sealed_key: String,
    /// The payment under way, if one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    open_payment: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paid_by: Option<String>,
    /// Taken for this order.
    paid_minor: u64,
    /// Given back of it, done or owed.
    refunded_minor: u64,
    /// Money is being looked for at the gateway.
    payment_being_checked: bool,
    /// What a person has to look at, still.
    cases: Vec<String>,
    /// How many decisions and strays its history has here: a reader's version.
    decisions: usize,
    strays: usize,
    /// Of what is said here.
    #[serde(skip)]
    pub(super) version: Option<Dot>,
}

/// Whether it is `user`'s and holds something that only a newer version can read: it is there, and cannot be shown.
pub(crate) fn is_frozen(entity: &Entity, user: &UserId) -> bool {
    if entity.id.order().is_some() {
        let reading = Reading::<Order>::of(entity);
        let theirs = reading.record.as_ref().is_some_and(|record| record.user == *user);
        return theirs && reading.blocked == Some(Blocked::Newer);
    }
    let reading = Reading::<Payment>::of(entity);
    let theirs = reading.record.as_ref().is_some_and(|it| it.payer == *user || it.buyer == *user);
    theirs && reading.blocked == Some(Blocked::Newer)
}

/// `None` if the order is not readable (yet) or is not `user`'s.
pub(crate) fn order_shape(entity: &Entity, user: &UserId, now_ms: u64) -> Option<OrderShape> {
    let reading = Reading::<Order>::of(entity);
    let record = reading.record.as_ref()?;
    let state = reading.state.as_ref()?;
    if record.user != *user {
        return None;
    }
    let open = state.open_permit();
    Some(OrderShape {
        id: entity.id.to_string(),
        user: record.user.to_string(),
        status: state.label(),
        total_minor: state.content.total_minor().unwrap_or(0),
        content: ContentShape::of(&state.content),
        created_at_ms: reading.created.wall_ms,
        expires_at_ms: expires_at_ms(&reading),
        external_ref: record.external_ref.clone(),
        attributes: RawValue::from_string(record.attributes.clone()).ok(),
        sealed: String::from_utf8_lossy(&record.sealed).into_owned(),
        sealed_key: record.sealed_key.clone(),
        open_payment: open.map(|(payment, _)| payment.to_string()),
        paid_by: state.applied.as_ref().map(|applied| applied.payment.to_string()),
        paid_minor: state.applied.as_ref().map_or(0, |applied| applied.amount_minor),
        refunded_minor: state.applied.as_ref().map_or(0, |applied| state.refunded_minor(&applied.intent)),
        payment_being_checked: open.is_some_and(|(_, permit)| now_ms >= permit.permit.until_ms),
        cases: state
            .cases
            .iter()
            .filter(|case| case.resolved.is_none())
            .map(|case| format!("{}: {}", case.subject, case.reason))
            .collect(),
        decisions: reading.history.len(),
        strays: reading.strays.len(),
        version: reading.version(),
    })
}

/// A payment, as its payer and its buyer see it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PaymentShape {
    id: String,
    order: String,
    buyer: String,
    payer: String,
    status: &'static str,
    amount_minor: u64,
    currency: String,
    until_ms: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    code: String,
    attempts: usize,
    /// Of what is said here.
    #[serde(skip)]
    pub(super) version: Option<Dot>,
}

/// `None` if the payment is not readable (yet) or concerns `user` not at all.
pub(crate) fn payment_shape(entity: &Entity, user: &UserId) -> Option<PaymentShape> {
    let reading = Reading::<Payment>::of(entity);
    let state = reading.state.as_ref()?;
    let permit = &state.permit;
    if permit.payer != *user && permit.buyer != *user {
        return None;
    }
    Some(PaymentShape {
        id: entity.id.to_string(),
        order: permit.order.to_string(),
        buyer: permit.buyer.to_string(),
        payer: permit.payer.to_string(),
        status: state.label(),
        amount_minor: permit.amount_minor,
        currency: permit.currency.clone(),
        until_ms: permit.until_ms,
        code: state.end_code.clone(),
        attempts: state.attempts.len(),
        version: reading.version(),
    })
}

/// The effective history of an order, a line a decision.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventShape {
    epoch: String,
    place: u64,
    what: &'static str,
    at_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'static str>,
}

pub(crate) fn event_shapes(entity: &Entity) -> Vec<EventShape> {
    let reading = Reading::<Order>::of(entity);
    let shape = |link: &cell_core::entity::Link<'_, cell_core::order::OrderDecision>| EventShape {
        epoch: link.decided.epoch.to_string(),
        place: link.decided.place,
        what: link.body.name(),
        at_ms: link.since.wall_ms,
        command: link.command().map(|command| command.op.as_str()),
    };
    reading.history.iter().map(shape).collect()
}
