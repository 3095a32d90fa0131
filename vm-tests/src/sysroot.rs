//! A small Debian with systemd on a drive image, for scenarios about units.
//!
//! Packages are unpacked without their scripts; the few things that scripts would have made (links of the
//! merged /usr, users, the loader's cache) are made here. The image is kept and used again: a scenario boots
//! on a copy of it.

use crate::apt::{self, PrivateApt};
use crate::children::run_checked;
use crate::error::{Context, Result};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGES: [&str; 9] =
    ["base-files", "bash", "coreutils", "dash", "kmod", "mount", "sed", "systemd", "util-linux"];
/// Room for the packages, the product and its state.
const IMAGE: &str = "1200M";

/// Files to put in beside the packages: where they go, where they are here, and their mode.
pub type Extra = (String, PathBuf, u32);

/// Makes a drive image with systemd and `extras` at `image`. Packages are kept in `cache`.
///
/// # Errors
/// The packages cannot be fetched, or the image cannot be made.
pub fn make(cache: &Path, image: &Path, scratch: &Path, extras: &[Extra]) -> Result<()> {
    let packed = packages(cache)?;
    let root = scratch.join("sysroot");
    if root.exists() {
        fs::remove_dir_all(&root).doing(|| format!("remove {}", root.display()))?;
    }
    for folder in [
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
        "etc/systemd/system",
        "proc",
        "sys",
        "dev",
        "run",
        "tmp",
        "mnt",
    ] {
        let folder = root.join(folder);
        fs::create_dir_all(&folder).doing(|| format!("make {}", folder.display()))?;
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), root.join(name)).doing(|| format!("link /{name}"))?;
    }
    for deb in &packed {
        apt::unpack(deb, &root)?;
    }
    let texts = [
        (
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/bash\nmessagebus:x:100:100::/nonexistent:/usr/sbin/nologin\n",
        ),
        ("etc/group", "root:x:0:\nmessagebus:x:100:\n"),
        ("etc/fstab", ""),
        ("etc/hostname", "machine\n"),
        ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
    ];
    for (name, text) in texts {
        fs::write(root.join(name), text).doing(|| format!("write /{name}"))?;
    }
    for (inside, outside, mode) in extras {
        let path = root.join(inside.trim_start_matches('/'));
        let folder = path.parent().unwrap_or(&root);
        fs::create_dir_all(folder).doing(|| format!("make {}", folder.display()))?;
        fs::copy(outside, &path).doing(|| format!("copy {}", outside.display()))?;
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&path, fs::Permissions::from_mode(*mode))
            .doing(|| format!("set the mode of {inside}"))?;
    }
    run_checked(Command::new("ldconfig").arg("-r").arg(&root))?;
    let mut make = Command::new("mkfs.ext4");
    make.args(["-q", "-F", "-d"]).arg(&root).arg(image).arg(IMAGE);
    run_checked(&make)?;
    fs::remove_dir_all(&root).doing(|| format!("remove {}", root.display()))
}

/// The packages, fetched once. The list is written last: a fetch that was killed is started over. It names them
/// below its own folder, so that a cache can be moved, to a machine without a network for instance.
fn packages(cache: &Path) -> Result<Vec<PathBuf>> {
    let home = cache.join("sysroot");
    let list = home.join("packages.ready");
    if let Ok(text) = fs::read_to_string(&list) {
        let paths: Vec<PathBuf> = text.lines().map(|name| home.join(name)).collect();
        if !paths.is_empty() && paths.iter().all(|p| p.is_file()) {
            return Ok(paths);
        }
    }
    eprintln!("fetching a small Debian with systemd");
    fs::create_dir_all(&home).doing(|| format!("make {}", home.display()))?;
    let apt = PrivateApt::prepare(&home, &apt::host_release(), true)?;
    let paths = apt.download_all(&PACKAGES)?;
    let text: String =
        paths.iter().map(|p| format!("{}\n", p.strip_prefix(&home).unwrap_or(p).display())).collect();
    fs::write(&list, text).doing(|| format!("write {}", list.display()))?;
    Ok(paths)
}
