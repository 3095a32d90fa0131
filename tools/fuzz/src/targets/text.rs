//! JSON and words: the lines between agent and target, bodies of control requests, records of the catalogue.
//!
//! What was understood is written again and understood the same; what people type never panics.
use super::Target;
use crate::signature::Signature;
use node::agent::Seen;
use node::catalogue::{Entry, GroupEncryption, KeyRecord, MoveRecord, ScrubRecord, records};
use node::keys::{Envelope, ProviderKind, SecretText};
use node::{TargetSpec, error, model, params, protocol, text};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fmt::Debug;

/// The protocol between agent and target.
pub const LINES: Target = Target {
    name: "lines",
    about: "lines between agent and target, target specs, and what a binary says of itself",
    seeds: line_seeds,
    words: &[
        b"\"status\"",
        b"null",
        b"{\"row\":",
        b"{\"notice\":",
        b"{\"answer\":",
        b"\"detached\"",
        b"\"avoid\":[",
        b"\"change\":",
        b"[",
        b"}",
        b"-1",
    ],
    run: run_lines,
    cost: 1,
};

/// Control requests.
pub const CONTROL: Target = Target {
    name: "control",
    about: "bodies of control requests, passphrases among them, sizes, names, times",
    seeds: control_seeds,
    words: &[
        b"\"name\":",
        b"\"drives\":[",
        b"null",
        b"true",
        b"18446744073709551615",
        b"1E",
        b"GiB",
        b"\"passphrase\":",
        b"\\u0000",
        b"=",
        b"Z",
        b"{",
    ],
    run: run_control,
    cost: 1,
};

/// Records of the catalogue.
pub const RECORDS: Target = Target {
    name: "records",
    about: "records of the catalogue, as they are stored, and answers of the agent",
    seeds: record_seeds,
    words: &[b"null", b"\"creating\"", b"\"ready\"", b"[]", b"{}", b"\"id\":", b"0", b"1e400"],
    run: run_records,
    cost: 1,
};

/// Reads one type; what was read comes back.
fn try_as<T: Serialize + DeserializeOwned + PartialEq + Debug>(input: &[u8], signature: &mut Signature) {
    match serde_json::from_slice::<T>(input) {
        Ok(value) => {
            let again = serde_json::to_vec(&value).expect("what was read can be written");
            let back: T = serde_json::from_slice(&again).expect("what was written can be read");
            assert_eq!(back, value, "written again it is another");
            signature.shape(&value);
        }
        Err(error) => signature.shape(&error.classify()),
    }
}

/// The same, of types that are not compared.
fn try_loosely<T: Serialize + DeserializeOwned + Debug>(input: &[u8], signature: &mut Signature) {
    match serde_json::from_slice::<T>(input) {
        Ok(value) => {
            let again = serde_json::to_vec(&value).expect("what was read can be written");
            let back: T = serde_json::from_slice(&again).expect("what was written can be read");
            assert_eq!(format!("{back:?}"), format!("{value:?}"), "written again it is another");
            signature.shape(&value);
        }
        Err(error) => signature.shape(&error.classify()),
    }
}

/// The same, of what holds a passphrase, which its debug text does not tell.
fn try_secret<T: Serialize + DeserializeOwned + Debug>(
    input: &[u8],
    secret: fn(&T) -> &SecretText,
    signature: &mut Signature,
) {
    try_loosely::<T>(input, signature);
    if let Ok(value) = serde_json::from_slice::<T>(input) {
        let again = serde_json::to_vec(&value).expect("what was read can be written");
        let back: T = serde_json::from_slice(&again).expect("what was written can be read");
        let passphrase = secret(&value).0.expose();
        assert!(secret(&back).0.same(passphrase), "written again it is another passphrase");
        signature.note(passphrase.len().min(2) as u64);
    }
}

