//! What tests of several verbs need.
use super::{Agent, Options};
use crate::catalogue::{Attachment, FrontendKind, records};
use crate::params::{CreatePool, CreateVolume, EventsQuery, Labels};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// An agent without a socket, whose state is in this folder.
pub(crate) fn agent(folder: &Path) -> Arc<Agent> {
    Agent::open(options(folder)).expect("opens")
}

/// Where such an agent has what.
pub(crate) fn options(folder: &Path) -> Options {
    Options {
        state: folder.to_owned(),
        socket: folder.join("s"),
        program: "/none".into(),
        links: folder.join("links"),
        scan_devices: false,
        metrics: None,
    }
}

/// A pool of one drive, which becomes a file of 256 MiB unless something is there, in extents of 1 MiB.
pub(crate) fn pool_on(agent: &Agent, drive: PathBuf, name: &str) {
    if !drive.exists() {
        std::fs::File::create(&drive).expect("creates").set_len(256 << 20).expect("sizes");
    }
    let params = CreatePool {
        name: name.into(),
        drives: vec![drive],
        labels: Labels::default(),
        force: false,
        extent_bytes: Some(1 << 20),
    };
    agent.create_pool(&params, false).expect("creates");
}

/// What makes a volume of 1 MiB with one leg.
pub(crate) fn volume_in(name: &str, pool: &str) -> CreateVolume {
    CreateVolume { pool: pool.into(), size_bytes: 1 << 20, ..volume(name, 1) }
}

/// Such a volume, in a pool of its own whose drive is a file.
pub(crate) fn new_volume(agent: &Agent, folder: &Path, name: &str) {
    volume_on(agent, folder.join(format!("drive-of-{name}")), name);
}

/// The same on this drive.
pub(crate) fn volume_on(agent: &Agent, drive: PathBuf, name: &str) {
    let pool = format!("pool-of-{name}");
    pool_on(agent, drive, &pool);
    agent.create_volume(&volume_in(name, &pool), false).expect("creates");
}

/// A pool `p` of drives of 256 MiB with extents of 8 MiB: 31 each.
pub(super) fn pool(agent: &Agent, folder: &Path, drives: &[&str]) {
    let make = |name: &&str| {
        let drive = folder.join(name);
        std::fs::File::create(&drive).expect("creates").set_len(256 << 20).expect("sizes");
        drive
    };
    let params = CreatePool {
        name: "p".into(),
        drives: drives.iter().map(make).collect(),
        labels: Labels::default(),
        force: false,
        extent_bytes: Some(8 << 20),
    };
    agent.create_pool(&params, false).expect("creates");
}

/// What makes a volume of pool `p`.
pub(super) fn volume(name: &str, legs: u8) -> CreateVolume {
    CreateVolume {
        name: name.into(),
        pool: "p".into(),
        size_bytes: 64 << 20,
        legs: Some(legs),
        columns: None,
        stripe_unit_bytes: None,
        group: None,
        encrypt: false,
        kek: None,
    }
}

/// What the events of a kind say.
pub(super) fn told(agent: &Agent, kind: &str) -> Vec<String> {
    let all = EventsQuery { since: None, after: None, wait_ms: None, limit: None };
    let events = agent.events.list(&all).expect("lists").into_iter();
    events.filter(|event| event.kind == kind).map(|event| event.message).collect()
}

/// An attachment as a device that was not served yet.
pub(crate) fn ublk_attachment() -> Attachment {
    Attachment {
        frontend: FrontendKind::Ublk,
        nbd_socket: None,
        read_only: false,
        device_number: None,
        detaching: false,
        force_stale: false,
        served: false,
        binary: None,
        next: None,
        tended: false,
    }
}

/// Announces an attachment, and does no more.
pub(crate) fn attach(agent: &Agent, volume: &str, attachment: Attachment) {
    let mut record = agent.volume(volume).expect("is there");
    record.attachment = Some(attachment);
    agent.store.txn().update(records::volume_key(volume), &record).commit().expect("commits");
}

/// A loop device over a file, gone with the test. Takes root; where none can be had, `None`.
pub(crate) struct LoopDevice(pub(crate) PathBuf);

impl LoopDevice {
    pub(crate) fn over(file: &Path) -> Option<Self> {
        let made = Command::new("losetup").args(["--find", "--show"]).arg(file).output();
        let made = made.ok().filter(|made| made.status.success());
        if made.is_none() {
            eprintln!("no loop device can be had here: nothing was tried");
        }
        Some(Self(String::from_utf8(made?.stdout).expect("a path").trim().into()))
    }

    /// Claims it, as what is made of a device does.
    pub(crate) fn claim(&self) -> std::fs::File {
        let flags = nix::libc::O_EXCL;
        std::fs::OpenOptions::new().read(true).custom_flags(flags).open(&self.0).expect("claims")
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}
