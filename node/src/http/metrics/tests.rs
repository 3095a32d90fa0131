//! The page is what the format asks for, in every family.
use super::*;
use crate::model::AgentInfo;
use serde_json::json;

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

fn from_json<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).expect("as the socket would show it")
}

fn leg_drive(id: &str, state: &str) -> serde_json::Value {
    json!({ "id": id, "state": state, "stale_since_seq": null, "read_errors": null, "write_errors": null,
        "check_errors": null, "repaired_blocks": null })
}

/// A drive as its target sees it; no two of its figures are alike, and none is another drive's.
fn seen_drive(id: &str, base: u64) -> serde_json::Value {
    json!({ "id": id, "state": "current", "stale_since_seq": null, "read_errors": base + 1,
        "write_errors": base + 2, "check_errors": base + 3, "repaired_blocks": base + 4, "slow_events": base + 5,
        "open": true, "figures": { "bytes_read": base + 6, "bytes_written": base + 7,
            "latency": [latency("read", &[base, 2, 3]), latency("write", &[base])] } })
}

fn sample_pool() -> Pool {
    let smart = json!({ "read_at": "", "warnings": ["hot", "old"], "temperature_celsius": 41, "spare_percent": 93,
        "used_percent": 7, "media_errors": 6 });
    let drive = |id: &str, smart: serde_json::Value| {
        json!({ "id": id, "path": "", "state": "online", "size_bytes": 1, "allocated_bytes": 1, "read_errors": 1,
            "write_errors": 1, "check_errors": 1, "slow_events": 1, "smart": smart })
    };
    let task = json!({ "kind": "evacuate", "drive": "d1", "volume": "v", "group": "v", "state": "running",
        "bytes_total": 500, "bytes_copied": 123 });
    from_json(json!({
        "name": "p", "id": "i", "health": "degraded", "size_bytes": 101, "allocated_bytes": 102, "free_bytes": 103,
        "reserved_bytes": 104, "resync_bytes_per_second": 105, "scrub_bytes_per_second": 106,
        "scrub_every_seconds": 107, "spares": 108, "spare_delay_seconds": 109, "tend_after_seconds": 60, "rebalancing": false,
        "reclaimable_bytes": 110, "provisioned_bytes": 111, "volumes": ["v"], "tasks": [task],
        "drives": [drive("d0", smart), drive("d1", json!(null))],
    }))
}

/// A volume that is served, and is being resynced; drive d1 holds parts of both its legs.
fn sample_volume() -> Volume {
    let range = |kind: &str, at: Option<u64>| json!({ "kind": kind, "lba": at, "offset_bytes": at, "length_bytes": at.map(|_| 4096) });
    let lost = [range("data", Some(1)), range("directory", None), range("row_page", None)];
    let scrub = json!({ "volume": "v", "state": "finished", "bytes_total": 900, "bytes_done": 601,
        "copies_checked": 1, "copies_repaired": 602, "copies_lost": 603, "last_findings": [], "lost": lost,
        "lost_bytes": 604,
        "totals": { "copies_repaired": 605, "copies_lost": 606, "copies_drive_out": 607 } });
    let resync = json!({ "drive": "d2", "bytes_left": 401, "bytes_kept": 1, "bytes_lost": 1 });
    let rekey = json!({ "state": "running", "data_key": 2, "started_at": "", "bytes_total": 800, "bytes_done": 298,
        "bytes_rewritten": 1 });
    let legs = [
        json!({ "leg": 0, "drives": [leg_drive("d0", "current"), leg_drive("d1", "current")] }),
        json!({ "leg": 1, "drives": [leg_drive("d1", "current"), leg_drive("d2", "resyncing")] }),
        json!({ "leg": 2, "drives": [leg_drive("d3", "stale"), leg_drive("d4", "stale"), leg_drive("d5", "missing"),
            leg_drive("d6", "missing"), leg_drive("d7", "missing"), leg_drive("d8", "missing")] }),
    ];
    from_json(json!({
        "name": "v", "id": "i", "pool": "p", "group": "v", "created_at": "", "size_bytes": 201, "leg_count": 3,
        "column_count": 2, "stripe_unit_bytes": 65536, "state": "attached", "health": "degraded", "tended": false,
        "mapped_bytes": 202, "allocated_bytes": 203, "cache_bytes": 0, "gen": 1, "legs": legs, "seq": 204,
        "durable_seq": 205, "target": { "pid": 1, "restarts": 206, "memory_bytes": 207 }, "resync": resync,
        "scrub": scrub, "rekey": rekey,
    }))
}

