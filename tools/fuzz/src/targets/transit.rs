//! What a key server says: the real client over connections in memory; and where such a server is said to be.
//!
//! The first byte of an input says what is tried: a verb of the key, over a server that says the rest (its answers to one
//! connection after the other lie between `NEXT`), a URL, a token file, or a file of certificates. Promises beside those of
//! all targets: the client ends whatever it hears; it asks this server alone, once for each request; its errors are one
//! line that tells neither its secrets nor what the server said; what it takes for wrapped is fit for an envelope's text.
use super::Target;
use crate::signature::Signature;
use base::Uuid;
use nix::sys::memfd::{MFdFlags, memfd_create};
use node::catalogue::{KeyLife, KeyRecord, TransitPlace};
use node::error::Result;
use node::keys::{ProviderKind, Secret};
use node::trial::{self, Engine};
use std::fs::{File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use ureq::http::Uri;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};

/// Transit engines.
pub const TRANSIT: Target = Target {
    name: "transit",
    about: "answers of key servers, from the first byte on; their URLs, tokens and certificates",
    seeds,
    words: &[
        NEXT,
        b"\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"Content-Length: ",
        b"Transfer-Encoding: chunked\r\n",
        b"Location: https://elsewhere/\r\n",
        b"0\r\n\r\n",
        b"{\"data\":{\"ciphertext\":\"vault:v1:",
        b"{\"data\":{\"plaintext\":\"",
        b"\"}}",
        b"https://",
        b"@",
        b"[::1]",
        b"-----BEGIN CERTIFICATE-----\n",
    ],
    run,
    cost: 10,
};

/// Between the answers of one connection and the next.
const NEXT: &[u8] = b"\n=next=\n";
const GROUP: Uuid = Uuid([7; 16]);
/// Neither may be seen in an error, nor may `SAID` be, which every answer among the seeds has somewhere.
const TOKEN: &str = "hvs.canary-token-5d1e";
const SECRET: &[u8] = b"canary-secret-of-a-group-a41c";
const SAID: &str = "canary-of-the-server";
const HOST: &str = "h.invalid:8200";
/// Any will do: connections do not get as far as looking at it.
const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

/// Files that lie nowhere.
struct Files {
    token: File,
    roots: File,
}

fn files() -> MutexGuard<'static, Files> {
    static FILES: OnceLock<Mutex<Files>> = OnceLock::new();
    let made = || {
        let file = || {
            let file = File::from(memfd_create("plinth-fuzz", MFdFlags::MFD_CLOEXEC).expect("a file"));
            file.set_permissions(Permissions::from_mode(0o600)).expect("it is ours");
            file
        };
        Mutex::new(Files { token: file(), roots: file() })
    };
    FILES.get_or_init(made).lock().unwrap_or_else(PoisonError::into_inner)
}

impl Files {
    fn put(&self, token: &[u8], roots: &[u8]) {
        for (file, bytes) in [(&self.token, token), (&self.roots, roots)] {
            file.set_len(0).and_then(|()| file.write_all_at(bytes, 0)).expect("there is room");
        }
    }

    fn place(&self) -> TransitPlace {
        let path = |file: &File| PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        TransitPlace {
            url: format!("https://{HOST}"),
            mount: "team/transit".into(),
            key: "there".into(),
            token_file: path(&self.token),
            ca_file: Some(path(&self.roots)),
        }
    }
}

fn answer(status: &str, body: &str) -> Vec<u8> {
    let len = body.len();
    format!("HTTP/1.1 {status}\r\nX-Said: {SAID}\r\nContent-Length: {len}\r\n\r\n{body}").into_bytes()
}

