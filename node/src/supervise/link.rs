//! The connection to a target: lines out, lines in, requests answered in order.
use crate::error::{Error, Kind, Result};
use crate::protocol::{Answer, FromTarget, MAX_LINE, PROTOCOL_VERSION, Request};
use crate::sockets;
use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;

/// The longest that a target may take to say hello.
const HELLO_DEADLINE: Duration = Duration::from_secs(5);

/// What a target said of itself when the connection began.
#[derive(Clone, Debug)]
pub struct Hello {
    pub pid: u32,
    pub version: String,
}

/// Who waits for the answer to a request.
pub enum Waiter {
    /// Nobody.
    None,
    /// A caller.
    Caller(oneshot::Sender<Result<Answer>>),
}

/// A connection.
pub struct Link {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    line: Vec<u8>,
    waiting: VecDeque<Waiter>,
}

impl Link {
    /// Connects and hears the target's hello.
    pub async fn connect(socket: &Path, group: &str) -> Result<(Self, Hello)> {
        let fail = |source: &std::io::Error| Error::io("connect to", socket, source);
        let address = sockets::Address::of(socket).map_err(|source| fail(&source))?;
        let stream = UnixStream::connect(address.path()).await.map_err(|source| fail(&source))?;
        let (reader, writer) = stream.into_split();
        let mut link =
            Self { reader: BufReader::new(reader), writer, line: Vec::new(), waiting: VecDeque::new() };
        let name = socket.display().to_string();
        let silent = || Error::new(Kind::Failed, name.clone(), format!("no target says hello at {name}"));
        let hello = tokio::time::timeout(HELLO_DEADLINE, link.next()).await.map_err(|_| silent())?;
        match hello {
            Some(FromTarget::Hello { protocol, pid, version, group: its, .. }) => {
                if its != group {
                    return Err(Error::new(
                        Kind::Failed,
                        name.clone(),
                        format!("{name} serves another group"),
                    ));
                }
                if protocol > PROTOCOL_VERSION {
                    let message = format!("the target at {name} speaks a newer protocol ({protocol})");
                    return Err(Error::new(Kind::NotSupported, name.clone(), message));
                }
                Ok((link, Hello { pid, version }))
            }
            _ => Err(silent()),
        }
    }

    /// The next line. `None`: the connection ended or what came is no line of the protocol. May be dropped
    /// while waiting without losing anything.
    pub async fn next(&mut self) -> Option<FromTarget> {
        let room = (MAX_LINE - self.line.len().min(MAX_LINE)) as u64;
        let mut limited = (&mut self.reader).take(room);
        let _ = limited.read_until(b'\n', &mut self.line).await.ok()?;
        if self.line.last() != Some(&b'\n') {
            return None;
        }
        let parsed = serde_json::from_slice(&self.line);
        self.line.clear();
        parsed.map_err(|error| tracing::error!("a target sent what is no line of the protocol: {error}")).ok()
    }

    /// Sends a request; `answered` finds the waiter again.
    pub async fn send(&mut self, request: &Request, waiter: Waiter) -> Result<()> {
        self.waiting.push_back(waiter);
        self.write(request).await
    }

    /// Asks the target to close: answered at its end, after whatever else was asked.
    pub async fn send_detach(&mut self) -> Result<()> {
        self.write(&Request::Detach).await
    }

    async fn write(&mut self, request: &Request) -> Result<()> {
        let mut line = serde_json::to_vec(request).expect("requests encode as JSON");
        line.push(b'\n');
        let sent = self.writer.write_all(&line).await;
        sent.map_err(|source| Error::general(Kind::Failed, format!("the target does not listen: {source}")))
    }

    /// Hands an answer to whoever asked first.
    pub fn answered(&mut self, answer: Answer) {
        if let Some(Waiter::Caller(reply)) = self.waiting.pop_front() {
            // The caller may have given up.
            let _ = reply.send(Ok(answer));
        }
    }
}