fn texts(from: &[&str]) -> Vec<Vec<u8>> {
    from.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn line_seeds() -> Vec<Vec<u8>> {
    texts(&[
        r#""status""#,
        r#""detach""#,
        r#"{"resize":{"size_bytes":8192}}"#,
        r#"{"row":{"row":1,"extents":[{"drive":"a","path":"/d","blocks":65536,"extent":3}]}}"#,
        r#"{"no_row":{"row":2}}"#,
        r#""space_added""#,
        r#""hand_over""#,
        r#"{"return_drive":{"drive":"d","path":"/p"}}"#,
        r#"{"take_out":{"drive":"d"}}"#,
        r#"{"release_drive":{"drive":"d"}}"#,
        r#"{"resync_rate":{"bytes":1}}"#,
        r#"{"scrub_rate":{"bytes":0}}"#,
        r#"{"scrub":{"order":{"run":2,"from_block":3},"seen":{"gen_number":4,"batch":5}}}"#,
        r#"{"holds":{"drive":"d","avoid":["d","e"]}}"#,
        concat!(
            r#"{"move":{"order":{"id":7,"change":{"leave":{"drive":"d"}},"legs":2,"#,
            r#""to":[{"id":"e","path":"/e"}],"extents":[{"old":4,"to":0,"new":5}],"dropped":["f"]},"avoid":[]}}"#
        ),
        r#"{"move":{"order":{"id":8,"change":{"drop_leg":{"leg":2}},"legs":3,"to":[],"extents":[]},"avoid":["d"]}}"#,
        r#"{"hello":{"protocol":1,"pid":4,"version":"0.1.0","group":"g","gen_number":2}}"#,
        r#"{"notice":{"serving":{"device_number":null}}}"#,
        r#"{"notice":{"stale":{"drives":["a"],"version":9}}}"#,
        r#"{"notice":{"stale":{"drives":["a"],"version":9,"since":[[3,1]],"failed":["a"]}}}"#,
        r#"{"notice":{"current":{"drive":"a","version":9,"copied_blocks":4}}}"#,
        r#"{"notice":{"want_row":{"row":1,"refused":4}}}"#,
        r#"{"notice":{"event":{"severity":"warning","kind":"k","message":"m"}}}"#,
        r#"{"answer":"done"}"#,
        r#"{"answer":{"holds":{"extents":[3,1],"state":"resyncing","open":true}}}"#,
        r#"{"answer":{"move":{"id":7,"state":{"given_up":{"not_opened":"why"}},"copied_bytes":1,"walked_bytes":2}}}"#,
        concat!(
            r#"{"answer":{"scrub":{"gen_number":1,"begun":2,"run":3,"finished":false,"stands_aside":true,"position":4,"#,
            r#""copies":{"checked":5,"repaired":1,"lost":0},"batch":6,"found":[{"kind":"map_page","lba":null,"#,
            r#""blocks":512,"drive":"d","drive_block":7,"outcome":"drive_out"}]}}}"#
        ),
        r#"{"answer":{"failed":{"kind":"damage","object":null,"message":"m","hint":null}}}"#,
        concat!(
            r#"{"answer":{"status":{"phase":"serving","seq":1,"durable_seq":1,"gen_number":1,"rows":1,"#,
            r#""mapped_bytes":null,"used_bytes":0,"size_bytes":4096,"device_number":0,"nbd_socket":null,"#,
            r#""memory_bytes":1,"drives":[]}}}"#
        ),
        concat!(
            r#"{"pool":"p","group":"g","group_name":"n","gen_number":1,"activation":"a","salt":"00","legs":2,"columns":1,"#,
            r#""stripe_blocks":16,"extent_blocks":16384,"drives":[{"id":"d","path":null,"blocks":1,"homes":[0],"#,
            r#""stale_version":null}],"rows":[],"volume":{"id":"v","name":"v","size_bytes":4096},"#,
            r#""front_end":{"kind":"nbd","socket":"/s"},"read_only":false,"cache_bytes":0,"control_socket":"/c","#,
            r#""stale_marks":"/m"}"#
        ),
        r#"{"drives":["a"],"version":3}"#,
        r#"{"version":"0.1.0","formats":[1,2],"protocol":1}"#,
        r#"{"version":"0.0.9"}"#,
    ])
}

fn run_lines(input: &[u8]) -> Signature {
    let mut signature = Signature::default();
    try_as::<protocol::Request>(input, &mut signature);
    try_as::<protocol::FromTarget>(input, &mut signature);
    try_as::<TargetSpec>(input, &mut signature);
    try_as::<node::target::marks::Mark>(input, &mut signature);
    try_as::<node::program::Facts>(input, &mut signature);
    signature
}

fn control_seeds() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"name":"p","drives":["/dev/sda"],"labels":{"node":"n"},"force":true,"extent_bytes":67108864}"#,
        r#"{"drives":["/a","/b"]}"#,
        r#"{"key":"reserve","value":"5"}"#,
        r#"{"pool":null,"drives":[]}"#,
        r#"{"drive":"/dev/sdb"}"#,
        r#"{"name":"v","pool":"p","size_bytes":1073741824,"legs":2,"columns":1,"stripe_unit_bytes":65536,"group":"g"}"#,
        r#"{"name":"g","pool":"p","encrypt":true,"kek":"k"}"#,
        r#"{"size_bytes":4096,"relative":true}"#,
        r#"{"name":"w"}"#,
        r#"{"nbd":"/run/s","read_only":true}"#,
        r#"{"all":true}"#,
        r#"{"new":"/dev/sdc","force":true}"#,
        r#"{"binary":"/usr/bin/plinth"}"#,
        r#"{"dry_run":true}"#,
        r#"{"dry_run":true,"force":true}"#,
        r#"{"name":"k"}"#,
        r#"{"name":"k","provider":"passphrase","passphrase":"correct \u0068orse \"\ud83d\ude00"}"#,
        concat!(
            r#"{"name":"k","provider":"transit","url":"https://h:8200","mount":"team/transit","key":"there","#,
            r#""token_file":"/t","ca_file":"/c"}"#
        ),
        r#"{"passphrase":"w"}"#,
        "10GiB",
        "64k",
        "15E",
        "500ms",
        "2026-11-20T09:40:00Z",
        "key=value",
        "db.data_1-x",
    ])
}

