//! `plinth key`: what scripts see, kills at every step, and that no secret is told anywhere.
mod support;

use node::agent::Options;
use node::catalogue::records;
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use support::{Agent, Ran};

/// What must not be found anywhere.
const CANARY: &str = "canary-3c0fd1b7e4";

/// Delays between the command and the kill, in microseconds: from before its first step to after its last.
const DELAYS: [u64; 8] = [0, 500, 2_000, 5_000, 10_000, 20_000, 50_000, 120_000];

/// Runs `plinth` with this on its standard input.
fn with_input(agent: &Agent, line: &str, input: &str) -> Ran {
    run_with_input(&agent.socket(), agent.words(line), input)
}

fn run_with_input(socket: &Path, words: Vec<String>, input: &str) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plinth"));
    command.env("PLINTH_SOCKET", socket).args(words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.spawn().expect("plinth runs");
    // A command that does not read its input has failed already, and says why.
    let _ = running.stdin.take().expect("piped").write_all(input.as_bytes());
    let done = running.wait_with_output().expect("ends");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ran { code: done.status.code().expect("an exit code"), out: text(done.stdout), err: text(done.stderr) }
}

/// An agent on the same state folder, in this process, while the other one is not there.
fn inside<T>(agent: &Agent, work: impl FnOnce(&node::agent::Agent) -> T) -> T {
    let options = Options {
        state: agent.path(agent.state),
        socket: agent.socket(),
        program: "/none".into(),
        links: agent.path("links"),
        scan_devices: false,
        metrics: None,
    };
    work(&node::agent::Agent::open(options).expect("opens"))
}

/// Makes volume `v` anew, encrypted by this key.
fn encrypt(agent: &Agent, key: &str) {
    agent.plinth("volume delete v --yes").ok();
    agent.plinth(&format!("volume create v --pool p --size 64MiB --encrypt --kek {key}")).ok();
}

/// The secret of the group of volume `v`, in hexadecimal, while the agent is not there.
fn secret(agent: &mut Agent) -> String {
    agent.terminate();
    let told = inside(agent, |inside| {
        let group =
            inside.store.get::<node::catalogue::GroupRecord>(&records::group_key("v")).expect("reads");
        let group = group.expect("is there");
        let envelope = group.encryption.as_ref().and_then(|by| by.envelope.as_ref()).expect("wrapped");
        let id = node::files::parse_uuid(&group.id).expect("an id");
        node::text::to_hex(inside.keys.unwrap(envelope, &id).expect("opens").expose())
    });
    agent.run();
    told
}

