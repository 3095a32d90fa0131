//! A transit engine for tests: real TLS, real encryption, and every way in which a server can be of no help.
use crate::catalogue::TransitPlace;
use crate::keys::Secret;
use crate::keys::seal::{KEY_BYTES, open, random_secret, seal};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

/// How it behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// As it should.
    Well,
    /// Keys may be used but not made.
    UseOnly,
    /// It answers with this status and a body that says nothing good.
    Status(u16),
    /// It answers 200 and something that is no answer.
    Garbage,
    /// It answers without end.
    Huge,
    /// It answers with what is no HTTP.
    NoHttp,
    /// It never answers.
    Hang,
    /// It sends whoever asks elsewhere.
    Redirect,
}

/// The token that it takes.
pub const TOKEN: &str = "canary-token-5d1e";

struct State {
    mode: Mode,
    versions: Vec<Secret>,
    /// Lines and bodies of what was asked.
    asked: Vec<String>,
    /// Connections that hang are kept.
    hanging: Vec<TcpStream>,
}

/// A server that ends with the process.
pub struct Server {
    /// Token file and certificates.
    pub folder: tempfile::TempDir,
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Server {
    /// Starts one on a port of this machine.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let ca_key = rcgen::KeyPair::generate().expect("a key");
        let mut ca = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&ca_key).expect("signs").pem();
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let key = rcgen::KeyPair::generate().expect("a key");
        let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
        let leaf = leaf.signed_by(&key, &issuer).expect("signs");
        std::fs::write(folder.path().join("ca.pem"), ca_pem).expect("writes");
        let token = folder.path().join("token");
        std::fs::write(&token, format!("{TOKEN}\n")).expect("writes");
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).expect("sets");
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("versions").with_no_client_auth();
        let config = config.with_single_cert(vec![leaf.der().clone()], private).expect("a certificate");
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let first = State { mode: Mode::Well, versions: Vec::new(), asked: Vec::new(), hanging: Vec::new() };
        let state = Arc::new(Mutex::new(first));
        let theirs = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, state) = (config.clone(), theirs.clone());
                std::thread::spawn(move || serve(stream, config, &state));
            }
        });
        Self { folder, port, state }
    }

    /// How it behaves from now on.
    pub fn behave(&self, mode: Mode) {
        self.state.lock().expect("lock").mode = mode;
    }

    /// What it was asked since the last time.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().expect("lock").asked)
    }

    /// Forgets its key and makes another.
    pub fn exchange_key(&self) {
        let mut state = self.state.lock().expect("lock");
        let count = state.versions.len();
        state.versions = (0..count).map(|_| random_secret(KEY_BYTES).expect("random")).collect();
    }

    /// Where it is.
    pub fn place(&self) -> TransitPlace {
        TransitPlace {
            url: format!("https://127.0.0.1:{}", self.port),
            mount: "team/transit".into(),
            key: "there".into(),
            token_file: self.folder.path().join("token"),
            ca_file: Some(self.folder.path().join("ca.pem")),
        }
    }
}

fn serve(stream: TcpStream, config: Arc<ServerConfig>, state: &Mutex<State>) -> Option<()> {
    if state.lock().expect("lock").mode == Mode::Hang {
        state.lock().expect("lock").hanging.push(stream);
        return None;
    }
    let mut stream = BufReader::new(StreamOwned::new(ServerConnection::new(config).ok()?, stream));
    let (mut line, mut header, mut length, mut token) = (String::new(), String::new(), 0, String::new());
    stream.read_line(&mut line).ok()?;
    while stream.read_line(&mut header).ok()? > 2 {
        let (name, value) = header.trim().split_once(": ")?;
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "x-vault-token" => value.clone_into(&mut token),
            _ => {}
        }
        header.clear();
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let mut state = state.lock().expect("lock");
    state.asked.push(format!("{} {}", line.trim(), String::from_utf8_lossy(&body)));
    let (status, answer) = match state.mode {
        Mode::Status(status) => (status, json!({ "errors": [TOKEN, "canary-of-the-server"] }).to_string()),
        Mode::Garbage => (200, "{\"data\":{\"ciphertext\":7,\"plaintext\":\"canary-%%%\"}}".to_owned()),
        Mode::Huge => (200, "x".repeat(1 << 20)),
        Mode::Redirect => (307, String::new()),
        Mode::Well | Mode::UseOnly | Mode::NoHttp | Mode::Hang if token != TOKEN => (403, "{}".to_owned()),
        _ => {
            let (status, answer) = state.answer(line.split(' ').nth(1)?, &body);
            (status, answer.to_string())
        }
    };
    let no_http = state.mode == Mode::NoHttp;
    drop(state);
    let stream = stream.get_mut();
    if no_http {
        stream.write_all(b"canary\r\n\r\n").ok()?;
    } else {
        let head = "content-type: application/json\r\nlocation: https://127.0.0.1:1/\r\nconnection: close";
        write!(stream, "HTTP/1.1 {status} X\r\n{head}\r\ncontent-length: {}\r\n\r\n", answer.len()).ok()?;
        stream.write_all(answer.as_bytes()).ok()?;
    }
    stream.flush().ok()?;
    stream.conn.send_close_notify();
    let _ = stream.flush();
    Some(())
}

impl State {
    fn answer(&mut self, path: &str, body: &[u8]) -> (u16, Value) {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let field = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let Some(verb) = path.strip_prefix("/v1/team/transit/") else {
            return (404, json!({ "errors": [] }));
        };
        match verb {
            "keys/there" | "keys/there/rotate" if self.mode == Mode::UseOnly => {
                (403, json!({ "errors": [] }))
            }
            "keys/there" if !self.versions.is_empty() => (204, Value::Null),
            "keys/there" | "keys/there/rotate" => {
                self.versions.push(random_secret(KEY_BYTES).expect("random"));
                (204, Value::Null)
            }
            "encrypt/there" => {
                let Some(key) = self.versions.last() else { return (404, json!({ "errors": [] })) };
                let text = Secret::take(&mut STANDARD.decode(field("plaintext")).expect("base64"));
                let sealed = STANDARD.encode(seal(key, "", &[], &text).expect("seals"));
                let text = format!("vault:v{}:{sealed}", self.versions.len());
                (200, json!({ "data": { "ciphertext": text, "key_version": self.versions.len() } }))
            }
            "decrypt/there" => match self.decrypt(&field("ciphertext")) {
                Some(text) => (200, json!({ "data": { "plaintext": STANDARD.encode(text.expose()) } })),
                None => (400, json!({ "errors": ["cipher: message authentication failed"] })),
            },
            _ => (404, json!({ "errors": [] })),
        }
    }

    fn decrypt(&self, text: &str) -> Option<Secret> {
        let (version, sealed) = text.strip_prefix("vault:v")?.split_once(':')?;
        let key = self.versions.get(version.parse::<usize>().ok()?.checked_sub(1)?)?;
        open(key, "", &[], &STANDARD.decode(sealed).ok()?)
    }
}
