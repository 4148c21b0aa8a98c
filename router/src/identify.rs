//! Who asks, and what the request is routed by.

use cell_core::id::{OrderId, PaymentId, UserId};
use http::{HeaderMap, HeaderName};

use crate::config::Identity;
use crate::routes::{Captured, KeyKind, Route};

/// Names the caller in development mode, and to the node always.
pub(crate) const USER_HEADER: HeaderName = HeaderName::from_static("x-user-id");

/// What a request is routed by, read from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    User(UserId),
    Order(OrderId),
    Payment(PaymentId),
    Any,
}

/// Why a request cannot be given a key; the caller is at fault and nothing was sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentifyError {
    #[error("the X-User-Id header is missing")]
    NoUser,
    #[error("X-User-Id must be given once, 1 to 128 bytes of UTF-8 without control characters")]
    BadUser,
    #[error("the order id in the path is not 'ord_' and 26 characters of Crockford base 32 in lower case")]
    BadOrder,
    #[error("the payment id in the path is not 'pay_' and 26 characters of Crockford base 32 in lower case")]
    BadPayment,
}

/// A caller, where the route needs one, and the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identified {
    pub(crate) user: Option<UserId>,
    pub(crate) key: Key,
}

/// Reads caller and key. Routes that any region answers need no caller; on all others the node wants to know who asks,
/// also where an id in the path decides the way.
pub(crate) fn identify(
    identity: Identity,
    route: &Route,
    captured: Captured<'_>,
    headers: &HeaderMap,
) -> Result<Identified, IdentifyError> {
    let user = match (identity, route.key) {
        (_, KeyKind::Any) => None,
        (Identity::Header, _) => Some(user_of_header(headers)?),
    };
    // Parsed even where it is not the key, so that a malformed id gets the same answer on every route.
    let (order, payment) = match captured {
        Captured::Nothing => (None, None),
        Captured::Order(id) => (Some(id.parse::<OrderId>().map_err(|_| IdentifyError::BadOrder)?), None),
        Captured::Payment(id) => {
            (None, Some(id.parse::<PaymentId>().map_err(|_| IdentifyError::BadPayment)?))
        }
    };
    let key = match route.key {
        KeyKind::Any => Key::Any,
        KeyKind::User => Key::User(user.clone().ok_or(IdentifyError::NoUser)?),
        KeyKind::Order => Key::Order(order.ok_or(IdentifyError::BadOrder)?),
        KeyKind::Payment => Key::Payment(payment.ok_or(IdentifyError::BadPayment)?),
    };
    Ok(Identified { user, key })
}

/// Exactly one value: two would let the router and the node believe different ones.
fn user_of_header(headers: &HeaderMap) -> Result<UserId, IdentifyError> {
    let mut values = headers.get_all(USER_HEADER).iter();
    let value = values.next().ok_or(IdentifyError::NoUser)?;
    if values.next().is_some() {
        return Err(IdentifyError::BadUser);
    }
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| IdentifyError::BadUser)?;
    UserId::new(text).map_err(|_| IdentifyError::BadUser)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::{Found, find};
    use http::{HeaderValue, Method};

    const ORDER: &str = "ord_01234567890123456789abcdef";

    fn key(method: Method, path: &str, users: &[&str]) -> Result<Key, IdentifyError> {
        let mut headers = HeaderMap::new();
        for user in users {
            headers.append(USER_HEADER, HeaderValue::from_str(user).unwrap());
        }
        let Found::Route(route, captured) = find(&method, path) else { panic!("{path} is no route") };
        identify(Identity::Header, route, captured, &headers).map(|found| found.key)
    }

    #[test]
    fn the_key_is_what_the_table_says() {
        let alice = Key::User(UserId::new("alice").unwrap());
        assert_eq!(key(Method::GET, "/v1/events", &["alice"]), Ok(alice));
        let order = Key::Order(ORDER.parse().unwrap());
        let path = format!("/v1/orders/{ORDER}/pay");
        assert_eq!(key(Method::POST, &path, &["alice"]), Ok(order));
        assert_eq!(key(Method::POST, "/v1/payments/callback", &[]), Ok(Key::Any));
    }

    #[test]
    fn a_caller_must_be_named_once_and_legally() {
        assert_eq!(key(Method::GET, "/v1/orders", &[]), Err(IdentifyError::NoUser));
        assert_eq!(key(Method::GET, "/v1/orders", &[""]), Err(IdentifyError::BadUser));
        assert_eq!(key(Method::GET, "/v1/orders", &["a", "a"]), Err(IdentifyError::BadUser));
        let long = "x".repeat(129);
        assert_eq!(key(Method::GET, "/v1/orders", &[&long]), Err(IdentifyError::BadUser));
    }

    #[test]
    fn an_id_in_the_path_must_be_one_even_where_it_is_not_the_key() {
        assert_eq!(key(Method::GET, "/v1/orders/7", &["a"]), Err(IdentifyError::BadOrder));
        let wrong_kind = format!("/v1/payments/{ORDER}");
        assert_eq!(key(Method::GET, &wrong_kind, &["a"]), Err(IdentifyError::BadPayment));
        let not_the_key = "/v1/pay-requests/7/withdraw";
        assert_eq!(key(Method::POST, not_the_key, &["a"]), Err(IdentifyError::BadPayment));
    }
}
