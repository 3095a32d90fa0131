//! `/metrics`, in the text format of Prometheus.
//!
//! Base units (bytes, seconds), names that begin with `plinth_`, and labels whose values are few: names of pools and
//! volumes, legs, identities of drives, kinds of operation, states and outcomes. What a target counts begins at 0 with each
//! of its processes; a target that does not answer in time is shown as it was seen last.
use super::error::Failure;
use super::routes::Shared;
use crate::agent::Agent;
use crate::catalogue::CopyState;
use crate::error::Result;
use crate::figures::Latency;
use crate::model::{Health, Pool, Status, Task, Volume, VolumeState};
use crate::protocol::TargetStatus;
use crate::steps::blocking;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use std::fmt::Write;

mod drives;

use drives::{drives, smart};

/// The format that this is.
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers with the metrics.
pub async fn text(State(shared): State<Shared>) -> std::result::Result<impl IntoResponse, Failure> {
    shared.agent.supervisor.refresh(None).await;
    let agent = shared.agent.clone();
    let text = blocking(move || render_agent(&agent)).await?;
    Ok(([(CONTENT_TYPE, FORMAT)], text))
}

/// Everything that this agent shows.
///
/// # Errors
/// The catalogue's.
pub(crate) fn render_agent(agent: &Agent) -> Result<String> {
    let status = agent.view_status()?;
    let seen = status.volumes.iter().map(|volume| agent.supervisor.live(&volume.name)?.status);
    let seen: Vec<Option<TargetStatus>> = seen.collect();
    Ok(render(&status, &seen))
}

/// A label and its value.
type Labels<'a> = Vec<(&'static str, &'a str)>;

/// What is written.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    /// Begins a family; its samples follow.
    fn family(&mut self, name: &str, help: &str, kind: &str) {
        writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("writing to a string");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let pairs: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escape(value))).collect();
        let labels = if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) };
        writeln!(self.text, "{name}{labels} {value}").expect("writing to a string");
    }

    /// A family whose samples are at hand.
    fn all<'a>(
        &mut self,
        name: &str,
        help: &str,
        kind: &str,
        samples: impl Iterator<Item = (Labels<'a>, u64)>,
    ) {
        self.family(name, help, kind);
        for (labels, value) in samples {
            self.sample(name, &labels, value);
        }
    }

    /// The samples of one histogram.
    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], latency: &Latency) {
        let mut sum = 0;
        let (bucket, mut with_bound) = (format!("{name}_bucket"), labels.to_vec());
        let bounds: Vec<String> = Latency::bounds_seconds().map(|bound| bound.to_string()).collect();
        for (bound, count) in bounds.iter().zip(&latency.counts) {
            sum += count;
            with_bound.push(("le", bound));
            self.sample(&bucket, &with_bound, sum);
            with_bound.pop();
        }
        let count = latency.count();
        with_bound.push(("le", "+Inf"));
        self.sample(&bucket, &with_bound, count);
        self.sample(&format!("{name}_sum"), labels, latency.sum_nanos as f64 / 1e9);
        self.sample(&format!("{name}_count"), labels, count);
    }
}

fn render(status: &Status, seen: &[Option<TargetStatus>]) -> String {
    let mut page = Page::default();
    page.family("plinth_agent_info", "The agent that answers.", "gauge");
    page.sample("plinth_agent_info", &[("version", &status.agent.version)], 1);
    pools(&mut page, &status.pools);
    tasks(&mut page, &status.pools);
    smart(&mut page, &status.pools);
    volumes(&mut page, &status.volumes);
    copies(&mut page, &status.volumes);
    scrub_findings(&mut page, &status.volumes);
    let volumes: Vec<Seen<'_>> = status.volumes.iter().zip(seen).filter_map(Seen::of).collect();
    guests(&mut page, &volumes);
    groups(&mut page, &volumes);
    drives(&mut page, &volumes);
    page.text
}

fn pools(page: &mut Page, pools: &[Pool]) {
    let mut gauge = |name: &str, help: &str, value: fn(&Pool) -> u64| {
        page.all(
            name,
            help,
            "gauge",
            pools.iter().map(|pool| (vec![("pool", pool.name.as_str())], value(pool))),
        );
    };
    gauge("plinth_pool_size_bytes", "Space of the pool.", |pool| pool.size_bytes);
    gauge("plinth_pool_allocated_bytes", "Space handed out.", |pool| pool.allocated_bytes);
    gauge("plinth_pool_free_bytes", "Space left.", |pool| pool.free_bytes);
    gauge("plinth_pool_healthy", "1 when nothing is wrong.", |pool| u64::from(pool.health == Health::Online));
}

