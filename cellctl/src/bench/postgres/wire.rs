//! As much of PostgreSQL's protocol (version 3) as one prepared statement takes: no client does less per order.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const ANSWER_BYTES_MAX: usize = 1 << 20;

/// One connection.
#[derive(Debug)]
pub(super) struct Session {
    stream: UnixStream,
    out: Vec<u8>,
    answer: Vec<u8>,
}

impl Session {
    /// # Errors
    /// It is not there, or does not let us in.
    pub(super) async fn open(socket: &Path) -> Result<Session> {
        let stream = UnixStream::connect(socket).await?;
        let mut session = Session { stream, out: Vec::new(), answer: Vec::new() };
        let text = b"user\0bench\0database\0postgres\0\0";
        session.out.extend_from_slice(&(8 + text.len() as u32).to_be_bytes());
        session.out.extend_from_slice(&196_608u32.to_be_bytes());
        session.out.extend_from_slice(text);
        session.exchange().await?;
        Ok(session)
    }

    /// Runs a statement that takes nothing and returns nothing.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub(super) async fn run(&mut self, statement: &str) -> Result<()> {
        self.message(b'Q', |out| text(out, statement));
        self.exchange().await.map(drop)
    }

    /// Prepares the one statement of this session.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub(super) async fn prepare(&mut self, statement: &str) -> Result<()> {
        self.message(b'P', |out| {
            text(out, "s");
            text(out, statement);
            out.extend_from_slice(&0u16.to_be_bytes());
        });
        self.message(b'S', |_| {});
        self.exchange().await.map(drop)
    }

    /// Runs it, in a transaction of its own, and waits until that is durable; how many rows it made.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub(super) async fn execute(&mut self, values: &[&[u8]]) -> Result<usize> {
        self.message(b'B', |out| {
            text(out, "");
            text(out, "s");
            out.extend_from_slice(&0u16.to_be_bytes());
            out.extend_from_slice(&(values.len() as u16).to_be_bytes());
            for value in values {
                out.extend_from_slice(&(value.len() as u32).to_be_bytes());
                out.extend_from_slice(value);
            }
            out.extend_from_slice(&0u16.to_be_bytes());
        });
        self.message(b'E', |out| {
            text(out, "");
            out.extend_from_slice(&0u32.to_be_bytes());
        });
        self.message(b'S', |_| {});
        self.exchange().await
    }

    fn message(&mut self, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
        self.out.push(kind);
        let at = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
        body(&mut self.out);
        let len = (self.out.len() - at) as u32;
        self.out[at..at + 4].copy_from_slice(&len.to_be_bytes());
    }

    /// Sends what is to be sent and reads until PostgreSQL is ready for more; the rows that the command made.
    async fn exchange(&mut self) -> Result<usize> {
        self.stream.write_all(&self.out).await?;
        self.out.clear();
        self.answer.clear();
        let (mut at, mut rows) = (0, 0);
        loop {
            while let Some(head) = self.answer.get(at..at + 5) {
                let (kind, len) =
                    (head[0], u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize);
                ensure!((4..ANSWER_BYTES_MAX).contains(&len), "an answer of {len} bytes");
                let Some(body) = self.answer.get(at + 5..at + 1 + len) else { break };
                at += 1 + len;
                match kind {
                    b'E' => bail!("PostgreSQL: {}", String::from_utf8_lossy(body).replace('\0', " ")),
                    b'C' => {
                        let said = String::from_utf8_lossy(body);
                        let count = said.trim_end_matches('\0').rsplit(' ').next().context("no count")?;
                        rows = count.parse().unwrap_or(0);
                    }
                    b'Z' => return Ok(rows),
                    _ => {}
                }
            }
            ensure!(self.stream.read_buf(&mut self.answer).await? > 0, "PostgreSQL closed the connection");
        }
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}