fn run_control(input: &[u8]) -> Signature {
    let mut signature = Signature::default();
    try_as::<params::CreatePool>(input, &mut signature);
    try_as::<params::AddDrives>(input, &mut signature);
    try_as::<params::Set>(input, &mut signature);
    try_as::<params::ImportPool>(input, &mut signature);
    try_as::<params::WipeDrive>(input, &mut signature);
    try_as::<params::CreateVolume>(input, &mut signature);
    try_as::<params::CreateGroup>(input, &mut signature);
    try_as::<params::ResizeVolume>(input, &mut signature);
    try_as::<params::RenameVolume>(input, &mut signature);
    try_as::<params::AttachVolume>(input, &mut signature);
    try_as::<params::ReplaceDrive>(input, &mut signature);
    try_as::<params::UpgradeVolume>(input, &mut signature);
    try_loosely::<params::Dry>(input, &mut signature);
    try_loosely::<params::CreateKey>(input, &mut signature);
    try_loosely::<params::RotateKey>(input, &mut signature);
    try_secret::<params::UnlockKey>(input, |asked| &asked.passphrase, &mut signature);
    try_loosely::<params::DestroyKey>(input, &mut signature);
    try_as::<params::StopAgent>(input, &mut signature);
    try_as::<params::EventsQuery>(input, &mut signature);
    if let Ok(words) = std::str::from_utf8(input) {
        typed(words, &mut signature);
    }
    signature
}

/// What people type.
fn typed(words: &str, signature: &mut Signature) {
    let size = text::parse_size(words);
    if let Ok(bytes) = size {
        assert!(!text::show_size(bytes).is_empty());
    }
    signature.note(u64::from(size.is_ok()));
    signature.note(u64::from(text::parse_duration(words).is_ok()));
    signature.note(u64::from(text::parse_since(words).is_ok()));
    signature.note(u64::from(text::parse_pair(words).is_ok()));
    let named = text::check_name("volume", words);
    assert!(named.is_err() || !words.contains('/') && !words.starts_with('-'), "a name that is a path");
    signature.shape(&named.map_err(|error| error.kind));
}

/// An envelope of a group, in its binary form.
fn envelope() -> Vec<u8> {
    Envelope { provider: ProviderKind::File, key: "k".into(), version: 2, wrapped: vec![7; 92] }.encode()
}