/// What is to be copied off drives that are emptied.
fn tasks(page: &mut Page, pools: &[Pool]) {
    let all = pools.iter().flat_map(|pool| pool.tasks.iter().map(move |task| (pool, task)));
    let samples = all.map(|(pool, task): (&Pool, &Task)| {
        let drive = task.drive.as_deref().unwrap_or_default();
        let labels = vec![("pool", pool.name.as_str()), ("volume", task.volume.as_str()), ("drive", drive)];
        (labels, task.bytes_total.unwrap_or(0).saturating_sub(task.bytes_copied))
    });
    let help = "What is still to be copied off a drive that is emptied.";
    page.all("plinth_pool_move_left_bytes", help, "gauge", samples);
}

/// What names a volume.
fn of_volume(volume: &Volume) -> Labels<'_> {
    vec![("volume", volume.name.as_str()), ("pool", volume.pool.as_str())]
}

fn volumes(page: &mut Page, volumes: &[Volume]) {
    let mut each = |name: &str, kind: &str, help: &str, value: fn(&Volume) -> Option<u64>| {
        let samples = volumes.iter().filter_map(|volume| Some((of_volume(volume), value(volume)?)));
        page.all(name, help, kind, samples);
    };
    each("plinth_volume_size_bytes", "gauge", "Size of the volume.", |v| Some(v.size_bytes));
    each("plinth_volume_mapped_bytes", "gauge", "What the guest has mapped.", |v| v.mapped_bytes);
    each("plinth_volume_allocated_bytes", "gauge", "Space its group holds.", |v| Some(v.allocated_bytes));
    each("plinth_volume_healthy", "gauge", "1 when nothing is wrong.", |v| {
        Some(u64::from(v.health == Health::Online))
    });
    each("plinth_volume_attached", "gauge", "1 when it is served.", |v| {
        Some(u64::from(v.state == VolumeState::Attached))
    });
    each("plinth_volume_legs", "gauge", "Copies that it should have.", |v| Some(u64::from(v.leg_count)));
    each("plinth_volume_legs_current", "gauge", "Copies that are complete.", |v| Some(current_legs(v)));
    each("plinth_volume_seq_total", "counter", "Last Seq handed out.", |v| v.seq);
    each("plinth_volume_durable_seq_total", "counter", "Seq up to which all is durable.", |v| v.durable_seq);
    let help = "What is still to be copied to a copy that is not current; absent while that is not known.";
    each("plinth_volume_resync_left_bytes", "gauge", help, resync_left);
    each("plinth_volume_scrub_left_bytes", "gauge", "What a scrub has still to read.", |v| {
        let scrub = v.scrub.as_ref()?;
        Some(scrub.bytes_total?.saturating_sub(scrub.bytes_done))
    });
    each("plinth_volume_scrub_checked_bytes", "gauge", "What the last scrub read.", |v| {
        Some(v.scrub.as_ref()?.bytes_done)
    });
    each("plinth_volume_scrub_repaired_copies", "gauge", "Copies that the last scrub repaired.", |v| {
        Some(v.scrub.as_ref()?.copies_repaired)
    });
    each("plinth_volume_scrub_lost_copies", "gauge", "Copies that the last scrub found lost.", |v| {
        Some(v.scrub.as_ref()?.copies_lost)
    });
    each(
        "plinth_volume_rekey_left_bytes",
        "gauge",
        "What is still to be looked at for a new data key.",
        |v| {
            let rekey = v.rekey.as_ref()?;
            Some(rekey.bytes_total?.saturating_sub(rekey.bytes_done))
        },
    );
    each("plinth_volume_lost_bytes", "gauge", "What a scrub found that no leg has right.", |v| {
        Some(v.scrub.as_ref()?.lost_bytes)
    });
    let help = "Blocks beside the volume's data that a scrub found and no leg has right.";
    each("plinth_volume_lost_records", "gauge", help, |v| {
        let lost = &v.scrub.as_ref()?.lost;
        Some(lost.iter().filter(|range| range.offset_bytes.is_none()).count() as u64)
    });
    each("plinth_target_restarts_total", "counter", "Targets started in place of dead ones.", |v| {
        Some(v.target.as_ref()?.restarts)
    });
    each("plinth_target_memory_bytes", "gauge", "Resident memory of the target.", |v| {
        v.target.as_ref()?.memory_bytes
    });
}

/// What the resync that is under way has still to copy. A copy that waits for its drive, or for its turn, lacks nobody
/// knows how much, and so does one whose resync has only begun: then nothing is said, for 0 would say that all is well.
fn resync_left(volume: &Volume) -> Option<u64> {
    let mut parts = volume.legs.iter().flat_map(|leg| &leg.drives);
    match &volume.resync {
        Some(resync) => resync.bytes_left,
        None => parts.all(|part| part.state == CopyState::Current).then_some(0),
    }
}

