//! apt with a configuration of its own: packages are fetched and unpacked, never installed.
//!
//! Its sources, lists and cache live in one folder, so that the machine's configuration stays untouched and no
//! root is needed; the signatures are still checked, against the Debian archive keyring. The archive's address
//! is the one that the machine itself uses.

use crate::children::run_checked;
use crate::error::{Context, Error, Result};
use crate::sources::{self, Archives};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A private apt for one suite.
#[derive(Debug)]
pub struct PrivateApt {
    home: PathBuf,
}

impl PrivateApt {
    /// Makes it in `home` for `suite` and reads the lists; with `security` also for its security suite.
    ///
    /// # Errors
    /// This machine has no Debian source or no keyring, or the archive cannot be reached.
    pub fn prepare(home: &Path, suite: &str, security: bool) -> Result<PrivateApt> {
        let archives =
            sources::debian_archives(&sources::read(Path::new("/etc/apt"))).or_else(archives_named);
        let archives = archives.ok_or_else(|| {
            Error::missing(
                "this machine has no Debian package source to take kernels from; set PLINTH_DEBIAN_URI to \
                 the address of a Debian mirror and install debian-archive-keyring",
            )
        })?;
        if !Path::new(KEYRING).is_file() {
            return Err(Error::missing(format!("{KEYRING} is missing; install debian-archive-keyring")));
        }
        let apt = PrivateApt { home: home.to_path_buf() };
        for folder in ["sources", "lists/partial", "cache/archives/partial"] {
            let folder = apt.home.join(folder);
            fs::create_dir_all(&folder).doing(|| format!("make {}", folder.display()))?;
        }
        apt.write("sources/private.sources", &source_file(suite, security, &archives))?;
        apt.write("status", "")?;
        run_checked(apt.command("apt-get").arg("update")).map_err(|e| {
            Error::failed(format!(
                "cannot read the list of packages from {}: the first run needs the network\n{e}",
                archives.main
            ))
        })?;
        Ok(apt)
    }

    /// The names of packages that begin with `prefix`, one per line.
    ///
    /// # Errors
    /// apt cannot read its lists.
    pub fn names(&self, prefix: &str) -> Result<String> {
        run_checked(self.command("apt-cache").arg("pkgnames").arg(prefix))
    }

    /// Whether the archive has the package, not only its name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        let policy = run_checked(self.command("apt-cache").args(["policy", name])).unwrap_or_default();
        policy.lines().any(|l| l.trim().starts_with("Candidate:") && !l.contains("(none)"))
    }

    /// Fetches one package; returns its file.
    ///
    /// # Errors
    /// It cannot be fetched, or its signature or sum is wrong.
    pub fn download(&self, package: &str) -> Result<PathBuf> {
        run_checked(self.command("apt-get").arg("download").arg(package))?;
        let prefix = format!("{package}_");
        let mut debs = packages_in(&self.home)?
            .into_iter()
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)));
        debs.next().ok_or_else(|| Error::failed(format!("apt-get download {package} left no package")))
    }

    /// Fetches packages and all that they depend on, as for a machine that has nothing; returns the files.
    ///
    /// # Errors
    /// They cannot be fetched.
    pub fn download_all(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        let mut command = self.command("apt-get");
        command.args(["install", "-y", "--download-only", "--no-install-recommends"]).args(packages);
        run_checked(&command)?;
        packages_in(&self.home.join("cache/archives"))
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.home.join(name);
        fs::write(&path, text).doing(|| format!("write {}", path.display()))
    }

    fn command(&self, program: &str) -> Command {
        let home = self.home.display();
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive").current_dir(&self.home);
        for option in [
            "Dir::Etc::sourcelist=/dev/null".to_owned(),
            format!("Dir::Etc::sourceparts={home}/sources"),
            format!("Dir::State::Lists={home}/lists"),
            format!("Dir::State::status={home}/status"),
            format!("Dir::Cache={home}/cache"),
            // What is fetched runs in a machine of its own, on any host.
            "APT::Architecture=amd64".to_owned(),
            "APT::Architectures::=amd64".to_owned(),
            // The folders are ours; as root, apt would warn that its helper user cannot write them.
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Retries=3".to_owned(),
            // The lock of the machine's own package manager is not needed for fetching.
            "Debug::NoLocking=1".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        command
    }
}

/// A program of a package that this host need not have: fetched and unpacked once, in `cache`.
///
/// # Errors
/// It cannot be fetched, or the package has no such file.
pub fn fetched_program(cache: &Path, package: &str, inside: &str) -> Result<PathBuf> {
    let home = cache.join("tools").join(package);
    let program = home.join("root").join(inside.trim_start_matches('/'));
    if program.is_file() {
        return Ok(program);
    }
    eprintln!("fetching {package}");
    let apt = PrivateApt::prepare(&home, &host_release(), true)?;
    let deb = apt.download(package)?;
    let fresh = home.join("unpacking");
    fs::create_dir_all(&fresh).doing(|| format!("make {}", fresh.display()))?;
    unpack(&deb, &fresh)?;
    // Whole or not there: a fetch that was killed is started over.
    fs::rename(&fresh, home.join("root")).doing(|| format!("move {}", fresh.display()))?;
    match program.is_file() {
        true => Ok(program),
        false => Err(Error::failed(format!("the package {package} has no {inside}"))),
    }
}

/// The release whose programs run on this host: its own where it is one of Debian's, else the newest stable,
/// for programs built here need a C library as new as theirs.
#[must_use]
pub fn host_release() -> String {
    const RELEASES: [&str; 2] = ["bookworm", "trixie"];
    let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let own = os.lines().find_map(|l| l.strip_prefix("VERSION_CODENAME=")).unwrap_or_default().to_owned();
    if RELEASES.contains(&own.as_str()) { own } else { "trixie".to_owned() }
}

/// Unpacks a package below `root`, without its scripts. Folders that are links in `root` stay links.
///
/// # Errors
/// It is no package, or `root` cannot be written.
pub fn unpack(deb: &Path, root: &Path) -> Result<()> {
    let script = "dpkg-deb --fsys-tarfile \"$0\" | tar -x --keep-directory-symlink -C \"$1\"";
    let mut command = Command::new("bash");
    command.args(["-o", "pipefail", "-c", script]).arg(deb).arg(root);
    run_checked(&command).map(|_| ())
}

fn packages_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).doing(|| format!("read {}", folder.display()))?.flatten();
    let mut debs: Vec<PathBuf> =
        entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "deb")).collect();
    debs.sort();
    Ok(debs)
}

fn archives_named() -> Option<Archives> {
    let main = std::env::var("PLINTH_DEBIAN_URI").ok()?;
    let security = std::env::var("PLINTH_DEBIAN_SECURITY_URI").ok();
    Some(Archives { main, security })
}

fn source_file(suite: &str, security: bool, archives: &Archives) -> String {
    let paragraph = |uri: &str, suite: &str| {
        format!("Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n\n")
    };
    let mut text = paragraph(&archives.main, suite);
    if let Some(uri) = archives.security.as_deref().filter(|_| security) {
        text.push_str(&paragraph(uri, &format!("{suite}-security")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_names_the_security_suite_only_where_it_exists() {
        let archives =
            Archives { main: "http://m.example/debian".into(), security: Some("http://s.example/x".into()) };
        let both = source_file("bookworm", true, &archives);
        assert!(both.contains("Suites: bookworm\n") && both.contains("Suites: bookworm-security\n"));
        assert!(!source_file("trixie-backports", false, &archives).contains("security"));
    }
}
