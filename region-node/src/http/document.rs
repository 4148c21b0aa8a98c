//! The OpenAPI document: from the table of routes that the server itself is built of, and the shapes it reads and writes.

use axum::routing::MethodRouter;
use serde_json::{Map, Value, json};
use utoipa::{PartialSchema, ToSchema};

use super::shapes::{
    AskShape, CardShape, ContentShape, EventShape, LineShape, OrderShape, PaymentShape, PlaceShape,
    RefundShape,
};
use super::{problem, version};
use crate::notice::Notice;

/// What a request's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    None,
    /// A JSON object without members, or nothing at all.
    Empty,
    Of(&'static str),
}

/// One operation: how it is called, and how it answers.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) summary: &'static str,
    pub(super) body: Body,
    /// Status and schema (empty: no body) of the answers that are no problem.
    pub(super) answers: &'static [(u16, &'static str)],
    /// Query parameters: name, type, what it does.
    pub(super) query: &'static [(&'static str, &'static str, &'static str)],
    /// Names of the problems it can answer with, beside those of every operation.
    pub(super) problems: &'static [&'static str],
    /// From a user: named by the edge, and with a key if it changes something.
    pub(super) of_user: bool,
}

/// A path, what serves it, and what is said of it.
pub(super) struct Route<S> {
    pub(super) path: &'static str,
    pub(super) handler: MethodRouter<S>,
    pub(super) operations: Vec<Operation>,
}

/// The document of these routes.
pub(super) fn document<S>(routes: &[Route<S>]) -> Value {
    let mut paths = Map::new();
    for route in routes {
        let mut item = Map::new();
        for operation in &route.operations {
            item.insert(operation.method.to_owned(), describe(route.path, operation));
        }
        paths.insert(route.path.to_owned(), item.into());
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Homecell",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Orders of the users at home here. Through a router each request is answered at the home of its \
                            user, order or payment; at a node's own port those of other regions can be read, too, as far as \
                            they have arrived. Clients must expect new members in answers; unknown members in requests are \
                            refused.",
            "license": { "name": "Apache-2.0" },
        },
        "paths": paths,
        "components": { "schemas": schemas(), "responses": { "problem": problem_response() } },
    })
}

fn schema(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn describe(path: &str, operation: &Operation) -> Value {
    let mut parameters: Vec<Value> = path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| {
            let about =
                if name == "order" { "An order's id: `ord_…`." } else { "A payment's id: `pay_…`." };
            json!({ "name": name, "in": "path", "required": true, "description": about,
                "schema": { "type": "string" } })
        })
        .collect();
    let header = |name: &str, required: bool, about: &str| {
        json!({ "name": name, "in": "header", "required": required, "description": about,
            "schema": { "type": "string" } })
    };
    let changes = operation.method == "post";
    if operation.of_user {
        parameters.push(header("X-User-Id", true, "The user, as the edge identified them."));
        let about = "As an earlier answer gave it, of any region: this one shows at least that, after a short wait. \
                     503 `version-not-here` if it does not come in time, 409 `lost-or-late` if it may never.";
        parameters.push(header("Cell-Version", false, about));
    }
    if changes && operation.of_user && !path.ends_with("/quote") {
        let about = "1 to 255 characters, a UUIDv7 at best. The same key with the same body is the same command, \
                     whichever region it reaches.";
        parameters.push(header("Idempotency-Key", true, about));
        parameters.push(header("traceparent", false, "W3C Trace Context; a new trace begins without it."));
        if path.contains('{') {
            let about = "Only if the order or payment is as this `ETag` says; else 412.";
            parameters.push(header("If-Match", false, about));
        }
    }
    if !changes && operation.answers.iter().any(|(status, _)| *status == 304) {
        parameters.push(header("If-None-Match", false, "304 if nothing has changed since this `ETag`."));
    }
    if path == "/v1/events" {
        let about = "Goes on behind this event; told at least once, told apart by the notice's `id`.";
        parameters.push(header("Last-Event-ID", false, about));
    }
    for (name, kind, about) in operation.query {
        parameters.push(json!({ "name": name, "in": "query", "required": false, "description": about,
            "schema": { "type": kind } }));
    }
    let mut responses = Map::new();
    for (status, name) in operation.answers {
        let mut response = json!({ "description": describe_status(*status) });
        if path == "/v1/events" {
            let about = "Server-sent events: `id` is a cursor, `event` the notice's kind, `data` the notice.";
            response = json!({ "description": about,
                "content": { "text/event-stream": { "schema": { "type": "string" } } } });
        } else if !name.is_empty() {
            response["content"] = json!({ "application/json": { "schema": schema(name) } });
        }
        let one = matches!(*name, "Order" | "Payment" | "OrderWithPayment");
        if one || *status == 304 {
            response["headers"]["ETag"] = json!({ "schema": { "type": "string" } });
        }
        if one || *status == 304 || matches!(*name, "Orders" | "Payments" | "Events") {
            let about = "The version of what is shown, opaque, and of what the request presented: to be presented \
                         with the next one, in whatever region.";
            let schema = json!({ "type": "string", "maxLength": version::BYTES_MAX });
            response["headers"]["Cell-Version"] = json!({ "description": about, "schema": schema });
        }
        responses.insert(status.to_string(), response);
    }
    let mut names: Vec<&str> = operation.problems.to_vec();
    if operation.of_user {
        names.extend(["unidentified", "bad-version", "lost-or-late", "version-not-here"]);
        if changes && !path.ends_with("/quote") {
            names.extend(["idempotency-key-missing", "key-reused", "misdirected", "busy"]);
        }
    }
    names.push("unavailable");
    for name in names {
        let status = problem::status_of(name).to_string();
        let known = responses
            .entry(status)
            .or_insert_with(|| json!({ "$ref": "#/components/responses/problem", "x-problems": [] }));
        if let Some(list) = known.get_mut("x-problems").and_then(Value::as_array_mut) {
            list.push(json!(name));
        }
    }
    let mut described = json!({
        "summary": operation.summary,
        "operationId": operation_id(operation.method, path),
        "parameters": parameters,
        "responses": responses,
    });
    let body = match operation.body {
        Body::None => None,
        Body::Empty => Some((false, json!({ "type": "object", "additionalProperties": false }))),
        Body::Of(name) => Some((true, schema(name))),
    };
    if let Some((required, schema)) = body {
        described["requestBody"] =
            json!({ "required": required, "content": { "application/json": { "schema": schema } } });
    }
    described
}

