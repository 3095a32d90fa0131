//! A support bundle: one tar file with what somebody needs who was not there.
//!
//! It holds no data of volumes, no key, and nothing of the environment of any process. Half of it comes from the
//! agent (`agent::support`), the other half is what this machine says; without an agent that answers the
//! second half is all. The file is readable by its owner alone, and appears whole or not at all.
use crate::error::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use utoipa::ToSchema;

/// The folder that a bundle unpacks to.
const FOLDER: &str = "plinth-support/";
/// Bytes of a block of a tar file.
const BLOCK: usize = 512;
/// Of one file of the kernel's, at most so much.
const MAX_FACT: u64 = 256 << 10;

/// What the kernel is asked, all of it readable by everybody and none of it with words that people chose, as the
/// kernel's command line has.
const FACTS: [&str; 12] = [
    "/proc/version",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/loadavg",
    "/proc/uptime",
    "/proc/partitions",
    "/proc/diskstats",
    "/proc/pressure/io",
    "/proc/pressure/memory",
    "/proc/sys/kernel/io_uring_disabled",
    "/proc/sys/kernel/tainted",
    "/etc/os-release",
];
/// What every block device is asked.
const QUEUE_FACTS: [&str; 8] = [
    "write_cache",
    "fua",
    "rotational",
    "logical_block_size",
    "physical_block_size",
    "max_sectors_kb",
    "nr_requests",
    "scheduler",
];

/// One file of a bundle.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Entry {
    /// Its name, with folders.
    pub name: String,
    /// What is in it.
    pub text: String,
}

impl Entry {
    /// A text.
    pub fn text(name: &str, text: String) -> Self {
        Self { name: name.to_owned(), text }
    }

    /// A value, indented.
    pub fn json(name: &str, value: &Value) -> Self {
        let text = serde_json::to_string_pretty(value).expect("JSON encodes");
        Self::text(name, format!("{text}\n"))
    }
}

/// What this machine says of itself.
pub fn machine() -> Vec<Entry> {
    let mut entries: Vec<Entry> = FACTS
        .iter()
        .filter_map(|path| Some(Entry::text(&format!("machine{path}"), read_some(Path::new(path))?)))
        .collect();
    entries.push(Entry::text("machine/modules", ublk_module()));
    entries.push(Entry::text("machine/block-devices", block_devices()));
    entries
}

fn read_some(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_FACT).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The ublk driver: whether it is there, and its parameters.
fn ublk_module() -> String {
    let there = |path: &str| if Path::new(path).exists() { "there" } else { "missing" };
    let mut text = format!("/dev/ublk-control {}\n", there("/dev/ublk-control"));
    for name in names("/sys/module/ublk_drv/parameters") {
        let value = read_some(&Path::new("/sys/module/ublk_drv/parameters").join(&name));
        text += &format!("ublk_drv.{name} {}\n", value.unwrap_or_default().trim());
    }
    text
}

fn block_devices() -> String {
    let mut text = String::new();
    for name in names("/sys/block") {
        let folder = Path::new("/sys/block").join(&name);
        let sectors = read_some(&folder.join("size")).unwrap_or_default();
        text += &format!("{name} sectors={}", sectors.trim());
        for fact in QUEUE_FACTS {
            let value = read_some(&folder.join("queue").join(fact)).unwrap_or_default();
            text += &format!(" {fact}={}", value.trim().replace(' ', "-"));
        }
        text.push('\n');
    }
    text
}

fn names(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Refuses a path at which a bundle would take something else away.
///
/// # Errors
/// `Exists`, `NotFound` without the folder, or the file system's.
pub fn check_place(path: &Path) -> Result<()> {
    let name = path.display().to_string();
    let folder = folder_of(path);
    if !folder.is_dir() {
        let message = format!("there is no folder {} for the bundle", folder.display());
        return Err(Error::new(Kind::NotFound, name, message));
    }
    let mut head = Vec::new();
    match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(Error::io("open", path, &source)),
        Ok(file) => file.take(FOLDER.len() as u64).read_to_end(&mut head).unwrap_or_default(),
    };
    if head == FOLDER.as_bytes() {
        return Ok(());
    }
    Err(Error::new(Kind::Exists, name.clone(), format!("{name} exists and is no support bundle"))
        .hint("give another file"))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a bundle, in place of an older one.
///
/// # Errors
/// As `check_place`.
pub fn write(path: &Path, entries: &[Entry]) -> Result<()> {
    check_place(path)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let temporary = temporary_of(path);
    let fail = |source: &std::io::Error| Error::io("write", &temporary, source);
    // A name that nobody else has, and a file that was never open to others.
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(&temporary).map_err(|source| fail(&source))?;
    let written = file.write_all(&archive(entries, now)).and_then(|()| file.sync_all());
    let done = written.and_then(|()| std::fs::rename(&temporary, path));
    done.map_err(|source| {
        let _ = std::fs::remove_file(&temporary);
        fail(&source)
    })
}

fn temporary_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    folder_of(path).join(format!(".{name}.{}", std::process::id()))
}

/// The entries as a tar file (POSIX ustar).
fn archive(entries: &[Entry], now: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        out.extend_from_slice(&header(&entry.name, entry.text.len(), now));
        out.extend_from_slice(entry.text.as_bytes());
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }
    out.resize(out.len() + 2 * BLOCK, 0);
    out
}

fn header(name: &str, bytes: usize, now: u64) -> [u8; BLOCK] {
    let mut block = [0u8; BLOCK];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    let name = format!("{FOLDER}{}", name.trim_start_matches('/'));
    assert!(name.len() < 100, "names of a bundle are short");
    put(0, &name);
    put(100, "0000600\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{bytes:011o}\0"));
    put(136, &format!("{now:011o}\0"));
    // The sum is taken with spaces in its own place.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_bundle_takes_the_place_of_a_bundle_only() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("bundle.tar");
        write(&path, &[Entry::text("a", "x".repeat(600))]).expect("writes");
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read(&path).expect("reads").len(), BLOCK + 2 * BLOCK + 2 * BLOCK);
        write(&path, &[Entry::text("b", String::new())]).expect("writes again");
        assert_eq!(std::fs::read(&path).expect("reads").len(), 3 * BLOCK);
    }

    #[test]
    fn what_is_there_already_stays() {
        let folder = tempfile::tempdir().expect("folder");
        let other = folder.path().join("other");
        std::fs::write(&other, "precious").expect("writes");
        assert_eq!(write(&other, &[]).expect_err("refused").kind, Kind::Exists);
        assert_eq!(std::fs::read(&other).expect("reads"), b"precious");
        let nowhere = folder.path().join("none/bundle");
        assert_eq!(write(&nowhere, &[]).expect_err("refused").kind, Kind::NotFound);
        assert_eq!(std::fs::read_dir(folder.path()).expect("lists").count(), 1, "nothing is left behind");
    }
}
