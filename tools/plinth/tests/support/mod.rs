//! An agent of its own for each test: socket, state and drives in a temporary folder, no root needed.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod contents;
pub mod nbd;
pub mod rot;

use serde_json::Value;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PLINTH: &str = env!("CARGO_BIN_EXE_plinth");
/// Whoever has waited so long waits in vain: longer than anything here takes, also on a machine that stands still for minutes.
pub const DEADLINE: Duration = Duration::from_secs(600);

/// Sends a signal; whether there is such a process. The shell does it: a small system has no program `kill`.
pub fn signal(name: &str, pid: &str) -> bool {
    let status = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, pid]).status();
    status.expect("a shell").success()
}

/// What a command printed and how it ended.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Its standard output, after success.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "out: {} err: {}", self.out, self.err);
        self.out
    }

    /// Its standard output as JSON, after success.
    #[track_caller]
    pub fn json(self) -> Value {
        serde_json::from_str(&self.ok()).expect("JSON")
    }

    /// Checks an expected failure: the exit code, one line on standard error with these words, nothing on
    /// standard output.
    #[track_caller]
    pub fn fails(self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "out: {} err: {}", self.out, self.err);
        assert_eq!(self.out, "", "a failure prints no result");
        assert_eq!(self.err.trim_end().lines().count(), 1, "one line: {}", self.err);
        for word in words {
            assert!(self.err.contains(word), "{word:?} is missing in: {}", self.err);
        }
    }
}

/// An agent and its folder.
pub struct Agent {
    folder: tempfile::TempDir,
    /// Name of its state folder.
    pub state: &'static str,
    /// Further words for it.
    pub further: &'static [&'static str],
    /// Its binary.
    pub program: PathBuf,
    /// What is in its environment beside ours.
    pub environment: &'static [(&'static str, &'static str)],
    process: Option<Child>,
}

impl Agent {
    /// A folder without an agent.
    pub fn stopped() -> Self {
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        let folder = tempfile::Builder::new().permissions(private).tempdir().expect("a folder");
        Self { folder, state: "state", further: &[], program: PLINTH.into(), environment: &[], process: None }
    }

    /// A running agent.
    pub fn start() -> Self {
        let mut agent = Self::stopped();
        agent.run();
        agent
    }

    /// Starts the agent and waits until it answers.
    pub fn run(&mut self) {
        self.spawn();
        let deadline = Instant::now() + DEADLINE;
        while UnixStream::connect(self.socket()).is_err() {
            let ended = self.process.as_mut().expect("started").try_wait().expect("waits");
            assert!(ended.is_none(), "the agent ended: {}", self.log());
            assert!(Instant::now() < deadline, "the agent does not answer: {}", self.log());
            std::thread::yield_now();
        }
    }

    /// Starts the agent.
    pub fn spawn(&mut self) {
        let log =
            std::fs::File::options().create(true).append(true).open(self.path("agent.log")).expect("a log");
        let mut command = Command::new(&self.program);
        command
            .arg("--socket")
            .arg(self.socket())
            .arg("node")
            .arg("--state")
            .arg(self.state_folder())
            .arg("--no-scan")
            .args(self.further);
        command.envs(self.environment.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.process = Some(command.spawn().expect("the agent starts"));
    }

    /// The agent's log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("agent.log")).unwrap_or_default()
    }

