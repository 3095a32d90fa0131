//! The table of scenarios. To add one: a row here, and a function in `guest::steps`.

use super::{Scenario, bench, bench_check, demo, matrix, power_cut, restart_unit, simple};
use crate::kernel::Which;
use std::time::Duration;

const BOTH: &[Which] = &Which::ALL;
const NEWEST: &[Which] = &[Which::Newest];
const FLOOR: &[Which] = &[Which::Floor];
/// Only for trying things, or behind a command of its own.
const NEVER: &[Which] = &[];

const DEVICE: &[&str] = &["ublk_drv"];
const LIMIT: Duration = Duration::from_secs(600);
/// Where a full count takes a while.
const LONG: Duration = Duration::from_secs(1800);

/// What most scenarios are: two drives of 1 GiB, ublk, fio.
const USUAL: Scenario = Scenario {
    name: "",
    about: "",
    drives: 2,
    drive_mib: 1024,
    memory_mib: 1536,
    modules: DEVICE,
    programs: &["fio"],
    fetched: &[],
    product: true,
    cut: false,
    rounds: 1,
    smoke_rounds: 1,
    limit: LIMIT,
    alone: false,
    smoke: NEVER,
    host: simple,
};

/// Every scenario, in the order of a full run.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "boot",
        about: "the machine has ublk, io_uring and drives with a volatile cache",
        drives: 3,
        drive_mib: 256,
        memory_mib: 1024,
        programs: &[],
        product: false,
        limit: Duration::from_secs(120),
        smoke: BOTH,
        ..USUAL
    },
    Scenario {
        name: "bench-check",
        about: "the bench itself: a bare drive passes its power cuts, one that lies about flushes does not",
        drives: 1,
        drive_mib: 160,
        memory_mib: 1024,
        programs: &[],
        product: false,
        limit: Duration::from_secs(180),
        smoke: BOTH,
        host: bench_check::run,
        ..USUAL
    },
    Scenario {
        name: "attach-verify",
        about: "verified load from 512 bytes to 256 KiB, discards, parameters, detach and attach",
        rounds: 640,
        smoke_rounds: 64,
        smoke: BOTH,
        limit: LONG,
        ..USUAL
    },
    Scenario {
        name: "fsx",
        about: "random operations against a model",
        rounds: 100_000,
        smoke_rounds: 10_000,
        smoke: NEWEST,
        limit: LONG,
        ..USUAL
    },
    Scenario {
        name: "fs-ext4",
        about: "ext4 keeps its files, and e2fsck finds nothing",
        modules: &["ublk_drv", "ext4"],
        programs: &["mkfs.ext4", "e2fsck"],
        rounds: 500,
        smoke_rounds: 50,
        smoke: NEWEST,
        ..USUAL
    },
    Scenario {
        name: "fs-xfs",
        about: "xfs keeps its files, and xfs_repair finds nothing",
        modules: &["ublk_drv", "xfs"],
        programs: &["mkfs.xfs", "xfs_repair"],
        rounds: 500,
        smoke_rounds: 50,
        smoke: NEWEST,
        ..USUAL
    },
    Scenario { name: "drive-loss", about: "one of two drives disappears under load", smoke: NEWEST, ..USUAL },
    Scenario {
        name: "reset",
        about: "controllers are reset with writes in their drives' caches: no flush is believed that spans one",
        smoke: BOTH,
        limit: LONG,
        ..USUAL
    },
    Scenario {
        name: "resync",
        about: "a drive that was gone gets what it missed, under load; then it alone has everything",
        smoke: NEWEST,
        limit: LONG,
        ..USUAL
    },
    Scenario {
        name: "slow-drive",
        about: "a drive hangs under load, is put out, answers late, and gets what it missed",
        modules: &["ublk_drv", "dm_mod"],
        programs: &["fio", "dmsetup"],
        smoke: NEWEST,
        alone: true,
        ..USUAL
    },
    Scenario {
        name: "scrub",
        about: "thousands of blocks of one leg are spoiled under load; a scrub names and repairs them",
        drive_mib: 512,
        rounds: 10_240,
        smoke_rounds: 2_048,
        // A drive that is put out must be let go at once, which kernels before 6.13 make hard: it is brought back.
        smoke: BOTH,
        limit: LONG,
        ..USUAL
    },
    Scenario {
        name: "full-pool",
        about: "a pool becomes full: nothing is lost, and its volume goes on when space is there again",
        drives: 4,
        drive_mib: 256,
        programs: &["blkdiscard"],
        smoke: NEWEST,
        limit: LONG,
        ..USUAL
    },
    Scenario {
        name: "memory",
        about: "files are written in a machine of 256 MiB whose memory is eaten; nothing hangs",
        memory_mib: 256,
        modules: &["ublk_drv", "ext4"],
        programs: &["mkfs.ext4", "e2fsck"],
        rounds: 24,
        smoke_rounds: 6,
        smoke: BOTH,
        alone: true,
        ..USUAL
    },
    Scenario {
        name: "evacuate",
        about: "a drive is emptied under load at depth 32, and leaves its pool",
        drives: 3,
        smoke: NEWEST,
        limit: LONG,
        alone: true,
        ..USUAL
    },
    Scenario {
        name: "kill-target",
        about: "the serving process is killed again and again under load",
        rounds: 50,
        smoke_rounds: 5,
        limit: Duration::from_secs(1200),
        smoke: BOTH,
        alone: true,
        ..USUAL
    },
    Scenario {
        name: "live-upgrade",
        about: "the volume is handed to another binary again and again under load",
        rounds: 20,
        smoke_rounds: 5,
        smoke: BOTH,
        alone: true,
        ..USUAL
    },
    Scenario { name: "kill-agent", about: "the agent is killed under load", smoke: NEWEST, ..USUAL },
    Scenario {
        name: "restart-unit",
        about: "systemd restarts the agent's unit under load; the device goes on",
        modules: &["ublk_drv", "ext4"],
        programs: &[],
        host: restart_unit::run,
        smoke: NEWEST,
        ..USUAL
    },
    Scenario {
        name: "power-cut",
        about: "the power is cut under load; each drive loses its own unflushed writes",
        drive_mib: 512,
        modules: &["ublk_drv", "ext4"],
        programs: &["mkfs.ext4"],
        cut: true,
        rounds: 100,
        smoke_rounds: 10,
        smoke: BOTH,
        limit: Duration::from_secs(180),
        host: power_cut::run,
        ..USUAL
    },
    Scenario {
        name: "matrix",
        about: "legs, columns, sector sizes and kernels in pairs: ext4, fio, a killed target, a power cut",
        drive_mib: 512,
        modules: &["ublk_drv", "ext4"],
        programs: &["mkfs.ext4", "e2fsck", "fio"],
        cut: true,
        rounds: 3,
        smoke_rounds: 1,
        smoke: FLOOR,
        limit: LONG,
        host: matrix::run,
        ..USUAL
    },
    Scenario {
        name: "detach-in-use",
        about: "a mounted device is not detached",
        modules: &["ublk_drv", "ext4"],
        programs: &["mkfs.ext4"],
        smoke: NEWEST,
        ..USUAL
    },
    Scenario {
        name: "resize-live",
        about: "a volume grows under load, or says that this kernel cannot do that and stays as it is",
        smoke: BOTH,
        ..USUAL
    },
    Scenario { name: "idle-cpu", about: "an unused volume takes no processor time", smoke: NEWEST, ..USUAL },
    Scenario {
        name: "nbd-tools",
        about: "nbdinfo, nbdcopy, qemu-io and fio work over NBD",
        programs: &["fio", "nbdinfo", "nbdcopy", "qemu-io"],
        smoke: NEWEST,
        ..USUAL
    },
    Scenario {
        name: "no-ublk",
        about: "without the driver attach says what to do, and NBD works",
        modules: &[],
        programs: &[],
        smoke: NEWEST,
        ..USUAL
    },
    Scenario {
        name: "demo",
        about: "real files survive three blows; see `cargo xtask demo`",
        drives: 3,
        drive_mib: 2048,
        modules: &["ublk_drv", "ext4"],
        programs: &["mkfs.ext4", "e2fsck", "lsblk"],
        rounds: 1600,
        smoke_rounds: 160,
        host: demo::run,
        ..USUAL
    },
    Scenario {
        name: "demo-here",
        about: "what `cargo xtask demo --here` does on a host that has ublk",
        drives: 1,
        drive_mib: 6144,
        modules: &["ublk_drv", "ext4"],
        programs: &["mkfs.ext4", "e2fsck", "setpriv"],
        rounds: 640,
        smoke_rounds: 64,
        smoke: NEWEST,
        ..USUAL
    },
    Scenario {
        name: "bench",
        about: "fio on the product and on md over the same drives; see `cargo xtask bench vm`",
        drives: 4,
        modules: &["ublk_drv", "raid1", "raid10"],
        programs: &["fio", "taskset"],
        fetched: &[("mdadm", "/sbin/mdadm")],
        rounds: 5,
        smoke_rounds: 3,
        limit: LONG,
        host: bench::run,
        alone: true,
        ..USUAL
    },
    Scenario {
        name: "exec",
        about: "runs one program of this host in a machine: vm exec --exec PROGRAM [--word WORD]...",
        product: false,
        ..USUAL
    },
];

/// The scenario called `name`.
#[must_use]
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|s| s.name == name)
}
