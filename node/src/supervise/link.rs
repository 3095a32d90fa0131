//! The connection to a target: lines out, lines in, requests answered in order.
use crate::error::{Error, Kind, Result};
use crate::protocol::{Answer, FIRST_MAX_LINE, FromTarget, MAX_LINE, PROTOCOL_VERSION, Request};
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
/// With so many bytes on their way to a target that does not read, beside the largest line, it is asked nothing more.
const MAX_UNSENT: usize = 1 << 20;

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

/// A connection. Nobody waits for a target that does not read, least of all whoever hears what it says: it may be waiting
/// for just that. What is said to it goes out while the next line is waited for.
pub struct Link {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    line: Vec<u8>,
    unsent: VecDeque<u8>,
    /// Bytes of the largest line since nothing was unsent.
    largest: usize,
    /// Bytes of a line that the target hears at most.
    max_line: usize,
    waiting: VecDeque<Waiter>,
}

impl Link {
    /// Connects and hears the target's hello.
    pub async fn connect(socket: &Path, group: &str) -> Result<(Self, Hello)> {
        let fail = |source: &std::io::Error| Error::io("connect to", socket, source);
        let address = sockets::Address::of(socket).map_err(|source| fail(&source))?;
        let stream = UnixStream::connect(address.path()).await.map_err(|source| fail(&source))?;
        let (reader, writer) = stream.into_split();
        let mut link = Self {
            reader: BufReader::new(reader),
            writer,
            line: Vec::new(),
            unsent: VecDeque::new(),
            largest: 0,
            max_line: FIRST_MAX_LINE,
            waiting: VecDeque::new(),
        };
        let name = socket.display().to_string();
        let silent = || Error::new(Kind::Failed, name.clone(), format!("no target says hello at {name}"));
        let hello = tokio::time::timeout(HELLO_DEADLINE, link.next()).await.map_err(|_| silent())?;
        match hello {
            Some(FromTarget::Hello { protocol, pid, version, group: its, max_line, .. }) => {
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
                link.max_line = max_line;
                Ok((link, Hello { pid, version }))
            }
            _ => Err(silent()),
        }
    }

    /// The next line, and meanwhile all that was sent is on its way. `None`: the connection ended or what came is no line
    /// of the protocol. May be dropped while waiting without losing anything.
    pub async fn next(&mut self) -> Option<FromTarget> {
        let Self { reader, writer, line, unsent, .. } = self;
        loop {
            let room = (MAX_LINE - line.len().min(MAX_LINE)) as u64;
            let mut limited = (&mut *reader).take(room);
            tokio::select! {
                read = limited.read_until(b'\n', line) => {
                    read.ok()?;
                    break;
                }
                sent = writer.write(unsent.as_slices().0), if !unsent.is_empty() => match sent {
                    Ok(count @ 1..) => drop(unsent.drain(..count)),
                    // It has closed. What it said before is still to be heard.
                    _ => unsent.clear(),
                },
            }
        }
        if line.last() != Some(&b'\n') {
            return None;
        }
        let parsed = serde_json::from_slice(line);
        line.clear();
        parsed.map_err(|error| tracing::error!("a target sent what is no line of the protocol: {error}")).ok()
    }

    /// Sends a request; `answered` finds the waiter again. One that the target cannot hear is refused, and nothing of it is
    /// sent.
    pub fn send(&mut self, request: &Request, waiter: Waiter) {
        let line = line_of(request);
        let largest = if self.unsent.is_empty() { 0 } else { self.largest }.max(line.len());
        let refusal = if line.len() > self.max_line {
            let message = format!("{} bytes are more than this target hears in one line", line.len());
            Error::general(Kind::NotSupported, message)
        } else if self.unsent.len() + line.len() > largest + MAX_UNSENT {
            Error::general(Kind::Busy, "the target does not listen")
        } else {
            self.largest = largest;
            self.unsent.extend(line);
            return self.waiting.push_back(waiter);
        };
        match waiter {
            // The caller may have given up.
            Waiter::Caller(reply) => drop(reply.send(Err(refusal))),
            Waiter::None | Waiter::Detach => tracing::warn!("a target was not told: {refusal}"),
        }
    }

    /// Asks the target to close, however much it has not heard yet.
    pub fn send_detach(&mut self) {
        self.unsent.extend(line_of(&Request::Detach));
        self.waiting.push_back(Waiter::Detach);
    }

