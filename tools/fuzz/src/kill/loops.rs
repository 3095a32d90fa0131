//! Loop devices over the files of a group: block devices, as drives are, where there is no other.
//!
//! A file and a block device take different ways through the kernel: exclusive opens, the sizes of sectors, discards,
//! how a flush gets to what lies below. What the process that was killed had under way ends behind its back on both.
use node::{Error, Kind, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Loop devices, which go when this does.
#[derive(Default)]
pub struct Loops {
    devices: Vec<PathBuf>,
}

impl Loops {
    /// A device over this file. The file is opened by the kernel without its page cache, where its file system can.
    ///
    /// # Errors
    /// The host has no loop devices to give (it needs root, and `/dev/loop-control`).
    pub fn over(&mut self, file: &Path) -> Result<PathBuf> {
        let made = said(Command::new("losetup").args(["--find", "--show", "--direct-io=on"]).arg(file));
        let device = PathBuf::from(made?);
        self.devices.push(device.clone());
        Ok(device)
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        for device in &self.devices {
            if let Err(error) = said(Command::new("losetup").arg("--detach").arg(device)) {
                eprintln!("plinth-kill: {} stays: {error}", device.display());
            }
        }
    }
}

/// Why this host has no loop devices to give, if so.
///
/// # Errors
/// The file system's, about `folder`.
pub fn lacking(folder: &Path) -> Result<Option<String>> {
    std::fs::create_dir_all(folder).map_err(|source| Error::io("make", folder, &source))?;
    let file = folder.join("try");
    let made = std::fs::File::create(&file).and_then(|file| file.set_len(1 << 20));
    made.map_err(|source| Error::io("make", &file, &source))?;
    let lacking = Loops::default().over(&file).err().map(|error| error.to_string());
    std::fs::remove_file(&file).map_err(|source| Error::io("remove", &file, &source))?;
    Ok(lacking)
}

fn said(command: &mut Command) -> Result<String> {
    let failed = |why: String| Error::general(Kind::Failed, format!("losetup: {why}"));
    let output = command.output().map_err(|source| failed(source.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