#[test]
fn keys_as_scripts_see_them() {
    let mut agent = Agent::start();
    assert_eq!(agent.plinth("key list -o json").json(), Value::Array(Vec::new()));
    for line in ["key create k", "key create k --provider file"] {
        assert_eq!(agent.plinth(line).ok(), "k\n");
    }
    agent.plinth("key create l --dry-run").ok();
    agent.plinth("key show l").fails(5, &["no key l", "plinth key list"]);
    agent.plinth("key create k --provider keyring").fails(11, &["key k exists with provider file"]);
    agent.plinth("key create a/b").fails(2, &["no key name"]);
    agent.plinth("key create l --provider magic").fails(2, &["magic"]);
    agent.plinth("key create l --url https://h").fails(2, &["--url is for keys of provider transit"]);
    agent.plinth("key create l --provider transit").fails(2, &["needs --url"]);
    agent
        .plinth("key create l --provider transit --url http://h --token-file @t")
        .fails(2, &["not encrypted"]);
    agent
        .plinth("key create l --provider transit --url https://h --token-file @t")
        .fails(5, &["cannot read"]);
    std::fs::write(agent.path("t"), "token").expect("writes");
    let loose = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(agent.path("t"), loose).expect("sets");
    agent.plinth("key create l --provider transit --url https://h --token-file @t").fails(8, &["chmod 0600"]);
    agent.plinth("key create l --provider passphrase").fails(2, &["holds no passphrase"]);
    agent.plinth("key unlock k").fails(2, &["no passphrase"]);
    with_input(&agent, "key unlock k", "word\n").fails(2, &["key k has no passphrase", "file"]);
    agent.plinth("key lock k").fails(2, &["key k has no passphrase"]);
    agent.volume();
    encrypt(&agent, "k");
    let key = agent.plinth("key show k -o json").json();
    for field in
        "name provider state version created_at groups volumes empty_groups transit status action".split(' ')
    {
        assert!(key.as_object().expect("an object").contains_key(field), "{field}: {key}");
    }
    assert_eq!(
        (&key["provider"], &key["state"], &key["version"]),
        (&"file".into(), &"ready".into(), &1.into())
    );
    assert_eq!((&key["groups"][0], &key["volumes"][0]), (&"v".into(), &"v".into()));
    assert_eq!(agent.plinth("key list -o json").json(), Value::Array(vec![key]));
    assert_eq!(agent.plinth("key list -o name").ok(), "k\n");
    assert!(agent.plinth("key list").ok().contains("PROVIDER"));
    assert!(agent.plinth("key show k").ok().contains("volumes  v"));
    let was = secret(&mut agent);
    assert_eq!(agent.plinth("key rotate k").ok(), "k\n");
    assert_eq!(agent.plinth("key rotate k -o json").json()["version"], 3);
    assert_eq!(secret(&mut agent), was);
    agent.plinth("volume attach v --nbd @n").ok();
    agent.plinth("key destroy k").fails(6, &["lost: v", "--yes"]);
    agent.plinth("key destroy k --yes").fails(6, &["attached: v", "--force"]);
    agent.plinth("key destroy k --force --dry-run").ok();
    assert_eq!(agent.plinth("key show k -o json").json()["state"], "ready");
    assert_eq!(agent.plinth("key destroy k --force --yes").ok(), "k\n");
    assert_eq!(agent.plinth("key destroy k").ok(), "k\n");
    assert_eq!(agent.plinth("key show k -o json").json()["state"], "destroyed");
    agent.plinth("key rotate k").fails(8, &["key k was destroyed"]);
    agent.plinth("key create k").fails(11, &["destroyed"]);
    agent.plinth("key destroy m --yes").fails(5, &["no key m"]);
}

#[test]
fn verbs_of_keys_converge() {
    let mut agent = Agent::start();
    agent.volume();
    for (round, delay) in DELAYS.into_iter().enumerate() {
        let key = format!("k{round}");
        killed_and_repeated(&mut agent, &format!("key create {key}"), "", delay);
        encrypt(&agent, &key);
        let was = secret(&mut agent);
        killed_and_repeated(&mut agent, &format!("key rotate {key}"), "", delay);
        assert_eq!(secret(&mut agent), was);
        let shown = agent.plinth(&format!("key show {key} -o json")).json();
        assert_eq!(shown["state"], "ready", "{shown}");
        assert!(shown["version"].as_u64() >= Some(2), "{shown}");
        killed_and_repeated(&mut agent, &format!("key destroy {key} --yes"), "", delay);
        assert_eq!(agent.plinth(&format!("key show {key} -o json")).json()["state"], "destroyed");
    }
    let left = std::fs::read_dir(agent.path("state/keys")).expect("lists").count();
    assert_eq!(left, 0, "no key file is left");
}

