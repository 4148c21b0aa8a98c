//! The load: clients that place orders over kept connections, as cheaply as they can, since they share the processors
//! with what they measure.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const USERS: u64 = 10_000;

/// What came of a run.
#[derive(Debug)]
pub(super) struct Taken {
    /// Microseconds.
    pub(super) latency: Histogram<u64>,
    pub(super) seconds: f64,
}

pub(super) fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000, 3)?)
}

/// Ids as UUIDv7 has them: time first, then what makes them unique.
#[derive(Debug, Default)]
pub(super) struct Keys(AtomicU64);

impl Keys {
    pub(super) fn next(&self) -> String {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ms = since.as_millis() as u64 & 0xffff_ffff_ffff;
        let n = self.0.fetch_add(1, Ordering::Relaxed);
        let tag = u64::from(std::process::id());
        let unique = (tag & 0xffff) << 46 | n & ((1 << 46) - 1);
        format!(
            "{:08x}-{:04x}-7{:03x}-{:04x}-{:012x}",
            ms >> 16,
            ms & 0xffff,
            n & 0xfff,
            0x8000 | unique >> 48 & 0x3fff,
            unique & 0xffff_ffff_ffff,
        )
    }
}

/// Those who place orders.
pub(super) fn users() -> Arc<[String]> {
    (0..USERS).map(|n| format!("user-{n:05}")).collect()
}

/// About what a shop's order of three lines looks like.
pub(super) fn body(n: u64) -> String {
    format!(
        r#"{{"content":{{"currency":"CNY","lines":[{{"sku":"tea-{:04}","title":"Tieguanyin Oolong, spring, 250 g","quantity":2,"unit_minor":4500}},{{"sku":"pot-{:04}","title":"Yixing clay teapot, 180 ml","quantity":1,"unit_minor":28800}},{{"sku":"cup-{:04}","title":"Celadon cup, set of four","quantity":1,"unit_minor":15900}}],"coupon_minor":1000,"foreign_shipping_minor":3500,"duty_minor":420}},"external_ref":"SHOP-2026-{n:010}","attributes":{{"channel":"app","gift":false}}}}"#,
        n % 1_000,
        n % 97,
        n % 313,
    )
}

/// One client's connection.
struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
    /// Of the last answer: the place in its actor's sequence of the change that it is about, in which its `Cell-Version` ends.
    seq: Option<u64>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Result<Connection> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream,
            request: Vec::with_capacity(2_048),
            answer: Vec::with_capacity(4_096),
            seq: None,
        })
    }

    /// Places one order; anything but 201 ends the run.
    async fn place(&mut self, n: u64, user: &str, keys: &Keys) -> Result<()> {
        let body = body(n);
        self.request.clear();
        write!(
            self.request,
            "POST /v1/orders HTTP/1.1\r\nhost: bench\r\nx-user-id: {user}\r\nidempotency-key: {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            keys.next(),
            body.len(),
        )?;
        self.stream.write_all(&self.request).await?;
        self.answer.clear();
        loop {
            ensure!(self.stream.read_buf(&mut self.answer).await? > 0, "the node closed the connection");
            let Some(answer) = Answer::read(&self.answer)? else { continue };
            if answer.code != 201 {
                bail!("not placed: {}", String::from_utf8_lossy(&self.answer));
            }
            self.seq = answer.seq;
            return Ok(());
        }
    }
}

/// What is read of an answer.
#[derive(Debug, PartialEq)]
struct Answer {
    code: u16,
    seq: Option<u64>,
}

impl Answer {
    /// `None` while not all of it is there.
    fn read(bytes: &[u8]) -> Result<Option<Answer>> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut answer = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(head) = answer.parse(bytes)? else { return Ok(None) };
        let header = |wanted: &str| {
            let found = answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case(wanted))?;
            std::str::from_utf8(found.value).ok()
        };
        let length = header("content-length").context("an answer without content-length")?;
        let length: usize = length.parse().context("content-length")?;
        if bytes.len() < head + length {
            return Ok(None);
        }
        let seq = header("cell-version").and_then(|version| version.rsplit_once('.')?.1.parse().ok());
        Ok(Some(Answer { code: answer.code.context("an answer without a status")?, seq }))
    }
}

/// When to count: a warm-up, then the run.
#[derive(Clone, Debug, Default)]
pub(super) struct Phase {
    counting: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
}

impl Phase {
    pub(super) fn count(&self) {
        self.counting.store(true, Ordering::Relaxed);
    }
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
    pub(super) fn counts(&self) -> bool {
        self.counting.load(Ordering::Relaxed)
    }
}

/// Which order was answered when: place in its actor's sequence, moment.
pub(super) type Acked = Vec<(u64, Instant)>;

