//! The grammar of the command line.
//!
//! Verbs of later versions are here only where they answer with one sentence and exit 10.
use clap::{Args, Parser, Subcommand, ValueEnum};
use node::text::{parse_duration, parse_size};
use node::{Error, Kind};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Crash-safe mirrored block storage.
#[derive(Parser, Debug)]
#[command(
    name = "plinth",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub struct Cli {
    /// What every verb takes.
    #[command(flatten)]
    pub global: Global,
    /// The verb.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Flags that may stand before or after the verb.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// The agent's socket
    #[arg(
        long,
        global = true,
        env = "PLINTH_SOCKET",
        default_value = "/run/plinth/plinth.sock",
        value_name = "PATH"
    )]
    pub socket: PathBuf,
    /// How results are shown
    #[arg(short, long, global = true, env = "PLINTH_OUTPUT", value_enum, default_value = "table")]
    pub output: Output,
    /// Answer yes to every question
    #[arg(long, global = true)]
    pub yes: bool,
    /// Check everything, change nothing
    #[arg(long, global = true)]
    pub dry_run: bool,
    /// Give up waiting after this long (30s, 5m)
    #[arg(long, global = true, value_parser = |text: &str| parse_duration(text).map_err(|e| e.to_string()), value_name = "TIME")]
    pub timeout: Option<Duration>,
    /// No notes and no progress
    #[arg(long, global = true)]
    pub quiet: bool,
}

/// Forms of a result.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// Columns for people.
    Table,
    /// The body of the matching GET.
    Json,
    /// Names, one per line.
    Name,
}

/// The verbs.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Run the agent, or stop it
    #[command(args_conflicts_with_subcommands = true)]
    Node(Node),
    /// Serve one group (started by the agent)
    #[command(hide = true)]
    Target {
        /// What to serve.
        #[arg(long, value_name = "FILE")]
        spec: PathBuf,
        /// Get ready, and wait on standard input for the turn.
        #[arg(long)]
        ahead: bool,
    },
    /// Show everything at a glance
    Status {
        /// Exit 14 unless all is healthy
        #[arg(long)]
        check: bool,
    },
    /// Pools of drives
    #[command(subcommand)]
    Pool(Pool),
    /// Drives of a pool
    #[command(subcommand)]
    Drive(Drive),
    /// Volumes
    #[command(subcommand)]
    Volume(Volume),
    /// Show what happened
    Events {
        /// Go on showing
        #[arg(long)]
        follow: bool,
        /// Only since then (10m, 2h or 2026-11-20T09:40:00Z)
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
    },
    /// Check drives that no target serves
    Fsck {
        /// The drives.
        #[arg(required = true, value_name = "DRIVE")]
        drives: Vec<PathBuf>,
        /// Folder of keys in files: with them encrypted groups are checked as plain ones are
        #[arg(long, value_name = "DIR", default_value = "/var/lib/plinth/keys")]
        keys: PathBuf,
        /// Write a damaged label of a drive again from its other copy; what else is damaged a scrub repairs, or the next attach
        #[arg(long)]
        repair: bool,
    },
    /// Print what is on drives: labels, superblocks, ring, map
    Inspect {
        /// The drives.
        #[arg(required = true, value_name = "DRIVE")]
        drives: Vec<PathBuf>,
    },
    /// Print the version
    Version,
    /// Print completions for a shell
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write all of them into a folder
    Man {
        /// The folder.
        folder: Option<PathBuf>,
    },
    /// Snapshots (a later version)
    Snapshot(Later),
    /// Clones (a later version)
    Clone(Later),
    /// Groups that a volume is made in: whether it is encrypted is decided before it is there
    #[command(subcommand)]
    Group(Group),
    /// Keys that wrap the secrets of encrypted groups
    #[command(subcommand)]
    Key(Key),
    /// Read every copy of everything, and repair what is wrong from another leg
    #[command(subcommand)]
    Scrub(Scrub),
    /// Replicas at other sites (a later version)
    Replica(Later),
    /// Other sites (a later version)
    Site(Later),
    /// Give an encrypted volume a new data key, and write what is under the old one again, in the background
    Rekey {
        /// The volume, or its group
        #[arg(value_name = "GROUP|VOL")]
        name: String,
        /// Wait until the old key is not needed any more
        #[arg(long)]
        wait: bool,
    },
    /// What changed (a later version)
    #[command(hide = true)]
    Diff(Later),
    /// Images of volumes (a later version)
    #[command(hide = true)]
    Image(Later),
    /// Backups (a later version)
    #[command(hide = true)]
    Send(Later),
    /// Backups (a later version)
    #[command(hide = true)]
    Receive(Later),
    /// Schedules of snapshots (a later version)
    #[command(hide = true)]
    Schedule(Later),
    /// Write what support needs into one tar file: no data, no secrets
    SupportBundle {
        /// The file.
        file: PathBuf,
    },
}

