//! What tests of several verbs need.
use super::{Agent, Options};
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
