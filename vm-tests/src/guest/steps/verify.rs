//! `attach-verify` and `fsx`: what is written to the device is what is read from it.

use crate::error::{Error, Result};
use crate::guest::Guest;
use crate::guest::fsx;
use crate::guest::load::Fio;
use crate::guest::product::POOL;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::Duration;

const VOLUME_MIB: u64 = 512;

/// Verified load from 512 bytes to 256 KiB, discards that read as zero, the device's parameters, the same bytes after a
/// detach and an attach, and what the drives say of their health.
pub(super) fn attach_verify(guest: &mut Guest) -> Result<()> {
    let drives = guest.drives()?;
    guest.start_agent()?;
    let device = guest.new_device(&drives, VOLUME_MIB, &[])?;
    parameters(guest, &device)?;
    let mib = guest.number("rounds")?;
    let jobs = [
        (
            "blocks-4k",
            Fio::on(&device, "a").with("--rw=randwrite").with("--bs=4k").with(format!("--size={mib}m")),
        ),
        (
            "blocks-mixed",
            Fio::on(&device, "b")
                .with("--rw=randwrite")
                .with("--bsrange=4k-256k")
                .with(format!("--size={}m", mib * 2)),
        ),
        (
            "starts-512",
            Fio::on(&device, "c")
                .with("--rw=randwrite")
                .with("--bsrange=512-64k")
                .with("--blockalign=512")
                .with("--verify_interval=512")
                .with(format!("--size={mib}m"))
                .with("--offset=256m"),
        ),
        (
            "with-flushes",
            Fio::on(&device, "d")
                .with("--rw=randwrite")
                .with("--bs=16k")
                .with("--fdatasync=32")
                .with("--iodepth=1")
                .with(format!("--size={}m", mib.div_ceil(4)))
                .with("--offset=320m"),
        ),
    ];
    for (name, job) in jobs {
        guest.check(name, job.verified().run().map_err(|e| e.to_string()));
    }
    discard(guest, &device)?;
    let before = guest.checksum(&device)?;
    guest.detach()?;
    let gone = !Path::new("/dev/ublkb0").exists();
    guest.check_that("detach-removes", gone, || "/dev/ublkb0 is still there".into());
    let device = guest.attach()?;
    let after = guest.checksum(&device)?;
    guest.check_that("same-after-attach", before == after, || format!("{before} before, {after} after"));
    guest.detach()?;
    // The agent has asked them by now: it looks for new ones each minute.
    guest.check("drives-say-how-they-are", drives_speak(guest).map_err(|e| e.to_string()));
    guest.stop_and_fsck(&drives)
}

/// NVMe drives tell their health, and what they measure makes sense.
fn drives_speak(guest: &Guest) -> Result<()> {
    let mut last = Value::Null;
    let waited = guest.wait_until("the drives say how they are", Duration::from_secs(90), || {
        let out = guest.plinth(&["-o", "json", "drive", "list", POOL]).out;
        last = serde_json::from_str(&out).unwrap_or(Value::Null);
        last.as_array().is_some_and(|drives| drives.iter().all(|drive| drive["smart"].is_object()))
    });
    waited.map_err(|e| Error::failed(format!("{e}: {last}")))?;
    for drive in last.as_array().into_iter().flatten() {
        let smart = &drive["smart"];
        let warm = smart["temperature_celsius"].as_i64().is_some_and(|degrees| (0..150).contains(&degrees));
        if !warm || smart["spare_percent"].as_u64().is_none_or(|percent| percent > 100) {
            return Err(Error::failed(format!("a drive says {smart}")));
        }
    }
    guest.note(format!("the first drive says {}", last[0]["smart"]));
    Ok(())
}

/// The device says what it can, and a stable name leads to it.
fn parameters(guest: &mut Guest, device: &Path) -> Result<()> {
    let name = crate::guest::product::block_name(device)?;
    let read = |what: &str| {
        fs::read_to_string(format!("/sys/block/{name}/{what}")).unwrap_or_default().trim().to_owned()
    };
    let sectors = (VOLUME_MIB << 11).to_string();
    for (what, want) in [
        ("size", sectors.as_str()),
        ("queue/logical_block_size", "512"),
        ("queue/physical_block_size", "4096"),
        ("queue/write_cache", "write back"),
        ("queue/fua", "1"),
    ] {
        let have = read(what);
        let short = what.rsplit('/').next().unwrap_or(what);
        guest.check_that(&format!("says-{short}"), have == want, || format!("{what} is {have}, not {want}"));
    }
    for what in ["queue/discard_max_bytes", "queue/write_zeroes_max_bytes"] {
        let have: u64 = read(what).parse().unwrap_or(0);
        let short = what.rsplit('/').next().unwrap_or(what);
        guest.check_that(&format!("says-{short}"), have > 0, || format!("{what} is {}", read(what)));
    }
    let link = fs::canonicalize("/dev/plinth/vol").ok();
    let real = fs::canonicalize(device).ok();
    guest
        .check_that("stable-name", link.is_some() && link == real, || format!("/dev/plinth/vol is {link:?}"));
    Ok(())
}

/// A discarded range reads as zeros, and its neighbours keep what they have.
fn discard(guest: &mut Guest, device: &Path) -> Result<()> {
    let path = device.to_string_lossy().into_owned();
    Fio::on(device, "fill")
        .with("--rw=write")
        .with("--bs=64k")
        .with("--size=8m")
        .with("--offset=400m")
        .run()?;
    let discarded = guest.run("blkdiscard", &["-o", "421527552", "-l", "2097152", &path]);
    guest.check("discard", discarded.map(|_| ()).map_err(|e| e.to_string()));
    let zeros = |from_kib: u64, kib: u64| -> Result<bool> {
        use std::os::unix::fs::FileExt;
        crate::guest::load::drop_caches();
        let mut bytes = vec![0u8; usize::try_from(kib << 10).expect("small")];
        let file = fs::File::open(device).map_err(|e| crate::error::Error::failed(e.to_string()))?;
        file.read_exact_at(&mut bytes, from_kib << 10)
            .map_err(|e| crate::error::Error::failed(e.to_string()))?;
        Ok(bytes.iter().all(|b| *b == 0))
    };
    // 400 MiB were filled for 8 MiB; 402 to 404 MiB are discarded.
    let (inside, before, behind) =
        (zeros(402 << 10, 2048)?, zeros((402 << 10) - 64, 64)?, zeros(404 << 10, 64)?);
    guest.check_that("discarded-is-zero", inside, || "the discarded range has data".into());
    guest.check_that("neighbours-stay", !before && !behind, || {
        "a neighbour of the discarded range is zero".into()
    });
    Ok(())
}

/// Random operations against a model.
pub(super) fn fsx(guest: &mut Guest) -> Result<()> {
    let drives = guest.drives()?;
    guest.start_agent()?;
    let device = guest.new_device(&drives, VOLUME_MIB, &[])?;
    let outcome = fsx::exercise(&device, 64 << 20, guest.number("rounds")?, guest.number("seed")?);
    if let Ok(done) = &outcome {
        guest.note(format!("{} reads, {} writes, {} ranges zeroed", done.reads, done.writes, done.zeroed));
    }
    guest.check("same-as-model", outcome.map(|_| ()).map_err(|e| e.to_string()));
    guest.detach()?;
    guest.stop_and_fsck(&drives)
}