#[test]
fn a_passphrase_unlocks_and_converges() {
    let mut agent = Agent::start();
    agent.plinth("key create x").ok();
    for (round, delay) in [0, 400_000, 1_500_000].into_iter().enumerate() {
        let key = format!("k{round}");
        killed_and_repeated(&mut agent, &format!("key create {key} --provider passphrase"), "one\n", delay);
        with_input(&agent, &format!("key create {key} --provider passphrase"), "two\n")
            .fails(11, &["passphrase"]);
        agent.plinth(&format!("key lock {key}")).ok();
        assert_eq!(agent.plinth(&format!("key show {key} -o json")).json()["state"], "locked");
        let unlock = format!("key unlock {key}");
        with_input(&agent, &unlock, "two\n").fails(8, &["not the passphrase"]);
        with_input(&agent, &format!("key rotate {key}"), "two\n").fails(8, &["locked", "plinth key unlock"]);
        with_input(&agent, &unlock, "one\n").ok();
        // A kill before anything was announced leaves it locked: then it is unlocked first, as the answer says.
        let rotate = format!("key rotate {key}");
        let cut = kill_during(&mut agent, &rotate, "two\n", delay);
        let repeated = with_input(&agent, &rotate, "two\n");
        if repeated.code == 8 {
            assert!(cut.code == 9 && repeated.err.contains("locked"), "{} {}", cut.err, repeated.err);
            with_input(&agent, &unlock, "one\n").ok();
            with_input(&agent, &rotate, "two\n").ok();
        }
        let shown = agent.plinth(&format!("key show {key} -o json")).json();
        assert_eq!((&shown["state"], &shown["version"]), (&"ready".into(), &2.into()), "{shown}");
        agent.plinth(&format!("key lock {key}")).ok();
        with_input(&agent, &unlock, "one\n").fails(8, &["not the passphrase"]);
        with_input(&agent, &unlock, "two").ok();
    }
}

/// Runs a command while the agent is killed after `delay`, and starts the agent again.
fn kill_during(agent: &mut Agent, line: &str, input: &str, delay: u64) -> Ran {
    let (words, socket, input) = (agent.words(line), agent.socket(), input.to_owned());
    let running = std::thread::spawn(move || run_with_input(&socket, words, &input));
    std::thread::sleep(Duration::from_micros(delay));
    agent.kill();
    let cut = running.join().expect("no panic");
    assert!(matches!(cut.code, 0 | 9), "{line}: {} {}", cut.code, cut.err);
    agent.run();
    cut
}

#[track_caller]
fn killed_and_repeated(agent: &mut Agent, line: &str, input: &str, delay: u64) {
    let cut = kill_during(agent, line, input, delay);
    let repeated = with_input(agent, line, input).ok();
    assert!(cut.code != 0 || cut.out == repeated, "{line}");
}

/// Whether bytes hold a secret, as it is or in hexadecimal.
fn tells(bytes: &[u8], secret: &[u8]) -> bool {
    let hex = node::text::to_hex(secret).into_bytes();
    let holds = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    holds(secret) || holds(&hex)
}

/// A target with keys has all its memory locked, if it may; what it told otherwise is an event.
fn keeps_out_of_swap(pid: u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process of ours");
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).expect("a field").trim();
    let may = u64::from_str_radix(field("CapEff:"), 16).expect("a mask") >> 14 & 1 == 1;
    let (locked, resident) = (field("VmLck:"), field("VmRSS:"));
    let kib = |field: &str| field.split(' ').next().and_then(|kib| kib.parse::<u64>().ok()).expect("KiB");
    assert!(!may || kib(locked) >= kib(resident) / 2, "{locked} of {resident}");
}

/// Aborts a process, as a failed assertion does, and looks where the kernel would leave a core.
fn leaves_no_core(pid: u64) {
    let folder = std::fs::read_link(format!("/proc/{pid}/cwd")).expect("a process of ours");
    let cores = || {
        let names = std::fs::read_dir(&folder).expect("lists").flatten().map(|file| file.file_name());
        names.filter(|name| name.to_string_lossy().starts_with("core")).collect::<Vec<_>>()
    };
    let before = cores();
    assert!(support::signal("ABRT", &pid.to_string()));
    let alive =
        || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"));
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while alive() {
        assert!(std::time::Instant::now() < deadline, "an abort ends it");
        std::thread::yield_now();
    }
    assert_eq!(cores(), before);
}

