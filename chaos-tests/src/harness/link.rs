//! A TCP link that can be slow, held or cut.
//!
//! It stands between two processes as a proxy on a port of its own: what is dialled is the link, what is reached is the
//! target. Held means that bytes wait and connections stay up, as behind a router that swallows packets; cut means that
//! connections break and new ones are refused. A link may have so much bandwidth and no more, which its connections share.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Bytes under way in one direction of one connection at most; beyond it the sender is not read any more.
const UNDER_WAY_BYTES_MAX: usize = 4 << 20;
const CHUNK_BYTES: usize = 64 << 10;
/// Of a link with little bandwidth: what passes at once, so that connections take turns, and what is under way at most, so
/// that what waits does so at the sender, who may choose what goes first.
const NARROW_CHUNK_BYTES: usize = 8 << 10;
const NARROW_UNDER_WAY_BYTES_MAX: usize = 64 << 10;

/// What the link does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Bytes pass after the latency.
    Open,
    /// Bytes wait; nothing breaks.
    Held,
    /// Connections break, new ones are closed at once.
    Cut,
}

/// One way's delay: between `min` and `max`, drawn anew for each chunk; order is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    pub min: Duration,
    pub max: Duration,
}

impl Latency {
    pub const NONE: Latency = Latency { min: Duration::ZERO, max: Duration::ZERO };
    /// Between continents.
    pub const WAN: Latency = Latency { min: Duration::from_millis(30), max: Duration::from_millis(120) };
}

/// A running link; it ends when it is dropped.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    state: watch::Sender<LinkState>,
    bytes: Arc<AtomicU64>,
    bandwidth: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl Link {
    /// Listens on a free loopback port and forwards to `target`, which need not be there yet. `seed` draws the jitter.
    ///
    /// # Errors
    /// No port could be opened.
    pub async fn start(target: SocketAddr, latency: Latency, seed: u64) -> io::Result<Link> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (state, watching) = watch::channel(LinkState::Open);
        let way = Way {
            jitter: Arc::new(Mutex::new(Jitter { latency, state: seed | 1 })),
            bytes: Arc::default(),
            bandwidth: Arc::default(),
            free_at: [Arc::default(), Arc::default()],
        };
        let (bytes, bandwidth) = (way.bytes.clone(), way.bandwidth.clone());
        let accepting = tokio::spawn(accept(listener, target, watching, way));
        Ok(Link { address, state, bytes, bandwidth, accepting })
    }

    /// The address to dial instead of the target's.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes that have come in on either side so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes in a second that pass each way, all connections together; 0: as many as come. It counts at once.
    pub fn set_bandwidth(&self, bytes_per_s: u64) {
        self.bandwidth.store(bytes_per_s, Ordering::Relaxed);
    }

    pub fn set(&self, state: LinkState) {
        self.state.send_replace(state);
    }

    #[must_use]
    pub fn state(&self) -> LinkState {
        *self.state.borrow()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
        self.state.send_replace(LinkState::Cut);
    }
}

#[derive(Debug)]
struct Jitter {
    latency: Latency,
    state: u64,
}

impl Jitter {
    fn draw(&mut self) -> Duration {
        let span = self.latency.max.saturating_sub(self.latency.min);
        // xorshift64: spread is all that is needed.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.latency.min + span.mul_f64((self.state >> 11) as f64 / (1u64 << 53) as f64)
    }
}

/// What every connection of a link shares.
#[derive(Clone, Debug)]
struct Way {
    jitter: Arc<Mutex<Jitter>>,
    bytes: Arc<AtomicU64>,
    /// Bytes per second each way; 0 without a bound.
    bandwidth: Arc<AtomicU64>,
    /// When all that was let through there, and back, has passed.
    free_at: [Arc<Mutex<Option<Instant>>>; 2],
}

impl Way {
    fn bandwidth(&self) -> Option<u64> {
        Some(self.bandwidth.load(Ordering::Relaxed)).filter(|bytes_per_s| *bytes_per_s > 0)
    }

