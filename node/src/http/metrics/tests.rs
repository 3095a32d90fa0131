//! The page is what the format asks for, in every family.
use super::*;
use crate::model::{AgentInfo, Health};

/// A sample: its name, labels and value.
type Sample = (String, Vec<(String, String)>, f64);

/// Takes a page apart as a strict reader of the format would.
fn parse(text: &str) -> Vec<(String, String, Vec<Sample>)> {
    assert!(text.ends_with('\n'), "the last line ends");
    let mut families: Vec<(String, String, Vec<Sample>)> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help text");
            assert!(help.len() > 5 && help.ends_with('.'), "{line}");
            let kind = lines
                .next()
                .and_then(|line| line.strip_prefix(&format!("# TYPE {name} ")).map(str::to_owned));
            let kind = kind.unwrap_or_else(|| panic!("no type behind the help of {name}"));
            assert!(["gauge", "counter", "histogram"].contains(&kind.as_str()), "{kind}");
            assert!(families.iter().all(|family| family.0 != name), "{name} is there twice");
            families.push((name.to_owned(), kind, Vec::new()));
            continue;
        }
        let family = families.last_mut().expect("a family before its samples");
        family.2.push(sample(line));
    }
    families
}

fn sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).expect("a value");
    let (name, mut rest) = line.split_at(end);
    let word = |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    assert!(word(name) && name.starts_with("plinth_"), "{line}");
    let mut labels = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, tail) = rest.split_once("=\"").expect("a label");
            assert!(word(label), "{line}");
            let (mut value, mut chars) = (String::new(), tail.chars());
            loop {
                match chars.next().expect("an end of the label") {
                    '"' => break,
                    '\\' => value.push(match chars.next().expect("an escaped character") {
                        'n' => '\n',
                        other => other,
                    }),
                    other => value.push(other),
                }
            }
            labels.push((label.to_owned(), value));
            rest = chars.as_str();
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').expect("an end of the labels");
    }
    let value = rest.strip_prefix(' ').expect("a space before the value");
    (name.to_owned(), labels, value.parse().unwrap_or_else(|_| panic!("no number in {line}")))
}

/// Buckets of one series grow, their bounds too, and the last is the count.
fn check_histogram(name: &str, samples: &[Sample]) {
    let bare = |labels: &[(String, String)]| -> Vec<(String, String)> {
        labels.iter().filter(|(label, _)| label != "le").cloned().collect()
    };
    for (_, labels, count) in samples.iter().filter(|sample| sample.0 == format!("{name}_count")) {
        let ours = |sample: &&Sample| sample.0 == format!("{name}_bucket") && bare(&sample.1) == *labels;
        let buckets: Vec<&Sample> = samples.iter().filter(ours).collect();
        let bound = |sample: &&Sample| sample.1.last().expect("le").1.replace("+Inf", "inf").parse::<f64>();
        let bounds: Vec<f64> = buckets.iter().map(|bucket| bound(bucket).expect("a bound")).collect();
        assert!(bounds.is_sorted_by(|a, b| a < b) && bounds.last() == Some(&f64::INFINITY), "{bounds:?}");
        assert!(buckets.is_sorted_by(|a, b| a.2 <= b.2), "{buckets:?}");
        assert_eq!(buckets.last().map(|bucket| bucket.2), Some(*count));
        let sums = samples.iter().filter(|sample| sample.0 == format!("{name}_sum") && sample.1 == *labels);
        assert_eq!(sums.count(), 1);
    }
    let kinds = ["bucket", "sum", "count"].map(|kind| format!("{name}_{kind}"));
    assert!(samples.iter().all(|sample| kinds.contains(&sample.0)), "{samples:?}");
}

fn check(text: &str) -> Vec<(String, String, Vec<Sample>)> {
    let families = parse(text);
    for (name, kind, samples) in &families {
        if kind == "histogram" {
            assert!(name.ends_with("_seconds"), "{name}: a base unit");
            check_histogram(name, samples);
        } else {
            assert!(samples.iter().all(|sample| sample.0 == *name), "{samples:?}");
        }
        for (n, sample) in samples.iter().enumerate() {
            let same = |other: &&Sample| (&other.0, &other.1) == (&sample.0, &sample.1);
            assert!(!samples[..n].iter().any(|other| same(&other)), "{sample:?} is there twice");
        }
    }
    families
}

fn latency(op: &str, counts: &[u64]) -> Latency {
    let mut counts = counts.to_vec();
    counts.resize(ublk_target::latency::BUCKETS, 0);
    Latency { op: op.into(), counts, sum_nanos: 1_500_000_000 }
}

