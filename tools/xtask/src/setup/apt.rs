//! Installing packages with apt.
//!
//! QEMU's two packages exclude each other when they come from different suites: a machine whose qemu-utils
//! is a backport would lose it to the release's qemu-system-x86. So every installation is simulated first;
//! one that would remove anything is not made, and QEMU is then taken from the backports, with a
//! configuration of apt that adds them for this one call.

use super::host::Host;
use crate::context::Workspace;
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Command;
use vm_tests::children::{find_program, run_checked};
use vm_tests::error::{Context, Error, Result};
use vm_tests::sources;

/// Whether dpkg counts the package as installed.
pub fn is_installed(name: &str) -> bool {
    let output = Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}\n", name]).output();
    output.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).lines().any(|l| l == "installed"))
}

/// Installs the packages.
///
/// # Errors
/// This process may not, and nobody can be asked (exit 3 with the line to type); or apt fails.
pub fn install(workspace: &Workspace, host: &Host, missing: &[&str]) -> Result<()> {
    let rights = Rights::find(host, missing)?;
    let plain = Apt { rights, options: Vec::new() };
    plain.update();
    let (qemu, rest): (Vec<&str>, Vec<&str>) =
        missing.iter().copied().partition(|name| name.starts_with("qemu-"));
    let conflict = match plain.removals(missing) {
        Ok(removed) if removed.is_empty() => return plain.install(missing),
        Ok(removed) => format!("it would remove {}", removed.join(" ")),
        Err(error) => error.to_string(),
    };
    if qemu.is_empty() {
        return Err(Error::missing(format!("{} cannot be installed here: {conflict}", missing.join(" "))));
    }
    eprintln!(
        "taking {} from the backports, for the release's does not fit what is here",
        qemu.join(" and ")
    );
    if !rest.is_empty() {
        plain.install(&rest)?;
    }
    let backports = plain.with_backports(workspace, host)?;
    backports.update();
    let removed = backports.removals(&qemu)?;
    if !removed.is_empty() {
        return Err(Error::missing(format!(
            "{} cannot be installed beside the {} that is here; take both from one suite",
            qemu.join(" "),
            removed.join(" ")
        )));
    }
    backports.install(&qemu)
}

/// How this process gets the right to install.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rights {
    Root,
    Sudo,
}

impl Rights {
    /// Without a terminal no question may be asked, so sudo counts only if it needs no password.
    fn find(host: &Host, missing: &[&str]) -> Result<Rights> {
        if host.is_root {
            return Ok(Rights::Root);
        }
        let silent = || Command::new("sudo").args(["-n", "true"]).output().is_ok_and(|o| o.status.success());
        let asks = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        if find_program("sudo").is_some() && (silent() || asks) {
            return Ok(Rights::Sudo);
        }
        Err(Error::missing(format!(
            "packages are missing and this user cannot install them; as root type:\n  \
             apt-get update && apt-get install -y --no-install-recommends {}",
            missing.join(" ")
        )))
    }
}

/// apt-get with some options, run with some right.
struct Apt {
    rights: Rights,
    options: Vec<String>,
}

