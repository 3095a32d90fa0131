//! Building the programs that a command runs.

use crate::context::Workspace;
use std::path::PathBuf;
use std::process::Command;
use vm_tests::children::{Outputs, Running};
use vm_tests::error::{Context, Error, Result};

/// The cargo that runs this program.
pub fn cargo(workspace: &Workspace) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(&workspace.root).env("CARGO_TARGET_DIR", &workspace.target);
    command
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
    let mut command = cargo(workspace);
    command.args(["build", "--quiet", "--locked", "-p", package, "--bin", name]);
    if release {
        command.arg("--release");
    }
    if !features.is_empty() {
        command.arg("--features").arg(features.join(","));
    }
    let status = Running::start(&command, Outputs::Inherited)?.wait()?;
    if !status.success() {
        return Err(Error::failed(format!("the program {name} does not build")));
    }
    let profile = if release { "release" } else { "debug" };
    Ok(workspace.target.join(profile).join(name))
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
