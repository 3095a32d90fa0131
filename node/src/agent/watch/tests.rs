//! Marks, health and counters: what is told, and what is not told twice.
use super::*;
use crate::catalogue::CopyState;
use crate::model::{AgentInfo, Leg, LegDrive, Target, VolumeState};

const EXTENT: u64 = 64 << 20;

fn pool(allocated: u64) -> Pool {
    let size = 100 * EXTENT;
    Pool {
        name: "p".into(),
        id: "pool-id".into(),
        created_at: None,
        health: Health::Online,
        status: None,
        action: None,
        size_bytes: size,
        allocated_bytes: allocated * EXTENT,
        free_bytes: size - allocated * EXTENT,
        resync_bytes_per_second: 0,
        scrub_bytes_per_second: 0,
        scrub_every_seconds: 0,
        tend_after_seconds: None,
        spares: 0,
        spare_delay_seconds: 0,
        rebalancing: false,
        reserved_bytes: 0,
        reclaimable_bytes: 0,
        provisioned_bytes: 0,
        drives: Vec::new(),
        volumes: Vec::new(),
        tasks: Vec::new(),
    }
}

fn drive(check_errors: u64, repaired_blocks: u64) -> LegDrive {
    LegDrive {
        id: "d".into(),
        state: CopyState::Current,
        stale_since_seq: None,
        read_errors: Some(0),
        write_errors: Some(0),
        check_errors: Some(check_errors),
        repaired_blocks: Some(repaired_blocks),
    }
}

fn volume(health: Health, pid: u32, drives: Vec<LegDrive>) -> Volume {
    Volume {
        name: "v".into(),
        id: "volume-id".into(),
        pool: "p".into(),
        group: "v".into(),
        created_at: String::new(),
        size_bytes: 0,
        leg_count: 2,
        column_count: 1,
        stripe_unit_bytes: 0,
        state: VolumeState::Attached,
        health,
        frontend: None,
        device: None,
        device_link: None,
        nbd_socket: None,
        unfinished: false,
        tended: false,
        read_only: None,
        mapped_bytes: None,
        allocated_bytes: 0,
        cache_bytes: 0,
        seq: None,
        durable_seq: None,
        gen_number: 1,
        target: Some(Target { pid, version: None, binary: None, restarts: 0, memory_bytes: None }),
        legs: vec![Leg { leg: 0, drives }],
        resync: None,
        last_resync: None,
        returning: Vec::new(),
        scrub: None,
        encryption: None,
        rekey: None,
        limits: Vec::new(),
        qos: None,
        clone_of: None,
        status: Some("why".into()),
        action: None,
    }
}

fn kinds(seen: &mut Seen, pools: Vec<Pool>, volumes: Vec<Volume>) -> Vec<&'static str> {
    let agent = AgentInfo { pid: 1, version: String::new(), state: String::new(), started_at: String::new() };
    let status = Status { health: Health::Online, status: None, action: None, agent, pools, volumes };
    let extents = BTreeMap::from([("pool-id".to_owned(), EXTENT)]);
    compare(seen, &status, &extents).into_iter().map(|due| due.kind).collect()
}

/// A pool that hovers around a mark, up and down by an extent, is told once; and each mark by itself.
#[test]
fn a_pool_is_told_once_at_each_mark() {
    let mut seen = Seen::default();
    let mut at = |allocated| kinds(&mut seen, vec![pool(allocated)], Vec::new());
    assert_eq!(at(79), [""; 0]);
    assert_eq!(at(80), ["pool_space"]);
    for allocated in [79, 80, 76, 81, 75, 89] {
        assert_eq!(at(allocated), [""; 0], "{allocated}");
    }
    assert_eq!(at(91), ["pool_space_low"]);
    assert_eq!(at(86), [""; 0]);
    assert_eq!(at(100), ["pool_full"]);
    assert_eq!(at(99), [""; 0]);
    assert_eq!(at(94), ["pool_space_ok"], "down to the mark below");
    assert_eq!(at(100), ["pool_full"]);
    assert_eq!(at(10), ["pool_space_ok"]);
    assert_eq!(at(100), ["pool_full"], "one event for a large step");
}

