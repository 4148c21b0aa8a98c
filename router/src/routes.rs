//! Every public route and what it is routed by, as data. A route that cannot be routed fails the build.

use std::fmt;

use http::Method;

/// Methods of the public API. `HEAD` is answered wherever `GET` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    Get,
    Post,
}

/// What a request is routed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// The caller's slot.
    User,
    /// The slot in the order id of the path.
    Order,
    /// The slot in the payment id of the path.
    Payment,
    /// Any region can answer, and nobody needs to be named.
    Any,
}

/// One row of the table: method, path with at most one `{order}` or `{payment}`, key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    pub method: Verb,
    pub path: &'static str,
    pub key: KeyKind,
}

/// The public API. Literal paths win over captures, so `/v1/orders/quote` is no order.
pub const ROUTES: &[Route] = &[
    post("/v1/orders", KeyKind::User),
    get("/v1/orders", KeyKind::User),
    post("/v1/orders/quote", KeyKind::Any),
    get("/v1/orders/{order}", KeyKind::Order),
    get("/v1/orders/{order}/events", KeyKind::Order),
    post("/v1/orders/{order}/pay", KeyKind::Order),
    post("/v1/orders/{order}/cancel", KeyKind::Order),
    post("/v1/orders/{order}/amend", KeyKind::Order),
    post("/v1/orders/{order}/pay-requests", KeyKind::Order),
    post("/v1/orders/{order}/refunds", KeyKind::Order),
    get("/v1/pay-requests", KeyKind::User),
    get("/v1/pay-requests/{payment}", KeyKind::Payment),
    post("/v1/pay-requests/{payment}/accept", KeyKind::Payment),
    post("/v1/pay-requests/{payment}/decline", KeyKind::Payment),
    // The payment is the payer's, but it is the buyer who withdraws: the buyer's home decides.
    post("/v1/pay-requests/{payment}/withdraw", KeyKind::User),
    get("/v1/payments/{payment}", KeyKind::Payment),
    get("/v1/notifications", KeyKind::User),
    get("/v1/events", KeyKind::User),
    post("/v1/payments/callback", KeyKind::Any),
    get("/openapi.json", KeyKind::Any),
];

const ORDER: &str = "{order}";
const PAYMENT: &str = "{payment}";

const _: () = assert_routable(ROUTES);

/// The id a path captured, not parsed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Captured<'p> {
    Nothing,
    Order(&'p str),
    Payment(&'p str),
}

/// What the table says about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found<'p> {
    Route(&'static Route, Captured<'p>),
    /// The path is known, the method is not; `allow` is the value of the `Allow` header.
    WrongMethod {
        allow: String,
    },
    Unknown,
}

/// Looks a request up.
pub(crate) fn find<'p>(method: &Method, path: &'p str) -> Found<'p> {
    let literal = |route: &&Route| !route.path.contains('{');
    let mut at_path: Vec<(&'static Route, Captured<'p>)> = ROUTES
        .iter()
        .filter(literal)
        .filter(|route| route.path == path)
        .map(|route| (route, Captured::Nothing))
        .collect();
    if at_path.is_empty() {
        at_path = ROUTES
            .iter()
            .filter(|route| !literal(route))
            .filter_map(|route| Some((route, capture(route.path, path)?)))
            .collect();
    }
    if let Some((route, captured)) = at_path.iter().find(|(route, _)| route.method.answers(method)) {
        return Found::Route(route, *captured);
    }
    if at_path.is_empty() {
        return Found::Unknown;
    }
    let allow: Vec<&str> = at_path.iter().map(|(route, _)| route.method.allow()).collect();
    Found::WrongMethod { allow: allow.join(", ") }
}

/// Matches segment by segment; a capture takes one segment that is not empty.
fn capture<'p>(pattern: &str, path: &'p str) -> Option<Captured<'p>> {
    let mut captured = Captured::Nothing;
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(captured),
            (Some(ORDER), Some(id)) if !id.is_empty() => captured = Captured::Order(id),
            (Some(PAYMENT), Some(id)) if !id.is_empty() => captured = Captured::Payment(id),
            (Some(want), Some(got)) if want == got => {}
            _ => return None,
        }
    }
}

// === impl Verb, Route ===

