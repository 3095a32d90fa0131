//! The machine's drives, as the guest sees them.

use super::Guest;
use crate::error::{Error, Result};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// One NVMe namespace.
#[derive(Clone, Debug)]
pub struct NvmeDrive {
    /// Its device node.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Whether the kernel counts on a volatile cache.
    pub volatile_cache: bool,
}

impl NvmeDrive {
    /// The device node as text.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }
}

impl Guest {
    /// Waits until the machine's drives are there (`plinth.drives=N`), and returns them in the host's order.
    ///
    /// # Errors
    /// Not all of them appear within 30 s.
    pub fn drives(&self) -> Result<Vec<NvmeDrive>> {
        let wanted = usize::try_from(self.number("drives")?).expect("few drives");
        let mut found: Vec<NvmeDrive> = Vec::new();
        let waited = self.wait_until("the drives appear", Duration::from_secs(30), || {
            found = list().into_iter().map(|(_, drive)| drive).collect();
            found.len() == wanted
        });
        waited.map_err(|e| Error::failed(format!("{e}: {} of {wanted} are there", found.len())))?;
        Ok(found)
    }
}

/// The drive that the host named first, once it is there.
pub(super) fn first() -> Option<NvmeDrive> {
    for _ in 0..500 {
        let found = list();
        if let Some((_, drive)) = found.into_iter().find(|(serial, _)| serial == "plinth0") {
            return Some(drive);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

/// Probing is asynchronous, so the kernel's numbers say nothing; the serial number carries the host's order.
fn list() -> Vec<(String, NvmeDrive)> {
    let text = |path: PathBuf| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let mut found: Vec<(String, NvmeDrive)> = Vec::new();
    for entry in fs::read_dir("/sys/class/block").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("nvme") || entry.path().join("partition").exists() {
            continue;
        }
        let path = PathBuf::from("/dev").join(&name);
        let sectors: u64 = text(entry.path().join("size")).parse().unwrap_or(0);
        let serial = text(entry.path().join("device/serial"));
        if sectors > 0 && path.exists() && !serial.is_empty() {
            let volatile_cache = text(entry.path().join("queue/write_cache")) == "write back";
            found.push((serial, NvmeDrive { path, size_bytes: sectors * 512, volatile_cache }));
        }
    }
    found.sort_by(|a, b| a.0.len().cmp(&b.0.len()).then_with(|| a.0.cmp(&b.0)));
    found
}
