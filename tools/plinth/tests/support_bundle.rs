//! `support-bundle`: what somebody needs who was not there, and nothing that is none of their business.
mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use support::Agent;

/// What must not be found anywhere.
const CANARY: &str = "canary-7f3a9c51e2";

/// The files of a bundle by name.
fn unpack(path: &Path) -> BTreeMap<String, String> {
    let bytes = std::fs::read(path).expect("reads");
    let (mut at, mut files) = (0, BTreeMap::new());
    while bytes[at] != 0 {
        let header = &bytes[at..at + 512];
        let text = |from: usize, to: usize| {
            let field = header[from..to].split(|byte| *byte == 0).next().expect("one part");
            std::str::from_utf8(field).expect("text").to_owned()
        };
        let number = |text: String| usize::from_str_radix(text.trim(), 8).expect("octal");
        let sum: usize = header.iter().map(|byte| usize::from(*byte)).sum();
        let own: usize = header[148..156].iter().map(|byte| usize::from(*byte)).sum();
        assert_eq!(number(text(148, 156)), sum - own + 8 * usize::from(b' '), "the header's sum");
        assert_eq!(&header[257..263], b"ustar\0");
        let size = number(text(124, 136));
        let content = &bytes[at + 512..at + 512 + size];
        files.insert(text(0, 100), String::from_utf8(content.to_vec()).expect("text"));
        at += 512 + size.next_multiple_of(512);
    }
    assert!(bytes[at..].iter().all(|byte| *byte == 0) && bytes.len() >= at + 1024, "the end");
    files
}

/// Runs the verb with a secret in its environment.
fn bundle(agent: &Agent, file: &str) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plinth"));
    command.env("PLINTH_SOCKET", agent.socket()).env("API_TOKEN", CANARY).env("PLINTH_CANARY", CANARY);
    command.arg("support-bundle").arg(agent.path(file)).output().expect("runs")
}

#[test]
fn it_tells_what_there_is_and_no_secrets() {
    let mut agent = Agent::stopped();
    // The agent hands its environment on to the targets.
    agent.environment = &[("AWS_SECRET_ACCESS_KEY", CANARY), ("PASSWORD", CANARY), ("PLINTH_KEY", CANARY)];
    agent.run();
    agent.volume();
    agent.plinth("group create g --pool p").ok();
    agent.plinth("volume attach v --nbd @n").ok();
    // Data is not told either.
    let data: Vec<u8> = CANARY.bytes().cycle().take(4096).collect();
    support::nbd::Nbd::connect(&agent.path("n")).write(0, &data);
    for _ in 0..2 {
        let done = bundle(&agent, "bundle.tar");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let printed = format!("{}\n", agent.path("bundle.tar").display());
        assert_eq!(String::from_utf8_lossy(&done.stdout), printed);
    }
    let path = agent.path("bundle.tar");
    assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    let files = unpack(&path);
    for (file, content) in &files {
        assert!(!content.contains(CANARY), "{file} tells a secret");
    }
    let has = |file: &str, words: &[&str]| {
        let content =
            files.get(&format!("plinth-support/{file}")).unwrap_or_else(|| panic!("{file}: {files:?}"));
        words.iter().for_each(|word| assert!(content.contains(word), "{word} in {file}: {content}"));
    };
    has("plinth.json", &["version", "formats"]);
    has("agent.json", &["started_at"]);
    has("status.json", &["\"health\": \"online\""]);
    has("catalogue.json", &["pools/p", "volumes/v", "groups/v", "empty-groups/g", "rows/"]);
    has("events.json", &["volume_create", "volume_serving"]);
    has("metrics.txt", &["plinth_volume_requests_total{volume=\"v\""]);
    has("machine/proc/version", &["Linux"]);
    has("machine/block-devices", &[]);
    assert!(files.keys().any(|file| file.starts_with("plinth-support/targets/")), "{:?}", files.keys());
}

#[test]
fn without_an_agent_the_machine_is_told() {
    let agent = Agent::stopped();
    let done = bundle(&agent, "bundle.tar");
    assert!(done.status.success());
    assert!(String::from_utf8_lossy(&done.stderr).contains("no agent answers"));
    let files = unpack(&agent.path("bundle.tar"));
    assert!(files["plinth-support/agent-error.json"].contains("unreachable"));
    assert!(files.contains_key("plinth-support/machine/proc/meminfo"));
}

#[test]
fn what_is_there_is_not_overwritten() {
    let agent = Agent::start();
    std::fs::write(agent.path("precious"), "data").expect("writes");
    agent.plinth("support-bundle @precious").fails(11, &["precious", "no support bundle"]);
    assert_eq!(std::fs::read(agent.path("precious")).expect("reads"), b"data");
    agent.plinth("support-bundle @none/bundle").fails(5, &["no folder"]);
    agent.plinth("support-bundle @dry --dry-run").ok();
    assert!(!agent.path("dry").exists());
}