impl Verb {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Get => "GET",
            Verb::Post => "POST",
        }
    }

    fn answers(self, method: &Method) -> bool {
        match self {
            Verb::Get => method == Method::GET || method == Method::HEAD,
            Verb::Post => method == Method::POST,
        }
    }

    fn allow(self) -> &'static str {
        match self {
            Verb::Get => "GET, HEAD",
            Verb::Post => "POST",
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method.as_str(), self.path)
    }
}

const fn get(path: &'static str, key: KeyKind) -> Route {
    let method = Verb::Get;
    Route { method, path, key }
}

const fn post(path: &'static str, key: KeyKind) -> Route {
    let method = Verb::Post;
    Route { method, path, key }
}

// === What the compiler checks of the table ===

const fn assert_routable(routes: &[Route]) {
    let mut i = 0;
    while i < routes.len() {
        let path = routes[i].path.as_bytes();
        let orders = count(path, ORDER.as_bytes());
        let payments = count(path, PAYMENT.as_bytes());
        assert!(
            path.len() > 1 && path[0] == b'/' && path[path.len() - 1] != b'/',
            "a path starts with '/' and does not end with it"
        );
        assert!(
            count(path, b"{") == orders + payments && orders + payments <= 1,
            "a path captures at most one {{order}} or {{payment}} and nothing else"
        );
        match routes[i].key {
            KeyKind::Order => assert!(orders == 1, "a route keyed by order needs {{order}} in its path"),
            KeyKind::Payment => {
                assert!(payments == 1, "a route keyed by payment needs {{payment}} in its path")
            }
            KeyKind::User | KeyKind::Any => {}
        }
        let mut j = 0;
        while j < i {
            let same_method = routes[i].method as u8 == routes[j].method as u8;
            assert!(
                !(same_method && same(path, routes[j].path.as_bytes())),
                "a method and path stand in the table once"
            );
            j += 1;
        }
        i += 1;
    }
}

const fn count(text: &[u8], part: &[u8]) -> usize {
    let (mut at, mut found) = (0, 0);
    while at + part.len() <= text.len() {
        let (_, rest) = text.split_at(at);
        let (head, _) = rest.split_at(part.len());
        if same(head, part) {
            found += 1;
        }
        at += 1;
    }
    found
}

const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_of(method: Method, path: &str) -> Option<(KeyKind, Captured<'_>)> {
        match find(&method, path) {
            Found::Route(route, captured) => Some((route.key, captured)),
            _ => None,
        }
    }

    #[test]
    fn every_route_is_found_by_its_own_path_under_its_own_key() {
        for route in ROUTES {
            let method = Method::from_bytes(route.method.as_str().as_bytes()).unwrap();
            let path = route.path.replace(ORDER, "o").replace(PAYMENT, "p");
            let Found::Route(found, _) = find(&method, &path) else { panic!("{route} is not found") };
            assert_eq!(found, route);
        }
    }

    #[test]
    fn a_literal_path_is_never_taken_for_an_id() {
        let quote = key_of(Method::POST, "/v1/orders/quote");
        assert_eq!(quote, Some((KeyKind::Any, Captured::Nothing)));
        let callback = find(&Method::GET, "/v1/payments/callback");
        assert_eq!(callback, Found::WrongMethod { allow: "POST".into() });
    }

    #[test]
    fn ids_are_captured_as_they_stand() {
        let order = key_of(Method::GET, "/v1/orders/ord_1/events");
        assert_eq!(order, Some((KeyKind::Order, Captured::Order("ord_1"))));
        let withdraw = key_of(Method::POST, "/v1/pay-requests/pay_1/withdraw");
        assert_eq!(withdraw, Some((KeyKind::User, Captured::Payment("pay_1"))));
    }

    #[test]
    fn head_is_answered_where_get_is() {
        assert!(key_of(Method::HEAD, "/v1/orders").is_some());
        let wrong = find(&Method::PUT, "/v1/orders");
        let allow = "POST, GET, HEAD".into();
        assert_eq!(wrong, Found::WrongMethod { allow });
    }

    #[test]
    fn whatever_is_not_in_the_table_is_unknown() {
        for path in
            ["/", "", "*", "/v1", "/v1/orders/", "/v1/orders//events", "//v1/orders", "/v1/orders/a/b/c"]
        {
            assert_eq!(find(&Method::GET, path), Found::Unknown, "{path}");
        }
    }
}