/// What clients do, and to whom; clones share the numbers, so that no order is placed twice.
#[derive(Clone, Debug)]
pub(super) struct Load {
    pub(super) address: SocketAddr,
    pub(super) numbers: Arc<AtomicU64>,
    pub(super) keys: Arc<Keys>,
    /// Who places them, one after the other.
    pub(super) users: Arc<[String]>,
    pub(super) phase: Phase,
    /// Orders with this number and above are not placed any more.
    pub(super) below: u64,
    /// Whether it is written down which order was answered when.
    pub(super) notes: bool,
}

/// What one client saw.
struct Client {
    connection: Connection,
    load: Load,
    latency: Histogram<u64>,
    acked: Acked,
}

impl Client {
    async fn of(load: &Load) -> Result<Client> {
        let connection = Connection::open(load.address).await?;
        Ok(Client { connection, load: load.clone(), latency: histogram()?, acked: Vec::new() })
    }

    /// Places the next order, timed from `begun`; `false` if there is none any more.
    async fn place(&mut self, begun: Instant) -> Result<bool> {
        let number = self.load.numbers.fetch_add(1, Ordering::Relaxed);
        if number >= self.load.below {
            return Ok(false);
        }
        let user = &self.load.users[(number % self.load.users.len() as u64) as usize];
        self.connection.place(number, user, &self.load.keys).await?;
        // The last one may be answered after the end: it began inside and counts.
        if self.load.phase.counts() {
            self.latency.record(begun.elapsed().as_micros().max(1) as u64)?;
            if self.load.notes {
                let seq = self
                    .connection
                    .seq
                    .context("an answer without a cell-version that ends in a sequence")?;
                self.acked.push((seq, Instant::now()));
            }
        }
        Ok(true)
    }
}

impl Load {
    /// Closed loop: each client places its next order when the last one was answered.
    pub(super) async fn closed(self, clients: usize) -> Result<(Histogram<u64>, Acked)> {
        on_one_thread(async move {
            let mut running = Vec::with_capacity(clients);
            for _ in 0..clients {
                let mut client = Client::of(&self).await?;
                running.push(tokio::spawn(async move {
                    while !client.load.phase.is_over() && client.place(Instant::now()).await? {}
                    Ok(client)
                }));
            }
            gather(running).await
        })
        .await
    }

    /// Open loop: orders come when they are due, whether or not earlier ones are answered, and are timed from then.
    pub(super) async fn open(self, rate: u64) -> Result<(Histogram<u64>, Acked)> {
        // Enough connections that one is free when an order is due, unless the node is far behind.
        const CONNECTIONS: u64 = 256;
        on_one_thread(async move {
            let begun = Instant::now();
            let every = Duration::from_secs_f64(CONNECTIONS as f64 / rate as f64);
            let mut running = Vec::new();
            for i in 0..CONNECTIONS {
                let mut client = Client::of(&self).await?;
                let first = begun + Duration::from_millis(100) + every.mul_f64(i as f64 / CONNECTIONS as f64);
                running.push(tokio::spawn(async move {
                    let mut due = first;
                    while !client.load.phase.is_over() {
                        tokio::time::sleep_until(due.into()).await;
                        // What falls due after the end is not asked for.
                        if client.load.phase.is_over() || !client.place(due).await? {
                            break;
                        }
                        due += every;
                    }
                    Ok(client)
                }));
            }
            gather(running).await
        })
        .await
    }
}

/// Runs all clients on one thread of their own: it wakes once for all answers that one sync of the log brings.
async fn on_one_thread<T: Send + 'static>(
    clients: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(clients)
    })
    .await?
}

async fn gather(running: Vec<tokio::task::JoinHandle<Result<Client>>>) -> Result<(Histogram<u64>, Acked)> {
    let (mut all, mut acked) = (histogram()?, Vec::new());
    for client in running {
        let client = client.await??;
        all.add(client.latency)?;
        acked.extend(client.acked);
    }
    Ok((all, acked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_uuids_of_version_7_and_never_the_same() {
        let keys = Keys::default();
        let some: std::collections::BTreeSet<String> = (0..10_000).map(|_| keys.next()).collect();
        assert_eq!(some.len(), 10_000);
        for key in &some {
            assert_eq!(key.len(), 36, "{key}");
            assert!(cell_core::order::uuid7_time_ms(key).is_some(), "{key}");
        }
    }

    #[test]
    fn an_answer_says_which_change_it_is_about() {
        let answer =
            b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\nCell-Version: 1~north-0.3.00ff.41\r\n\r\n{}";
        assert_eq!(Answer::read(answer).unwrap(), Some(Answer { code: 201, seq: Some(41) }));
        for there in 0..answer.len() {
            assert_eq!(Answer::read(&answer[..there]).unwrap(), None, "{there}");
        }
        let other = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(Answer::read(other).unwrap(), Some(Answer { code: 503, seq: None }));
    }

    #[test]
    fn the_body_is_an_order() {
        let order: serde_json::Value = serde_json::from_str(&body(7)).unwrap();
        assert_eq!(order["content"]["lines"].as_array().unwrap().len(), 3);
    }
}
