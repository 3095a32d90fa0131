//! Programs that serve volumes: what a binary says of itself, and whether a process runs it.
//!
//! A target can be another build than the agent: after an upgrade of the agent its targets go on, and a volume can
//! be handed to a given binary while it is in use (`agent::upgrade`). Before anything is stopped for it, the binary
//! is run once as `PATH version -o json`: what cannot answer that cannot serve.
use crate::error::{Error, Kind, Result};
use crate::protocol::PROTOCOL_VERSION;
use serde::{Deserialize, Serialize};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use volume::layout::FORMAT_VERSION;

/// The longest that a binary may take to say its version.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// The longest that a start waits for those who have the file open to write.
const BUSY_DEADLINE: Duration = Duration::from_secs(2);
/// How often it looks.
const BUSY_LOOK: Duration = Duration::from_millis(5);
/// Bytes of an answer that are read at most.
const MAX_ANSWER: u64 = 1 << 16;

/// What `plinth version -o json` prints.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Facts {
    /// Version of the program.
    pub version: String,
    /// Versions of the format on drives that it reads and writes.
    #[serde(default = "first_format")]
    pub formats: Vec<u16>,
    /// Version of the protocol between agent and target.
    #[serde(default = "first_protocol")]
    pub protocol: u32,
}

/// Builds that say nothing of it know this one.
fn first_format() -> Vec<u16> {
    vec![1]
}

/// Builds that say nothing of it speak this one.
const fn first_protocol() -> u32 {
    1
}

/// What this program is.
pub fn own() -> Facts {
    Facts { version: crate::VERSION.to_owned(), formats: vec![FORMAT_VERSION], protocol: PROTOCOL_VERSION }
}

/// Asks a binary what it is, and refuses what could not serve a volume of this agent.
///
/// # Errors
/// `NotFound`, `Invalid` (no program, or not this one), `NotSupported` (of a format or protocol that does not fit).
pub async fn check(path: &Path) -> Result<Facts> {
    let name = path.display().to_string();
    let about = std::fs::metadata(path).map_err(|source| Error::io("examine", path, &source))?;
    if !about.is_file() || about.permissions().mode() & 0o111 == 0 {
        return Err(Error::invalid(name.clone(), format!("{name} is not an executable file")));
    }
    let facts = ask(path).await?;
    if !facts.formats.contains(&FORMAT_VERSION) {
        let message = format!(
            "{name} (plinth {}) does not read drives of format version {FORMAT_VERSION}",
            facts.version
        );
        return Err(Error::new(Kind::NotSupported, name, message));
    }
    if facts.protocol > PROTOCOL_VERSION {
        let message = format!("{name} (plinth {}) is too new for this agent", facts.version);
        return Err(Error::new(Kind::NotSupported, name, message)
            .hint("start the agent from the new binary first; targets go on meanwhile"));
    }
    Ok(facts)
}

async fn ask(path: &Path) -> Result<Facts> {
    let name = path.display().to_string();
    let foreign = |why: String| {
        Error::invalid(name.clone(), format!("{name} is no plinth: {why}"))
            .hint(format!("{name} version -o json must say its version"))
    };
    let mut command = Command::new(path);
    command.args(["version", "-o", "json"]).env_clear().current_dir("/").kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = spawn(&mut command).await.map_err(|error| foreign(error.to_string()))?;
    let out = process.stdout.take().expect("it was piped");
    let answered = async {
        let mut answer = Vec::new();
        out.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>((answer, process.wait().await?))
    };
    let answered = tokio::time::timeout(ANSWER_DEADLINE, answered).await;
    let (answer, status) = answered
        .map_err(|_| foreign(format!("it did not answer within {} s", ANSWER_DEADLINE.as_secs())))?
        .map_err(|error| foreign(error.to_string()))?;
    if !status.success() {
        return Err(foreign(format!("it ended with {status}")));
    }
    serde_json::from_slice(&answer).map_err(|_| foreign("its answer is not understood".to_owned()))
}

/// Starts a program. One that was put in its place a moment ago can have a writer still, although the copy has ended: a
/// child that its copier forked meanwhile holds all files of its parent until it becomes another program. That passes.
///
/// # Errors
/// The system's; `ExecutableFileBusy` if somebody writes to the file for longer.
pub async fn spawn(command: &mut Command) -> std::io::Result<Child> {
    let start = Instant::now();
    loop {
        match command.spawn() {
            Err(error)
                if error.kind() == std::io::ErrorKind::ExecutableFileBusy
                    && start.elapsed() < BUSY_DEADLINE =>
            {
                tokio::time::sleep(BUSY_LOOK).await;
            }
            started => return started,
        }
    }
}

