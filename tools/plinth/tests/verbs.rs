//! The verbs as scripts see them: results, forms of output, repetition, import and export.
mod support;

use serde_json::Value;
use support::Agent;
use support::nbd::Nbd;

#[test]
fn repetition_ends_in_the_same_state_with_the_same_output() {
    let agent = Agent::start();
    for drive in ["d1", "d2", "d3", "d4"] {
        agent.drive(drive, 256);
    }
    for line in [
        "pool create p @d1 @d2 --label node=n1,rack=r1",
        "pool add p @d3 --label node=n2",
        "pool set p reserve=64MiB",
        "volume create v --pool p --size 1GiB",
        "volume create w --pool p --size 64MiB --legs 1 --columns 1 --stripe-unit 64KiB -o json",
        "volume resize v 2GiB",
        "volume set v cache=16MiB",
        "volume rename w x",
        "volume attach v --nbd @n",
        "volume detach v",
        "drive wipe @d4 --yes",
    ] {
        let first = agent.plinth(line).ok();
        let before = agent.state();
        assert_eq!(agent.plinth(line).ok(), first, "{line}");
        assert_eq!(agent.state(), before, "{line}");
    }
}

#[test]
fn a_dry_run_changes_nothing() {
    let agent = Agent::start();
    agent.volume();
    agent.drive("d3", 256);
    let before = agent.state();
    for line in [
        "pool create q @d3",
        "pool add p @d3",
        "volume create w --pool p --size 1MiB",
        "volume resize v 1GiB",
        "volume rename v w",
        "volume attach v --nbd @n",
        "volume delete v",
        "pool export p",
        "pool set p reserve=1MiB",
        "drive wipe @d3",
    ] {
        agent.plinth(&format!("--dry-run {line}")).ok();
        agent.plinth(&format!("{line} --dry-run")).ok();
        assert_eq!(agent.state(), before, "{line}");
    }
    agent.plinth("volume create w --pool p --size 0 --dry-run").fails(2, &["size of 0"]);
}

/// Every field of the interface is there, unknown ones as null.
#[test]
fn the_json_has_every_field() {
    let agent = Agent::start();
    agent.volume();
    let has = |value: &Value, fields: &str| {
        for field in fields.split_whitespace() {
            assert!(value.as_object().expect("an object").contains_key(field), "{field} is missing: {value}");
        }
    };
    let volume = agent.plinth("volume show v -o json").json();
    has(
        &volume,
        "name id pool group created_at size_bytes leg_count column_count stripe_unit_bytes state health frontend device \
         device_link nbd_socket mapped_bytes allocated_bytes seq durable_seq gen target legs resync scrub encryption qos \
         clone_of status action",
    );
    has(&volume["legs"][0], "leg drives");
    has(
        &volume["legs"][0]["drives"][0],
        "id state stale_since_seq read_errors write_errors check_errors repaired_blocks",
    );
    let pool = agent.plinth("pool status p -o json").json();
    has(
        &pool,
        "name id health status action size_bytes allocated_bytes free_bytes reserved_bytes reclaimable_bytes \
         provisioned_bytes drives volumes tasks",
    );
    has(
        &pool["drives"][0],
        "id path node rack zone class state size_bytes allocated_bytes read_errors write_errors check_errors slow_events latency \
         smart",
    );
    assert_eq!(agent.plinth("volume list -o json").json(), Value::Array(vec![volume.clone()]));
    assert_eq!(agent.plinth("pool list -o json").json(), Value::Array(vec![pool]));
    assert_eq!(agent.plinth("volume list -o name").ok(), "v\n");
    assert_eq!(agent.plinth("-o name pool list").ok(), "p\n");
    agent.plinth("volume attach v --nbd @n").ok();
    has(&agent.plinth("volume show v -o json").json()["target"], "pid version restarts memory_bytes");
    // Verbs of a drive tell of it what a look at it tells.
    let told = agent.plinth("drive online p @d1 -o json").json();
    assert_eq!((&told["state"], told["latency"].is_object()), (&"online".into(), true), "{told}");
}