    /// Kills the agent as a crash would.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("running");
        process.kill().expect("killed");
        process.wait().expect("gone");
    }

    /// Ends the agent with SIGTERM.
    pub fn terminate(&mut self) {
        let process = self.process.take().expect("running");
        let id = process.id().to_string();
        assert!(signal("TERM", &id), "it can be told");
        let ended = process.wait_with_output().expect("gone");
        assert_eq!(ended.status.code(), Some(0), "{}", self.log());
    }

    /// Waits until the agent has ended by itself; its exit code.
    pub fn wait_end(&mut self) -> i32 {
        self.process.take().expect("running").wait().expect("gone").code().expect("an exit code")
    }

    /// Whether the agent has a file of its folder open.
    pub fn has_open(&self, name: &str) -> bool {
        let files = format!("/proc/{}/fd", self.process.as_ref().expect("running").id());
        let files = std::fs::read_dir(files).expect("lives").flatten();
        files.into_iter().any(|file| std::fs::read_link(file.path()).is_ok_and(|to| to == self.path(name)))
    }

    /// Its state folder.
    fn state_folder(&self) -> PathBuf {
        self.path(self.state)
    }

    /// A path in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("s")
    }

    /// A sparse file for a drive.
    pub fn drive(&self, name: &str, mib: u64) -> String {
        let path = self.path(name);
        std::fs::File::create(&path).expect("creates").set_len(mib << 20).expect("sizes");
        path.display().to_string()
    }

    /// Runs `plinth` with these arguments, separated by spaces; `@` begins a path in the folder.
    pub fn plinth(&self, line: &str) -> Ran {
        plinth_at(&self.socket(), self.words(line))
    }

    /// What the socket answers to a GET.
    pub fn get(&self, path: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).expect("connects");
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("asks");
        std::io::read_to_string(stream).expect("answers")
    }

    /// The arguments of a line.
    pub fn words(&self, line: &str) -> Vec<String> {
        let path = |word: &str| word.strip_prefix('@').map(|name| self.path(name).display().to_string());
        line.split_whitespace().map(|word| path(word).unwrap_or_else(|| word.to_owned())).collect()
    }

    /// A pool `p` of two drives of 256 MiB.
    pub fn pool(&self) {
        self.drive("d1", 256);
        self.drive("d2", 256);
        self.plinth("pool create p @d1 @d2").ok();
    }

    /// A pool `p` of two drives and a volume `v` of 64 MiB.
    pub fn volume(&self) {
        self.pool();
        self.plinth("volume create v --pool p --size 64MiB").ok();
    }

    /// Everything that the catalogue says, to compare before and after. What a running target changes by itself
    /// (it takes rows, its memory grows) is left out while one runs.
    pub fn state(&self) -> Value {
        let mut status = self.plinth("status -o json").json();
        status["agent"] = Value::Null;
        let mut served = false;
        for volume in status["volumes"].as_array_mut().expect("a list") {
            if !volume["target"].is_null() {
                served = true;
                volume["target"]["memory_bytes"] = Value::Null;
                forget(volume, &["allocated_bytes", "mapped_bytes", "seq", "durable_seq"]);
            }
        }
        for pool in status["pools"].as_array_mut().expect("a list").iter_mut().filter(|_| served) {
            forget(pool, &["allocated_bytes", "free_bytes", "reclaimable_bytes"]);
            for drive in pool["drives"].as_array_mut().expect("a list") {
                forget(drive, &["allocated_bytes", "latency"]);
            }
        }
        status
    }

    /// Waits until a volume is in this state.
    pub fn wait_state(&self, volume: &str, state: &str) -> Value {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let shown = self.plinth(&format!("volume show {volume} -o json")).json();
            if shown["state"] == state {
                return shown;
            }
            assert!(Instant::now() < deadline, "volume {volume} is not {state}: {shown}\n{}", self.log());
            std::thread::yield_now();
        }
    }
}

impl Agent {
    /// What a failure leaves behind, for whoever reads the test's output.
    fn tell(&self) {
        for command in ["status -o json", "pool list -o json", "events"] {
            let said = self.plinth(&format!("{command} --timeout 10s"));
            eprintln!("plinth {command}: exit code {}\n{}{}", said.code, said.out, said.err);
        }
        eprintln!("log:\n{}", self.log());
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() && self.process.is_some() {
            self.tell();
        }
        if self.process.is_some() {
            let _ = self.plinth("node stop --all --yes --timeout 60s");
        }
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        kill_targets(self.folder.path());
    }
}

fn forget(object: &mut Value, fields: &[&str]) {
    for field in fields {
        object[*field] = Value::Null;
    }
}

/// Runs `plinth` with these arguments against the agent at this socket.
pub fn plinth_at(socket: &Path, args: impl IntoIterator<Item = String>) -> Ran {
    let done = Command::new(PLINTH)
        .env("PLINTH_SOCKET", socket)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("plinth runs");
    Ran {
        code: done.status.code().expect("an exit code"),
        out: String::from_utf8(done.stdout).expect("text"),
        err: String::from_utf8(done.stderr).expect("text"),
    }
}

/// Ends targets that a failed test left: those whose spec lies in its folder.
fn kill_targets(folder: &Path) {
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.contains("target") && line.contains(&folder.display().to_string()) {
            signal("KILL", &pid.to_string());
        }
    }
}
