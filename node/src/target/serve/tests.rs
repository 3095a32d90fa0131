//! A target as a whole, over a drive in a file, and an agent's end of its control socket.
use super::device::tests::spec;
use super::*;
use crate::moves::{MoveChange, MoveDrive, MovedExtent};
use crate::protocol::{Answer, FromTarget, Notice, Request};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

/// How long a test waits for what is to happen.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves; something was the matter with the process.
fn begin(spec: &TargetSpec) -> JoinHandle<Result<()>> {
    let spec = spec.clone();
    let process = Process { unhardened: vec!["said before anybody listens".to_owned()] };
    std::thread::spawn(move || serve(spec, process, None))
}

fn connect(spec: &TargetSpec) -> UnixStream {
    let start = std::time::Instant::now();
    loop {
        match UnixStream::connect(&spec.control_socket) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE)).expect("sets");
                stream.set_write_timeout(Some(PATIENCE)).expect("sets");
                return stream;
            }
            Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
        }
        std::thread::sleep(CLIENTS_PAUSE);
    }
}

fn say(mut agent: &UnixStream, request: &Request) {
    let mut line = serde_json::to_vec(request).expect("encodes");
    line.push(b'\n');
    agent.write_all(&line).expect("writes");
}

/// Everything that is heard until a line of which this is true, or until the connection ends.
fn hear(agent: &UnixStream, last: impl Fn(&FromTarget) -> bool) -> Vec<FromTarget> {
    let mut heard = Vec::new();
    for line in BufReader::new(agent).lines() {
        heard.push(serde_json::from_str(&line.expect("reads")).expect("a line"));
        if heard.last().is_some_and(&last) {
            break;
        }
    }
    heard
}

/// Ends the target; everything that is heard until then.
fn detach(agent: &UnixStream) -> Vec<FromTarget> {
    say(agent, &Request::Detach);
    hear(agent, |line| *line == FromTarget::Answer(Answer::Detached))
}

fn is_served(line: &FromTarget) -> bool {
    matches!(line, FromTarget::Notice(Notice::Serving { .. }))
}

/// Whether a notice was heard that is an event of this sort.
fn has_event(heard: &[FromTarget], sort: &str) -> bool {
    heard.iter().any(|line| matches!(line, FromTarget::Notice(Notice::Event { kind, .. }) if kind == sort))
}

/// A process that cannot be protected, and a drive that is not there, are noted before the control socket answers: nobody
/// ever heard of them.
#[test]
fn what_a_target_says_before_anybody_listens_is_heard_by_who_comes_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let spec = spec(folder.path());
    let serves = begin(&spec);
    let first = connect(&spec);
    let heard = hear(&first, is_served);
    assert!(matches!(heard[0], FromTarget::Hello { .. }), "{heard:?}");
    let second = connect(&spec);
    let later = detach(&second);
    assert!(has_event(&heard, "not_hardened"), "{heard:?}");
    assert!(!has_event(&later, "not_hardened"), "{later:?}");
    serves.join().expect("no panic").expect("closed");
}

/// A drive had 40,000 extents of one volume: the target heard a part of what was to move, and from then on nothing that
/// this agent, or the next one, said.
#[test]
fn a_target_hears_what_an_agent_says_behind_a_large_move() {
    let folder = tempfile::tempdir().expect("a folder");
    let spec = spec(folder.path());
    let serves = begin(&spec);
    let agent = connect(&spec);
    let drive = spec.drives[0].clone();
    let order = MoveOrder {
        id: 1,
        change: MoveChange::Leave { drive: drive.id.clone() },
        legs: 1,
        to: vec![MoveDrive { id: drive.id, path: drive.path.expect("there") }],
        extents: (30_000..70_000).map(|n| MovedExtent { old: n, to: 0, new: n }).collect(),
        dropped: Vec::new(),
    };
    hear(&agent, is_served);
    say(&agent, &Request::Move { order, avoid: BTreeSet::new() });
    let heard = detach(&agent);
    let answers = heard.iter().filter(|line| matches!(line, FromTarget::Answer(_))).count();
    assert_eq!(answers, 2, "{heard:?}");
    serves.join().expect("no panic").expect("closed");
}

/// A target stopped reading and kept the connection: its agent waited for ever for answers, and for room to ask.
#[test]
fn a_connection_on_which_a_target_reads_no_more_is_closed() {
    let folder = tempfile::tempdir().expect("a folder");
    let spec = spec(folder.path());
    let serves = begin(&spec);
    let mut agent = connect(&spec);
    agent.write_all(b"\"stat").expect("writes");
    agent.shutdown(Shutdown::Write).expect("shuts down");
    assert!(matches!(hear(&agent, |_| false)[0], FromTarget::Hello { .. }));
    detach(&connect(&spec));
    serves.join().expect("no panic").expect("closed");
}
