//! What drives say of themselves, and what targets did on them.
use super::{Labels, Page, Seen};
use crate::figures::Latency;
use crate::model::{Leg, Pool, Smart, Volume};
use crate::protocol::TargetDriveStatus;

/// What drives say of their own health.
pub(super) fn smart(page: &mut Page, pools: &[Pool]) {
    let mut drives: Vec<(&str, &str, &Smart)> = Vec::new();
    for pool in pools {
        let said = pool.drives.iter().filter_map(|drive| Some((drive, drive.smart.as_ref()?)));
        drives.extend(said.map(|(drive, smart)| (pool.name.as_str(), drive.id.as_str(), smart)));
    }
    let mut each = |name: &str, kind: &str, help: &str, value: fn(&Smart) -> Option<f64>| {
        page.family(name, help, kind);
        for (pool, drive, smart) in &drives {
            if let Some(value) = value(smart) {
                page.sample(name, &[("pool", pool), ("drive", drive)], value);
            }
        }
    };
    each("plinth_drive_temperature_celsius", "gauge", "What the drive measures.", |smart| {
        smart.temperature_celsius.map(f64::from)
    });
    each("plinth_drive_spare_ratio", "gauge", "Spare that the drive has left.", |smart| {
        smart.spare_percent.map(|percent| f64::from(percent) / 100.0)
    });
    each("plinth_drive_life_used_ratio", "gauge", "Part of its rated life; may exceed 1.", |smart| {
        smart.used_percent.map(|percent| f64::from(percent) / 100.0)
    });
    each("plinth_drive_media_errors_total", "counter", "Times that the drive lost data.", |smart| {
        smart.media_errors.map(|errors| errors as f64)
    });
    each("plinth_drive_warnings", "gauge", "Warnings that the drive gives.", |smart| {
        Some(smart.warnings.len() as f64)
    });
}

/// A drive of a volume whose target was seen.
struct Part<'a> {
    seen: &'a Seen<'a>,
    legs: String,
    status: &'a TargetDriveStatus,
}

impl<'a> Part<'a> {
    fn labels(&self) -> Labels<'_> {
        self.seen.labels(&[("leg", &self.legs), ("drive", &self.status.id)])
    }

    fn with_op<'b>(&'b self, op: &'b str) -> Labels<'b> {
        let mut labels = self.labels();
        labels.push(("op", op));
        labels
    }

    fn latencies(&self) -> &'a [Latency] {
        self.status.figures.as_ref().map_or(&[], |figures| &figures.latency)
    }
}

/// The legs of a volume of which a drive holds a part, in order: `0`, or `0,1` once moves have brought together what
/// was apart. A target counts by drive, for that is what fails and is slow, and what it did there is not split: under one
/// leg's number all of it would be a lie.
fn legs_on(volume: &Volume, drive: &str) -> String {
    let holds = |leg: &&Leg| leg.drives.iter().any(|part| part.id == drive);
    let numbers: Vec<String> = volume.legs.iter().filter(holds).map(|leg| leg.leg.to_string()).collect();
    numbers.join(",")
}

/// The drives of all volumes that hold a part of some leg, once each.
fn parts<'a>(volumes: &'a [Seen<'a>]) -> Vec<Part<'a>> {
    let mut parts = Vec::new();
    for seen in volumes {
        for status in &seen.status.drives {
            let legs = legs_on(seen.volume, &status.id);
            if !legs.is_empty() {
                parts.push(Part { seen, legs, status });
            }
        }
    }
    parts
}

/// What was done on drives.
pub(super) fn drives(page: &mut Page, volumes: &[Seen<'_>]) {
    let parts = parts(volumes);
    let operations = parts
        .iter()
        .flat_map(|part| part.latencies().iter().map(|latency| (part.with_op(&latency.op), latency.count())));
    let help = "Operations of the drive that ended, well or not.";
    page.all("plinth_drive_operations_total", help, "counter", operations);
    let bytes = parts.iter().flat_map(|part| {
        let figures = part.status.figures.as_ref();
        let moved = figures.map(|f| [("read", f.bytes_read), ("write", f.bytes_written)]);
        moved.into_iter().flatten().map(|(op, bytes)| (part.with_op(op), bytes))
    });
    page.all("plinth_drive_bytes_total", "Bytes read from and written to the drive.", "counter", bytes);
    let errors = parts.iter().flat_map(|part| {
        let drive = part.status;
        [("read", drive.read_errors), ("write", drive.write_errors), ("check", drive.check_errors)]
            .map(|(op, errors)| (part.with_op(op), errors))
    });
    let help = "Operations that failed, and blocks that did not pass their check.";
    page.all("plinth_drive_errors_total", help, "counter", errors);
    let mut plain = |name: &str, help: &str, value: fn(&TargetDriveStatus) -> u64| {
        page.all(name, help, "counter", parts.iter().map(|part| (part.labels(), value(part.status))));
    };
    let help = "Blocks written again from another leg.";
    plain("plinth_drive_repaired_blocks_total", help, |drive| drive.repaired_blocks);
    let help = "Operations that took longer than two seconds.";
    plain("plinth_drive_slow_operations_total", help, |drive| drive.slow_events);
    let name = "plinth_drive_operation_seconds";
    page.family(name, "How long operations of the drive took.", "histogram");
    for part in &parts {
        for latency in part.latencies() {
            page.histogram(name, &part.with_op(&latency.op), latency);
        }
    }
}