/// How many copies of each state a volume has: a drive's part of a leg is one.
fn copies(page: &mut Page, volumes: &[Volume]) {
    let states = [
        ("current", CopyState::Current),
        ("stale", CopyState::Stale),
        ("resyncing", CopyState::Resyncing),
        ("missing", CopyState::Missing),
    ];
    let samples = volumes.iter().flat_map(|volume| {
        states.map(|(name, state)| {
            let mut labels = of_volume(volume);
            labels.push(("state", name));
            let parts = volume.legs.iter().flat_map(|leg| &leg.drives);
            (labels, parts.filter(|part| part.state == state).count() as u64)
        })
    });
    page.all("plinth_volume_copies", "Copies on drives, by state.", "gauge", samples);
}

/// What scrubs found.
fn scrub_findings(page: &mut Page, volumes: &[Volume]) {
    let samples = volumes.iter().filter_map(|volume| Some((volume, volume.scrub.as_ref()?.totals)));
    let samples = samples.flat_map(|(volume, totals)| {
        let by_outcome = [
            ("repaired", totals.copies_repaired),
            ("lost", totals.copies_lost),
            ("drive_out", totals.copies_drive_out),
        ];
        by_outcome.map(|(outcome, copies)| {
            let mut labels = of_volume(volume);
            labels.push(("outcome", outcome));
            (labels, copies)
        })
    });
    let help = "Copies that scrubs found wrong, by what became of them; kept over restarts.";
    page.all("plinth_volume_scrub_found_copies_total", help, "counter", samples);
}

fn current_legs(volume: &Volume) -> u64 {
    let current = volume.legs.iter().filter(|leg| leg.drives.iter().all(|d| d.state == CopyState::Current));
    current.count() as u64
}

/// A volume whose target was seen.
struct Seen<'a> {
    volume: &'a Volume,
    status: &'a TargetStatus,
    figures: &'a crate::figures::TargetFigures,
}

impl<'a> Seen<'a> {
    fn of((volume, status): (&'a Volume, &'a Option<TargetStatus>)) -> Option<Self> {
        let status = status.as_ref()?;
        Some(Self { volume, status, figures: status.figures.as_ref()? })
    }

    fn labels<'b>(&'b self, more: &[(&'static str, &'b str)]) -> Labels<'b> {
        let mut labels = of_volume(self.volume);
        labels.extend_from_slice(more);
        labels
    }
}

/// What guests asked for and how long they waited.
fn guests(page: &mut Page, volumes: &[Seen<'_>]) {
    let requests = volumes.iter().flat_map(|v| {
        v.figures.latency.iter().map(|latency| (v.labels(&[("op", &latency.op)]), latency.count()))
    });
    page.all(
        "plinth_volume_requests_total",
        "Requests of the guest that were answered.",
        "counter",
        requests,
    );
    let bytes = volumes.iter().flat_map(|v| {
        let moved = [("read", v.figures.bytes_read), ("write", v.figures.bytes_written)];
        moved.map(|(op, bytes)| (v.labels(&[("op", op)]), bytes))
    });
    page.all("plinth_volume_bytes_total", "Bytes that the guest read and wrote.", "counter", bytes);
    let mut each = |name: &str, kind: &str, help: &str, value: fn(&Seen<'_>) -> u64| {
        page.all(name, help, kind, volumes.iter().map(|v| (v.labels(&[]), value(v))));
    };
    each("plinth_volume_failed_requests_total", "counter", "Requests answered with an error.", |v| {
        v.figures.failed_requests
    });
    each("plinth_volume_requests_in_flight", "gauge", "Requests under way.", |v| {
        v.figures.requests_in_flight
    });
    each(
        "plinth_volume_stuck_requests_total",
        "counter",
        "Requests seen under way for over a minute.",
        |v| v.figures.stuck_requests,
    );
    let name = "plinth_volume_request_seconds";
    page.family(name, "How long the guest waited for an answer.", "histogram");
    for volume in volumes {
        for latency in &volume.figures.latency {
            page.histogram(name, &volume.labels(&[("op", &latency.op)]), latency);
        }
    }
}

/// Space, checkpoint and log of the groups.
fn groups(page: &mut Page, volumes: &[Seen<'_>]) {
    let mut each = |name: &str, help: &str, value: fn(&Seen<'_>) -> u64| {
        page.all(name, help, "gauge", volumes.iter().map(|v| (v.labels(&[]), value(v))));
    };
    each("plinth_volume_space_bytes", "Space of the group, one leg.", |v| v.figures.space_bytes);
    each("plinth_volume_space_free_bytes", "Space of the group that can be handed out now, one leg.", |v| {
        v.figures.free_bytes
    });
    let help = "Space that was freed and is still held by reads or a checkpoint to come, one leg.";
    each("plinth_volume_space_pinned_bytes", help, |v| v.figures.pinned_bytes);
    each("plinth_volume_checkpoint", "Number of the last checkpoint.", |v| v.figures.checkpoint);
    let name = "plinth_volume_ring_used_ratio";
    page.family(name, "Part of the log's ring that is in use.", "gauge");
    for volume in volumes {
        page.sample(name, &volume.labels(&[]), f64::from(volume.figures.ring_used_permille) / 1000.0);
    }
}

#[cfg(test)]
mod tests;
