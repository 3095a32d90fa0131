//! A target that is started while another one still serves its group, to take over from it.
//!
//! What takes longest in a start needs neither the group nor its drives: the program is loaded, and memory is made present
//! and pinned. So it is done ahead, and guests wait for the rest only.
//!
//! | the agent | this process |
//! |---|---|
//! | starts it, with a pipe to its standard input | reads the spec of the target that serves, for the sizes alone |
//! | waits | has its memory; says `READY` on standard output |
//! | asks the other target to leave, waits for its end, writes the next spec | waits |
//! | writes `GO`, and behind it the secret of an encrypted group | reads the next spec, opens the drives |
//!
//! Crash story: until it reads `GO` it has touched nothing of the group, and a pipe that ends without it, because the
//! agent was killed or changed its mind, ends the process without a word. Behind `GO` it is a target like any other.
use super::open;
use super::serve::{self, Process};
use crate::error::{Error, Result};
use crate::target_spec::{FrontEndSpec, TargetSpec};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use ublk_target::ublk::UblkQueue;
use ublk_target::{NbdServer, Workspace, workspace};

/// What it says when it has what it needs.
pub(crate) const READY: &[u8] = b"ready\n";
/// What it waits for.
pub(crate) const GO: u8 = b'\n';

/// Prepares, waits for the word, and then serves the group that the spec names by then.
///
/// # Errors
/// As `serve::run`.
pub fn run(path: &Path) -> Result<()> {
    let spec = TargetSpec::read(path)?;
    let process = Process::prepare(&spec);
    let workspace = prepared(&spec);
    let fail = |source: &std::io::Error| Error::io("talk to the agent through", Path::new("a pipe"), source);
    let mut answer = std::io::stdout();
    answer.write_all(READY).and_then(|()| answer.flush()).map_err(|source| fail(&source))?;
    let input = super::secret::input()?;
    if !told_to_go(input).map_err(|source| fail(&source))? {
        return Ok(());
    }
    serve::serve(TargetSpec::read(path)?, process, workspace)
}

/// Waits for the word: false if nobody says it any more.
fn told_to_go(mut from: impl Read) -> std::io::Result<bool> {
    let mut word = [0];
    loop {
        match from.read(&mut word) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(read) => return Ok(read == 1 && word[0] == GO),
        }
    }
}

/// The memory of the next target, if the machine has room for both: until the other one has ended they are there twice.
/// Otherwise, and if it cannot be made, it is made when the other one is gone, which is when an error of it is told.
fn prepared(spec: &TargetSpec) -> Option<Workspace> {
    let blocks = open::config(spec).ok()?.memory_blocks();
    let front = match spec.front_end {
        FrontEndSpec::Ublk { .. } => UblkQueue::MEMORY_BYTES,
        FrontEndSpec::Nbd { .. } => NbdServer::MEMORY_BYTES,
    };
    let wanted = workspace::bytes(blocks, front) as u64;
    let room = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| available_bytes(&text))?;
    (room / 2 >= wanted).then(|| Workspace::new(blocks, front, &open::options()).ok()).flatten()
}

/// Memory that could be had without anybody being swapped out, from the text of /proc/meminfo.
fn available_bytes(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_word_makes_it_go() {
        for (told, goes) in [(&b"\n"[..], true), (b"\nsecret", true), (b"", false), (b"x", false)] {
            assert_eq!(told_to_go(told).expect("reads"), goes, "{told:?}");
        }
    }

    /// The secret that comes behind the word stays where it is.
    #[test]
    fn nothing_is_read_behind_the_word() {
        let mut told = &b"\nsecret"[..];
        assert!(told_to_go(&mut told).expect("reads"));
        assert_eq!(told, b"secret");
    }

    #[test]
    fn the_room_of_a_machine_is_read() {
        assert_eq!(available_bytes("MemFree: 1 kB\nMemAvailable:   2048 kB\n"), Some(2 << 20));
        assert_eq!(available_bytes("MemFree: 1 kB\n"), None);
        let own = std::fs::read_to_string("/proc/meminfo").expect("reads");
        assert!(available_bytes(&own).is_some_and(|bytes| bytes > 0));
    }
}