fn operation_id(method: &str, path: &str) -> String {
    let words = path.split('/').filter(|part| !part.is_empty() && *part != "v1");
    let words = words.map(|part| part.trim_matches(['{', '}']).replace(['-', '.'], "_"));
    std::iter::once(method.to_owned()).chain(words).collect::<Vec<_>>().join("_")
}

fn describe_status(status: u16) -> &'static str {
    match status {
        200 => "As it stands; of a command: it had been carried out before.",
        201 => "Carried out, durably.",
        202 => "Accepted, durably; what was asked follows, or does not: look again, or listen.",
        204 => "Taken.",
        304 => "Unchanged.",
        _ => "",
    }
}

fn schemas() -> Value {
    fn of<T: PartialSchema>() -> Value {
        serde_json::to_value(T::schema()).unwrap_or(Value::Null)
    }
    fn named<T: ToSchema>(name: &str) -> (String, Value) {
        (name.to_owned(), of::<T>())
    }
    let list = |of: &str| {
        json!({ "type": "object", "required": ["items"], "properties": {
            "items": { "type": "array", "items": schema(of) },
            "next": { "type": "string", "description": "The cursor of the next page." } } })
    };
    let problem = json!({ "type": "object", "required": ["type", "title", "status", "detail", "retryable"],
        "properties": {
            "type": { "type": "string", "enum": problem::NAMES.iter().chain(problem::AT_THE_EDGE)
                .map(|(name, _, _)| format!("{}{name}", problem::TYPES)).collect::<Vec<_>>() },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string" },
            "retryable": { "type": "boolean" },
            "pointer": { "type": "string", "description": "JSON pointer into the request." },
            "home": { "type": "string", "description": "Of a `misdirected` request: the region that decides." },
            "epoch": { "type": "string" } } });
    let mut schemas: Map<String, Value> = [
        named::<LineShape>("Line"),
        named::<ContentShape>("Content"),
        named::<PlaceShape>("Place"),
        named::<CardShape>("Card"),
        named::<AskShape>("Ask"),
        named::<RefundShape>("Refund"),
        named::<OrderShape>("Order"),
        named::<PaymentShape>("Payment"),
        named::<EventShape>("Event"),
        named::<Notice>("Notice"),
    ]
    .into_iter()
    .collect();
    let both = json!({ "allOf": [schema("Order"), { "type": "object",
        "properties": { "payment": schema("Payment") } }] });
    schemas.insert("OrderWithPayment".to_owned(), both);
    let quote = json!({ "type": "object", "required": ["total_minor", "currency"], "properties": {
        "total_minor": { "type": "integer" }, "currency": { "type": "string" } } });
    schemas.insert("Quote".to_owned(), quote);
    schemas.insert("Events".to_owned(), json!({ "type": "array", "items": schema("Event") }));
    for (name, of) in [("Orders", "Order"), ("Payments", "Payment"), ("Notices", "Notice")] {
        schemas.insert(name.to_owned(), list(of));
    }
    schemas.insert("Problem".to_owned(), problem);
    let text = Value::from(schemas).to_string();
    // The shapes are called by what they are, not by their types' names.
    let text = ["Line", "Content"]
        .iter()
        .fold(text, |text, name| text.replace(&format!("{name}Shape\""), &format!("{name}\"")));
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

fn problem_response() -> Value {
    let about = problem::NAMES
        .iter()
        .chain(problem::AT_THE_EDGE)
        .map(|(name, status, about)| format!("- `{name}` ({status}): {about}"));
    let about = about.collect::<Vec<_>>().join("\n");
    json!({ "description": format!("A problem (RFC 9457) with a stable `type`:\n\n{about}"),
        "content": { "application/problem+json": { "schema": schema("Problem") } } })
}