impl Apt {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = match self.rights {
            Rights::Root => Command::new("env"),
            Rights::Sudo => {
                let mut command = Command::new("sudo");
                command.arg("env");
                command
            }
        };
        command.args(["DEBIAN_FRONTEND=noninteractive", "LC_ALL=C", "apt-get"]);
        command.args(&self.options).args(["-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"]);
        command.args(words);
        command
    }

    /// A source that is out of order is not a reason to stop: the installation says whether it matters.
    fn update(&self) {
        if let Err(error) = self.run(&self.command(&["-q", "update"])) {
            eprintln!("note: {error}");
        }
    }

    fn install(&self, packages: &[&str]) -> Result<()> {
        let words = ["-q", "install", "-y", "--no-install-recommends"];
        self.run(&self.command(&[&words[..], packages].concat()))
    }

    /// What installing would remove. Simulating needs no rights.
    fn removals(&self, packages: &[&str]) -> Result<Vec<String>> {
        let mut command = Command::new("apt-get");
        command.env("LC_ALL", "C").args(&self.options).args(["-s", "install", "--no-install-recommends"]);
        let text = run_checked(command.args(packages))?;
        Ok(removed_by(&text))
    }

    /// Run in the foreground, for sudo may ask; shown first, when it is not our own right that is used.
    fn run(&self, command: &Command) -> Result<()> {
        let shown = vm_tests::children::show(command);
        if self.rights == Rights::Root {
            return run_checked(command).map(|_| ());
        }
        eprintln!("{shown}");
        let mut again = Command::new(command.get_program());
        let status = again.args(command.get_args()).status().doing(|| format!("run {shown}"))?;
        if status.success() {
            return Ok(());
        }
        Err(Error::missing(format!("this failed; please type it yourself:\n  {shown}")))
    }

    /// The machine's own sources and, beside them, its release's backports, as options of one call.
    fn with_backports(&self, workspace: &Workspace, host: &Host) -> Result<Apt> {
        let etc = Path::new("/etc/apt");
        let archives = sources::debian_archives(&sources::read(etc));
        let codename = host.os("VERSION_CODENAME");
        let archives = archives.filter(|_| !codename.is_empty()).ok_or_else(|| {
            Error::missing(
                "qemu-system-x86 and qemu-utils come from different suites here; take both from one",
            )
        })?;
        let home = workspace.cache.join("apt-backports");
        let parts = home.join("sources");
        fresh_folder(&parts)?;
        for entry in fs::read_dir(etc.join("sources.list.d")).into_iter().flatten().flatten() {
            let to = parts.join(entry.file_name());
            fs::copy(entry.path(), &to).doing(|| format!("copy {}", entry.path().display()))?;
        }
        let suite = format!("{codename}-backports");
        let text = format!(
            "Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\n\
             Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n",
            archives.main
        );
        let file = parts.join("plinth-backports.sources");
        fs::write(&file, text).doing(|| format!("write {}", file.display()))?;
        for folder in ["lists/partial", "cache/archives/partial"] {
            let folder = home.join(folder);
            fs::create_dir_all(&folder).doing(|| format!("make {}", folder.display()))?;
        }
        let mut options = Vec::new();
        for option in [
            format!("Dir::Etc::sourceparts={}", parts.display()),
            format!("Dir::State::Lists={}", home.join("lists").display()),
            format!("Dir::Cache={}", home.join("cache").display()),
            format!("APT::Default-Release={suite}"),
            "APT::Sandbox::User=root".to_owned(),
        ] {
            options.extend(["-o".to_owned(), option]);
        }
        Ok(Apt { rights: self.rights, options })
    }
}

fn fresh_folder(path: &PathBuf) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).doing(|| format!("remove {}", path.display()))?;
    }
    fs::create_dir_all(path).doing(|| format!("make {}", path.display()))
}

/// The packages that a simulation says it would remove.
fn removed_by(simulation: &str) -> Vec<String> {
    let lines = simulation.lines().filter_map(|l| l.strip_prefix("Remv "));
    lines.filter_map(|l| l.split_whitespace().next()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulation_names_what_it_would_remove() {
        let text =
            "Reading package lists...\nRemv qemu-utils [1:10.0]\nInst qemu-system-x86 (1:7.2 Debian)\n";
        assert_eq!(removed_by(text), ["qemu-utils"]);
        assert!(removed_by("Inst fio (3.33)\nConf fio (3.33)\n").is_empty());
    }

    #[test]
    fn the_command_asks_nothing() {
        let apt = Apt { rights: Rights::Sudo, options: vec![] };
        let shown = vm_tests::children::show(&apt.command(&["install", "-y", "fio"]));
        assert!(shown.starts_with("sudo env DEBIAN_FRONTEND=noninteractive LC_ALL=C apt-get"));
        assert!(shown.ends_with("install -y fio"));
    }
}
