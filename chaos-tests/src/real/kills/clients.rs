//! Clients under whom processes are killed: each does one thing at a time, repeats it with the same key until it is
//! answered, and remembers what it was told.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::harness::{Answer, Api};
use crate::real::book::{Book, placing};
use crate::real::deployment::{Deployment, REGIONS, nothing};
use crate::sim::Rng;

const USERS_OF_REGION: usize = 12;
const CLIENTS: u64 = 10;
/// Payments for each kill.
const PAYMENTS_OF_KILL: u64 = 1;
const READERS: u64 = 2;
/// Between two things a client does, milliseconds at most.
const PAUSE_MS: u64 = 40;
const AGAIN: Duration = Duration::from_millis(10);
/// A request that is not answered for good within this is a failure, not a kill's.
const ANSWERED_WITHIN: Duration = Duration::from_secs(60);

/// What all clients share.
#[derive(Debug)]
pub(super) struct Clients {
    users: Vec<(String, SocketAddr)>,
    router: SocketAddr,
    book: Mutex<Book>,
    stop: AtomicBool,
    unanswered: AtomicU64,
    /// Payments that may be begun by now.
    payments: AtomicU64,
    /// The first thing that may not happen.
    broken: Mutex<Option<String>>,
}

impl Clients {
    pub(super) fn of(it: &Deployment) -> Result<Clients> {
        let mut users = Vec::new();
        for region in REGIONS {
            let home = it.cluster.node_http(region)?;
            let at_home = |name: &String| it.home_of(name) == region;
            let names = (0..).map(|n| format!("{region}-buyer-{n}")).filter(at_home).take(USERS_OF_REGION);
            users.extend(names.map(|name| (name, home)));
        }
        Ok(Clients {
            users,
            router: it.cluster.router(),
            book: Mutex::default(),
            stop: AtomicBool::new(false),
            unanswered: AtomicU64::new(0),
            payments: AtomicU64::new(PAYMENTS_OF_KILL),
            broken: Mutex::default(),
        })
    }

    pub(super) fn start(self: &Arc<Clients>, it: &Deployment, seed: u64) -> Result<Vec<JoinHandle<()>>> {
        let mut tasks = Vec::new();
        for n in 0..CLIENTS {
            let (clients, api) = (Arc::clone(self), it.api.clone());
            let client = Client { clients, api, rng: Rng::new(seed ^ (n + 1) << 20), n, seed, keys: 0 };
            tasks.push(tokio::spawn(client.work()));
        }
        for n in 0..READERS {
            let (clients, api) = (Arc::clone(self), it.api.clone());
            tasks.push(tokio::spawn(read(clients, api, Rng::new(seed ^ (n + 1) << 40))));
        }
        Ok(tasks)
    }

    /// So much more may be paid. The sandbox gateway writes all its books for each payment: more would wait there, and not
    /// where processes are killed.
    pub(super) fn killed(&self) {
        self.payments.fetch_add(PAYMENTS_OF_KILL, Ordering::Relaxed);
    }

    fn may_pay(&self) -> bool {
        let less = |payments: u64| payments.checked_sub(1);
        self.payments.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn open_book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn book(&self) -> Book {
        self.open_book().clone()
    }

    pub(super) fn placed(&self) -> usize {
        self.open_book().orders.len()
    }

    pub(super) fn unanswered(&self) -> u64 {
        self.unanswered.load(Ordering::Relaxed)
    }

    fn breaks(&self, what: String) {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
        self.stop();
    }

    /// # Errors
    /// What was seen that may not happen.
    pub(super) fn sound(&self) -> Result<()> {
        match &*self.broken.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(what) => bail!("{what}"),
            None => Ok(()),
        }
    }
}

struct Client {
    clients: Arc<Clients>,
    api: Api,
    rng: Rng,
    n: u64,
    seed: u64,
    keys: u64,
}

impl Client {
    async fn work(mut self) {
        while !self.clients.stopped() {
            if let Err(error) = self.deal().await {
                return self.clients.breaks(format!("{error:#}"));
            }
            tokio::time::sleep(Duration::from_millis(self.rng.below(PAUSE_MS))).await;
        }
    }

    fn key(&mut self) -> String {
        self.keys += 1;
        format!("kill-{}-{}-{:08}", self.seed, self.n, self.keys)
    }

