//! What tests of several verbs need.
use super::{Agent, Options};
use crate::catalogue::{Attachment, FrontendKind, records};
use crate::params::{CreatePool, CreateVolume, Labels};
use std::path::Path;
use std::sync::Arc;

/// An agent without a socket, whose state is in this folder.
pub(crate) fn agent(folder: &Path) -> Arc<Agent> {
    let options = Options {
        state: folder.to_owned(),
        socket: folder.join("s"),
        program: "/none".into(),
        links: folder.join("links"),
        scan_devices: false,
        metrics: None,
    };
    Agent::open(options).expect("opens")
}

/// A volume of one leg of 1 MiB, in a pool of its own whose drive is a file.
pub(crate) fn volume(agent: &Agent, folder: &Path, name: &str) {
    let drive = folder.join(format!("drive-of-{name}"));
    std::fs::File::create(&drive).expect("creates").set_len(256 << 20).expect("sizes");
    let pool = CreatePool {
        name: format!("pool-of-{name}"),
        drives: vec![drive],
        labels: Labels::default(),
        force: false,
        extent_bytes: None,
    };
    agent.create_pool(&pool, false).expect("creates");
    let volume = CreateVolume {
        name: name.into(),
        pool: pool.name,
        size_bytes: 1 << 20,
        legs: Some(1),
        columns: None,
        stripe_unit_bytes: None,
        group: None,
        encrypt: false,
        kek: None,
    };
    agent.create_volume(&volume, false).expect("creates");
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
    }
}

/// Announces an attachment, and does no more.
pub(crate) fn attach(agent: &Agent, volume: &str, attachment: Attachment) {
    let mut record = agent.volume(volume).expect("is there");
    record.attachment = Some(attachment);
    agent.store.txn().update(records::volume_key(volume), &record).commit().expect("commits");
}
