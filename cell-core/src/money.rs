//! Amounts: integer minor units and an ISO 4217 code. No floating point, no silent overflow, nothing below zero.

use crate::order::OrderContent;

/// Largest amount of one order, in minor units: far above any order, far below where sums could overflow.
pub const AMOUNT_MINOR_MAX: u64 = 1_000_000_000_000;

/// Why an amount is refused; the caller's input is at fault and nothing was touched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    #[error("'{0}' is not an ISO 4217 currency known here")]
    Currency(String),
    #[error("with {at} the total is above {AMOUNT_MINOR_MAX}")]
    Overflow { at: String },
    #[error("the total is below zero")]
    Negative,
    #[error("the total is above {AMOUNT_MINOR_MAX}")]
    TooLarge,
}

/// ISO 4217 codes of circulating currencies.
const CURRENCIES: &str = "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP \
BYN BZD CAD CDF CHF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD \
HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL \
MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB \
RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS \
VED VES VND VUV WST XAF XCD XOF XPF YER ZAR ZMW ZWG";

#[must_use]
pub fn is_currency(code: &str) -> bool {
    code.len() == 3 && CURRENCIES.split(' ').any(|known| known == code)
}

pub(crate) fn checked_total(content: &OrderContent) -> Result<u64, MoneyError> {
    if !is_currency(&content.currency) {
        return Err(MoneyError::Currency(content.currency.clone()));
    }
    let mut plus = 0u64;
    for (i, line) in content.lines.iter().enumerate() {
        let amount = line.quantity.checked_mul(line.unit_minor);
        plus = amount
            .and_then(|amount| plus.checked_add(amount))
            .ok_or_else(|| MoneyError::Overflow { at: format!("lines/{i}") })?;
    }
    let sum = |parts: [(&str, u64); 4], start: u64| {
        parts.iter().try_fold(start, |sum, (name, part)| {
            sum.checked_add(*part).ok_or_else(|| MoneyError::Overflow { at: (*name).to_owned() })
        })
    };
    let plus = sum(
        [
            ("foreign_shipping_minor", content.foreign_shipping_minor),
            ("forwarding_fee_minor", content.forwarding_fee_minor),
            ("service_fee_minor", content.service_fee_minor),
            ("duty_minor", content.duty_minor),
        ],
        plus,
    )?;
    let minus = sum(
        [
            ("promotions_minor", content.promotions_minor),
            ("coupon_minor", content.coupon_minor),
            ("points_minor", content.points_minor),
            ("", 0),
        ],
        0,
    )?;
    let total = plus.checked_sub(minus).ok_or(MoneyError::Negative)?;
    if total > AMOUNT_MINOR_MAX { Err(MoneyError::TooLarge) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::Line;

    fn content(lines: &[(u64, u64)]) -> OrderContent {
        let line = |(quantity, unit_minor): &(u64, u64)| Line {
            sku: "s".into(),
            title: String::new(),
            quantity: *quantity,
            unit_minor: *unit_minor,
        };
        OrderContent {
            currency: "CNY".into(),
            lines: lines.iter().map(line).collect(),
            promotions_minor: 0,
            coupon_minor: 0,
            points_minor: 0,
            foreign_shipping_minor: 0,
            forwarding_fee_minor: 0,
            service_fee_minor: 0,
            duty_minor: 0,
        }
    }

    #[test]
    fn a_total_is_items_less_reductions_plus_fees() {
        let mut order = content(&[(2, 500), (1, 250)]);
        order.coupon_minor = 200;
        order.duty_minor = 30;
        assert_eq!(order.total_minor(), Ok(1_080));
    }

    #[test]
    fn amounts_that_overflow_or_fall_below_zero_are_refused_by_name() {
        assert_eq!(
            content(&[(1, 1), (u64::MAX, 2)]).total_minor(),
            Err(MoneyError::Overflow { at: "lines/1".into() })
        );
        let mut order = content(&[(1, 100)]);
        order.points_minor = 101;
        assert_eq!(order.total_minor(), Err(MoneyError::Negative));
        assert_eq!(content(&[(1, AMOUNT_MINOR_MAX + 1)]).total_minor(), Err(MoneyError::TooLarge));
        order.currency = "cny".into();
        assert_eq!(order.total_minor(), Err(MoneyError::Currency("cny".into())));
    }
}
