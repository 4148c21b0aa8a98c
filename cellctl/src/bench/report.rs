//! The report: for people a table that reads as ratios, for scripts every number.

use super::PlaceArgs;
use super::place::Row;
use crate::output::{self, Format, line};

fn show_note(args: &PlaceArgs) {
    line(format!(
        "durable placement, view on {}, client and server on the same {} processors; middle of {} runs of {} s",
        args.engine.as_str(),
        std::thread::available_parallelism().map_or(0, usize::from),
        args.runs,
        args.seconds,
    ));
}

pub(super) fn show(format: Format, args: &PlaceArgs, rows: &[Row]) {
    if format == Format::Table {
        show_note(args);
    }
    let head = [
        "what",
        "clients",
        "orders/s",
        "p50 ms",
        "p99 ms",
        "node CPU µs/order",
        "all CPU µs/order",
        "orders/fsync",
        "floor orders/s",
        "of floor",
        "floor p50 ms",
        "p50 / floor",
        "steal %",
        "",
    ];
    let known = |value: f64, text: String| if value > 0.0 { text } else { "–".to_owned() };
    let ratio = |row: &Row, text: fn((f64, f64)) -> String| row.ratios().map_or_else(|| "–".to_owned(), text);
    let lines = rows.iter().map(|row| {
        vec![
            row.what.clone(),
            known(row.clients as f64, row.clients.to_string()),
            format!("{:.0}", row.orders_per_s),
            format!("{:.2}", row.p50_ms),
            format!("{:.1}", row.p99_ms),
            format!("{:.0}", row.cpu_us_per_order),
            format!("{:.0}", row.cpu_us_per_order_total),
            known(row.orders_per_fsync, format!("{:.1}", row.orders_per_fsync)),
            known(row.floor_orders_per_s, format!("{:.0}", row.floor_orders_per_s)),
            ratio(row, |(share, _)| format!("{:.0} %", share * 100.0)),
            known(row.floor_p50_ms, format!("{:.2}", row.floor_p50_ms)),
            ratio(row, |(_, times)| format!("{times:.1}")),
            format!("{:.1}", row.steal_percent),
            if row.disturbed { "disturbed, repeat" } else { "" }.to_owned(),
        ]
    });
    output::show(format, &head, lines.collect(), &rows);
    if format == Format::Table {
        for (clients, times) in super::place::times_postgres(rows) {
            line(format!(
                "{clients} clients: {times:.2} times the orders of the service over PostgreSQL (aim: 2)"
            ));
        }
    }
}