/// A status with one attached volume, as the socket would show it, and the look at its target.
fn sample_status() -> (Status, Option<TargetStatus>) {
    let figures = json!({ "bytes_read": 301, "bytes_written": 302, "failed_requests": 303,
        "requests_in_flight": 304, "stuck_requests": 305, "space_bytes": 306, "free_bytes": 307,
        "pinned_bytes": 308, "checkpoint": 309, "ring_used_permille": 310,
        "latency": [latency("read", &[0, 5]), latency("write", &[7])] });
    let seen = json!({
        "phase": "serving", "seq": 1, "durable_seq": 1, "gen_number": 1, "rows": 1, "mapped_bytes": 1,
        "used_bytes": 1, "size_bytes": 1, "device_number": null, "nbd_socket": null, "memory_bytes": 1,
        "figures": figures,
        "drives": [seen_drive("d0", 1000), seen_drive("d1", 2000), seen_drive("of no leg", 3000)],
    });
    let agent = AgentInfo {
        pid: 1,
        version: "1 \"of\" a\\b\n".into(),
        state: String::new(),
        started_at: String::new(),
    };
    let (pools, volumes) = (vec![sample_pool()], vec![sample_volume()]);
    let status = Status { health: Health::Online, status: None, action: None, agent, pools, volumes };
    (status, Some(from_json(seen)))
}

