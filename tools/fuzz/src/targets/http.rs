//! Requests as they come over the control socket: the agent's real server and routes, over a pipe in memory.
//!
//! An input is all that a client says; when no answer comes any more it hangs up. Promises: no handler panics, none
//! fails for a reason of its own (500); the server hangs up in turn and serves the next client, unless it was asked to
//! end; what it answers is HTTP.
//!
//! The agent has no drives and finds none: seeds and words name paths that lead nowhere, so that nothing of the host is
//! touched, whoever runs this. Its state folder is open and gone: keys that are asked for in earnest find no place.
use super::Target;
use crate::panics;
use crate::signature::Signature;
use node::agent::{Agent, Options};
use node::http::{self, Listener};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};

/// HTTP.
pub const HTTP: Target = Target {
    name: "http",
    about: "requests to the control socket, from the first byte on",
    seeds,
    words: &[
        b"\r\n",
        b"\r\n\r\n",
        b"Content-Length: ",
        b"Content-Type: application/json\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Expect: 100-continue\r\n",
        b"Connection: close\r\n",
        b" HTTP/1.0",
        b"?dry_run=true",
        b"%2f",
        b"%00",
        b"0\r\n\r\n",
        b"18446744073709551615",
    ],
    run,
    cost: 20,
};

/// An answer that takes longer will not come.
const PATIENCE: Duration = Duration::from_secs(120);
/// Without a byte for so long nothing comes until the client hangs up. What comes later is not looked at.
const QUIET: Duration = Duration::from_millis(5);
/// Bytes that are under way at most: little, so that both sides wait for each other.
const PIPE: usize = 1024;

/// Lives as long as this process.
struct Host {
    runtime: Runtime,
    agent: Arc<Agent>,
    /// Its state folder, in which nothing can be made any more.
    _folder: File,
}

fn host() -> &'static Mutex<Host> {
    static HOST: OnceLock<Mutex<Host>> = OnceLock::new();
    HOST.get_or_init(|| Mutex::new(start()))
}

/// The folder goes at once: all that the agent has is an open catalogue.
fn start() -> Host {
    // On one thread, where panics of handlers are seen.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let folder = std::env::temp_dir().join(format!("plinth-fuzz-http-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for the agent");
    let open = File::open(&folder).expect("it is there");
    let options = Options {
        state: PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd())),
        socket: folder.join("socket"),
        program: folder.join("program"),
        links: folder.join("links"),
        scan_devices: false,
        metrics: None,
    };
    let agent = Agent::open(options).expect("an agent");
    std::fs::remove_dir_all(&folder).expect("the catalogue is open");
    Host { runtime, agent, _folder: open }
}

