//! The service in front of PostgreSQL: one route, one statement, a pool of connections.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use axum::extract::{Json, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::post;
use cell_core::id::Hash;
use deadpool_postgres::tokio_postgres::{Config, NoTls};
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use serde::{Deserialize, Serialize};
use service_kit::{PortLimits, Routes, announce, serve_http};
use tokio::net::TcpListener;

/// What a shop would look for: its id, its user and key, its own number.
pub(super) const TABLE: &str = "create table orders (id bytea primary key, user_id text not null, key text not null, \
     external_ref text not null, total_minor bigint not null, body text not null, created_ms bigint not null, \
     unique (user_id, key)); create index on orders (external_ref)";
const PLACE: &str = "insert into orders (id, user_id, key, external_ref, total_minor, body, created_ms) values \
     ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing";

#[derive(Debug, Deserialize, Serialize)]
struct Line {
    sku: String,
    title: String,
    quantity: u64,
    unit_minor: u64,
}

#[derive(Debug, Deserialize, Serialize)]
struct Content {
    currency: String,
    lines: Vec<Line>,
    coupon_minor: u64,
    foreign_shipping_minor: u64,
    duty_minor: u64,
}

#[derive(Debug, Deserialize, Serialize)]
struct Order {
    content: Content,
    external_ref: String,
    attributes: serde_json::Value,
}

#[derive(Debug, Serialize)]
struct Placed<'a> {
    id: String,
    status: &'static str,
    total_minor: u64,
    created_ms: u64,
    #[serde(flatten)]
    order: &'a Order,
}

pub(super) fn play(args: impl Iterator<Item = OsString>) -> ExitCode {
    service_kit::main_exit(super::ROLE, || {
        let mut args = args.skip(1);
        let (socket, pool) = (args.next().unwrap_or_default(), args.next().unwrap_or_default());
        let pool = pool.to_str().and_then(|pool| pool.parse().ok()).unwrap_or(1);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let served = runtime.block_on(serve(Path::new(&socket), pool));
        served.map_err(|error| service_kit::Exit::Failed(format!("{error:#}")))
    })
}

/// Where the server's socket lies, and as whom to come.
pub(super) fn config(sockets: &Path) -> Config {
    let mut config = Config::new();
    config.host_path(sockets).user(super::ROLE_IN_IT).dbname("postgres");
    config
}

async fn serve(sockets: &Path, size: usize) -> Result<()> {
    // A connection is taken as it was given back, and prepares the statement once.
    let kept = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = Manager::from_config(config(sockets), NoTls, kept);
    let pool = Pool::builder(manager).max_size(size).build()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    announce(super::ROLE, &[("http", listener.local_addr()?)])?;
    let app = axum::Router::new().route("/v1/orders", post(place)).with_state(pool);
    // Whoever started it holds its standard input, and ends it by letting go.
    let gone = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    tokio::select! {
        () = serve_http(listener, Routes::new(app), PortLimits::default(), std::future::pending()) => Ok(()),
        _ = gone => Ok(()),
    }
}

async fn place(
    State(pool): State<Pool>,
    headers: HeaderMap,
    Json(order): Json<Order>,
) -> axum::response::Response {
    match insert(&pool, &headers, &order).await {
        Ok(placed) => (StatusCode::CREATED, Json(placed)).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")).into_response(),
    }
}

async fn insert<'a>(pool: &Pool, headers: &HeaderMap, order: &'a Order) -> Result<Placed<'a>> {
    let header =
        |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).context("a header is missing");
    let (user, key) = (header("x-user-id")?, header("idempotency-key")?);
    let Content { lines, coupon_minor, foreign_shipping_minor, duty_minor, .. } = &order.content;
    let items: u64 = lines.iter().map(|line| line.quantity * line.unit_minor).sum();
    let total_minor = (items + foreign_shipping_minor + duty_minor).saturating_sub(*coupon_minor);
    let body = serde_json::to_string(order)?;
    let hash = Hash::of_parts(&[user.as_bytes(), key.as_bytes()]);
    let id = &hash.0[..16];
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let created_ms = since.as_millis() as u64;
    let (total, created) = (i64::try_from(total_minor)?, i64::try_from(created_ms)?);
    let session = pool.get().await?;
    let place = session.prepare_cached(PLACE).await?;
    session.execute(&place, &[&id, &user, &key, &order.external_ref, &total, &body, &created]).await?;
    let id = hash.to_string()[..32].to_owned();
    Ok(Placed { id, status: "pending-payment", total_minor, created_ms, order })
}