#[test]
fn what_destroys_asks() {
    let agent = Agent::start();
    agent.volume();
    agent.plinth("volume delete v").fails(6, &["delete volume v", "--yes"]);
    agent.plinth("pool delete p").fails(6, &["delete pool p", "--yes"]);
    agent.plinth("node stop --all").fails(6, &["--yes"]);
    agent.plinth("volume delete v --yes").ok();
    let free = agent.plinth("pool status p -o json").json();
    assert_eq!((&free["allocated_bytes"], &free["volumes"]), (&0.into(), &Value::Array(Vec::new())));
    agent.plinth("pool delete p --yes").ok();
    // Its drives are nobody's now.
    agent.plinth("pool create q @d1 @d2").ok();
}

#[test]
fn a_pool_is_exported_and_imported() {
    let agent = Agent::start();
    agent.drive("d1", 256);
    agent.drive("d2", 256);
    agent.plinth("pool create p @d1 @d2 --label node=n1").ok();
    let id = agent.plinth("pool status p -o json").json()["id"].clone();
    agent.plinth("pool export p").ok();
    agent.plinth("pool export p").ok();
    assert_eq!(agent.plinth("pool list -o json").json(), Value::Array(Vec::new()));
    let importable = agent.plinth("pool import -o json").json();
    assert_eq!((&importable[0]["name"], &importable[0]["id"]), (&"p".into(), &id));
    assert_eq!(agent.plinth("pool import p").ok(), "p\n");
    assert_eq!(agent.plinth("pool import p").ok(), "p\n");
    assert_eq!(agent.plinth("pool import @d1 @d2").ok(), "p\n");
    let pool = agent.plinth("pool status p -o json").json();
    assert_eq!((&pool["id"], &pool["drives"][1]["node"]), (&id, &"n1".into()));
    let history = agent.plinth("pool history p").ok();
    assert!(history.contains("pool create p") && history.contains("pool import p"), "{history}");
}

/// A pool `p` of two drives with room for several volumes, and a volume `v`.
fn roomy_volume(agent: &Agent) {
    agent.drive("d1", 1024);
    agent.drive("d2", 1024);
    agent.plinth("pool create p @d1 @d2").ok();
    agent.plinth("volume create v --pool p --size 64MiB").ok();
}

/// The catalogue is lost; the drives tell everything: names, sizes, rows, copies.
#[test]
fn volumes_are_imported_with_their_pool() {
    let mut agent = Agent::start();
    roomy_volume(&agent);
    agent.plinth("volume create never --pool p --size 32MiB --legs 1").ok();
    agent.plinth("volume attach v --nbd @n").ok();
    let mut nbd = Nbd::connect(&agent.path("n"));
    nbd.write(8192, &[9; 4096]);
    nbd.flush();
    drop(nbd);
    agent.plinth("volume detach v").ok();
    agent.plinth("volume rename v renamed").ok();
    agent.plinth("volume resize renamed 96MiB").ok();
    let volumes = agent.plinth("volume list -o json").json();
    agent.terminate();
    std::fs::remove_file(agent.path("state/catalogue.redb")).expect("removes");
    agent.run();
    assert_eq!(agent.plinth("pool import @d1 @d2").ok(), "p\n");
    let imported = agent.plinth("volume list -o json").json();
    for (before, after) in
        volumes.as_array().expect("a list").iter().zip(imported.as_array().expect("a list"))
    {
        for field in
            ["name", "id", "pool", "group", "size_bytes", "leg_count", "stripe_unit_bytes", "legs", "gen"]
        {
            assert_eq!(before[field], after[field], "{field}");
        }
    }
    agent.plinth("volume attach renamed --nbd @n").ok();
    let mut nbd = Nbd::connect(&agent.path("n"));
    assert_eq!((nbd.size, nbd.read(8192, 4096)), (96 << 20, vec![9; 4096]));
    drop(nbd);
    agent.plinth("volume detach renamed").ok();
    agent.plinth("volume attach never --nbd @n").ok();
    agent.plinth("volume detach never").ok();
    agent.plinth("volume create new --pool p --size 1MiB").ok();
    agent.plinth("fsck @d1 @d2").ok();
}