/// A verb of a later version: takes anything, answers with a sentence.
#[derive(Args, Debug)]
pub struct Later {
    /// Whatever it will take.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub rest: Vec<String>,
}

/// `plinth node`.
#[derive(Args, Debug)]
pub struct Node {
    /// `stop`, or nothing.
    #[command(subcommand)]
    pub verb: Option<NodeVerb>,
    /// State folder
    #[arg(long, env = "PLINTH_STATE", default_value = "/var/lib/plinth", value_name = "DIR")]
    pub state: PathBuf,
    /// Serve other nodes at this address (a later version)
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Serve /metrics, /healthz and /readyz at this address too, for everybody who reaches it
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics_listen: Option<SocketAddr>,
    /// Look for drives at known paths only, not among all block devices
    #[arg(long, hide = true)]
    pub no_scan: bool,
}

/// Verbs of the agent itself.
#[derive(Subcommand, Debug)]
pub enum NodeVerb {
    /// Stop the agent; targets go on
    Stop {
        /// Detach every volume first
        #[arg(long)]
        all: bool,
    },
}

/// Where drives are.
#[derive(Args, Debug)]
pub struct Labels {
    /// Where the drives are: node=, rack=, zone=, class=
    #[arg(long, value_delimiter = ',', value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    /// Take drives although something else is on them
    #[arg(long)]
    pub force: bool,
}

/// Verbs of pools.
#[derive(Subcommand, Debug)]
pub enum Pool {
    /// Make a pool of drives
    Create {
        /// Its name.
        pool: String,
        /// Block devices or files.
        #[arg(required = true, value_name = "DRIVE")]
        drives: Vec<PathBuf>,
        #[command(flatten)]
        labels: Labels,
        /// Size of an extent
        #[arg(long, hide = true, value_parser = size)]
        extent_size: Option<u64>,
    },
    /// Add drives to a pool
    Add {
        /// The pool.
        pool: String,
        /// Block devices or files.
        #[arg(required = true, value_name = "DRIVE")]
        drives: Vec<PathBuf>,
        #[command(flatten)]
        labels: Labels,
    },
    /// Show a pool and its drives
    Status {
        /// The pool.
        pool: String,
    },
    /// List pools
    List,
    /// Change a property: reserve=SIZE, resync_rate=SIZE and scrub_rate=SIZE (in a second; 0 is no bound),
    /// scrub_every=TIME (30d; 0 is never), spares=N (space for the content of N drives is kept free),
    /// spare_delay=TIME (10m; after that it is taken), tend=TIME|off (60s; what is to be done on a volume that is detached is
    /// done so long behind the detach, or waits)
    Set {
        /// The pool.
        pool: String,
        /// The property.
        #[arg(value_name = "KEY=VALUE")]
        property: String,
    },
    /// Take over a pool from its drives, or what is found of it later; without arguments, list what could be
    Import {
        /// A pool by name, or drives by path.
        #[arg(value_name = "POOL|DRIVE")]
        what: Vec<String>,
        /// Give up groups of which only parts are there: what they have is wiped, and its space is free.
        #[arg(long)]
        force: bool,
    },
    /// Forget a pool; its drives keep everything but groups without a volume
    Export {
        /// The pool.
        pool: String,
    },
    /// Show what was done to a pool
    History {
        /// The pool.
        pool: String,
    },
    /// Delete a pool without volumes and groups; wipes its drives' labels
    Delete {
        /// The pool.
        pool: String,
        /// No failure if there is none
        #[arg(long)]
        if_exists: bool,
    },
    /// Spread the volumes of a pool evenly over its drives, while they are served
    Rebalance {
        /// The pool.
        pool: String,
        /// End it behind the moves that are under way
        #[arg(long, conflicts_with = "wait")]
        stop: bool,
        /// Wait for its end
        #[arg(long)]
        wait: bool,
    },
}