#[test]
fn a_reserve_and_an_empty_pool_count_as_they_should() {
    let mut reserved = pool(50);
    reserved.reserved_bytes = 50 * EXTENT;
    reserved.free_bytes = 0;
    assert_eq!(kinds(&mut Seen::default(), vec![reserved], Vec::new()), ["pool_full"]);
    let mut unknown = pool(0);
    (unknown.size_bytes, unknown.free_bytes) = (0, 0);
    assert_eq!(kinds(&mut Seen::default(), vec![unknown], Vec::new()), [""; 0]);
}

#[test]
fn health_is_told_when_it_changes() {
    let mut seen = Seen::default();
    let unfinished = |health| Volume { unfinished: true, ..volume(health, 1, Vec::new()) };
    assert_eq!(kinds(&mut seen, Vec::new(), vec![unfinished(Health::Faulted)]), [""; 0]);
    let mut is = |health| kinds(&mut seen, Vec::new(), vec![volume(health, 1, Vec::new())]);
    assert_eq!(is(Health::Online), [""; 0]);
    assert_eq!(is(Health::Degraded), ["volume_degraded"]);
    assert_eq!(is(Health::Degraded), [""; 0]);
    assert_eq!(is(Health::Faulted), ["volume_faulted"]);
    assert_eq!(kinds(&mut seen, Vec::new(), vec![unfinished(Health::Online)]), [""; 0]);
    assert_eq!(kinds(&mut seen, Vec::new(), vec![volume(Health::Online, 1, Vec::new())]), ["volume_healed"]);
}

#[test]
fn checks_are_counted_per_process_and_told_once() {
    let mut seen = Seen::default();
    let mut at = |pid, drives| kinds(&mut seen, Vec::new(), vec![volume(Health::Online, pid, drives)]);
    assert_eq!(at(1, vec![drive(0, 0)]), [""; 0]);
    assert_eq!(at(1, vec![drive(3, 2)]), ["check_errors", "blocks_repaired"]);
    assert_eq!(at(1, vec![drive(3, 3)]), ["blocks_repaired"]);
    let unknown = LegDrive { check_errors: None, repaired_blocks: None, ..drive(0, 0) };
    assert_eq!(at(1, vec![unknown]), [""; 0]);
    assert_eq!(at(1, vec![drive(3, 3), drive(3, 3)]), [""; 0]);
    assert_eq!(at(2, vec![drive(1, 0)]), ["check_errors"], "another process counts from 0");
}

#[test]
fn what_was_seen_comes_back_from_the_catalogue() {
    let mut seen = Seen::default();
    kinds(&mut seen, vec![pool(95)], vec![volume(Health::Degraded, 1, vec![drive(1, 1)])]);
    let text = serde_json::to_string(&seen).expect("encodes");
    assert_eq!(serde_json::from_str::<Seen>(&text).expect("reads"), seen);
    assert_eq!(serde_json::from_str::<Seen>("{}").expect("reads"), Seen::default());
}

/// A limit is told when it comes near and when it is reached, not with each number in between; and not again because the
/// volume was away meanwhile.
#[test]
fn a_limit_is_told_when_it_is_near_and_when_it_is_reached() {
    let mut seen = Seen::default();
    let mut at = |seq, left: Option<u64>| {
        let limits = left.map(|left| Limit {
            kind: LimitKind::Openings,
            left,
            status: "volume v is so".into(),
            action: "do that".into(),
        });
        let limits = limits.into_iter().collect();
        let looked_at = Volume { seq, limits, ..volume(Health::Online, 1, Vec::new()) };
        kinds(&mut seen, Vec::new(), vec![looked_at])
    };
    assert_eq!(at(Some(1), None), [""; 0]);
    assert_eq!(at(Some(1), Some(900)), ["volume_limit_near"]);
    assert_eq!(at(Some(1), Some(899)), [""; 0]);
    assert_eq!(at(None, None), [""; 0]);
    assert_eq!(at(Some(1), Some(898)), [""; 0], "it was away");
    assert_eq!(at(Some(1), Some(0)), ["volume_limit"]);
    assert_eq!(at(Some(1), None), [""; 0], "there is room again");
    assert_eq!(at(Some(1), Some(900)), ["volume_limit_near"]);
}
