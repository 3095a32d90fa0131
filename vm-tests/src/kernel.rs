//! The kernels that the bench boots: Debian's 6.12 for its oldest supported release, and the newest backport.
//!
//! They are downloaded as packages and unpacked, never installed. apt is given a configuration of its own
//! (its own source, lists and cache), so that the machine's configuration stays untouched, no root is
//! needed and the signatures are still checked against the Debian archive keyring. Exact versions vanish
//! from mirrors, so the newest version is found by package name each time something must be fetched.
//!
//! Invariant: `NAME.ready` is written last, after the tree was unpacked and its dependency index was built;
//! a fetch that was killed is started over, and a finished one never touches the network again.

use crate::apt::{self, PrivateApt};
use crate::children::{find_program, run_checked};
use crate::error::{Context, Error, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which kernel to boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The floor that the product supports: 6.12.
    Floor,
    /// The newest that Debian's backports carry.
    Newest,
}

impl Which {
    /// Both, oldest first.
    pub const ALL: [Which; 2] = [Which::Floor, Which::Newest];

    /// The name on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Which::Floor => "6.12",
            Which::Newest => "newest",
        }
    }

    /// Parses a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Which> {
        Which::ALL.into_iter().find(|w| w.name() == name)
    }

    /// The suite, and whether it lives in the security archive too.
    fn suites(self) -> (&'static str, bool) {
        match self {
            Which::Floor => ("bookworm", true),
            Which::Newest => ("trixie-backports", false),
        }
    }
}

/// An unpacked kernel.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Which one it is.
    pub which: Which,
    /// The release string, as `uname -r` prints it.
    pub release: String,
    /// The image that QEMU loads.
    pub image: PathBuf,
    /// The folder that holds `lib/modules/RELEASE`.
    pub root: PathBuf,
}

impl Kernel {
    /// Returns the kernel from `cache`, fetching it if it is not there.
    ///
    /// # Errors
    /// No Debian source on this machine, no network and nothing cached, or a package that cannot be unpacked.
    pub fn obtain(which: Which, cache: &Path) -> Result<Kernel> {
        let kernels = cache.join("kernels");
        if let Some(kernel) = Kernel::cached(which, &kernels) {
            return Ok(kernel);
        }
        fs::create_dir_all(&kernels).doing(|| format!("make {}", kernels.display()))?;
        let (suite, in_security) = which.suites();
        let apt = PrivateApt::prepare(&kernels.join(format!("apt-{}", which.name())), suite, in_security)?;
        let packages = newest_packages(&apt, which)?;
        eprintln!("fetching the {} kernel: {}", which.name(), packages.join(", "));
        let root = kernels.join(format!("{}.root", which.name()));
        remove_tree(&root)?;
        fs::create_dir_all(&root).doing(|| format!("make {}", root.display()))?;
        for package in &packages {
            let deb = apt.download(package)?;
            apt::unpack(&deb, &root)?;
            fs::remove_file(&deb).doing(|| format!("remove {}", deb.display()))?;
        }
        let release = finish_tree(&root)?;
        let ready = kernels.join(format!("{}.ready", which.name()));
        fs::write(&ready, &release).doing(|| format!("write {}", ready.display()))?;
        Kernel::cached(which, &kernels).ok_or_else(|| {
            Error::failed(format!("the packages {} hold no kernel image", packages.join(", ")))
        })
    }

    fn cached(which: Which, kernels: &Path) -> Option<Kernel> {
        let release = fs::read_to_string(kernels.join(format!("{}.ready", which.name()))).ok()?;
        let root = kernels.join(format!("{}.root", which.name()));
        let image = [
            root.join(format!("boot/vmlinuz-{release}")),
            root.join(format!("lib/modules/{release}/vmlinuz")),
        ]
        .into_iter()
        .find(|path| path.is_file())?;
        Some(Kernel { which, release, image, root })
    }

    /// The files of the modules named, with all that they depend on, in the order of loading. A module that
    /// is built into the kernel needs no file.
    ///
    /// # Errors
    /// The kernel has no such module.
    pub fn module_files(&self, modules: &[&str]) -> Result<Vec<PathBuf>> {
        let modprobe = tool("modprobe")?;
        let mut files: Vec<PathBuf> = Vec::new();
        for module in modules {
            let mut command = Command::new(&modprobe);
            command.args(["-S", &self.release, "--show-depends", "-d"]).arg(&self.root).arg(module);
            for line in run_checked(&command)?.lines() {
                let Some(path) = line.strip_prefix("insmod ") else { continue };
                let path = PathBuf::from(path.split_whitespace().next().unwrap_or_default());
                if !files.contains(&path) {
                    files.push(path);
                }
            }
        }
        Ok(files)
    }
}