/// Verbs of drives.
#[derive(Subcommand, Debug)]
pub enum Drive {
    /// List the drives of a pool
    List {
        /// The pool.
        pool: String,
    },
    /// Make a drive of no pool empty
    Wipe {
        /// The drive.
        drive: PathBuf,
    },
    /// Take a drive out of use: volumes go on without it, and nothing holds it any more
    Offline(PoolDrive),
    /// Bring a drive back: volumes that miss it bring it up to date while they are served
    Online(PoolDrive),
    /// Declare a drive broken: as offline, and shown as failed
    Fail(PoolDrive),
    /// Empty a drive: everything on it goes to others of its pool, while its volumes are served
    Evacuate {
        #[command(flatten)]
        of: PoolDrive,
        /// Wait until it is empty
        #[arg(long)]
        wait: bool,
    },
    /// Empty a drive and take it out of its pool
    Remove {
        #[command(flatten)]
        of: PoolDrive,
        /// Wait until it has left
        #[arg(long)]
        wait: bool,
    },
    /// Have another drive take the place of one, which may be dead, and take that out of its pool
    Replace {
        #[command(flatten)]
        of: PoolDrive,
        /// The drive that takes over; added to the pool if it is not there.
        new: PathBuf,
        /// Take it although something else is on it
        #[arg(long)]
        force: bool,
        /// Wait until the other one has left
        #[arg(long)]
        wait: bool,
    },
}

/// A drive of a pool.
#[derive(Args, Debug)]
pub struct PoolDrive {
    /// The pool.
    pub pool: String,
    /// The drive, by path or id.
    pub drive: String,
}

/// What is scrubbed.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct Scrubbed {
    /// The volume.
    pub volume: Option<String>,
    /// All volumes of this pool
    #[arg(long)]
    pub pool: Option<String>,
}

/// Verbs of scrubs.
#[derive(Subcommand, Debug)]
pub enum Scrub {
    /// Start a scrub of an attached volume, or of all attached volumes of a pool, one after the other
    Start {
        #[command(flatten)]
        of: Scrubbed,
        /// Wait for its end; exit 4 if something is wrong on every leg
        #[arg(long)]
        wait: bool,
    },
    /// Show the last scrub; exit 4 if something is wrong on every leg
    Status {
        #[command(flatten)]
        of: Scrubbed,
    },
    /// End a scrub where it is
    Stop {
        #[command(flatten)]
        of: Scrubbed,
    },
}

/// Who keeps a key.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Provider {
    /// A file in the agent's state folder.
    File,
    /// The kernel's keyring; gone after a boot unless something puts it back.
    Keyring,
    /// A passphrase, read from standard input; `plinth key unlock` after each start of the agent.
    Passphrase,
    /// The transit engine of a server (Vault, OpenBao).
    Transit,
}

/// Verbs of keys.
#[derive(Subcommand, Debug)]
pub enum Key {
    /// Make a key
    Create {
        /// Its name.
        key: String,
        /// Who keeps it
        #[arg(long, value_enum, default_value = "file")]
        provider: Provider,
        /// Transit: the server, https://HOST:PORT
        #[arg(long)]
        url: Option<String>,
        /// Transit: path at which the engine is mounted [default: transit]
        #[arg(long, value_name = "PATH")]
        mount: Option<String>,
        /// Transit: name of the key there [default: the same]
        #[arg(long = "key", value_name = "NAME")]
        there: Option<String>,
        /// Transit: file with the token, mode 0600
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
        /// Transit: file with the certificates of those who may vouch for the server [default: the system's]
        #[arg(long, value_name = "FILE")]
        ca_file: Option<PathBuf>,
    },
    /// List keys
    List,
    /// Show a key and what it is for
    Show {
        /// The key.
        key: String,
    },
    /// Give a key a new version, and forget the old one; of a passphrase, the new one is read from standard input
    Rotate {
        /// The key.
        key: String,
    },
    /// Destroy a key for ever, and with it everything in the volumes that need it
    Destroy {
        /// The key.
        key: String,
        /// Also while such volumes are attached
        #[arg(long)]
        force: bool,
    },
    /// Have the agent forget a key that a passphrase unlocked
    Lock {
        /// The key.
        key: String,
    },
    /// Unlock a key by its passphrase, read from standard input
    Unlock {
        /// The key.
        key: String,
    },
}

