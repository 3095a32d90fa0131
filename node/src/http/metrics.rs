//! `/metrics`: a few gauges in the text format of Prometheus.
use super::error::Failure;
use super::routes::Shared;
use crate::agent::{Agent, blocking};
use crate::error::Result;
use crate::model::{Health, VolumeState};
use axum::extract::State;
use std::fmt::Write;

/// Answers with the metrics.
pub async fn text(State(shared): State<Shared>) -> std::result::Result<String, Failure> {
    shared.agent.supervisor.refresh(None).await;
    let agent = shared.agent.clone();
    Ok(blocking(move || render(&agent)).await?)
}

/// A family of values with one label.
struct Family {
    text: String,
}

impl Family {
    fn new(name: &str, help: &str, kind: &str) -> Self {
        Self { text: format!("# HELP {name} {help}\n# TYPE {name} {kind}\n") }
    }

    fn add(&mut self, name: &str, labels: &str, value: u64) {
        writeln!(self.text, "{name}{{{labels}}} {value}").expect("writing to a string");
    }
}

fn render(agent: &Agent) -> Result<String> {
    let mut out = String::new();
    let mut family = |name: &str, help: &str, kind: &str, values: Vec<(String, u64)>| {
        let mut family = Family::new(name, help, kind);
        for (labels, value) in values {
            family.add(name, &labels, value);
        }
        out.push_str(&family.text);
    };
    let status = agent.view_status()?;
    let pools = |value: fn(&crate::model::Pool) -> u64| {
        status.pools.iter().map(|pool| (format!("pool=\"{}\"", pool.name), value(pool))).collect::<Vec<_>>()
    };
    family("plinth_pool_size_bytes", "Space of the pool.", "gauge", pools(|pool| pool.size_bytes));
    family("plinth_pool_allocated_bytes", "Space handed out.", "gauge", pools(|pool| pool.allocated_bytes));
    family("plinth_pool_free_bytes", "Space left.", "gauge", pools(|pool| pool.free_bytes));
    family(
        "plinth_pool_healthy",
        "1 when nothing is wrong.",
        "gauge",
        pools(|pool| u64::from(pool.health == Health::Online)),
    );
    let volumes = |value: fn(&crate::model::Volume) -> Option<u64>| {
        let each = status.volumes.iter();
        each.filter_map(|v| Some((format!("volume=\"{}\",pool=\"{}\"", v.name, v.pool), value(v)?)))
            .collect::<Vec<_>>()
    };
    family("plinth_volume_size_bytes", "Size of the volume.", "gauge", volumes(|v| Some(v.size_bytes)));
    family(
        "plinth_volume_allocated_bytes",
        "Space its group holds.",
        "gauge",
        volumes(|v| Some(v.allocated_bytes)),
    );
    family(
        "plinth_volume_healthy",
        "1 when nothing is wrong.",
        "gauge",
        volumes(|v| Some(u64::from(v.health == Health::Online))),
    );
    family(
        "plinth_volume_attached",
        "1 when it is served.",
        "gauge",
        volumes(|v| Some(u64::from(v.state == VolumeState::Attached))),
    );
    family("plinth_volume_seq", "Last Seq handed out.", "counter", volumes(|v| v.seq));
    family(
        "plinth_volume_durable_seq",
        "Seq up to which all is durable.",
        "counter",
        volumes(|v| v.durable_seq),
    );
    family(
        "plinth_target_restarts",
        "Targets started in place of dead ones.",
        "counter",
        volumes(|v| Some(v.target.as_ref()?.restarts)),
    );
    family(
        "plinth_target_memory_bytes",
        "Resident memory of the target.",
        "gauge",
        volumes(|v| v.target.as_ref()?.memory_bytes),
    );
    Ok(out)
}
