//! What tests of several verbs need.
use super::{Agent, Options};
use crate::params::{CreatePool, CreateVolume, Labels};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An agent without a socket, whose state is in this folder.
pub(super) fn agent(folder: &Path) -> Arc<Agent> {
    Agent::open(options(folder)).expect("opens")
}

/// Where such an agent has what.
pub(super) fn options(folder: &Path) -> Options {
    Options {
        state: folder.to_owned(),
        socket: folder.join("s"),
        program: "/none".into(),
        links: folder.join("links"),
        scan_devices: false,
        metrics: None,
    }
}

/// A pool of one drive of 256 MiB, in extents of 1 MiB.
pub(super) fn pool(agent: &Agent, drive: PathBuf, name: &str) {
    std::fs::File::create(&drive).expect("creates").set_len(256 << 20).expect("sizes");
    let params = CreatePool {
        name: name.into(),
        drives: vec![drive],
        labels: Labels::default(),
        force: false,
        extent_bytes: Some(1 << 20),
    };
    agent.create_pool(&params, false).expect("creates");
}

/// A volume with one leg.
pub(super) fn volume(name: &str, pool: &str) -> CreateVolume {
    CreateVolume {
        name: name.into(),
        pool: pool.into(),
        size_bytes: 1 << 20,
        legs: Some(1),
        columns: None,
        stripe_unit_bytes: None,
        group: None,
        encrypt: false,
        kek: None,
    }
}