/// Moves modules that were packed under /usr/lib to /lib, where the module tools look below a root, and
/// builds their dependency index. Returns the release.
fn finish_tree(root: &Path) -> Result<String> {
    let merged = root.join("usr/lib/modules");
    let modules = root.join("lib/modules");
    if merged.is_dir() {
        fs::create_dir_all(root.join("lib")).doing(|| format!("make {}/lib", root.display()))?;
        fs::rename(&merged, &modules).doing(|| format!("move {}", merged.display()))?;
    }
    let mut releases = fs::read_dir(&modules).doing(|| format!("read {}", modules.display()))?.flatten();
    let release = releases.next().map(|e| e.file_name().to_string_lossy().into_owned());
    let release = release.ok_or_else(|| Error::failed("the kernel package holds no modules"))?;
    run_checked(Command::new(tool("depmod")?).arg("-b").arg(root).arg(&release))?;
    Ok(release)
}

fn tool(name: &str) -> Result<PathBuf> {
    find_program(name)
        .ok_or_else(|| Error::missing(format!("{name} is not installed; run `cargo xtask setup`")))
}

fn remove_tree(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).doing(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

/// The packages that together hold the newest kernel and its modules.
fn newest_packages(apt: &PrivateApt, which: Which) -> Result<Vec<String>> {
    let listing = apt.names("linux-")?;
    let names: Vec<&str> = listing.lines().map(str::trim).collect();
    choose(which, &names, |name| apt.has(name))
        .ok_or_else(|| {
            Error::failed(format!(
                "the archives of this machine's apt sources list no {} cloud kernel for amd64; Debian 12 has 6.12 in \
                 bookworm-security and the newest in the backports of its main archive: both belong into \
                 /etc/apt/sources.list",
                which.name()
            ))
        })
}

/// Picks the newest kernel among package names: one package, or since 7.2 a base, a binary and a modules package.
fn choose(which: Which, names: &[&str], available: impl Fn(&str) -> bool) -> Option<Vec<String>> {
    let mut releases: Vec<(Vec<u32>, &str)> = names
        .iter()
        .filter_map(|name| {
            let release = match which {
                Which::Floor => name.strip_prefix("linux-image-").filter(|r| r.starts_with("6.12.")),
                Which::Newest => {
                    name.strip_prefix("linux-modules-").or_else(|| name.strip_prefix("linux-image-"))
                }
            }?;
            release.starts_with(|c: char| c.is_ascii_digit()).then_some(())?;
            Some((version_key(release.strip_suffix("-cloud-amd64")?), release))
        })
        .collect();
    releases.sort();
    releases.dedup();
    releases.into_iter().rev().find_map(|(_, release)| {
        let named = |kind: &str| format!("linux-{kind}-{release}");
        // The base package of a split kernel says which modules are built in.
        let split = vec![named("base"), named("binary"), named("modules")];
        let single = vec![named("image")];
        let complete = |set: &Vec<String>| set.iter().all(|p| names.contains(&p.as_str()) && available(p));
        // Of a split kernel the image package is an empty shell, so the parts are asked for first.
        [split, single].into_iter().find(complete)
    })
}

/// The numbers of a release, for comparison: 6.12.90+deb12.1 is newer than 6.12.90+deb12.
fn version_key(release: &str) -> Vec<u32> {
    release.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_the_newest_signed_cloud_image() {
        let names = [
            "linux-image-6.12.9+deb12-cloud-amd64",
            "linux-image-6.12.117+deb12.1-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64-dbg",
            "linux-image-6.12.117+deb12-cloud-amd64-unsigned",
            "linux-image-6.12.118+deb12-rt-amd64",
            "linux-image-6.13.1+deb12-cloud-amd64",
            "linux-image-6.12-cloud-amd64",
        ];
        assert_eq!(
            choose(Which::Floor, &names, |_| true),
            Some(vec!["linux-image-6.12.117+deb12.1-cloud-amd64".to_owned()])
        );
    }

    #[test]
    fn the_newest_needs_all_parts_and_a_candidate() {
        let names = [
            "linux-base-7.2.12+deb13-cloud-amd64",
            "linux-modules-7.2.12+deb13-cloud-amd64",
            "linux-binary-7.2.12+deb13-cloud-amd64",
            "linux-modules-7.2.13+deb13-cloud-amd64",
            "linux-image-7.1.3+deb13-cloud-amd64",
            "linux-base-7.2.14+deb13-cloud-amd64",
            "linux-modules-7.2.14+deb13-cloud-amd64",
            "linux-binary-7.2.14+deb13-cloud-amd64",
        ];
        let parts = choose(Which::Newest, &names, |name| !name.contains("7.2.14")).expect("a kernel");
        assert_eq!(
            parts,
            ["base", "binary", "modules"].map(|p| format!("linux-{p}-7.2.12+deb13-cloud-amd64"))
        );
        assert_eq!(choose(Which::Newest, &names[3..4], |_| true), None);
    }
}