/// All samples but those of histograms: no two values that could be taken for each other are alike.
const SAMPLES: &str = r#"
plinth_agent_info{version="1 \"of\" a\\b\n"} 1
plinth_pool_size_bytes{pool="p"} 101
plinth_pool_allocated_bytes{pool="p"} 102
plinth_pool_free_bytes{pool="p"} 103
plinth_pool_healthy{pool="p"} 0
plinth_pool_move_left_bytes{pool="p",volume="v",drive="d1"} 377
plinth_drive_temperature_celsius{pool="p",drive="d0"} 41
plinth_drive_spare_ratio{pool="p",drive="d0"} 0.93
plinth_drive_life_used_ratio{pool="p",drive="d0"} 0.07
plinth_drive_media_errors_total{pool="p",drive="d0"} 6
plinth_drive_warnings{pool="p",drive="d0"} 2
plinth_volume_size_bytes{volume="v",pool="p"} 201
plinth_volume_mapped_bytes{volume="v",pool="p"} 202
plinth_volume_allocated_bytes{volume="v",pool="p"} 203
plinth_volume_healthy{volume="v",pool="p"} 0
plinth_volume_attached{volume="v",pool="p"} 1
plinth_volume_legs{volume="v",pool="p"} 3
plinth_volume_legs_current{volume="v",pool="p"} 1
plinth_volume_seq_total{volume="v",pool="p"} 204
plinth_volume_durable_seq_total{volume="v",pool="p"} 205
plinth_volume_resync_left_bytes{volume="v",pool="p"} 401
plinth_volume_scrub_left_bytes{volume="v",pool="p"} 299
plinth_volume_scrub_checked_bytes{volume="v",pool="p"} 601
plinth_volume_scrub_repaired_copies{volume="v",pool="p"} 602
plinth_volume_scrub_lost_copies{volume="v",pool="p"} 603
plinth_volume_rekey_left_bytes{volume="v",pool="p"} 502
plinth_volume_lost_bytes{volume="v",pool="p"} 604
plinth_volume_lost_records{volume="v",pool="p"} 2
plinth_target_restarts_total{volume="v",pool="p"} 206
plinth_target_memory_bytes{volume="v",pool="p"} 207
plinth_volume_copies{volume="v",pool="p",state="current"} 3
plinth_volume_copies{volume="v",pool="p",state="stale"} 2
plinth_volume_copies{volume="v",pool="p",state="resyncing"} 1
plinth_volume_copies{volume="v",pool="p",state="missing"} 4
plinth_volume_scrub_found_copies_total{volume="v",pool="p",outcome="repaired"} 605
plinth_volume_scrub_found_copies_total{volume="v",pool="p",outcome="lost"} 606
plinth_volume_scrub_found_copies_total{volume="v",pool="p",outcome="drive_out"} 607
plinth_volume_requests_total{volume="v",pool="p",op="read"} 5
plinth_volume_requests_total{volume="v",pool="p",op="write"} 7
plinth_volume_bytes_total{volume="v",pool="p",op="read"} 301
plinth_volume_bytes_total{volume="v",pool="p",op="write"} 302
plinth_volume_failed_requests_total{volume="v",pool="p"} 303
plinth_volume_requests_in_flight{volume="v",pool="p"} 304
plinth_volume_stuck_requests_total{volume="v",pool="p"} 305
plinth_volume_space_bytes{volume="v",pool="p"} 306
plinth_volume_space_free_bytes{volume="v",pool="p"} 307
plinth_volume_space_pinned_bytes{volume="v",pool="p"} 308
plinth_volume_checkpoint{volume="v",pool="p"} 309
plinth_volume_ring_used_ratio{volume="v",pool="p"} 0.31
plinth_drive_operations_total{volume="v",pool="p",leg="0",drive="d0",op="read"} 1005
plinth_drive_operations_total{volume="v",pool="p",leg="0",drive="d0",op="write"} 1000
plinth_drive_operations_total{volume="v",pool="p",leg="0,1",drive="d1",op="read"} 2005
plinth_drive_operations_total{volume="v",pool="p",leg="0,1",drive="d1",op="write"} 2000
plinth_drive_bytes_total{volume="v",pool="p",leg="0",drive="d0",op="read"} 1006
plinth_drive_bytes_total{volume="v",pool="p",leg="0",drive="d0",op="write"} 1007
plinth_drive_bytes_total{volume="v",pool="p",leg="0,1",drive="d1",op="read"} 2006
plinth_drive_bytes_total{volume="v",pool="p",leg="0,1",drive="d1",op="write"} 2007
plinth_drive_errors_total{volume="v",pool="p",leg="0",drive="d0",op="read"} 1001
plinth_drive_errors_total{volume="v",pool="p",leg="0",drive="d0",op="write"} 1002
plinth_drive_errors_total{volume="v",pool="p",leg="0",drive="d0",op="check"} 1003
plinth_drive_errors_total{volume="v",pool="p",leg="0,1",drive="d1",op="read"} 2001
plinth_drive_errors_total{volume="v",pool="p",leg="0,1",drive="d1",op="write"} 2002
plinth_drive_errors_total{volume="v",pool="p",leg="0,1",drive="d1",op="check"} 2003
plinth_drive_repaired_blocks_total{volume="v",pool="p",leg="0",drive="d0"} 1004
plinth_drive_repaired_blocks_total{volume="v",pool="p",leg="0,1",drive="d1"} 2004
plinth_drive_slow_operations_total{volume="v",pool="p",leg="0",drive="d0"} 1005
plinth_drive_slow_operations_total{volume="v",pool="p",leg="0,1",drive="d1"} 2005
"#;