/// With a drive missing nobody knows what it says: what it held a current copy of does not open, nothing new is
/// handed out. With it back everything is as before.
#[test]
fn an_import_without_a_drive_opens_nothing_that_it_may_know_better() {
    let mut agent = Agent::start();
    roomy_volume(&agent);
    agent.terminate();
    std::fs::remove_file(agent.path("state/catalogue.redb")).expect("removes");
    std::fs::create_dir(agent.path("away")).expect("makes");
    std::fs::rename(agent.path("d2"), agent.path("away/d2")).expect("moves");
    agent.run();
    agent.plinth("pool import @d1").ok();
    assert_eq!(agent.plinth("pool status p -o json").json()["health"], "degraded");
    let refused = agent.plinth("volume attach v --nbd @n");
    assert_eq!(refused.code, 6, "{}", refused.err);
    agent.plinth("volume create w --pool p --size 1MiB --legs 1").fails(7, &["imported", "missing"]);
    std::fs::rename(agent.path("away/d2"), agent.path("d2")).expect("moves");
    agent.plinth("volume attach v --nbd @n").ok();
    assert_eq!(agent.plinth("volume show v -o json").json()["health"], "online");
    agent.plinth("volume create w --pool p --size 1MiB --legs 1").ok();
}

#[test]
fn a_drive_is_recognised_by_its_label() {
    let agent = Agent::start();
    agent.volume();
    std::fs::rename(agent.path("d1"), agent.path("elsewhere")).expect("moves");
    let pool = agent.plinth("pool status p -o json").json();
    assert_eq!(pool["health"], "online");
    assert!(pool["drives"][0]["path"].as_str().expect("a path").ends_with("/elsewhere"), "{pool}");
    // Swapped: each is found under the other's path.
    std::fs::rename(agent.path("elsewhere"), agent.path("x")).expect("moves");
    std::fs::rename(agent.path("d2"), agent.path("elsewhere")).expect("moves");
    std::fs::rename(agent.path("x"), agent.path("d2")).expect("moves");
    agent.plinth("volume attach v --nbd @n").ok();
    let volume = agent.plinth("volume show v -o json").json();
    assert_eq!(volume["health"], "online", "{volume}");
    agent.plinth("volume detach v").ok();
}

#[test]
fn the_socket_describes_itself() {
    let agent = Agent::start();
    agent.volume();
    let get = |path: &str| agent.get(path);
    let document = get("/v1/openapi.json");
    for path in ["/v1/pools", "/v1/volumes/{name}/attach", "/v1/groups/{name}", "/v1/events"] {
        assert!(document.contains(path), "{path}");
    }
    assert!(get("/healthz").starts_with("HTTP/1.1 200"));
    assert!(get("/readyz").starts_with("HTTP/1.1 200"));
    let metrics = get("/metrics");
    assert!(metrics.contains("plinth_volume_size_bytes{volume=\"v\",pool=\"p\"} 67108864"), "{metrics}");
    assert!(get("/v1/nothing").contains("\"exit_code\":5"));
    // What a guest did is counted, of the volume and of the drives.
    agent.plinth("volume attach v --nbd @n").ok();
    let mut nbd = support::nbd::Nbd::connect(&agent.path("n"));
    nbd.write(0, &[1; 8192]);
    nbd.flush();
    assert!(nbd.read(0, 4096) == [1; 4096]);
    let metrics = get("/metrics");
    let value = |series: &str| -> f64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in {metrics}")).trim().parse().expect("a number")
    };
    for (op, bytes) in [("read", 4096.0), ("write", 8192.0)] {
        let labels = format!("{{volume=\"v\",pool=\"p\",op=\"{op}\"}}");
        assert_eq!(value(&format!("plinth_volume_requests_total{labels}")), 1.0);
        assert_eq!(value(&format!("plinth_volume_bytes_total{labels}")), bytes);
        assert_eq!(value(&format!("plinth_volume_request_seconds_count{labels}")), 1.0);
        assert!(value(&format!("plinth_volume_request_seconds_sum{labels}")) > 0.0);
    }
    assert_eq!(value("plinth_volume_legs_current{volume=\"v\",pool=\"p\"}"), 2.0);
    let drives = agent.plinth("drive list p -o json").json();
    for drive in drives.as_array().expect("a list") {
        assert!(drive["smart"].is_null(), "a file says nothing of itself");
        let operations = drive["latency"]["operations"].as_array().expect("a list");
        let writes = operations.iter().find(|latency| latency["op"] == "write").expect("writes");
        let counts: u64 = writes["counts"].as_array().into_iter().flatten().filter_map(Value::as_u64).sum();
        assert!(counts > 0, "{drive}");
    }
    for leg in 0..2 {
        let id = |drive: &Value| drive["id"].as_str().map(str::to_owned).expect("an id");
        let written = drives.as_array().expect("a list").iter().map(id).find_map(|drive| {
            let series = format!(
                "plinth_drive_bytes_total{{volume=\"v\",pool=\"p\",leg=\"{leg}\",drive=\"{drive}\",op=\"write\"}} "
            );
            metrics.lines().find_map(|line| line.strip_prefix(&series)?.parse::<u64>().ok())
        });
        assert!(written.is_some_and(|bytes| bytes >= 8192), "leg {leg}: {written:?} in {metrics}");
    }
}

