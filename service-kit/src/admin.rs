//! The admin port: is it alive, is it ready, what does it count, which version is it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::http_port::{PortLimits, Routes, handles_for_connections, serve_http};
use crate::metrics::MetricsHandle;

const UPKEEP_EVERY: Duration = Duration::from_secs(5);
/// Probes, scrapers and operators.
const CONNECTIONS_MAX: usize = 128;

/// Named conditions that must all hold before the process should get work. Clones share them.
///
/// Conditions are about this process only: a lost peer region is a metric, never a reason to be unready.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    conditions: Arc<Mutex<BTreeMap<&'static str, bool>>>,
}

/// What `/version` answers: `{"service","version","formats":{name: number}}`.
#[derive(Debug, Clone, Serialize)]
pub struct Version {
    /// Name of the binary's role.
    pub service: &'static str,
    /// The crate's version, `env!("CARGO_PKG_VERSION")` of the caller.
    pub version: &'static str,
    /// Version of each format the binary writes, so that a mixed deployment can be read off.
    pub formats: BTreeMap<&'static str, u32>,
}

/// What the admin port needs to answer.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Answered at `/readyz`.
    pub readiness: Readiness,
    /// Answered at `/metrics`; `None` answers an empty page.
    pub metrics: Option<MetricsHandle>,
    /// Answered at `/version`.
    pub version: Version,
    /// What this service answers besides.
    pub operations: Router,
}

impl Readiness {
    /// Starts with every named condition unmet, so that forgetting one keeps the process unready instead of hiding it.
    pub fn new(conditions: &[&'static str]) -> Self {
        let conditions = conditions.iter().map(|name| (*name, false)).collect();
        Self { conditions: Arc::new(Mutex::new(conditions)) }
    }

    /// States whether a condition holds; an unknown one is added.
    pub fn set(&self, condition: &'static str, holds: bool) {
        self.lock().insert(condition, holds);
    }

    /// The conditions that do not hold, sorted. Empty means ready.
    pub fn missing(&self) -> Vec<&'static str> {
        self.lock().iter().filter(|(_, holds)| !**holds).map(|(name, _)| *name).collect()
    }

    /// Whether all conditions hold.
    pub fn is_ready(&self) -> bool {
        self.missing().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, bool>> {
        // Only map operations run under the lock, so its state is whole even if poisoned.
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admin {
    /// `/livez`, `/readyz`, `/metrics` and `/version`, and the service's own operations.
    pub fn router(self) -> Router {
        let operations = self.operations.clone();
        Router::new()
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(readyz))
            .route("/metrics", get(render_metrics))
            .route("/version", get(async |State(admin): State<Admin>| Json(admin.version)))
            .with_state(self)
            .merge(operations)
    }

    /// Serves the router until `until` is cancelled, and folds the metrics on a timer meanwhile. Cancel it last: probes
    /// and operators want answers while the rest drains. `/readyz` misses `not-draining` from the moment `draining` is
    /// cancelled.
    pub async fn serve(self, listener: TcpListener, draining: CancellationToken, until: CancellationToken) {
        let readiness = self.readiness.clone();
        let metrics = self.metrics.clone();
        let mark = async move {
            draining.cancelled().await;
            readiness.set("not-draining", false);
            std::future::pending::<()>().await
        };
        let upkeep = async move {
            let mut every = tokio::time::interval(UPKEEP_EVERY);
            loop {
                every.tick().await;
                if let Some(metrics) = &metrics {
                    metrics.run_upkeep();
                }
            }
        };
        let connections_max = CONNECTIONS_MAX.min(handles_for_connections() / 4).max(1);
        let limits = PortLimits { connections_max, ..PortLimits::default() };
        // Not graceful: a kept-alive scrape connection must not hold up the end of the process.
        tokio::select! {
            () = serve_http(listener, Routes::new(self.router()), limits, std::future::pending()) => {}
            () = upkeep => {}
            () = mark => {}
            () = until.cancelled() => {}
        }
    }
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let missing = admin.readiness.missing();
    let status = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": missing.is_empty(), "missing": missing }))).into_response()
}

async fn render_metrics(State(admin): State<Admin>) -> Response {
    let page = admin.metrics.map(|metrics| metrics.render()).unwrap_or_default();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response()
}
