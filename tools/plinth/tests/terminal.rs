//! What is shown on a terminal, and only there: bars that tell how far something is.
mod support;

use nix::pty::{Winsize, openpty};
use std::fs::File;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use support::contents::Contents;
use support::nbd::Nbd;
use support::{Agent, DEADLINE};

/// `plinth` whose standard error is a terminal.
struct Terminal {
    child: Child,
    shown: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Terminal {
    fn start(agent: &Agent, line: &str) -> Self {
        let size = Winsize { ws_row: 24, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).expect("a terminal");
        let mut command = Command::new(env!("CARGO_BIN_EXE_plinth"));
        command.args(agent.words(line)).env("PLINTH_SOCKET", agent.socket()).env("TERM", "xterm");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(pty.slave);
        let child = command.spawn().expect("plinth runs");
        drop(command);
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut master, into) = (File::from(pty.master), shown.clone());
        // It reads until the last who has the terminal open is gone, which is an error of its own.
        let reader = std::thread::spawn(move || {
            let mut some = [0; 4096];
            while let Ok(count @ 1..) = master.read(&mut some) {
                into.lock().expect("no panic").extend_from_slice(&some[..count]);
            }
        });
        Self { child, shown, reader }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().expect("no panic")).into_owned()
    }

    /// The frames that were drawn so far, without what moves the cursor.
    fn frames(&self) -> Vec<String> {
        let text = self.text().replace("\u{1b}[2K", "\r").replace("\u{1b}[1A", "\r");
        text.split(['\r', '\n'])
            .map(str::trim_end)
            .filter(|frame| !frame.is_empty())
            .map(str::to_owned)
            .collect()
    }

    #[track_caller]
    fn wait_frame(&self, what: &str, is: impl Fn(&str) -> bool) -> String {
        let start = Instant::now();
        loop {
            if let Some(frame) = self.frames().into_iter().find(|frame| is(frame)) {
                return frame;
            }
            assert!(start.elapsed() < DEADLINE, "no {what} in {:?}", self.text());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for its end: exit code, standard output, what was shown.
    fn end(self) -> (Option<i32>, String, String) {
        let done = self.child.wait_with_output().expect("it ends");
        self.reader.join().expect("no panic");
        let shown = String::from_utf8_lossy(&self.shown.lock().expect("no panic")).into_owned();
        (done.status.code(), String::from_utf8(done.stdout).expect("text"), shown)
    }
}

/// The bar of a frame: what is between the brackets, as parts of a hundred.
fn percent(frame: &str, what: &str) -> Option<usize> {
    let bar = frame.strip_prefix(what)?.strip_prefix(" [")?.split_once(']')?.0;
    (bar.chars().count() == 40).then(|| bar.matches('=').count() * 100 / 40)
}

fn mirror(agent: &Agent, contents: &mut Contents) {
    agent.volume();
    agent.plinth("volume attach v --nbd @n").ok();
    contents.write(&mut Nbd::connect(&agent.path("n")), 0, 1);
}

/// A scrub that is waited for shows how far it is, how fast, and how long it will take; the bar is gone at its end, and standard
/// output has the result alone.
#[test]
fn a_scrub_shows_a_bar_on_a_terminal_only() {
    let agent = Agent::start();
    mirror(&agent, &mut Contents::new(256));
    agent.plinth("pool set p scrub_rate=4MiB").ok();
    let terminal = Terminal::start(&agent, "scrub start v --wait -o name");
    let frame = terminal.wait_frame("bar with a speed and a rest", |frame| {
        percent(frame, "scrub").is_some() && frame.contains("/s, ") && frame.ends_with(" s left")
    });
    assert!(frame.contains(" MiB of "), "{frame:?}");
    assert!(percent(&frame, "scrub").is_some_and(|percent| percent < 100), "it has just begun: {frame:?}");
    agent.plinth("pool set p scrub_rate=0").ok();
    let (code, out, shown) = terminal.end();
    assert_eq!((code, out.as_str()), (Some(0), "v\n"));
    assert!(shown.ends_with("\r\u{1b}[2K"), "the bar is wiped off: {shown:?}");
    // Neither where there is none, nor where it is not wanted.
    assert_eq!(agent.plinth("scrub start v --wait").err, "");
    let (code, _, shown) = Terminal::start(&agent, "scrub start v --wait --quiet").end();
    assert_eq!((code, shown.as_str()), (Some(0), ""));
}

/// `--watch` of a volume shows the resync, and ends with it. Before anything can be told of its length no bar is full.
#[test]
fn a_resync_shows_a_bar_while_it_is_watched() {
    let agent = Agent::start();
    let mut contents = Contents::new(256);
    mirror(&agent, &mut contents);
    agent.plinth("drive offline p @d2").ok();
    contents.write(&mut Nbd::connect(&agent.path("n")), 0, 1);
    agent.plinth("pool set p resync_rate=2MiB").ok();
    agent.plinth("drive online p @d2").ok();
    let terminal = Terminal::start(&agent, "volume show v --watch -o name");
    terminal.wait_frame("bar with a speed and a rest", |frame| {
        percent(frame, "resync").is_some_and(|percent| percent < 100)
            && frame.contains("/s, ")
            && frame.ends_with(" s left")
    });
    // A bar is drawn anew when it changes: none was full before.
    let full = |frame: &String| percent(frame, "resync") == Some(100);
    assert_eq!(terminal.frames().iter().find(|frame| full(frame)), None, "it was not at its end");
    agent.plinth("pool set p resync_rate=0").ok();
    let (code, out, _) = terminal.end();
    assert_eq!((code, out.as_str()), (Some(0), "v\n"));
    assert_eq!(agent.plinth("volume show v -o json").json()["health"], "online");
}