/// Verbs of groups.
#[derive(Subcommand, Debug)]
pub enum Group {
    /// Make a group without a volume
    Create {
        /// Its name.
        group: String,
        /// Its pool
        #[arg(long)]
        pool: String,
        /// Encrypt what its volume writes to drives; decided once and for all
        #[arg(long)]
        encrypt: bool,
        /// The key that is to wrap its secret [default: default, made when it is wanted]
        #[arg(long, value_name = "NAME")]
        kek: Option<String>,
    },
    /// List groups, also those that volumes have of their own
    List,
    /// Show a group
    Show {
        /// The group.
        group: String,
    },
    /// Delete a group without a volume
    Delete {
        /// The group.
        group: String,
        /// No failure if there is none
        #[arg(long)]
        if_exists: bool,
    },
}

/// Verbs of volumes.
#[derive(Subcommand, Debug)]
pub enum Volume {
    /// Make a volume
    Create {
        /// Its name.
        volume: String,
        /// Its pool
        #[arg(long)]
        pool: String,
        /// Its size (10GiB, 10G binary, 10GB decimal)
        #[arg(long, value_parser = size)]
        size: u64,
        /// Copies in all, on different nodes, racks or drives [default: 2]
        #[arg(long, value_name = "N")]
        legs: Option<u8>,
        /// Stripe columns [default: 1]
        #[arg(long, value_name = "N")]
        columns: Option<u8>,
        /// Stripe unit [default: 64KiB]
        #[arg(long, value_name = "SIZE", value_parser = size)]
        stripe_unit: Option<u64>,
        /// Its group, as plinth group create made it, or a new one [default: one of its own]
        #[arg(long)]
        group: Option<String>,
        /// Encrypt what is written to its drives; decided once and for all, by its group if that was there before
        #[arg(long)]
        encrypt: bool,
        /// The key that wraps its secret [default: default, made when it is wanted]
        #[arg(long, value_name = "NAME")]
        kek: Option<String>,
    },
    /// List volumes
    List,
    /// Show a volume
    Show {
        /// The volume.
        volume: String,
        /// Wait for the end of a resync first; on a terminal, show how far it is
        #[arg(long)]
        watch: bool,
    },
    /// Change a property: cache=SIZE, legs=N (copies in all; while it is served, one after the other)
    Set {
        /// The volume.
        volume: String,
        /// The property.
        #[arg(value_name = "KEY=VALUE")]
        property: String,
    },
    /// Grow a volume
    Resize {
        /// The volume.
        volume: String,
        /// Its new size, or +SIZE.
        #[arg(value_name = "SIZE|+SIZE", allow_hyphen_values = true)]
        size: String,
    },
    /// Rename a detached volume
    Rename {
        /// The volume.
        volume: String,
        /// Its new name.
        new: String,
    },
    /// Delete a detached volume
    Delete {
        /// The volume.
        volume: String,
        /// No failure if there is none
        #[arg(long)]
        if_exists: bool,
    },
    /// Serve a volume; prints the path of its device or socket
    Attach {
        /// The volume.
        volume: String,
        /// Serve NBD on this socket instead of a device
        #[arg(long, value_name = "PATH")]
        nbd: Option<PathBuf>,
        /// Refuse writes
        #[arg(long)]
        read_only: bool,
        /// Where no current copy is there, go on from a stale one: what it lacks is given up
        #[arg(long)]
        force_stale: bool,
    },
    /// Stop serving a volume
    Detach {
        /// The volume.
        volume: String,
    },
    /// Have another binary serve an attached volume from now on, while it is used
    Upgrade {
        /// The volume.
        volume: String,
        /// The binary [default: the agent's own]
        #[arg(long, value_name = "PATH")]
        binary: Option<PathBuf>,
    },
    /// Limit a volume (a later version)
    #[command(hide = true)]
    Qos(Later),
}

fn size(text: &str) -> Result<u64, String> {
    parse_size(text).map_err(|error| error.to_string())
}

/// Words of other systems for the number of copies, answered in one sentence.
pub fn copies_by_another_name(args: &[std::ffi::OsString]) -> Option<Error> {
    let named = args.iter().filter_map(|arg| arg.to_str()).find(|arg| {
        let flag = arg.split('=').next().unwrap_or(arg);
        matches!(flag, "--replicas" | "--mirrors" | "--repl")
    })?;
    let flag = named.split('=').next().unwrap_or(named);
    Some(
        Error::new(
            Kind::Invalid,
            flag,
            format!("there is no {flag}: copies in a pool are legs; a replica is a copy at another site"),
        )
        .hint("use --legs N"),
    )
}
