//! The two shapes of a log line.

use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// A text line with `service@region` in front, so that the logs of several processes can share a terminal.
pub(super) struct Named<F> {
    name: String,
    inner: F,
}

impl<F> Named<F> {
    pub(super) fn new(service: &str, region: &str, inner: F) -> Self {
        let name = if region.is_empty() { service.to_owned() } else { format!("{service}@{region}") };
        Self { name, inner }
    }
}

impl<S, N, F> FormatEvent<S, N> for Named<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "{} ", self.name)?;
        self.inner.format_event(context, writer, event)
    }
}

/// `{"time","level","service","region","target","message","fields":{},"trace_id"?,"span_id"?,"parent_id"?,"spans":["a","b"]}`; the
/// fields of enclosing spans are in `fields` too, the innermost value winning, and the two ids stand outside so that log
/// stores can index them.
pub(super) struct JsonLine {
    service: String,
    region: String,
}

impl JsonLine {
    pub(super) fn new(service: &str, region: &str) -> Self {
        Self { service: service.to_owned(), region: region.to_owned() }
    }
}

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        let mut spans = Vec::new();
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            spans.push(Value::from(span.name()));
            // The layer formats span fields with `JsonFields`, so they are an object.
            if let Some(formatted) = span.extensions().get::<FormattedFields<N>>()
                && let Ok(Value::Object(object)) = serde_json::from_str(&formatted.fields)
            {
                fields.0.extend(object);
            }
        }
        event.record(&mut fields);

        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut line = Map::new();
        let mut put = |name: &str, value: Value| line.insert(name.to_owned(), value);
        put("time", time.into());
        put("level", event.metadata().level().as_str().into());
        put("service", self.service.as_str().into());
        put("region", self.region.as_str().into());
        put("target", event.metadata().target().into());
        for name in ["message", "trace_id", "span_id", "parent_id"] {
            if let Some(value) = fields.0.remove(name) {
                put(name, value);
            }
        }
        put("fields", Value::Object(fields.0));
        put("spans", Value::Array(spans));
        writeln!(writer, "{}", Value::Object(line))
    }
}

#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use serde_json::json;
    use tracing_subscriber::fmt::format::JsonFields;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::TraceParent;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_json_line_names_service_region_and_trace() {
        let captured = Captured::default();
        let writer = captured.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .fmt_fields(JsonFields::new())
            .event_format(JsonLine::new("region-node", "north"));
        let parent: TraceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".parse().unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            parent.span("place").in_scope(|| tracing::info!(orders = 3, "placed"));
        });

        let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        let mut line: Value = serde_json::from_str(&text).unwrap();
        assert!(line["time"].take().as_str().is_some_and(|time| time.ends_with('Z')));
        let span_id = line["span_id"].take();
        assert!(span_id.as_str().is_some_and(|id| id.len() == 16 && id != "b7ad6b7169203331"), "its own");
        let expected = json!({
            "time": null, "level": "INFO", "service": "region-node", "region": "north",
            "target": module_path!(), "message": "placed",
            "trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": null,
            "parent_id": "b7ad6b7169203331",
            "fields": { "orders": 3, "step": "place" }, "spans": ["traced"],
        });
        assert_eq!(line, expected);
    }
}