fn request(line: &str, body: &str) -> String {
    let head = format!("{line} HTTP/1.1\r\nHost: plinth\r\n");
    match body {
        "" => format!("{head}\r\n"),
        body => {
            format!("{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let get = |path: &str| request(&format!("GET {path}"), "");
    let many: String = (0..120).map(|n| format!("X-{n}: {n}\r\n")).collect();
    let texts = [
        get("/v1/status"),
        get("/v1/pools") + &get("/v1/volumes/v") + &get("/v1/openapi.json") + &get("/metrics"),
        get("/v1/events?limit=1&since=10m") + &get("/v1/events?after=x") + &get("/readyz"),
        get("//v1/../v1/pools/%2e%2e/drives/%00") + &get("/nothing"),
        request("POST /v1/pools?dry_run=true", r#"{"name":"p","drives":["/nowhere/d"]}"#),
        request("POST /v1/pools", r#"{"name":"p","drives":["/nowhere/d"],"labels":{"node":"n"}}"#),
        request("PATCH /v1/pools/p", r#"{"key":"reserve","value":"5"}"#) + &request("DELETE /v1/pools/p", ""),
        request("POST /v1/pools/p/drives/d/replace", r#"{"new":"/nowhere/e","force":true}"#),
        request("POST /v1/import", r#"{"pool":null,"drives":["/nowhere/d"]}"#),
        request("POST /v1/drives/wipe?dry_run=true", r#"{"drive":"/nowhere/d"}"#),
        request("POST /v1/volumes", r#"{"name":"v","pool":"p","size_bytes":1073741824}"#),
        request("POST /v1/groups", r#"{"name":"g","pool":"p","encrypt":true,"kek":"k"}"#) + &get("/v1/groups"),
        get("/v1/groups/g") + &request("DELETE /v1/groups/g?dry_run=true", ""),
        request("POST /v1/volumes/v/attach", r#"{"nbd":"/nowhere/s","read_only":true}"#),
        request("POST /v1/volumes/v/upgrade", r#"{"binary":"/nowhere/p"}"#),
        request("POST /v1/volumes/v/scrub", "") + &request("DELETE /v1/volumes/v/scrub", ""),
        get("/v1/keys") + &get("/v1/keys/k") + &request("DELETE /v1/keys/k?dry_run=true&force=true", ""),
        request("POST /v1/keys?dry_run=true", r#"{"name":"k"}"#) + &request("POST /v1/keys/k/lock", ""),
        request(
            "POST /v1/keys?dry_run=true",
            r#"{"name":"k","provider":"transit","url":"https://127.0.0.1:9","token_file":"/nowhere/t"}"#,
        ),
        request("POST /v1/keys/k/rotate", "{}") + &request("POST /v1/keys/k/unlock", r#"{"passphrase":"w"}"#),
        request("POST /v1/agent/stop", r#"{"all":false}"#) + &get("/healthz"),
        "POST /v1/volumes HTTP/1.1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n5\r\n{\"nam\r\n0\r\n\r\n"
            .to_owned(),
        "POST /v1/pools HTTP/1.1\r\nContent-Length: 999999999999\r\n\r\n{".to_owned(),
        "POST /v1/pools HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nnull".to_owned(),
        "GET http://elsewhere/v1/status HTTP/1.0\r\nConnection: keep-alive, upgrade\r\nUpgrade: h2c\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "GET /v1/status HTTP/1.1\r\nHo".to_owned(),
        format!("GET /healthz HTTP/1.1\r\n{many}\r\n"),
        format!("GET /{} HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(20_000), "b".repeat(20_000)),
    ];
    texts.into_iter().map(String::into_bytes).collect()
}

/// Connections of one input.
struct Pipes(tokio::sync::Mutex<mpsc::UnboundedReceiver<DuplexStream>>);

impl Listener for Pipes {
    type Stream = DuplexStream;
    async fn next(&self) -> std::io::Result<DuplexStream> {
        match self.0.lock().await.recv().await {
            Some(stream) => Ok(stream),
            None => std::future::pending().await,
        }
    }
}

fn run(input: &[u8]) -> Signature {
    let mut signature = Signature::default();
    let host = host().lock().unwrap_or_else(PoisonError::into_inner);
    let (answer, next) = host.runtime.block_on(async {
        let stop = watch::Sender::new(false);
        let (connections, pipes) = mpsc::unbounded_channel();
        let routes = http::routes::router(host.agent.clone(), stop.clone());
        let pipes = Pipes(tokio::sync::Mutex::new(pipes));
        let serving = tokio::spawn(http::serve(routes, pipes, stop.clone()));
        let answer = talk(&connections, input.to_vec(), QUIET).await;
        let stopped = *stop.borrow();
        let next = match stopped {
            true => None,
            false => Some(
                talk(&connections, b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n".to_vec(), PATIENCE)
                    .await,
            ),
        };
        stop.send_replace(true);
        let ended = tokio::time::timeout(PATIENCE, serving).await;
        ended.expect("the server ends").expect("the server does not panic");
        (answer, next)
    });
    if let Some(place) = panics::seen() {
        panic!("a handler panicked: {place}");
    }
    if let Some(next) = next {
        assert!(
            next.starts_with(b"HTTP/1.1 200 "),
            "the next client hears {}",
            String::from_utf8_lossy(&next)
        );
    }
    look(&answer, &mut signature);
    signature
}

/// Says it, reads what comes, and hangs up when nothing came for a while; the server must do so too.
async fn talk(connections: &mpsc::UnboundedSender<DuplexStream>, said: Vec<u8>, quiet: Duration) -> Vec<u8> {
    let (near, far) = tokio::io::duplex(PIPE);
    connections.send(far).expect("the server is there");
    let (mut listener, mut talker) = tokio::io::split(near);
    let (hang_up, told) = oneshot::channel::<()>();
    tokio::spawn(async move {
        // The server may hang up in the middle of it.
        let _ = talker.write_all(&said).await;
        let _ = told.await;
        let _ = talker.shutdown().await;
    });
    let (mut answer, mut bytes) = (Vec::new(), vec![0; PIPE]);
    while let Ok(read) = tokio::time::timeout(quiet, listener.read(&mut bytes)).await {
        match read.expect("a pipe has no errors") {
            0 => return answer,
            count => answer.extend_from_slice(&bytes[..count]),
        }
    }
    let _ = hang_up.send(());
    let rest = tokio::time::timeout(PATIENCE, listener.read_to_end(&mut answer)).await;
    rest.expect("the server hangs up").expect("a pipe has no errors");
    answer
}

/// Status and kind of error of each answer.
fn look(answer: &[u8], signature: &mut Signature) {
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "an answer is HTTP");
    let text = String::from_utf8_lossy(answer);
    for part in text.split("HTTP/1.").skip(1) {
        // An answer may quote the path or the names that were asked for, but no end of a line.
        let Some(status) = part.split_once("\r\n").and_then(|(line, _)| status(line)) else { continue };
        signature.note(status);
        assert_ne!(status, 500, "the agent fails at {part}");
        if let Some(kind) = part.split("\"kind\":\"").nth(1).and_then(|rest| rest.split('"').next()) {
            kind.bytes().for_each(|byte| signature.note(u64::from(byte)));
        }
    }
}

/// The status of a first line behind its `HTTP/1.`.
fn status(line: &str) -> Option<u64> {
    let (minor, rest) = line.split_once(' ')?;
    let status = rest.split(' ').next().filter(|status| minor.len() == 1 && status.len() == 3)?;
    status.parse().ok()
}