/// The histograms: name, labels, and the counts of the first two buckets and of all.
const HISTOGRAMS: &[(&str, &str, [u64; 3])] = &[
    ("plinth_volume_request_seconds", r#"volume="v",pool="p",op="read""#, [0, 5, 5]),
    ("plinth_volume_request_seconds", r#"volume="v",pool="p",op="write""#, [7, 7, 7]),
    (
        "plinth_drive_operation_seconds",
        r#"volume="v",pool="p",leg="0",drive="d0",op="read""#,
        [1000, 1002, 1005],
    ),
    (
        "plinth_drive_operation_seconds",
        r#"volume="v",pool="p",leg="0",drive="d0",op="write""#,
        [1000, 1000, 1000],
    ),
    (
        "plinth_drive_operation_seconds",
        r#"volume="v",pool="p",leg="0,1",drive="d1",op="read""#,
        [2000, 2002, 2005],
    ),
    (
        "plinth_drive_operation_seconds",
        r#"volume="v",pool="p",leg="0,1",drive="d1",op="write""#,
        [2000, 2000, 2000],
    ),
];

/// Nothing is missing, nothing is beyond, and no value is another's.
#[test]
fn every_family_has_its_values() {
    let (status, seen) = sample_status();
    let text = render(&status, &[seen]);
    let families = check(&text);
    let is_histogram = |line: &&str| {
        HISTOGRAMS.iter().any(|(name, ..)| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('_')))
    };
    let samples: Vec<&str> =
        text.lines().filter(|line| !line.starts_with('#') && !is_histogram(line)).collect();
    let wanted: Vec<&str> = SAMPLES.trim().lines().collect();
    for (is, wanted) in samples.iter().zip(&wanted) {
        assert_eq!(is, wanted);
    }
    assert_eq!(samples.len(), wanted.len());
    let lines: Vec<&str> = text.lines().filter(is_histogram).collect();
    let buckets = ublk_target::latency::BUCKETS;
    assert_eq!(lines.len(), HISTOGRAMS.len() * (buckets + 2), "{lines:?}");
    let bounds: Vec<f64> = Latency::bounds_seconds().take(2).collect();
    for (name, labels, [first, second, all]) in HISTOGRAMS {
        for line in [
            format!("{name}_bucket{{{labels},le=\"{}\"}} {first}", bounds[0]),
            format!("{name}_bucket{{{labels},le=\"{}\"}} {second}", bounds[1]),
            format!("{name}_bucket{{{labels},le=\"+Inf\"}} {all}"),
            format!("{name}_count{{{labels}}} {all}"),
            format!("{name}_sum{{{labels}}} 1.5"),
        ] {
            assert!(lines.contains(&line.as_str()), "no {line} in {lines:?}");
        }
    }
    // What counts is called a counter, and nothing else is.
    for (name, kind, _) in &families {
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
    }
}

/// The value of a volume's family, if it is said.
fn value(status: &Status, name: &str) -> Option<f64> {
    let families = check(&render(status, &[None]));
    let family = families.iter().find(|family| family.0 == name).expect(name);
    family.2.first().map(|sample| sample.2)
}

/// What a copy lacks is not known while its drive is away or waits, nor before its resync has looked at anything.
#[test]
fn a_copy_that_waits_does_not_lack_nothing() {
    let left = |status: &Status| value(status, "plinth_volume_resync_left_bytes");
    let (mut status, _) = sample_status();
    status.volumes[0].resync = None;
    assert_eq!(left(&status), None, "stale and missing copies lack nobody knows what");
    status.volumes[0].resync = Some(from_json(json!({ "drive": "d2", "bytes_kept": 0, "bytes_lost": 0 })));
    assert_eq!(left(&status), None, "nothing was looked at yet");
    status.volumes[0].resync = None;
    status.volumes[0].legs.truncate(1);
    assert_eq!(left(&status), Some(0.0), "all copies are current");
    for state in [CopyState::Stale, CopyState::Missing, CopyState::Resyncing] {
        status.volumes[0].legs[0].drives[1].state = state;
        assert_eq!(left(&status), None, "{state:?}");
    }
}

/// What is not known is not said, and is not 0.
#[test]
fn without_a_target_the_families_are_there_and_empty() {
    let (mut status, _) = sample_status();
    let families = check(&render(&status, &[None]));
    let requests = families.iter().find(|family| family.0 == "plinth_volume_requests_total");
    assert_eq!(requests.map(|family| family.2.len()), Some(0));
    let volume = &mut status.volumes[0];
    (volume.scrub, volume.target, volume.rekey, volume.seq) = (None, None, None, None);
    for name in [
        "plinth_volume_scrub_left_bytes",
        "plinth_volume_scrub_found_copies_total",
        "plinth_volume_lost_bytes",
        "plinth_volume_lost_records",
        "plinth_volume_rekey_left_bytes",
        "plinth_volume_seq_total",
        "plinth_target_memory_bytes",
    ] {
        assert_eq!(value(&status, name), None, "{name}");
    }
    status.volumes.clear();
    check(&render(&status, &[]));
}

#[test]
#[should_panic(expected = "is there twice")]
fn the_reader_of_this_test_is_strict() {
    check("# HELP plinth_a About a.\n# TYPE plinth_a gauge\nplinth_a 1\nplinth_a 2\n");
}
