//! A drive that something above it has claimed in the kernel: multipath maps it, an array or a mount has it. Needs a loop
//! device, which takes root; where none can be had nothing is tried.
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use ublk_target::{Access, Drive, DriveError};

/// A loop device over a file, gone with the test.
struct Loop {
    device: PathBuf,
    file: PathBuf,
}

impl Loop {
    fn new() -> Option<Self> {
        let file = std::env::temp_dir().join(format!("plinth-claimed-{}", std::process::id()));
        File::create(&file).and_then(|made| made.set_len(1 << 20)).expect("a file");
        let made = Command::new("losetup").args(["--find", "--show"]).arg(&file).output();
        let made = made.ok().filter(|output| output.status.success());
        let Some(made) = made else {
            let _ = std::fs::remove_file(&file);
            return None;
        };
        let device = PathBuf::from(String::from_utf8(made.stdout).expect("a path").trim());
        Some(Self { device, file })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.device).status();
        let _ = std::fs::remove_file(&self.file);
    }
}

fn open(path: &Path, access: Access) -> Result<Drive, DriveError> {
    Drive::open_within(path, access, Duration::ZERO)
}

/// A path that multipath had mapped was taken for one that another target serves from, and the whole group was refused.
#[test]
fn a_claim_is_told_from_another_target() {
    let Some(drive) = Loop::new() else {
        eprintln!("no loop device can be had here: nothing was tried");
        return;
    };
    let claim = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&drive.device).expect("claims");
    assert!(matches!(open(&drive.device, Access::Group(1)), Err(DriveError::Claimed(_))));
    drop(claim);
    // Targets of other groups share it.
    let one = open(&drive.device, Access::Group(1)).expect("opens");
    let other = open(&drive.device, Access::Group(2)).expect("opens");
    assert!(matches!(open(&drive.device, Access::Group(1)), Err(DriveError::Served(_))));
    drop((one, other));
    // A tool that has it as a whole claims it too, and is no reason to look for another path.
    let _tool = open(&drive.device, Access::ReadWrite).expect("opens");
    assert!(matches!(open(&drive.device, Access::Group(1)), Err(DriveError::InUse(_))));
}
