//! Who places orders at the home: as many as pile up, as fast as they are answered; and all the while a few in every
//! second, which are timed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::case::{HOME, PEER};
use super::report::Windows;
use crate::harness::{Answer, Api};
use crate::real::book::placing;
use crate::real::deployment::Deployment;

const BUYERS: usize = 64;
const PAYERS: usize = 16;
/// Clients of a backlog, and of the orders that are timed.
const PILING: usize = 32;
const TIMED: u64 = 16;
/// One of so many orders has somebody in the other region asked to pay it; one of so many is paid.
const ASKED_OF: u64 = 10;
const PAID_OF: u64 = 100;
const AGAIN: Duration = Duration::from_millis(10);
const ANSWERED_WITHIN: Duration = Duration::from_secs(60);

/// What clients were told.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Orders by who placed them.
    pub(super) orders: BTreeMap<String, BTreeSet<String>>,
    /// Paid ones, with who placed them.
    pub(super) paid: Vec<(String, String)>,
}

/// When an order was due, and how long after that it was answered.
pub(super) type Timed = Vec<(Instant, Duration)>;

/// Clones share everything.
#[derive(Clone, Debug)]
pub(super) struct Load {
    api: Api,
    home: SocketAddr,
    buyers: Arc<[String]>,
    payers: Arc<[String]>,
    numbers: Arc<AtomicU64>,
    told: Arc<Mutex<Told>>,
    timed: Arc<Mutex<Timed>>,
    stop: Arc<AtomicBool>,
}

/// The first so many names of this form whose home is a region.
pub(super) fn people(it: &Deployment, region: &str, form: &str, count: usize) -> Vec<String> {
    let at_home = |name: &String| it.cluster.user_of(region, &[name]) == *name;
    (0..).map(|n| format!("{form}-{n}")).filter(at_home).take(count).collect()
}

impl Load {
    pub(super) fn of(it: &Deployment) -> Result<Load> {
        Ok(Load {
            api: it.api.clone(),
            home: it.cluster.node_http(HOME)?,
            buyers: people(it, HOME, "buyer", BUYERS).into(),
            payers: people(it, PEER, "payer", PAYERS).into(),
            numbers: Arc::default(),
            told: Arc::default(),
            timed: Arc::default(),
            stop: Arc::default(),
        })
    }

    pub(super) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was due in this time, second by second, in milliseconds.
    pub(super) fn timed(&self, from: Instant, to: Instant) -> Windows {
        let timed = self.timed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut windows = BTreeMap::<u64, Vec<f64>>::new();
        for (due, took) in timed.iter().filter(|(due, _)| (from..to).contains(due)) {
            windows.entry(due.duration_since(from).as_secs()).or_default().push(took.as_secs_f64() * 1e3);
        }
        windows.into_values().collect()
    }

    /// Places so many orders, as fast as they are answered.
    pub(super) async fn pile_up(&self, orders: u64) -> Result<()> {
        let (left, mut clients) = (Arc::new(AtomicU64::new(orders)), JoinSet::new());
        for _ in 0..PILING {
            let (load, left) = (self.clone(), Arc::clone(&left));
            clients.spawn(async move {
                let one_less = |left: u64| left.checked_sub(1);
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
                    load.deal().await?;
                }
                Ok::<_, anyhow::Error>(())
            });
        }
        while let Some(ended) = clients.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// Places so many orders a second when they are due, whether or not earlier ones are answered, until it is stopped.
    pub(super) fn go_on(&self, per_s: u64) -> JoinSet<Result<()>> {
        let (mut clients, begun) = (JoinSet::new(), Instant::now());
        let every = Duration::from_secs_f64(TIMED as f64 / per_s as f64);
        for nth in 0..TIMED {
            let load = self.clone();
            let mut due = begun + every.mul_f64(nth as f64 / TIMED as f64);
            clients.spawn(async move {
                while !load.stop.load(Ordering::Relaxed) {
                    tokio::time::sleep_until(due).await;
                    load.place().await?;
                    let took = due.elapsed();
                    load.timed.lock().unwrap_or_else(PoisonError::into_inner).push((due, took));
                    due += every;
                }
                Ok(())
            });
        }
        clients
    }

    /// Ends what goes on.
    pub(super) async fn stop(&self, mut clients: JoinSet<Result<()>>) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = clients.join_next().await {
            ended??;
        }
        Ok(())
    }

    async fn deal(&self) -> Result<()> {
        let (number, user, id) = self.place().await?;
        if number % ASKED_OF == 3 {
            let payer = &self.payers[(number / ASKED_OF) as usize % self.payers.len()];
            self.ask(&user, &id, payer).await?;
        } else if number % PAID_OF == 7 {
            let (path, card) = (format!("/v1/orders/{id}/pay"), json!({ "card_token": "visa" }));
            self.post(self.home, &user, &path, &format!("pay-{id}"), &card).await?;
            self.told().paid.push((id, user));
        }
        Ok(())
    }

    /// Number, buyer and id of a new order.
    pub(super) async fn place(&self) -> Result<(u64, String, String)> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let user = &self.buyers[number as usize % self.buyers.len()];
        let key = format!("backlog-{number:08}");
        let placed = self.post(self.home, user, "/v1/orders", &key, &placing(4_500, &key)).await?;
        let id = placed.body["id"].as_str().context("an order without an id")?.to_owned();
        self.told().orders.entry(user.clone()).or_default().insert(id.clone());
        Ok((number, user.clone(), id))
    }

    /// Somebody is asked to pay an order; the payment's id.
    pub(super) async fn ask(&self, user: &str, id: &str, payer: &str) -> Result<String> {
        let (path, key) = (format!("/v1/orders/{id}/pay-requests"), format!("ask-{id}"));
        let asked = self.post(self.home, user, &path, &key, &json!({ "payer": payer })).await?;
        let payment = asked.body.pointer("/payment/id").or_else(|| asked.body.pointer("/open_payment"));
        let payment = payment.and_then(Value::as_str).map(str::to_owned);
        payment.with_context(|| format!("{path}: {}", asked.body))
    }

    /// The same request until it is taken.
    pub(super) async fn post(
        &self,
        at: SocketAddr,
        user: &str,
        path: &str,
        key: &str,
        body: &Value,
    ) -> Result<Answer> {
        let begun = Instant::now();
        loop {
            match self.api.call(at, "POST", path, user, key, body).await {
                Ok(answer) if answer.status < 300 => return Ok(answer),
                // The request to pay is on its way, or it is not decided yet.
                Ok(answer) if answer.status < 500 && !matches!(answer.status, 404 | 409 | 429) => {
                    bail!("{path}: {} {}", answer.status, answer.body)
                }
                Ok(answer) if begun.elapsed() > ANSWERED_WITHIN => {
                    bail!("{path}: {} {}", answer.status, answer.body)
                }
                Err(error) if begun.elapsed() > ANSWERED_WITHIN => return Err(error.into()),
                _ => tokio::time::sleep(AGAIN).await,
            }
        }
    }
}