fn record_seeds() -> Vec<Vec<u8>> {
    let by = format!(r#"{{"key":"k","envelope":"{}","envelope_written":2}}"#, text::to_hex(&envelope()));
    let stored = Entry::to_stored(7, br#"{"name":"p","id":"i","drives":["/a"]}"#);
    let mut seeds = vec![envelope(), by.into_bytes(), stored];
    seeds.extend(texts(&[
        r#"{"id":"p","name":"p","life":"ready","created_at":"2026-11-20T09:40:00.000Z","extent_blocks":16384}"#,
        r#"{"error":{"kind":"not_found","object":"v1","message":"m","hint":null,"exit_code":5}}"#,
        r#"{"drive":"d","extent":0,"group":"g","row":0,"leg":0,"column":0}"#,
        r#"{"name":"p","id":"i","drives":["/a"]}"#,
        r#"{"name":"g","pool":"p","created_at":"2026-11-20T09:40:00.000Z","key":"k"}"#,
        concat!(
            r#"{"name":"g","id":null,"pool":"p","created_at":"t","leg_count":null,"column_count":2,"stripe_unit_bytes":4096,"#,
            r#""volumes":["v"],"encryption":{"cipher":"c","kek":"k","key_version":null,"rekeyed_at":null}}"#
        ),
        concat!(
            r#"{"group":"g","id":7,"change":{"shift":{"drive":"d"}},"places":[{"row":1,"place":0,"old":["d",4],"#,
            r#""new":["e",5]}],"stage":"switched","started_at":"2026-11-20T09:40:00.000Z"}"#
        ),
        concat!(
            r#"{"volume":"v","run":2,"want":"run","in_turn":true,"started_at":"t","ended_at":null,"position":5,"#,
            r#""begun":[1,2],"before":{"checked":5,"repaired":1,"lost":0},"copies":{"checked":9,"repaired":1,"lost":1},"#,
            r#""seen":{"gen_number":1,"batch":2},"last_findings":[{"kind":"data","lba":3,"blocks":1,"drive":"d","#,
            r#""drive_block":7,"outcome":"lost"}],"lost":[{"kind":"data","lba":3,"blocks":1,"place":null}],"#,
            r#""lost_before":[{"kind":"superblock","lba":null,"blocks":null,"place":["d",4]}]}"#
        ),
        r#"{"id":"d","path":"/a","to":null}"#,
        r#"{"at":"2026-11-20T09:40:00.000Z","command":"pool add p","message":"m"}"#,
        r#"{"volumes":{"v":"degraded"},"pools":{"p":2},"counted":{"v":{"pid":3,"drives":{"d":{"errors":1,"repaired":1}}}}}"#,
        r#"["d","e"]"#,
        concat!(
            r#"{"name":"k","provider":"passphrase","created_at":"t","life":"rotating","last_version":2,"versions":["#,
            r#"{"version":2,"created_at":"t","sealed":{"kdf":{"memory_kib":8,"passes":1,"lanes":1},"salt":"00","#,
            r#""sealed":"00","before":"00"}}],"transit":{"url":"https://h","mount":"m","key":"k","token_file":"/t","#,
            r#""ca_file":null}}"#
        ),
    ]));
    seeds
}

fn run_records(input: &[u8]) -> Signature {
    let mut signature = Signature::default();
    try_loosely::<records::PoolRecord>(input, &mut signature);
    try_loosely::<records::DriveRecord>(input, &mut signature);
    try_loosely::<records::ExtentRecord>(input, &mut signature);
    try_loosely::<records::CopyRecord>(input, &mut signature);
    try_loosely::<records::GroupRecord>(input, &mut signature);
    try_loosely::<records::EmptyGroupRecord>(input, &mut signature);
    try_loosely::<records::VolumeRecord>(input, &mut signature);
    try_loosely::<records::RowRecord>(input, &mut signature);
    try_loosely::<records::EventRecord>(input, &mut signature);
    try_loosely::<records::LeftRecord>(input, &mut signature);
    try_loosely::<records::HistoryRecord>(input, &mut signature);
    try_loosely::<MoveRecord>(input, &mut signature);
    try_loosely::<ScrubRecord>(input, &mut signature);
    try_loosely::<KeyRecord>(input, &mut signature);
    try_loosely::<GroupEncryption>(input, &mut signature);
    if let Ok(envelope) = Envelope::decode(input) {
        assert_eq!(envelope.encode(), input[..envelope.encode().len()], "written again it is another");
        signature.note(u64::from(envelope.version));
    }
    let entry = Entry::from_stored(input);
    if let Some(entry) = &entry {
        assert_eq!(Entry::to_stored(entry.version, &entry.value), input, "written again it is another");
        try_loosely::<model::Importable>(&entry.value, &mut signature);
    }
    signature.note(u64::from(entry.is_some()));
    try_loosely::<Seen>(input, &mut signature);
    try_loosely::<BTreeSet<String>>(input, &mut signature);
    try_loosely::<model::Status>(input, &mut signature);
    try_loosely::<model::Volume>(input, &mut signature);
    try_loosely::<model::Group>(input, &mut signature);
    try_loosely::<model::Importable>(input, &mut signature);
    try_loosely::<error::ErrorBody>(input, &mut signature);
    signature
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A seed that no reader takes tries nothing but the refusal.
    #[test]
    fn every_line_and_record_among_the_seeds_is_one() {
        fn is<T: DeserializeOwned>(text: &[u8]) -> bool {
            serde_json::from_slice::<T>(text).is_ok()
        }
        for seed in line_seeds() {
            let known = is::<protocol::Request>(&seed)
                || is::<protocol::FromTarget>(&seed)
                || is::<TargetSpec>(&seed)
                || is::<node::target::marks::Mark>(&seed)
                || is::<node::program::Facts>(&seed);
            assert!(known, "{}", String::from_utf8_lossy(&seed));
        }
        let count = |taken: fn(&[u8]) -> bool| record_seeds().iter().filter(|seed| taken(seed)).count();
        assert!(count(is::<MoveRecord>) > 0 && count(is::<ScrubRecord>) > 0);
        assert!(count(is::<KeyRecord>) > 0 && count(is::<GroupEncryption>) > 0);
        assert!(count(is::<records::EmptyGroupRecord>) > 0 && count(is::<model::Group>) > 0);
        assert!(count(|seed| Envelope::decode(seed).is_ok()) > 0);
        assert!(count(is::<records::LeftRecord>) > 0 && count(is::<records::HistoryRecord>) > 0);
    }
}