#[test]
fn no_secret_is_told() {
    let mut agent = Agent::stopped();
    agent.environment = &[("PLINTH_LOG", "trace")];
    agent.run();
    agent.volume();
    agent.plinth("key create f").ok();
    with_input(&agent, "key create p --provider passphrase", &format!("{CANARY}\n")).ok();
    encrypt(&agent, "f");
    let group = secret(&mut agent);
    let group_secret = node::text::from_hex(&group).expect("digits");
    let secrets = [
        CANARY.as_bytes().to_vec(),
        group_secret.clone(),
        std::fs::read(agent.path("state/keys/f.1")).expect("the key"),
        // The metadata key and the data key in it.
        group_secret[2..34].to_vec(),
        group_secret[36..68].to_vec(),
    ];
    assert!(tells(format!("x{group}").as_bytes(), &secrets[1]) && tells(b"xcanary-3c0fd1b7e4", &secrets[0]));
    agent.plinth("volume attach v --nbd @n").ok();
    let mut told: Vec<(String, Vec<u8>)> = Vec::new();
    let mut tell = |what: &str, ran: Ran| told.push((what.to_owned(), (ran.out + &ran.err).into_bytes()));
    tell("unlock", with_input(&agent, "key unlock p -o json", &format!("{CANARY}\n")));
    tell("a wrong one", with_input(&agent, "key unlock p -o json", &format!("{CANARY}x\n")));
    tell("rotate", with_input(&agent, "key rotate p -o json", &format!("{CANARY}\n")));
    for verb in ["create f", "create f --provider keyring", "list", "show f", "show p", "rotate f"] {
        tell(verb, agent.plinth(&format!("key {verb} -o json")));
    }
    for verb in ["status", "events", "volume show v", "pool history p", "support-bundle @bundle"] {
        tell(verb, agent.plinth(&format!("{verb} -o json")));
    }
    // A request that is not understood is not repeated.
    let client = node::client::Client::new(agent.socket(), None).expect("a client");
    let body = serde_json::json!({ "passphrase": { "passphrase": CANARY }, CANARY: CANARY });
    for path in ["/v1/keys", "/v1/keys/p/unlock", "/v1/keys/p/rotate"] {
        let error = client.post(path, &body).expect_err("not understood");
        told.push((path.to_owned(), serde_json::to_vec(&error.body()).expect("JSON")));
    }
    told.push(("the bundle".into(), std::fs::read(agent.path("bundle")).expect("reads")));
    told.push(("the log".into(), agent.log().into_bytes()));
    told.push(("the catalogue".into(), std::fs::read(agent.path("state/catalogue.redb")).expect("reads")));
    for file in std::fs::read_dir(agent.path("state/targets")).expect("lists").flatten() {
        // The spec and the log; a socket is not read.
        told.push((file.path().display().to_string(), std::fs::read(file.path()).unwrap_or_default()));
    }
    let status = agent.plinth("status -o json").json();
    let pids = [&status["agent"]["pid"], &status["volumes"][0]["target"]["pid"]];
    for pid in pids.map(|pid| pid.as_u64().expect("a process")) {
        let folder = format!("/proc/{pid}");
        for file in ["cmdline", "environ", "limits", "maps"] {
            let bytes = std::fs::read(format!("{folder}/{file}")).expect("root, or a process of ours");
            told.push((format!("{folder}/{file}"), bytes));
        }
        let limits = std::fs::read_to_string(format!("{folder}/limits")).expect("reads");
        let cores = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
        assert_eq!(cores.split_whitespace().rev().nth(1), Some("0"), "{cores}");
        let maps = std::fs::read_to_string(format!("{folder}/maps")).expect("reads");
        let files = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
        let files: std::collections::BTreeSet<&str> = files.filter(|path| path.starts_with('/')).collect();
        for file in files.into_iter().filter(|path| !path.ends_with("/plinth")) {
            told.push((file.to_owned(), std::fs::read(file).unwrap_or_default()));
        }
    }
    for (what, bytes) in &told {
        for (number, secret) in secrets.iter().enumerate() {
            assert!(!tells(bytes, secret), "{what} tells secret {number}");
        }
    }
    let target = status["volumes"][0]["target"]["pid"].as_u64().expect("a process");
    keeps_out_of_swap(target);
    leaves_no_core(target);
    let bundle = String::from_utf8_lossy(&std::fs::read(agent.path("bundle")).expect("reads")).into_owned();
    assert!(bundle.contains("kept back") && !bundle.contains("504c4e5448454e56"), "envelopes stay out of it");
}
