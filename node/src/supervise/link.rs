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
    /// Everybody who wants the volume detached. Only a refusal is an answer to that; a target that detaches answers at its
    /// end, after whatever else was asked.
    Detach,
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

    /// Asks the target to close.
    pub async fn send_detach(&mut self) -> Result<()> {
        self.send(&Request::Detach, Waiter::Detach).await
    }

    /// Whether the target was asked to close and has not refused, as far as it has answered.
    pub fn is_detaching(&self) -> bool {
        self.waiting.iter().any(|waiter| matches!(waiter, Waiter::Detach))
    }

    async fn write(&mut self, request: &Request) -> Result<()> {
        let mut line = serde_json::to_vec(request).expect("requests encode as JSON");
        line.push(b'\n');
        let sent = self.writer.write_all(&line).await;
        sent.map_err(|source| Error::general(Kind::Failed, format!("the target does not listen: {source}")))
    }

    /// Hands an answer to whoever asked first. Returns the refusal of a detach.
    ///
    /// Behind a request to detach, while it is not refused, nothing may be asked that can fail: whose failure comes next
    /// could not be told.
    pub fn answered(&mut self, answer: Answer) -> Option<Error> {
        let answer = match (self.waiting.front(), answer) {
            (Some(Waiter::Detach), Answer::Failed(refusal)) => {
                self.waiting.pop_front();
                return Some(refusal);
            }
            (_, answer) => answer,
        };
        let first = self.waiting.iter().position(|waiter| !matches!(waiter, Waiter::Detach));
        if let Some(Waiter::Caller(reply)) = first.and_then(|first| self.waiting.remove(first)) {
            // The caller may have given up.
            let _ = reply.send(Ok(answer));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    /// A connection to a target of group `g`, and the target's end.
    async fn connected(folder: &Path) -> (Link, UnixStream) {
        let socket = folder.join("s");
        let listener = UnixListener::bind(&socket).expect("binds");
        let accept = async {
            let (mut target, _) = listener.accept().await.expect("accepts");
            let hello = FromTarget::Hello {
                protocol: PROTOCOL_VERSION,
                pid: 1,
                version: "v".into(),
                group: "g".into(),
                gen_number: 1,
            };
            say(&mut target, &hello).await;
            target
        };
        let (link, target) = tokio::join!(Link::connect(&socket, "g"), accept);
        (link.expect("connects").0, target)
    }

    async fn say(target: &mut UnixStream, line: &FromTarget) {
        let mut bytes = serde_json::to_vec(line).expect("encodes");
        bytes.push(b'\n');
        target.write_all(&bytes).await.expect("writes");
    }

    fn failed(why: &str) -> Answer {
        Answer::Failed(Error::general(Kind::Busy, why))
    }

    /// What a line of answers means; the refusal of a detach, if it is one.
    async fn hear(link: &mut Link, target: &mut UnixStream, answer: Answer) -> Option<String> {
        say(target, &FromTarget::Answer(answer)).await;
        match link.next().await {
            Some(FromTarget::Answer(answer)) => link.answered(answer).map(|refusal| refusal.message),
            other => panic!("{other:?}"),
        }
    }

    /// A look at a scrub failed while a detach was under way: the detach was called refused, the volume went all the same,
    /// and every later answer went to the wrong caller.
    #[tokio::test]
    async fn a_failure_is_of_whoever_asked_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut link, mut target) = connected(folder.path()).await;
        let (before, heard_before) = oneshot::channel();
        let look = Request::ReleaseDrive { drive: "d".into() };
        link.send(&look, Waiter::Caller(before)).await.expect("sends");
        link.send_detach().await.expect("sends");
        assert!(link.is_detaching());
        assert_eq!(hear(&mut link, &mut target, failed("the look")).await, None);
        let heard = heard_before.await.expect("answered").expect("answered");
        assert_eq!(heard, failed("the look"));
        assert!(link.is_detaching());
        assert_eq!(hear(&mut link, &mut target, failed("in use")).await.as_deref(), Some("in use"));
        assert!(!link.is_detaching());
        let (after, heard_after) = oneshot::channel();
        link.send(&look, Waiter::Caller(after)).await.expect("sends");
        assert_eq!(hear(&mut link, &mut target, Answer::Done).await, None);
        assert_eq!(heard_after.await.expect("answered"), Ok(Answer::Done));
    }

    /// A target that closes its group may want a row for that.
    #[tokio::test]
    async fn what_does_not_fail_passes_a_detach_that_is_under_way() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut link, mut target) = connected(folder.path()).await;
        link.send_detach().await.expect("sends");
        link.send(&Request::NoRow { row: 1 }, Waiter::None).await.expect("sends");
        assert_eq!(hear(&mut link, &mut target, Answer::Done).await, None);
        assert!(link.is_detaching());
        assert!(link.waiting.len() == 1);
    }
}
