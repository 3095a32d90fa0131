//! The next target of a volume, started while the one before still serves (`target::ahead` is its side).
//!
//! It is a saving of time and nothing else: a binary that is too old to know how to wait, or that does not come to it,
//! is started as any other target when its turn comes, and is judged then.
use super::run::{open_log, tell};
use crate::agent::{Agent, blocking};
use crate::error::{Error, Result};
use crate::keys::GroupSecret;
use crate::target::ahead::{GO, READY};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStdin, Command};

/// The longest that it may take until it waits for its turn.
const READY_DEADLINE: Duration = Duration::from_secs(20);

/// A target that waits for its turn. Dropped, it ends: its pipe does.
pub(super) struct Ahead {
    program: PathBuf,
    child: Child,
    input: ChildStdin,
}

impl Ahead {
    /// Starts what is announced as the next target of a volume; `None` if nothing is, or if it does not come to wait.
    pub(super) async fn start(agent: &Arc<Agent>, volume: &str) -> Option<Self> {
        let (this, name) = (agent.clone(), volume.to_owned());
        let found = blocking(move || Ok((this.program_of(&name)?, this.group_of(&name)?))).await;
        let (chosen, group) = found.ok().filter(|(chosen, _)| chosen.trial)?;
        let (spec, log) = (agent.options.target_spec(&group), agent.options.target_log(&group));
        let started = tokio::time::timeout(READY_DEADLINE, Self::wait(&chosen.path, &spec, &log)).await;
        match started {
            Ok(Ok(ahead)) => Some(ahead),
            Ok(Err(error)) => {
                tracing::info!("the next target of {volume} is not started ahead: {error}");
                None
            }
            Err(_) => {
                tracing::warn!("the next target of {volume} was not ready in {} s", READY_DEADLINE.as_secs());
                None
            }
        }
    }

    /// Starts a program, and waits until it says that it is ready.
    async fn wait(program: &Path, spec: &Path, log: &Path) -> std::io::Result<Self> {
        let mut command = Command::new(program);
        command
            .arg("target")
            .arg("--spec")
            .arg(spec)
            .arg("--ahead")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(open_log(log)?)
            .current_dir("/")
            .kill_on_drop(false);
        let mut child = crate::program::spawn(&mut command).await?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (input, mut output) = input.zip(output).expect("both are piped");
        let mut said = [0; READY.len()];
        output.read_exact(&mut said).await?;
        if said != READY {
            return Err(std::io::Error::other("it does not know how to wait"));
        }
        Ok(Self { program: program.to_owned(), child, input })
    }

    /// Whether it was started from this file, and waits still: one that was killed meanwhile says nothing of its binary.
    pub(super) fn is_of(&mut self, program: &Path) -> bool {
        self.program == program && matches!(self.child.try_wait(), Ok(None))
    }

    /// It is its turn: the spec is written, and nobody else has the group.
    ///
    /// # Errors
    /// It has ended.
    pub(super) fn go(self, secret: Option<GroupSecret>) -> Result<Child> {
        let Self { program, child, input } = self;
        tell(input, &[GO], secret).map_err(|source| Error::io("tell its turn to", &program, &source))?;
        Ok(child)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A program of a few lines, and the paths of its spec and its log.
    fn script(folder: &Path, lines: &str) -> (PathBuf, PathBuf, PathBuf) {
        let program = folder.join("program");
        std::fs::write(&program, format!("#!/bin/sh\n{lines}\n")).expect("writes");
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o700)).expect("sets");
        (program, folder.join("spec"), folder.join("log"))
    }

    #[tokio::test]
    async fn it_is_told_its_turn_and_the_secret_behind_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let (program, spec, log) = script(folder.path(), "echo ready\ncat > \"$3.told\"\necho \"$*\" >&2");
        let mut ahead = Ahead::wait(&program, &spec, &log).await.expect("it waits");
        assert!(ahead.is_of(&program) && !ahead.is_of(&spec));
        let secret = GroupSecret::random().expect("random");
        let told = [&[GO], secret.secret().expose()].concat();
        let mut child = ahead.go(Some(secret)).expect("it is there");
        assert!(child.wait().await.expect("ends").success());
        assert_eq!(std::fs::read(folder.path().join("spec.told")).expect("reads"), told);
        let said = std::fs::read_to_string(&log).expect("reads");
        assert!(said.contains(&format!("target --spec {} --ahead", spec.display())), "{said}");
    }

    /// Nobody needs it any more: it sees its pipe end without the word.
    #[tokio::test]
    async fn one_that_is_dropped_ends() {
        let folder = tempfile::tempdir().expect("a folder");
        let (program, spec, log) =
            script(folder.path(), "echo ready\ncat > \"$3.told\"\nmv \"$3.told\" \"$3.ended\"");
        drop(Ahead::wait(&program, &spec, &log).await.expect("it waits"));
        let ended = folder.path().join("spec.ended");
        while !ended.exists() {
            tokio::task::yield_now().await;
        }
        assert_eq!(std::fs::read(ended).expect("reads"), b"");
    }

    /// It was killed while it waited: another one is started in its place, and nobody blames the binary.
    #[tokio::test]
    async fn one_that_was_killed_is_not_taken() {
        let folder = tempfile::tempdir().expect("a folder");
        let (program, spec, log) = script(folder.path(), "echo ready\nexec cat");
        let mut ahead = Ahead::wait(&program, &spec, &log).await.expect("it waits");
        assert!(ahead.is_of(&program));
        ahead.child.kill().await.expect("kills");
        assert!(!ahead.is_of(&program));
    }

    #[tokio::test]
    async fn a_binary_that_does_not_wait_is_none() {
        let folder = tempfile::tempdir().expect("a folder");
        for lines in ["exit 2", "echo what is that", "echo re"] {
            let (program, spec, log) = script(folder.path(), lines);
            assert!(Ahead::wait(&program, &spec, &log).await.is_err(), "{lines}");
        }
        assert!(
            Ahead::wait(&folder.path().join("none"), folder.path(), &folder.path().join("log"))
                .await
                .is_err()
        );
    }
}