/// Fuzzed control bytes, half requests and idle connections neither crash nor starve the agent.
#[test]
fn noise_on_the_socket() {
    use std::io::Write;
    let agent = Agent::start();
    let mut open = Vec::new();
    for i in 0..64u64 {
        let mut stream = std::os::unix::net::UnixStream::connect(agent.socket()).expect("connects");
        let noise: Vec<u8> =
            (0..200u64).map(|n| (n.wrapping_mul(i * 2_654_435_761 + 97) >> 7) as u8).collect();
        match i % 4 {
            0 => stream.write_all(&noise).expect("sent"),
            1 => stream
                .write_all(b"POST /v1/pools HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
                .expect("sent"),
            2 => stream.write_all(b"GET /v1/sta").expect("sent"),
            _ => {}
        }
        open.push(stream);
    }
    for body in ["", "{", "[]", "{\"name\":1}", "{\"name\":\"p\",\"drives\":[\"rel\"],\"x\":1}"] {
        let mut stream = std::os::unix::net::UnixStream::connect(agent.socket()).expect("connects");
        let request = format!(
            "POST /v1/pools HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).expect("sent");
        let answer = std::io::read_to_string(stream).expect("answers");
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("\"exit_code\":2"), "{answer}");
    }
    agent.plinth("status --timeout 10s").ok();
    drop(open);
}

#[test]
fn what_needs_no_agent() {
    let agent = Agent::stopped();
    assert!(agent.plinth("version").ok().starts_with("plinth 0."));
    assert!(agent.plinth("completions bash").ok().contains("plinth"));
    assert!(agent.plinth("man").ok().contains(".TH"));
    agent.plinth("man @man").ok();
    assert!(std::fs::read_dir(agent.path("man")).expect("pages").count() > 20);
    agent.plinth("help").ok();
    agent.plinth("").code_is_invalid();
}

impl support::Ran {
    #[track_caller]
    fn code_is_invalid(self) {
        assert_eq!((self.code, self.out.as_str()), (2, ""));
    }
}

/// The port shows figures and health; verbs are for the socket.
#[test]
fn metrics_on_a_port_of_their_own() {
    use std::io::{Read, Write};
    let mut agent = Agent::stopped();
    agent.further = &["--metrics-listen", "127.0.0.1:0"];
    agent.run();
    agent.volume();
    let log = agent.log();
    let at =
        log.split("http://").nth(1).and_then(|rest| rest.split('/').next()).expect("an address").to_owned();
    let get = |path: &str| {
        let mut stream = std::net::TcpStream::connect(&at).expect("connects");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: plinth\r\nConnection: close\r\n\r\n").expect("asks");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    };
    let metrics = get("/metrics");
    assert!(metrics.contains("\nplinth_volume_size_bytes{volume=\"v\",pool=\"p\"} 67108864\n"), "{metrics}");
    assert!(get("/healthz").starts_with("HTTP/1.1 200"));
    assert!(get("/readyz").starts_with("HTTP/1.1 200"));
    for verb in ["/v1/status", "/v1/agent/stop", "/v1/volumes/v"] {
        assert!(get(verb).starts_with("HTTP/1.1 404"), "{verb}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = taken.local_addr().expect("bound").to_string();
    let second =
        agent.plinth(&format!("--socket @other node --state @second --no-scan --metrics-listen {address}"));
    assert_eq!(second.code, 6, "{}", second.err);
    assert!(second.err.contains("cannot serve metrics at"), "{}", second.err);
}
