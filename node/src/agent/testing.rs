//! What tests of several verbs need.
use super::{Agent, Options};
use crate::params::{CreatePool, CreateVolume, EventsQuery, Labels};
use std::path::Path;
use std::sync::Arc;

/// An agent without a socket, whose state is in this folder.
pub(super) fn agent(folder: &Path) -> Arc<Agent> {
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
