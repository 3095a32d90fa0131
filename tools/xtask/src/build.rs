//! Building the programs that a command runs.

use crate::context::Workspace;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use vm_tests::children::{Outputs, Running, run_lines};
use vm_tests::error::{Context, Error, Result};

/// The longest that a program may take which is built ahead.
const AHEAD: Duration = Duration::from_secs(1800);

/// The cargo that runs this program.
pub fn cargo(workspace: &Workspace) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(&workspace.root).env("CARGO_TARGET_DIR", &workspace.target);
    command
}

/// A program of this workspace.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// The package that holds it.
    pub package: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Whether it is built with optimisation.
    pub release: bool,
    /// Features of the package.
    pub features: &'static [&'static str],
}

/// Builds programs that will be needed, with what others leave of the processors. One that does not build says so when it is
/// needed.
pub fn ahead(workspace: &Workspace, programs: &[Program]) {
    for program in programs {
        let cargo =
            build_command(workspace, program.package, program.name, program.release, program.features);
        let mut idle = Command::new("nice");
        idle.args(["-n", "19"]).arg(cargo.get_program()).args(cargo.get_args()).current_dir(&workspace.root);
        idle.env("CARGO_TARGET_DIR", &workspace.target);
        let outcome = run_lines(&idle, AHEAD, |_| {});
        if outcome.is_ok_and(|output| output.timed_out) {
            return;
        }
    }
}

/// Builds one program of one package and returns where it is.
///
/// # Errors
/// It does not build.
pub fn program(workspace: &Workspace, package: &str, name: &str, release: bool) -> Result<PathBuf> {
    program_with(workspace, package, name, release, &[])
}

/// Like [`program`], with these features of the package.
///
/// # Errors
/// It does not build.
pub fn program_with(
    workspace: &Workspace,
    package: &str,
    name: &str,
    release: bool,
    features: &[&str],
) -> Result<PathBuf> {
    let command = build_command(workspace, package, name, release, features);
    let status = Running::start(&command, Outputs::Inherited)?.wait()?;
    if !status.success() {
        return Err(Error::failed(format!("the program {name} does not build")));
    }
    let profile = if release { "release" } else { "debug" };
    Ok(workspace.target.join(profile).join(name))
}

fn build_command(
    workspace: &Workspace,
    package: &str,
    name: &str,
    release: bool,
    features: &[&str],
) -> Command {
    let mut command = cargo(workspace);
    command.args(["build", "--quiet", "--locked", "-p", package, "--bin", name]);
    if release {
        command.arg("--release");
    }
    if !features.is_empty() {
        command.arg("--features").arg(features.join(","));
    }
    command
}

/// Builds the product so that a bug can be planted in it (environment `PLINTH_PLANTED`). It must never be
/// taken for the real one, so it is moved away from where cargo leaves it.
///
/// # Errors
/// It does not build, or cannot be moved.
pub fn planted(workspace: &Workspace) -> Result<PathBuf> {
    let built = program_with(workspace, "plinth", "plinth", true, &["planted"])?;
    let kept = workspace.out.join("plinth-planted");
    std::fs::rename(&built, &kept).doing(|| format!("move {}", built.display()))?;
    Ok(kept)
}