/// A status with one attached volume, as the socket would show it, and the look at its target.
fn sample_status() -> (Status, Option<TargetStatus>) {
    let drive = |id: &str| {
        serde_json::json!({ "id": id, "state": "current", "stale_since_seq": null, "read_errors": 1,
            "write_errors": 2, "check_errors": 3, "repaired_blocks": 4, "slow_events": 5, "open": true })
    };
    let mut seen: TargetStatus = serde_json::from_value(serde_json::json!({
        "phase": "serving", "seq": 10, "durable_seq": 9, "gen_number": 1, "rows": 1, "mapped_bytes": 4096,
        "used_bytes": 4096, "size_bytes": 1 << 20, "device_number": null, "nbd_socket": null,
        "memory_bytes": 1000, "drives": [drive("d0"), drive("d1")],
    }))
    .expect("a look");
    for drive in &mut seen.drives {
        let latency = vec![latency("read", &[1, 2, 3]), latency("write", &[])];
        let figures = crate::figures::DriveFigures { bytes_read: 1, bytes_written: 2, latency };
        drive.figures = Some(figures);
    }
    let latencies = vec![latency("read", &[0, 5]), latency("write", &[7])];
    seen.figures = Some(crate::figures::TargetFigures {
        bytes_read: 4096,
        latency: latencies,
        ring_used_permille: 250,
        ..crate::figures::TargetFigures::default()
    });
    let leg = |n: u8| serde_json::json!({ "leg": n, "drives": [drive(&format!("d{n}"))] });
    let volume = serde_json::json!({
        "name": "v", "id": "i", "pool": "p", "group": "v", "created_at": "", "size_bytes": 1 << 20,
        "leg_count": 2, "column_count": 1, "stripe_unit_bytes": 65536, "state": "attached",
        "health": "online", "allocated_bytes": 0, "cache_bytes": 0, "gen": 1, "legs": [leg(0), leg(1)],
        "target": { "pid": 1, "restarts": 2, "memory_bytes": 1000 }, "seq": 10, "durable_seq": 9,
    });
    let agent = AgentInfo {
        pid: 1,
        version: "1 \"of\" a\\b\n".into(),
        state: String::new(),
        started_at: String::new(),
    };
    let volumes = vec![serde_json::from_value(volume).expect("a volume")];
    let status =
        Status { health: Health::Online, status: None, action: None, agent, pools: Vec::new(), volumes };
    (status, Some(seen))
}

#[test]
fn every_family_is_well_formed() {
    let (status, seen) = sample_status();
    let families = check(&render(&status, &[seen]));
    let of = |name: &str| &families.iter().find(|family| family.0 == name).expect(name).2;
    let info = &of("plinth_agent_info")[0];
    assert_eq!(info.1, [("version".to_owned(), status.agent.version.clone())], "escaped and back");
    let value = |name: &str, wanted: &[(&str, &str)]| {
        let has =
            |sample: &&Sample| wanted.iter().all(|(l, v)| sample.1.iter().any(|(a, b)| a == l && b == v));
        of(name).iter().find(has).unwrap_or_else(|| panic!("{name} {wanted:?}")).2
    };
    assert_eq!(value("plinth_volume_requests_total", &[("volume", "v"), ("op", "read")]), 5.0);
    assert_eq!(value("plinth_volume_legs_current", &[("volume", "v")]), 2.0);
    assert_eq!(value("plinth_volume_ring_used_ratio", &[]), 0.25);
    assert_eq!(value("plinth_drive_operations_total", &[("leg", "1"), ("drive", "d1"), ("op", "read")]), 6.0);
    assert_eq!(value("plinth_drive_errors_total", &[("drive", "d0"), ("op", "check")]), 3.0);
    let histogram = of("plinth_volume_request_seconds");
    assert!(histogram.iter().any(|s| s.0.ends_with("_sum") && s.2 == 1.5), "{histogram:?}");
}

#[test]
fn without_a_target_the_families_are_there_and_empty() {
    let (mut status, _) = sample_status();
    let families = check(&render(&status, &[None]));
    let requests = families.iter().find(|family| family.0 == "plinth_volume_requests_total");
    assert_eq!(requests.map(|family| family.2.len()), Some(0));
    status.volumes.clear();
    check(&render(&status, &[]));
}

#[test]
#[should_panic(expected = "is there twice")]
fn the_reader_of_this_test_is_strict() {
    check("# HELP plinth_a About a.\n# TYPE plinth_a gauge\nplinth_a 1\nplinth_a 2\n");
}