    /// Resolves when so many bytes have passed one way, behind what other connections sent before.
    async fn pass(&self, back: bool, bytes: usize) {
        let Some(bytes_per_s) = self.bandwidth() else { return };
        let took = Duration::from_secs_f64(bytes as f64 / bytes_per_s as f64);
        let passed = {
            let mut free_at = self.free_at[usize::from(back)].lock().await;
            let now = Instant::now();
            let passed = free_at.map_or(now, |free_at| free_at.max(now)) + took;
            *free_at = Some(passed);
            passed
        };
        tokio::time::sleep_until(passed).await;
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, state: watch::Receiver<LinkState>, way: Way) {
    while let Ok((near, _)) = listener.accept().await {
        if *state.borrow() == LinkState::Cut {
            continue;
        }
        tokio::spawn(connect(near, target, state.clone(), way.clone()));
    }
}

async fn connect(near: TcpStream, target: SocketAddr, mut state: watch::Receiver<LinkState>, way: Way) {
    // While held not even a connection is made: the far side must not see one.
    if state.wait_for(|state| *state != LinkState::Held).await.is_err() {
        return;
    }
    let Ok(far) = TcpStream::connect(target).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
    let there = pump(near_read, far_write, state.clone(), way.clone(), false);
    let back = pump(far_read, near_write, state.clone(), way, true);
    tokio::select! {
        _ = async { tokio::join!(there, back) } => {}
        _ = state.wait_for(|state| *state == LinkState::Cut) => {}
    }
}

/// Moves one direction: chunks wait for their time, and for the link to be open.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<LinkState>,
    way: Way,
    back: bool,
) {
    let mut gate = state.clone();
    let mut under_way: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let (mut bytes, mut ended, mut buffer) = (0, false, vec![0; CHUNK_BYTES]);
    let mut held = *state.borrow_and_update() == LinkState::Held;
    loop {
        let due = under_way.front().map(|(due, _)| *due);
        let (chunk_max, under_way_max) = match way.bandwidth() {
            Some(_) => (NARROW_CHUNK_BYTES, NARROW_UNDER_WAY_BYTES_MAX),
            None => (CHUNK_BYTES, UNDER_WAY_BYTES_MAX),
        };
        if due.is_none() && ended {
            let _ = to.shutdown().await;
            return;
        }
        tokio::select! {
            biased;
            changed = state.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = *state.borrow_and_update();
                if held && now == LinkState::Open {
                    // What was held sets out now.
                    let due = Instant::now() + way.jitter.lock().await.draw();
                    under_way.iter_mut().for_each(|(at, _)| *at = due.max(*at));
                }
                held = now == LinkState::Held;
            }
            read = from.read(&mut buffer[..chunk_max]), if !ended && bytes < under_way_max => match read {
                Ok(0) | Err(_) => ended = true,
                Ok(len) => {
                    let due = Instant::now() + way.jitter.lock().await.draw();
                    let due = under_way.back().map_or(due, |(last, _)| due.max(*last));
                    bytes += len;
                    way.bytes.fetch_add(len as u64, Ordering::Relaxed);
                    under_way.push_back((due, buffer[..len].to_vec()));
                }
            },
            () = passable(due, &mut gate), if due.is_some() => {
                let Some((_, chunk)) = under_way.pop_front() else { continue };
                bytes -= chunk.len();
                way.pass(back, chunk.len()).await;
                if to.write_all(&chunk).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn passable(due: Option<Instant>, state: &mut watch::Receiver<LinkState>) {
    // A timer would be late by up to a millisecond, also for what is due already.
    if let Some(due) = due.filter(|due| *due > Instant::now()) {
        tokio::time::sleep_until(due).await;
    }
    // The sender gone means the link is gone; the connection breaks elsewhere.
    let _ = state.wait_for(|state| *state == LinkState::Open).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.into_split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        address
    }

    async fn exchange(stream: &mut TcpStream, text: &[u8]) -> io::Result<Vec<u8>> {
        stream.write_all(text).await?;
        let mut back = vec![0; text.len()];
        stream.read_exact(&mut back).await?;
        Ok(back)
    }

    #[tokio::test]
    async fn bytes_pass_in_order_and_late_by_the_latency() {
        let latency = Latency { min: Duration::from_millis(20), max: Duration::from_millis(40) };
        let link = Link::start(echo().await, latency, 1).await.unwrap();
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        let start = Instant::now();
        let long: Vec<u8> = (0..300_000u32).map(|i| i as u8).collect();
        assert_eq!(exchange(&mut stream, &long).await.unwrap(), long);
        assert!(start.elapsed() >= Duration::from_millis(40), "there and back");
    }

    #[tokio::test]
    async fn held_bytes_wait_and_arrive_when_the_link_opens() {
        let link = Link::start(echo().await, Latency::NONE, 1).await.unwrap();
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        assert_eq!(exchange(&mut stream, b"before").await.unwrap(), b"before");
        link.set(LinkState::Held);
        stream.write_all(b"during").await.unwrap();
        let mut back = [0; 6];
        let early = tokio::time::timeout(Duration::from_millis(100), stream.read_exact(&mut back)).await;
        assert!(early.is_err(), "nothing passes a held link");
        link.set(LinkState::Open);
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"during");
    }

    #[tokio::test]
    async fn the_connections_of_a_link_share_its_bandwidth() {
        let link = Link::start(echo().await, Latency::NONE, 1).await.unwrap();
        link.set_bandwidth(1 << 20);
        let mut streams = Vec::new();
        for _ in 0..2 {
            streams.push(TcpStream::connect(link.address()).await.unwrap());
        }
        let start = Instant::now();
        let sent = vec![7; 100 << 10];
        let sending = streams.iter_mut().map(|stream| exchange(stream, &sent));
        for back in futures::future::join_all(sending).await {
            assert_eq!(back.unwrap(), sent);
        }
        assert!(start.elapsed() >= Duration::from_millis(190), "200 KiB at 1 MiB/s");
    }

    #[tokio::test]
    async fn a_cut_link_breaks_connections_and_refuses_new_ones_until_it_opens() {
        let link = Link::start(echo().await, Latency::NONE, 1).await.unwrap();
        let mut stream = TcpStream::connect(link.address()).await.unwrap();
        exchange(&mut stream, b"before").await.unwrap();
        link.set(LinkState::Cut);
        assert!(exchange(&mut stream, b"after").await.is_err());
        let mut refused = TcpStream::connect(link.address()).await.unwrap();
        assert!(exchange(&mut refused, b"new").await.is_err());
        link.set(LinkState::Open);
        let mut again = TcpStream::connect(link.address()).await.unwrap();
        assert_eq!(exchange(&mut again, b"again").await.unwrap(), b"again");
    }
}
