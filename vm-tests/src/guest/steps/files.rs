//! `fs-ext4` and `fs-xfs`: a file system on the device keeps its files, and its checker finds nothing.

use crate::error::{Context, Error, Result};
use crate::guest::Guest;
use crate::guest::load::{Fnv, drop_caches};
use crate::random::Random;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

const VOLUME_MIB: u64 = 768;
const MOUNT: &str = "/mnt/vol";

/// How a file system is made, mounted and checked.
struct Kind {
    make: &'static [&'static str],
    name: &'static str,
    check: &'static [&'static str],
}

/// fs-ext4.
pub(super) fn ext4(guest: &mut Guest) -> Result<()> {
    let make = &["mkfs.ext4", "-q", "-F"];
    keeps_files(guest, &Kind { make, name: "ext4", check: &["e2fsck", "-f", "-n"] })
}

/// fs-xfs.
pub(super) fn xfs(guest: &mut Guest) -> Result<()> {
    keeps_files(guest, &Kind { make: &["mkfs.xfs", "-q", "-f"], name: "xfs", check: &["xfs_repair", "-n"] })
}

fn keeps_files(guest: &mut Guest, kind: &Kind) -> Result<()> {
    let drives = guest.drives()?;
    guest.start_agent()?;
    let device = guest.new_device(&drives, VOLUME_MIB, &[])?;
    let path = device.to_string_lossy().into_owned();
    guest.run(kind.make[0], &[&kind.make[1..], &[path.as_str()]].concat())?;
    mount(guest, kind, &path)?;
    let written = fill(Path::new(MOUNT), guest.number("rounds")?, guest.number("seed")?)?;
    let sums = sum_all(Path::new(MOUNT))?;
    guest.note(format!("{} files, {} MiB", sums.len(), written >> 20));
    guest.run("umount", &[MOUNT])?;
    let checked = guest.run(kind.check[0], &[&kind.check[1..], &[path.as_str()]].concat());
    guest.check("checker", checked.map(|_| ()).map_err(|e| e.to_string()));
    guest.detach()?;
    let device = guest.attach()?;
    let path = device.to_string_lossy().into_owned();
    mount(guest, kind, &path)?;
    drop_caches();
    let again = sum_all(Path::new(MOUNT))?;
    guest.check_that("files", sums == again, || difference(&sums, &again));
    // Deleting, trimming and filling anew goes over the same space once more.
    for (name, _) in sums.iter().step_by(2) {
        fs::remove_file(Path::new(MOUNT).join(name)).doing(|| format!("remove {name}"))?;
    }
    guest.run("fstrim", &[MOUNT])?;
    fill(Path::new(MOUNT), guest.number("rounds")?.div_ceil(2), guest.number("seed")? + 1)?;
    let sums = sum_all(Path::new(MOUNT))?;
    guest.run("umount", &[MOUNT])?;
    let checked = guest.run(kind.check[0], &[&kind.check[1..], &[path.as_str()]].concat());
    guest.check("checker-after-trim", checked.map(|_| ()).map_err(|e| e.to_string()));
    mount(guest, kind, &path)?;
    drop_caches();
    let again = sum_all(Path::new(MOUNT))?;
    guest.check_that("files-after-trim", sums == again, || difference(&sums, &again));
    guest.run("umount", &[MOUNT])?;
    guest.detach()?;
    guest.stop_and_fsck(&drives)
}

/// Makes an ext4 on a device.
pub(super) fn make_ext4(guest: &Guest, device: &Path) -> Result<()> {
    guest.run("mkfs.ext4", &["-q", "-F", &device.to_string_lossy()]).map(|_| ())
}

/// Mounts the ext4 on a device.
pub(super) fn mount_ext4(guest: &Guest, device: &Path, at: &str) -> Result<()> {
    fs::create_dir_all(at).doing(|| format!("make {at}"))?;
    guest.run("mount", &["-t", "ext4", &device.to_string_lossy(), at]).map(|_| ())
}

fn mount(guest: &Guest, kind: &Kind, device: &str) -> Result<()> {
    fs::create_dir_all(MOUNT).doing(|| format!("make {MOUNT}"))?;
    guest.run("mount", &["-t", kind.name, device, MOUNT]).map(|_| ())
}

/// Writes about `mib` MiB of files of many sizes, some synced; returns the bytes written.
pub(crate) fn fill(root: &Path, mib: u64, seed: u64) -> Result<u64> {
    let mut random = Random::new(seed);
    let mut written = 0;
    let mut number = 0;
    while written < mib << 20 {
        let largest = if random.below(8) == 0 { 4 << 20 } else { 64 << 10 };
        let length = 1 + random.below(largest);
        let name = root.join(format!("{seed}-{number}"));
        let doing = || format!("write {}", name.display());
        let mut file = File::create(&name).doing(doing)?;
        let mut content = Vec::with_capacity(usize::try_from(length).expect("small") + 8);
        while (content.len() as u64) < length {
            content.extend_from_slice(&random.draw().to_le_bytes());
        }
        content.truncate(usize::try_from(length).expect("small"));
        file.write_all(&content).doing(doing)?;
        if random.below(16) == 0 {
            file.sync_all().doing(doing)?;
        }
        written += length;
        number += 1;
    }
    Ok(written)
}

/// A file's name and the checksum of its content.
pub(crate) type Sum = (String, String);

/// The checksum of a file's content.
pub(crate) fn sum_of(path: &Path) -> Result<String> {
    let mut content = Vec::new();
    let mut file = File::open(path).doing(|| format!("open {}", path.display()))?;
    file.read_to_end(&mut content).doing(|| format!("read {}", path.display()))?;
    let mut sum = Fnv::new();
    sum.add(&content);
    Ok(sum.text())
}

/// Name and checksum of every file, sorted.
pub(crate) fn sum_all(root: &Path) -> Result<Vec<Sum>> {
    let mut sums = Vec::new();
    for entry in fs::read_dir(root).doing(|| format!("read {}", root.display()))? {
        let entry = entry.doing(|| format!("read {}", root.display()))?;
        if !entry.path().is_file() {
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        sums.push((name, sum_of(&entry.path())?));
    }
    if sums.is_empty() {
        return Err(Error::failed(format!("{} has no files", root.display())));
    }
    sums.sort();
    Ok(sums)
}

fn difference(before: &[Sum], after: &[Sum]) -> String {
    let other = before.iter().find(|b| !after.contains(b));
    format!("{} files before, {} after; first difference: {other:?}", before.len(), after.len())
}
