//! `boot`: the machine has what every other scenario counts on.

use crate::error::Result;
use crate::guest::{Guest, fsx};
use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileTypeExt;

/// Checks the ublk driver, io_uring, and that each drive keeps a written block over a flush.
pub(super) fn run(guest: &mut Guest) -> Result<()> {
    let control = fs::metadata("/dev/ublk-control").map(|m| m.file_type().is_char_device());
    guest.check_that("ublk-control", control.unwrap_or(false), || "no /dev/ublk-control".into());
    let uring = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    guest.check_that("io-uring", uring.trim() == "0", || format!("io_uring_disabled is {}", uring.trim()));
    let drives = guest.drives()?;
    let want = guest.number("drive_bytes")?;
    for (number, drive) in drives.iter().enumerate() {
        let right = drive.size_bytes == want && drive.volatile_cache;
        guest.check_that(&format!("drive-{number}"), right, || format!("{drive:?}, not {want} bytes"));
        let mark = [u8::try_from(number).expect("few drives") + 1; 4096];
        let mut file = OpenOptions::new().read(true).write(true).open(&drive.path);
        let file = file.as_mut().map_err(|e| e.to_string());
        let kept = file.and_then(|file| {
            let mut back = [0u8; 4096];
            let mut go = || -> std::io::Result<()> {
                file.seek(SeekFrom::Start(8192))?;
                file.write_all(&mark)?;
                file.sync_all()?;
                file.seek(SeekFrom::Start(8192))?;
                file.read_exact(&mut back)
            };
            go().map_err(|e| e.to_string())?;
            if back == mark { Ok(()) } else { Err("it reads back something else".to_owned()) }
        });
        guest.check(&format!("keeps-{number}"), kept);
    }
    // The exerciser is itself under test: a bare drive is what its model says.
    let seed = guest.number("seed")?;
    let bare = fsx::exercise(&drives[0].path, 16 << 20, 200, seed);
    guest.check("exerciser", bare.map(|_| ()).map_err(|e| e.to_string()));
    let shell = guest.run("/bin/sh", &["-c", "uname -m"]);
    guest.check("shell", shell.map(|_| ()).map_err(|e| e.to_string()));
    Ok(())
}
