//! `cargo xtask setup`: the packages of the host, installed without a question.
//!
//! Runs by itself before everything that needs them. Nothing is touched, and no network is used, when
//! nothing is missing. Only what is named here is installed, without recommends; an installation that would
//! remove a package of the machine is not made.

mod apt;
mod host;

use crate::context::{Ended, Workspace};
use host::{Distribution, Host};
use serde_json::json;
use vm_tests::children::find_program;
use vm_tests::error::{Error, Result};

/// A package, what it is for, and a program that shows that it is there where there is no dpkg.
struct Package {
    name: &'static str,
    purpose: &'static str,
    program: Option<&'static str>,
}

const fn package(name: &'static str, purpose: &'static str, program: Option<&'static str>) -> Package {
    Package { name, purpose, program }
}

/// Everything that building and testing need beyond Rust, git and a C linker.
const PACKAGES: &[Package] = &[
    package("binutils", "strips programs that go into a machine", Some("strip")),
    package("qemu-system-x86", "virtual machines with a kernel that has ublk", Some("qemu-system-x86_64")),
    package("qemu-utils", "qemu-io and qemu-img, clients of the NBD server", Some("qemu-io")),
    package("busybox-static", "the shell of a virtual machine", Some("busybox")),
    package("kmod", "dependencies of kernel modules", Some("depmod")),
    package("xz-utils", "unpacks kernel modules", Some("xz")),
    package("debian-archive-keyring", "checks the signatures of the kernels", None),
    package("fio", "load and verification", Some("fio")),
    package("libnbd-bin", "nbdcopy and nbdinfo, clients of the NBD server", Some("nbdcopy")),
    package("e2fsprogs", "ext4 on a volume", Some("mkfs.ext4")),
    package("xfsprogs", "xfs on a volume", Some("mkfs.xfs")),
    package("dmsetup", "a drive that hangs", Some("dmsetup")),
    package("mount", "loop devices", Some("losetup")),
    package("util-linux", "lsblk, and a child that dies with its parent", Some("setpriv")),
];

/// Runs the command.
///
/// # Errors
/// As [`ensure`].
pub fn command(workspace: &Workspace, words: &[String]) -> Result<Ended> {
    match words {
        [] => {
            ensure(workspace)?;
            let names: Vec<&str> = PACKAGES.iter().map(|package| package.name).collect();
            let closing = format!("setup: {} packages are there", names.len());
            Ok(Ended::said(0, closing, json!({"packages": names})))
        }
        [flag] if flag == "--list" => {
            for package in PACKAGES {
                println!("{}", package.name);
            }
            Ok(Ended::quiet(0))
        }
        _ => Err(Error::invalid("setup takes no words but --list")),
    }
}

/// Checks the machine and installs what is missing.
///
/// # Errors
/// The disk is too full or io_uring is off; or packages are missing and cannot be installed from here: the
/// message is the line to type.
pub fn ensure(workspace: &Workspace) -> Result<()> {
    let host = Host::read();
    host.check(&workspace.out)?;
    let distribution = host.distribution();
    if distribution == Distribution::Other {
        let missing: Vec<&Package> =
            PACKAGES.iter().filter(|p| p.program.is_some_and(|name| find_program(name).is_none())).collect();
        return if missing.is_empty() { Ok(()) } else { Err(say_what_is_missing(&missing)) };
    }
    let missing: Vec<&str> =
        PACKAGES.iter().map(|p| p.name).filter(|name| !apt::is_installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("missing packages: {}", missing.join(" "));
    apt::install(workspace, &host, &missing)
}

fn say_what_is_missing(missing: &[&Package]) -> Error {
    let mut text = "this is neither Debian nor Ubuntu; please install what provides:".to_owned();
    for package in missing {
        let program = package.program.unwrap_or(package.name);
        text.push_str(&format!("\n  {program} (in Debian {}): {}", package.name, package.purpose));
    }
    Error::missing(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_is_named_once_and_has_a_purpose() {
        for (at, package) in PACKAGES.iter().enumerate() {
            assert!(!package.purpose.is_empty());
            assert!(PACKAGES[..at].iter().all(|p| p.name != package.name), "{} twice", package.name);
        }
    }

    #[test]
    fn elsewhere_the_programs_are_named() {
        let qemu = PACKAGES.iter().find(|p| p.name == "qemu-system-x86").expect("machines need it");
        let error = say_what_is_missing(&[qemu]);
        assert_eq!(error.kind.exit_code(), 3);
        assert!(error.message.contains("qemu-system-x86_64"));
    }
}
