//! The transit provider against a server that speaks TLS and encrypts.
use super::server::{Mode, Server, TOKEN};
use super::*;
use crate::catalogue::KeyLife;
use crate::keys::ProviderKind;
use std::os::unix::fs::PermissionsExt;

const GROUP: Uuid = Uuid([7; 16]);
const SECRET: &[u8] = b"canary-secret-of-a-group-a41c";

fn record(server: &Server) -> KeyRecord {
    KeyRecord {
        name: "k".into(),
        provider: ProviderKind::Transit,
        created_at: String::new(),
        life: KeyLife::Ready,
        versions: Vec::new(),
        last_version: 1,
        transit: Some(server.place()),
    }
}

fn secret() -> Secret {
    Secret::copy_of(SECRET)
}

/// A sentence tells neither token nor secret nor what a server said.
#[track_caller]
fn refused(outcome: Result<impl Sized>, kind: Kind) -> String {
    let error = outcome.err().expect("refused");
    let text = error.to_string();
    assert_eq!(error.kind, kind, "{text}");
    assert!(!text.contains("canary") && !text.contains(TOKEN) && text.lines().count() == 1, "{text}");
    text
}

#[test]
fn it_wraps_and_unwraps_over_a_rotation_of_the_server() {
    let server = Server::start();
    let record = record(&server);
    check_place("k", &server.place()).expect("a place");
    let transit = Transit::new(&record);
    transit.make(1).expect("makes");
    transit.make(1).expect("is there");
    let wrapped = transit.wrap(1, &GROUP, &secret()).expect("wraps");
    assert!(wrapped.starts_with(b"vault:v1:") && wrapped.len() <= crate::keys::MAX_WRAPPED_BYTES);
    assert!(transit.unwrap(1, &GROUP, &wrapped).expect("opens").same(SECRET));
    transit.make(2).expect("rotates");
    assert!(transit.wrap(2, &GROUP, &secret()).expect("wraps").starts_with(b"vault:v2:"));
    assert!(transit.unwrap(1, &GROUP, &wrapped).expect("the server keeps old versions").same(SECRET));
    let asked = server.asked();
    assert!(asked[0].starts_with("POST /v1/team/transit/keys/there HTTP/1.1"), "{asked:?}");
    assert!(asked.iter().all(|asked| !asked.contains("canary")), "only base64 is sent");
    let most = Secret::zeroed(crate::keys::MAX_GROUP_SECRET_BYTES);
    assert!(transit.wrap(2, &GROUP, &most).expect("wraps").len() <= crate::keys::MAX_WRAPPED_BYTES);
}

#[test]
fn another_group_another_key_and_any_other_byte_are_refused() {
    let server = Server::start();
    let record = record(&server);
    let transit = Transit::new(&record);
    transit.make(1).expect("makes");
    let wrapped = transit.wrap(1, &GROUP, &secret()).expect("wraps");
    let text = refused(transit.unwrap(1, &Uuid([8; 16]), &wrapped), Kind::Permission);
    assert!(text.contains("does not open the secret of group 08080808"), "{text}");
    for at in 0..wrapped.len() {
        let mut other = wrapped.clone();
        other[at] ^= 1;
        refused(transit.unwrap(1, &GROUP, &other), Kind::Permission);
    }
    server.exchange_key();
    refused(transit.unwrap(1, &GROUP, &wrapped), Kind::Permission);
}

#[test]
fn a_server_that_refuses_fails_or_talks_nonsense_is_told_from_one_that_is_away() {
    let server = Server::start();
    let record = record(&server);
    let transit = Transit::new(&record);
    transit.make(1).expect("makes");
    let wrapped = transit.wrap(1, &GROUP, &secret()).expect("wraps");
    for (mode, kind) in [
        (Mode::Status(403), Kind::Permission),
        (Mode::Status(401), Kind::Permission),
        (Mode::Status(404), Kind::NotFound),
        (Mode::Status(429), Kind::Unreachable),
        (Mode::Status(500), Kind::Unreachable),
        (Mode::Status(503), Kind::Unreachable),
        (Mode::Redirect, Kind::Failed),
        (Mode::Garbage, Kind::Failed),
        (Mode::Huge, Kind::Failed),
        (Mode::NoHttp, Kind::Unreachable),
        (Mode::Hang, Kind::Unreachable),
    ] {
        server.behave(mode);
        let text = refused(transit.unwrap(1, &GROUP, &wrapped), kind);
        assert!(text.contains("transit engine") || text.contains("the server at"), "{mode:?}: {text}");
        refused(transit.wrap(1, &GROUP, &secret()), kind);
        if mode != Mode::Hang {
            refused(transit.make(2), kind);
        }
    }
    server.behave(Mode::UseOnly);
    transit.make(1).expect("somebody else made it");
    refused(transit.make(2), Kind::Permission);
    server.behave(Mode::Well);
    assert!(transit.unwrap(1, &GROUP, &wrapped).expect("opens").same(SECRET));
}

#[test]
fn tokens_certificates_and_places_are_checked() {
    let server = Server::start();
    let mut record = record(&server);
    Transit::new(&record).make(1).expect("makes");
    let token = server.folder.path().join("token");
    let set = |mode| {
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(mode)).expect("sets");
    };
    set(0o644);
    assert!(refused(Transit::new(&record).make(1), Kind::Permission).contains("chmod 0600"));
    set(0o600);
    for wrong in ["", " \n", "two words", "a\u{e9}"] {
        std::fs::write(&token, wrong).expect("writes");
        refused(Transit::new(&record).make(1), Kind::Permission);
    }
    std::fs::write(&token, "another").expect("writes");
    refused(Transit::new(&record).make(1), Kind::Permission);
    std::fs::remove_file(&token).expect("removes");
    refused(Transit::new(&record).make(1), Kind::NotFound);
    std::fs::write(&token, TOKEN).expect("writes");
    set(0o600);
    // A certificate of somebody else vouches for nobody here.
    let other = Server::start();
    record.transit.as_mut().expect("a place").ca_file = other.place().ca_file;
    assert!(refused(Transit::new(&record).make(1), Kind::Unreachable).contains("certificate"));
    assert!(server.asked().iter().all(|asked| asked.contains("keys/there") || asked.contains("crypt/there")));
    record.transit.as_mut().expect("a place").ca_file = Some(token.clone());
    refused(Transit::new(&record).make(1), Kind::Invalid);
    record.transit = Some(TransitPlace { url: "https://127.0.0.1:1".into(), ..server.place() });
    assert!(refused(Transit::new(&record).make(1), Kind::Unreachable).contains("cannot be reached"));
    for url in [
        "http://vault.example",
        "https://",
        "https://host/path",
        "https://user@host",
        "https://host?x=1",
        "ftp://host",
        "host",
        "https://host/",
        // Taken once: every request went to "/", or to port 443, with the token.
        "https://host#here",
        "https://host:82oo",
        "https://host:82000",
        "https://host:",
    ] {
        let place = TransitPlace { url: url.into(), ..server.place() };
        assert_eq!(check_place("k", &place).expect_err(url).kind, Kind::Invalid, "{url}");
    }
    for mount in ["", "/transit", "a//b", "a/../b", "a b", "a?b"] {
        let place = TransitPlace { mount: mount.into(), ..server.place() };
        assert_eq!(check_place("k", &place).expect_err(mount).kind, Kind::Invalid, "{mount}");
    }
}
