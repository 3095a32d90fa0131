//! The life of the agent's process: folders and locks, then serving, then SIGTERM.
//!
//! It refuses to start where others could reach it: its folders must be closed to group and world, and so must
//! a socket that was left there. One agent per state folder: the lock is held by the process, so it needs no
//! cleaning after a kill. When it ends, its targets go on.
use crate::agent::{Agent, Options};
use crate::error::{Error, Kind, Result};
use crate::files::{closed, private_folder};
use crate::http;
use crate::steps::{blocking, spawn};
use std::fs::File;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Runs the agent until it is told to stop.
///
/// # Errors
/// `Permission` on loose modes, `Refused` when another agent runs, the catalogue's.
pub fn run(options: Options) -> Result<()> {
    if let Err(error) = ublk_target::secrets::harden_process() {
        tracing::warn!(
            "cannot close this process to debuggers and cores: {error}; keys in its memory are less safe"
        );
    }
    let _lock = prepare(&options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| Error::general(Kind::Failed, format!("cannot start threads: {source}")))?;
    let outcome = runtime.block_on(serve(options));
    // Targets are processes of their own; a request that is cut short is finished by its repetition.
    runtime.shutdown_background();
    outcome
}

/// How long the end of the agent waits for targets of volumes that are tended.
const TENDING_DEADLINE: std::time::Duration = std::time::Duration::from_secs(20);

/// Why nobody else may write there.
const DANGER: &str = "whoever can write there controls all volumes";

/// Makes and checks the folders and takes the lock.
fn prepare(options: &Options) -> Result<File> {
    private_folder(&options.state, DANGER)?;
    for folder in ["targets", "groups"] {
        private_folder(&options.state.join(folder), DANGER)?;
    }
    let folder = options.socket.parent().unwrap_or(Path::new("/"));
    private_folder(folder, DANGER)?;
    if let Ok(about) = std::fs::symlink_metadata(&options.socket) {
        let name = options.socket.display().to_string();
        if !about.file_type().is_socket() {
            return Err(Error::new(Kind::Refused, name.clone(), format!("{name} exists and is no socket")));
        }
        closed(&options.socket, &about, DANGER)?;
    }
    let path = options.state.join("lock");
    let mut open = File::options();
    open.write(true).create(true).truncate(false).mode(0o600);
    let lock = open.open(&path).map_err(|source| Error::io("open", &path, &source))?;
    lock.try_lock().map_err(|_| {
        let state = options.state.display().to_string();
        Error::new(Kind::Refused, state.clone(), format!("another agent runs on {state}"))
            .hint("plinth node stop ends it")
    })?;
    Ok(lock)
}

async fn serve(options: Options) -> Result<()> {
    let (socket, metrics) = (options.socket.clone(), options.metrics);
    let agent = blocking(move || Agent::open(options)).await?;
    agent.resume().await?;
    let stop = watch::Sender::new(false);
    spawn(agent.clone().watch(stop.subscribe()));
    spawn(agent.clone().ask_drives(stop.subscribe()));
    spawn(agent.clone().do_chores(stop.subscribe()));
    spawn(agent.clone().heal(stop.subscribe()));
    spawn(agent.clone().scrub(stop.subscribe()));
    spawn(agent.clone().move_drives(stop.subscribe()));
    spawn(agent.clone().rekey(stop.subscribe()));
    spawn(agent.clone().tend(stop.subscribe()));
    if let Some(address) = metrics {
        let listener = http::bind_metrics(address).await?;
        let routes = http::routes::metrics_router(agent.clone(), stop.clone());
        spawn(http::serve(routes, listener, stop.clone()));
    }
    let listener = http::bind(&socket)?;
    let on = |kind: SignalKind| {
        signal(kind).map_err(|source| Error::general(Kind::Failed, format!("cannot hear signals: {source}")))
    };
    let (mut terminate, mut interrupt) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
    tracing::info!("serving at {}", socket.display());
    tell_service_manager();
    let serving = http::serve(http::routes::router(agent.clone(), stop.clone()), listener, stop.clone());
    tokio::pin!(serving);
    let signalled = tokio::select! {
        // Somebody asked for the end over the socket: all answers have left, that one too.
        () = &mut serving => false,
        _ = terminate.recv() => true,
        _ = interrupt.recv() => true,
    };
    if signalled {
        stop.send_replace(true);
        serving.await;
    }
    // Guests go on without an agent. Where there are none nobody is to hold the drives.
    match tokio::time::timeout(TENDING_DEADLINE, agent.hold_pool(None)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!("a volume goes on being tended: {error}"),
        Err(_) => tracing::warn!("a volume goes on being tended: its target does not end in time"),
    }
    let _ = std::fs::remove_file(&socket);
    tracing::info!("ended; targets go on");
    Ok(())
}

/// Tells systemd that requests are taken, if it started us and wants to know (`sd_notify(3)`).
fn tell_service_manager() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Ok(name) = std::env::var("NOTIFY_SOCKET") else { return };
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&name),
    };
    let told = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address));
    if let Err(error) = told {
        tracing::warn!("cannot tell the service manager that the agent is ready: {error}");
    }
}

/// Sends the agent's log to standard error; `PLINTH_LOG` is error, warn, info (the default), debug or trace.
pub fn log_to_stderr() {
    let level = std::env::var("PLINTH_LOG").ok().and_then(|text| text.parse::<tracing::Level>().ok());
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level.unwrap_or(tracing::Level::INFO))
        .with_ansi(false)
        .with_target(false)
        .with_writer(std::io::stderr);
    // A second call (in tests) changes nothing.
    let _ = subscriber.try_init();
}