/// Whether this process runs exactly this file, not one that replaced it since. A running file keeps its inode, so
/// the comparison cannot be fooled by a new file at the old path.
pub fn runs(pid: u32, path: &Path) -> bool {
    let same = |running: std::fs::Metadata, file: std::fs::Metadata| {
        (running.dev(), running.ino()) == (file.dev(), file.ino())
    };
    match (std::fs::metadata(running(pid)), std::fs::metadata(path)) {
        (Ok(running), Ok(file)) => same(running, file),
        _ => false,
    }
}

/// Copies what a process runs, so that it can be started again when its file was replaced or removed.
///
/// # Errors
/// The file system's.
pub fn keep(pid: u32, path: &Path) -> Result<()> {
    let fail = |source: &std::io::Error| Error::io("write", path, source);
    let temporary = path.with_extension("program-new");
    std::fs::copy(running(pid), &temporary).map_err(|source| fail(&source))?;
    let finish = || {
        std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o700))?;
        std::fs::File::open(&temporary)?.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    finish().map_err(|source| fail(&source))
}

fn running(pid: u32) -> std::path::PathBuf {
    format!("/proc/{pid}/exe").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(folder: &Path, text: &str) -> std::path::PathBuf {
        let path = folder.join("program");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("writes");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("sets");
        path
    }

    #[tokio::test]
    async fn only_a_plinth_that_fits_is_taken() {
        let folder = tempfile::tempdir().expect("folder");
        let folder = folder.path();
        let kind = |outcome: Result<Facts>| outcome.expect_err("refused").kind;
        assert_eq!(kind(check(&folder.join("none")).await), Kind::NotFound);
        assert_eq!(kind(check(folder).await), Kind::Invalid);
        let plain = folder.join("plain");
        std::fs::write(&plain, "#!/bin/sh\n").expect("writes");
        assert_eq!(kind(check(&plain).await), Kind::Invalid);
        for foreign in ["exit 0", "exit 3", "echo hello", "echo '{\"formats\":[1]}'"] {
            assert_eq!(kind(check(&script(folder, foreign)).await), Kind::Invalid, "{foreign}");
        }
        let old = check(&script(folder, "echo '{\"version\":\"0.0.9\"}'")).await.expect("an earlier build");
        assert_eq!((old.version.as_str(), old.formats, old.protocol), ("0.0.9", vec![1], 1));
        for other in ["\"formats\":[2]", "\"protocol\":999"] {
            let text = format!("echo '{{\"version\":\"9.0.0\",{other}}}'");
            assert_eq!(kind(check(&script(folder, &text)).await), Kind::NotSupported, "{other}");
        }
        let own = serde_json::to_string(&own()).expect("encodes");
        assert_eq!(check(&script(folder, &format!("echo '{own}'"))).await.expect("itself"), super::own());
    }

    /// The file is open to write when it is started first, as it is in a child of the one who copied it.
    #[tokio::test]
    async fn a_program_that_has_a_writer_still_is_started_behind_it() {
        let folder = tempfile::tempdir().expect("folder");
        let path = script(folder.path(), "exit 7");
        let writer = std::fs::File::options().append(true).open(&path).expect("opens");
        let busy = Command::new(&path).spawn().expect_err("it has a writer");
        assert_eq!(busy.kind(), std::io::ErrorKind::ExecutableFileBusy);
        let mut command = Command::new(&path);
        let started = tokio::join!(spawn(&mut command), async {
            tokio::task::yield_now().await;
            drop(writer);
        });
        let ended = started.0.expect("starts").wait().await.expect("ends");
        assert_eq!(ended.code(), Some(7));
    }

    #[test]
    fn a_file_that_took_the_place_of_the_running_one_is_another() {
        let folder = tempfile::tempdir().expect("folder");
        let own = std::env::current_exe().expect("a path");
        let pid = std::process::id();
        assert!(runs(pid, &own));
        let copy = folder.path().join("copy");
        keep(pid, &copy).expect("copies");
        assert!(!runs(pid, &copy));
        assert_eq!(std::fs::metadata(&copy).expect("there").permissions().mode() & 0o777, 0o700);
    }
}