fn seeds() -> Vec<Vec<u8>> {
    let of = |what: u8, rest: &[u8]| [&[what], rest].concat();
    let wrapped = answer("200 OK", r#"{"data":{"ciphertext":"vault:v1:AAAA"},"warnings":null}"#);
    // The purpose, the group's id, and a secret.
    let opened = "cGxpbnRoIGdyb3VwIHNlY3JldAcHBwcHBwcHBwcHBwcHBwdzZWNyZXQ=";
    let plain = answer("200 OK", &format!(r#"{{"data":{{"plaintext":"{opened}"}}}}"#));
    let refused = answer("403 Forbidden", &format!(r#"{{"errors":["{SAID}"]}}"#));
    let made = answer("204 No Content", "");
    let chunked = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1a\r\n{{\"data\":{{\"plaintext\":\"{SAID}\r\n0\r\n\r\n"
    );
    let moved =
        format!("HTTP/1.1 307 Moved\r\nLocation: https://elsewhere/{SAID}\r\nContent-Length: 0\r\n\r\n");
    let interim =
        [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\n\r\n".to_vec(), wrapped.clone()].concat();
    let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", SAID.repeat(2000));
    let url = |url: &str| of(4, url.as_bytes());
    vec![
        of(0, &[&made[..], &wrapped, &plain].join(NEXT)),
        of(1, &[&refused[..], &wrapped, &plain].join(NEXT)),
        of(2, &wrapped),
        of(2, &interim),
        of(2, moved.as_bytes()),
        of(3, &plain),
        of(3, &refused),
        of(3, chunked.as_bytes()),
        of(3, endless.as_bytes()),
        of(3, SAID.as_bytes()),
        of(8 + 3, &plain),
        of(8 + 2, b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n"),
        url("https://vault.example:8200"),
        url("http://127.0.0.1:8200"),
        url("https://[::1]"),
        url("https://user@h/x?y#z"),
        of(5, format!("{TOKEN}\n").as_bytes()),
        of(6, PEM.as_bytes()),
        of(6, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
    ]
}

fn run(input: &[u8]) -> Signature {
    let mut signature = Signature::default();
    let (what, rest) = input.split_first().unwrap_or((&2, &[]));
    signature.note(u64::from(what % 8));
    match what % 8 {
        4 => url(rest, &mut signature),
        5 => token(rest, &mut signature),
        6 => roots(rest, &mut signature),
        verb => asked(verb, *what & 8 != 0, rest, &mut signature),
    }
    signature
}

/// What an error may tell: one line, and nothing that somebody else said or nobody may know.
fn told<T>(outcome: &Result<T>, signature: &mut Signature) {
    if let Err(error) = outcome {
        let text = format!("{error} {error:?} {}", serde_json::to_string(&error.body()).expect("writes"));
        assert!(!text.contains("canary"), "an error tells what it should not: {text}");
        assert_eq!(error.to_string().lines().count(), 1, "an error has one line: {error}");
        signature.shape(&error.kind);
        signature.shape(&error.hint.is_some());
    }
    signature.note(u64::from(outcome.is_ok()));
}

fn url(input: &[u8], signature: &mut Signature) {
    let Ok(url) = std::str::from_utf8(input) else { return };
    // Errors name the server, so it is not called what they must not tell.
    if url.contains("canary") || trial::transit_url(url).is_err() {
        return signature.note(0);
    }
    // Where requests go to, and with them the token.
    let uri: Uri = format!("{url}/v1/m/encrypt/k").parse().expect("requests can be made there");
    assert_eq!((uri.path(), uri.query()), ("/v1/m/encrypt/k", None), "requests go somewhere else");
    let authority = uri.authority().expect("a host");
    let (host, port) = (authority.host(), authority.port_u16());
    let again = port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    assert!(!host.is_empty(), "no host");
    assert!(port.is_some() || authority.as_str() == again, "another port than it says: {again}");
    let loopback = authority.host().starts_with("127.") || authority.host() == "[::1]";
    let scheme = uri.scheme_str();
    assert!(
        scheme == Some("https") || cfg!(debug_assertions) && loopback,
        "a token would be sent in the clear"
    );
    signature.note(1 + u64::from(scheme == Some("https")) + 2 * u64::from(authority.port().is_some()));
    let files = files();
    files.put(TOKEN.as_bytes(), PEM.as_bytes());
    let record = record(TransitPlace { url: url.to_owned(), ..files.place() });
    let server = Server::at(authority.as_str(), &[], false);
    let outcome = Engine::over(&record, server).and_then(|engine| engine.unwrap(&GROUP, b"vault:v1:AAAA"));
    told(&outcome.map(|_| panic!("nobody has answered")), signature);
}

fn token(input: &[u8], signature: &mut Signature) {
    let files = files();
    files.put(input, PEM.as_bytes());
    let token = trial::transit_token(&files.place());
    if let Ok(token) = &token {
        assert_eq!(token.expose(), input.trim_ascii(), "another token");
        assert!(token.expose().iter().all(u8::is_ascii_graphic), "it would be another header");
        files.put(token.expose(), PEM.as_bytes());
        let again = trial::transit_token(&files.place()).expect("a token");
        assert!(again.same(token.expose()), "written again it is another");
    }
    told(&token, signature);
}

fn roots(input: &[u8], signature: &mut Signature) {
    let files = files();
    files.put(TOKEN.as_bytes(), input);
    told(&trial::transit_place(&files.place()), signature);
}

/// A verb of a key over a server that says these answers, all at once or a few bytes at a time.
fn asked(verb: u8, slowly: bool, answers: &[u8], signature: &mut Signature) {
    let files = files();
    files.put(TOKEN.as_bytes(), PEM.as_bytes());
    let record = record(files.place());
    let server = Server::at(HOST, answers, slowly);
    let said = server.said.clone();
    let engine = Engine::over(&record, server).expect("there are certificates");
    let requests = match verb {
        0 | 1 => {
            told(&engine.make(u32::from(verb) + 1), signature);
            3
        }
        2 => {
            let wrapped = engine.wrap(&GROUP, &Secret::copy_of(SECRET));
            if let Ok(wrapped) = &wrapped {
                let text = wrapped.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'"');
                assert!(text && wrapped.starts_with(b"vault:v"), "what wraps a secret is no text");
            }
            told(&wrapped, signature);
            1
        }
        _ => {
            let opened = engine.unwrap(&GROUP, b"vault:v1:AAAA");
            if let Ok(opened) = &opened {
                assert!(opened.len() < answers.len(), "a secret that the server did not say");
                signature.note(opened.len().min(2) as u64);
            }
            told(&opened, signature);
            1
        }
    };
    let said = said.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(said.len() <= requests, "it asks again, or somebody else");
    for request in said.iter() {
        let text = String::from_utf8_lossy(request);
        assert!(text.is_empty() || text.starts_with("POST /v1/team/transit/"), "another request: {text}");
        assert!(!text.contains(std::str::from_utf8(SECRET).expect("a text")), "a secret as it is");
        assert!(text.matches(TOKEN).count() <= 1, "the token is sent for more than it is for");
    }
    signature.note(said.len() as u64);
}

fn record(place: TransitPlace) -> KeyRecord {
    KeyRecord {
        name: "k".into(),
        provider: ProviderKind::Transit,
        created_at: String::new(),
        life: KeyLife::Ready,
        versions: Vec::new(),
        last_version: 1,
        transit: Some(place),
    }
}

/// The answers, by connection.
fn split(answers: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut rest = answers;
    while let Some(byte) = rest.first() {
        if let Some(behind) = rest.strip_prefix(NEXT) {
            parts.push(Vec::new());
            rest = behind;
        } else {
            parts.last_mut().expect("one at least").push(*byte);
            rest = &rest[1..];
        }
    }
    parts
}

/// A server that does not listen to what it is asked.
#[derive(Debug)]
struct Server {
    /// What it was asked, by connection.
    said: Arc<Mutex<Vec<Vec<u8>>>>,
    answers: Arc<[Vec<u8>]>,
    slowly: bool,
    /// Host and port for which it was meant.
    host: String,
}

impl Server {
    fn at(host: &str, answers: &[u8], slowly: bool) -> Self {
        Self { said: Arc::default(), answers: split(answers).into(), slowly, host: host.to_owned() }
    }
}

impl Connector for Server {
    type Out = Connection;

    fn connect(
        &self,
        to: &ConnectionDetails,
        _: Option<()>,
    ) -> std::result::Result<Option<Connection>, ureq::Error> {
        assert_eq!(
            to.uri.authority().map(|authority| authority.as_str()),
            Some(&*self.host),
            "another server"
        );
        assert!(to.needs_tls() || self.host != HOST, "a connection in the clear");
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.push(Vec::new());
        let number = said.len() - 1;
        Ok(Some(Connection {
            buffers: LazyBuffers::new(to.config.input_buffer_size(), to.config.output_buffer_size()),
            said: self.said.clone(),
            number,
            answer: self.answers.get(number).cloned().unwrap_or_default(),
            at: 0,
            piece: if self.slowly { 7 } else { usize::MAX },
        }))
    }
}

/// One of its connections: as if it were encrypted.
#[derive(Debug)]
struct Connection {
    buffers: LazyBuffers,
    said: Arc<Mutex<Vec<Vec<u8>>>>,
    number: usize,
    answer: Vec<u8>,
    at: usize,
    piece: usize,
}

impl Transport for Connection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> std::result::Result<(), ureq::Error> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said[self.number].extend_from_slice(&self.buffers.output()[..amount]);
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> std::result::Result<bool, ureq::Error> {
        let room = self.buffers.input_append_buf();
        let rest = &self.answer[self.at..];
        let count = rest.len().min(room.len()).min(self.piece);
        room[..count].copy_from_slice(&rest[..count]);
        self.buffers.input_appended(count);
        self.at += count;
        Ok(count > 0)
    }

    fn is_open(&mut self) -> bool {
        self.at < self.answer.len()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A seed that the client never takes tries nothing but the refusal.
    #[test]
    fn a_server_that_answers_right_is_understood() {
        let files = files();
        files.put(TOKEN.as_bytes(), PEM.as_bytes());
        let record = record(files.place());
        let seeds = seeds();
        for slowly in [false, true] {
            let engine = |seed: &[u8]| {
                Engine::over(&record, Server::at(HOST, &seed[1..], slowly)).expect("there are certificates")
            };
            for seed in &seeds[2..4] {
                let wrapped = engine(seed).wrap(&GROUP, &Secret::copy_of(SECRET)).expect("wraps");
                assert_eq!(wrapped, b"vault:v1:AAAA");
            }
            assert!(engine(&seeds[5]).unwrap(&GROUP, b"vault:v1:AAAA").expect("opens").same(b"secret"));
            let made = engine(&seeds[0]).make(1).expect_err("it gives back something else");
            assert_eq!(made.kind, node::Kind::Failed, "{made}");
        }
        assert!(trial::transit_place(&files.place()).is_ok());
    }
}