    /// An order, and perhaps one thing more done with it.
    async fn deal(&mut self) -> Result<()> {
        let clients = Arc::clone(&self.clients);
        let user = self.rng.pick(&clients.users).0.clone();
        let (key, total_minor) = (self.key(), self.rng.between(1, 90) * 100);
        let placed = self.post(&user, "/v1/orders", &key, &placing(total_minor, &key)).await?;
        if !matches!(placed.status, 200 | 201) {
            bail!("placing: {} {}", placed.status, placed.body);
        }
        let id = placed.body["id"].as_str().context("an order without an id")?.to_owned();
        clients.open_book().placed(id.clone(), &user, &key, total_minor);
        let key = self.key();
        match self.rng.below(10) {
            0 | 1 if clients.may_pay() => {
                let path = format!("/v1/orders/{id}/pay");
                let done = self.post(&user, &path, &key, &json!({ "card_token": "visa" })).await?;
                self.note(&id, "paying", &done, |order| order.paid = true)
            }
            2 => {
                let path = format!("/v1/orders/{id}/cancel");
                let done = self.post(&user, &path, &key, &nothing()).await?;
                self.note(&id, "cancelling", &done, |order| order.cancelled = true)
            }
            3 | 4 if clients.may_pay() => self.ask(&id, &user, &key).await,
            _ => Ok(()),
        }
    }

    fn note(
        &self,
        id: &str,
        what: &str,
        done: &Answer,
        write: impl FnOnce(&mut crate::real::book::Order),
    ) -> Result<()> {
        if done.status >= 300 {
            bail!("{what} {id}: {} {}", done.status, done.body);
        }
        self.clients.open_book().orders.get_mut(id).map(write).context("an order that nobody placed")
    }

    /// Somebody else pays; in half of the cases somebody in the other region.
    async fn ask(&mut self, id: &str, user: &str, key: &str) -> Result<()> {
        let clients = Arc::clone(&self.clients);
        let payer = self.rng.pick(&clients.users).0.clone();
        if payer == user {
            return Ok(());
        }
        let path = format!("/v1/orders/{id}/pay-requests");
        let asked = self.post(user, &path, key, &json!({ "payer": payer })).await?;
        let payment = asked.body.pointer("/payment/id").or_else(|| asked.body.pointer("/open_payment"));
        let payment = payment.and_then(Value::as_str).map(str::to_owned);
        self.note(id, "asking", &asked, |order| order.payer = Some(payer.clone()))?;
        let payment = payment.with_context(|| format!("asking {id}: {} {}", asked.status, asked.body))?;
        let (path, key) = (format!("/v1/pay-requests/{payment}/accept"), self.key());
        let begun = Instant::now();
        loop {
            let accepted = self.post(&payer, &path, &key, &json!({ "card_token": "visa" })).await?;
            match accepted.status {
                // The request is on its way.
                404 | 409 if begun.elapsed() < ANSWERED_WITHIN => tokio::time::sleep(AGAIN).await,
                _ => return self.note(id, "accepting", &accepted, |order| order.paid = true),
            }
            if clients.stopped() {
                // It was not told anything of this payment; the order's permit ends by itself.
                return Ok(());
            }
        }
    }

    /// The same request, until it is answered.
    async fn post(&self, user: &str, path: &str, key: &str, body: &Value) -> Result<Answer> {
        let begun = Instant::now();
        loop {
            let answer = self.api.call(self.clients.router, "POST", path, user, key, body).await;
            match answer {
                Ok(answer) if answer.status < 500 && answer.body["retryable"] != true => return Ok(answer),
                Ok(answer) if begun.elapsed() > ANSWERED_WITHIN => {
                    bail!(
                        "{path}: not answered within {ANSWERED_WITHIN:?}: {} {}",
                        answer.status,
                        answer.body
                    )
                }
                Err(error) if begun.elapsed() > ANSWERED_WITHIN => return Err(error.into()),
                _ => _ = self.clients.unanswered.fetch_add(1, Ordering::Relaxed),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Reads acknowledged orders at their homes, again and again: none may be denied.
async fn read(clients: Arc<Clients>, api: Api, mut rng: Rng) {
    while !clients.stopped() {
        tokio::time::sleep(Duration::from_millis(rng.between(2, 20))).await;
        let order = {
            let book = clients.open_book();
            // Its key is anywhere in the book: the next one in order is a random one.
            let from = book.orders.keys().next().map(|first| format!("{}{:032x}", &first[..4], rng.next()));
            from.and_then(|from| book.orders.range(from..).next().or_else(|| book.orders.iter().next_back()))
                .map(|(_, order)| order.clone())
        };
        let Some(order) = order else { continue };
        let Some((_, home)) = clients.users.iter().find(|(name, _)| *name == order.user) else { continue };
        match api.get(*home, &format!("/v1/orders/{}", order.id), &order.user).await {
            Ok(answer) if answer.status == 404 => {
                return clients
                    .breaks(format!("{} was acknowledged and is answered 404 at its home", order.id));
            }
            _ => {}
        }
    }
}
