//! The machine's drives, as the guest sees them.

use super::Guest;
use crate::error::{Context, Error, Result};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// One NVMe namespace.
#[derive(Clone, Debug)]
pub struct NvmeDrive {
    /// Its device node.
    pub path: PathBuf,
    /// Its serial number, which the host gave it.
    pub serial: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Whether the kernel counts on a volatile cache.
    pub volatile_cache: bool,
}

impl NvmeDrive {
    /// Takes the drive out of its slot: its controller disappears with whatever it had in flight.
    ///
    /// # Errors
    /// Its controller is not there, or cannot be removed.
    pub fn pull(&self) -> Result<()> {
        self.tell_controller("device/remove")
    }

    /// Resets the drive's controller: the kernel sends again what was in flight, so no request fails.
    ///
    /// # Errors
    /// Its controller is not there, or cannot be reset.
    pub fn reset(&self) -> Result<()> {
        self.tell_controller("reset_controller")
    }

    fn tell_controller(&self, switch: &str) -> Result<()> {
        for entry in fs::read_dir("/sys/class/nvme").into_iter().flatten().flatten() {
            let serial = fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
            if serial.trim() == self.serial {
                let switch = entry.path().join(switch);
                return fs::write(&switch, "1\n").doing(|| format!("write {}", switch.display()));
            }
        }
        Err(Error::failed(format!("no controller has the serial number {}", self.serial)))
    }

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
            found = list();
            found.len() == wanted
        });
        waited.map_err(|e| Error::failed(format!("{e}: {} of {wanted} are there", found.len())))?;
        Ok(found)
    }
}

/// The drive that the host named first, once it is there.
pub(super) fn first() -> Option<NvmeDrive> {
    for _ in 0..500 {
        let first = list().into_iter().find(|drive| drive.serial == "plinth0");
        if first.is_some() {
            return first;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

/// Probing is asynchronous, so the kernel's numbers say nothing; the serial number carries the host's order.
fn list() -> Vec<NvmeDrive> {
    let text = |path: PathBuf| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let mut found: Vec<NvmeDrive> = Vec::new();
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
            found.push(NvmeDrive { path, serial, size_bytes: sectors * 512, volatile_cache });
        }
    }
    found.sort_by(|a, b| (a.serial.len(), &a.serial).cmp(&(b.serial.len(), &b.serial)));
    found
}