    /// Whether the target was asked to close and has not refused, as far as it has answered.
    pub fn is_detaching(&self) -> bool {
        self.waiting.iter().any(|waiter| matches!(waiter, Waiter::Detach))
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

fn line_of(request: &Request) -> Vec<u8> {
    let mut line = serde_json::to_vec(request).expect("requests encode as JSON");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moves::{MoveChange, MoveOrder, MovedExtent};
    use crate::protocol::Notice;
    use std::collections::BTreeSet;
    use tokio::net::UnixListener;

    /// A connection to a target of group `g`, and the target's end.
    async fn connected(folder: &Path) -> (Link, UnixStream) {
        connected_to(folder, MAX_LINE).await
    }

    /// As `connected`, to a target that hears lines of so many bytes.
    async fn connected_to(folder: &Path, max_line: usize) -> (Link, UnixStream) {
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
                max_line,
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
        link.send(&look, Waiter::Caller(before));
        link.send_detach();
        assert!(link.is_detaching());
        assert_eq!(hear(&mut link, &mut target, failed("the look")).await, None);
        let heard = heard_before.await.expect("answered").expect("answered");
        assert_eq!(heard, failed("the look"));
        assert!(link.is_detaching());
        assert_eq!(hear(&mut link, &mut target, failed("in use")).await.as_deref(), Some("in use"));
        assert!(!link.is_detaching());
        let (after, heard_after) = oneshot::channel();
        link.send(&look, Waiter::Caller(after));
        assert_eq!(hear(&mut link, &mut target, Answer::Done).await, None);
        assert_eq!(heard_after.await.expect("answered"), Ok(Answer::Done));
    }

    /// A target that closes its group may want a row for that.
    #[tokio::test]
    async fn what_does_not_fail_passes_a_detach_that_is_under_way() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut link, mut target) = connected(folder.path()).await;
        link.send_detach();
        link.send(&Request::NoRow { row: 1 }, Waiter::None);
        assert_eq!(hear(&mut link, &mut target, Answer::Done).await, None);
        assert!(link.is_detaching());
        assert!(link.waiting.len() == 1);
    }

    /// A move of more than the socket has room for, to a target that was busy, was waited for: nothing that it said was
    /// heard meanwhile, and if it waited for that, nothing ever was.
    #[tokio::test]
    async fn a_target_that_does_not_read_is_heard_and_hears_all_in_the_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut link, mut target) = connected(folder.path()).await;
        let order = large_move();
        let (reply, heard) = oneshot::channel();
        link.send(&order, Waiter::Caller(reply));
        say(&mut target, &FromTarget::Notice(Notice::WantRow { row: 1, refused: None })).await;
        let wish = tokio::time::timeout(HELLO_DEADLINE, link.next()).await.expect("it is heard");
        assert!(matches!(wish, Some(FromTarget::Notice(Notice::WantRow { .. }))), "{wish:?}");
        link.send(&Request::NoRow { row: 1 }, Waiter::None);
        let reads = tokio::spawn(async move {
            let mut lines = BufReader::new(target).lines();
            let first = lines.next_line().await.expect("reads").expect("a line");
            let second = lines.next_line().await.expect("reads").expect("a line");
            let mut target = lines.into_inner().into_inner();
            say(&mut target, &FromTarget::Answer(Answer::Done)).await;
            [first, second].map(|line| serde_json::from_str::<Request>(&line).expect("a request"))
        });
        let answer = tokio::time::timeout(HELLO_DEADLINE, link.next()).await.expect("it reads");
        assert_eq!(answer, Some(FromTarget::Answer(Answer::Done)));
        assert_eq!(link.answered(Answer::Done), None);
        assert_eq!(heard.await.expect("answered"), Ok(Answer::Done));
        assert_eq!(reads.await.expect("no panic"), [order, Request::NoRow { row: 1 }]);
    }

    /// A target that was there before the agent heard a part of what was to move, and then nothing any more.
    #[tokio::test]
    async fn what_an_older_target_cannot_hear_is_not_said_to_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut link, mut target) = connected_to(folder.path(), FIRST_MAX_LINE).await;
        let (reply, refused) = oneshot::channel();
        link.send(&large_move(), Waiter::Caller(reply));
        let refusal = refused.await.expect("answered").expect_err("it is too long");
        assert_eq!(refusal.kind, Kind::NotSupported);
        link.send(&Request::Status, Waiter::None);
        let mut heard = [0; 9];
        tokio::select! {
            line = link.next() => panic!("{line:?}"),
            read = target.read_exact(&mut heard) => drop(read.expect("reads")),
        }
        assert_eq!(&heard, b"\"status\"\n");
        assert_eq!(hear(&mut link, &mut target, Answer::Done).await, None);
        assert!(link.waiting.is_empty());
    }

    /// A target that reads nothing is asked again and again, by whoever did not hear from it in time.
    #[tokio::test]
    async fn what_a_target_does_not_read_has_a_bound() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut link, _target) = connected(folder.path()).await;
        link.send(&large_move(), Waiter::None);
        let (reply, refused) = oneshot::channel();
        link.send(&large_move(), Waiter::Caller(reply));
        assert_eq!(refused.await.expect("answered").expect_err("too much").kind, Kind::Busy);
        link.send_detach();
        assert!(link.is_detaching());
    }

    /// More than a mebibyte.
    fn large_move() -> Request {
        let order = MoveOrder {
            id: 1,
            change: MoveChange::AddLeg,
            legs: 1,
            to: Vec::new(),
            extents: (30_000..70_000).map(|n| MovedExtent { old: n, to: 0, new: n }).collect(),
            dropped: Vec::new(),
        };
        Request::Move { order, avoid: BTreeSet::new() }
    }
}
