//! What the socket answers: the JSON of pools, drives, volumes and the whole.
//!
//! Fields ending in `_bytes` are whole bytes, in `_at` RFC 3339. What is not known is `null`, never absent.
//! Scripts are written against these names: they only grow.
use crate::catalogue::{CopyState, DriveState, Errand, EventRecord, FrontendKind, HistoryRecord};
use crate::keys::ProviderKind;
use crate::scrub::{FoundKind, FoundOutcome, FoundTotals};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Health of a pool or volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Everything is as it should be.
    Online,
    /// It works, with less redundancy than asked for.
    Degraded,
    /// It does not work.
    Faulted,
    /// Of a pool alone: nothing new is handed out.
    Suspended,
}

/// State of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VolumeState {
    /// Not served.
    Detached,
    /// On its way to be served.
    Attaching,
    /// Served.
    Attached,
    /// Its target died; a new one recovers it. Requests wait.
    Recovering,
    /// Served for reading.
    ReadOnly,
    /// It cannot be served.
    Failed,
}

/// A volume.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Volume {
    /// Name, unique on this agent.
    pub name: String,
    /// 128-bit identity.
    pub id: String,
    /// Its pool.
    pub pool: String,
    /// Its group.
    pub group: String,
    /// When it was created.
    pub created_at: String,
    /// Size that the guest sees.
    pub size_bytes: u64,
    /// Copies in all.
    pub leg_count: u8,
    /// Stripe columns.
    pub column_count: u8,
    /// Stripe unit.
    pub stripe_unit_bytes: u64,
    /// Whether it is served.
    pub state: VolumeState,
    /// How well it is.
    pub health: Health,
    /// It is being made or deleted: what its health says is for people, and no news.
    #[serde(skip)]
    pub unfinished: bool,
    /// Nobody has it attached, and the agent has it served for what is to be done on it.
    pub tended: bool,
    /// Through what it is attached.
    pub frontend: Option<FrontendKind>,
    /// The ublk device.
    pub device: Option<String>,
    /// The stable name of the device.
    pub device_link: Option<String>,
    /// The NBD socket.
    pub nbd_socket: Option<String>,
    /// Whether it is attached for reading only.
    pub read_only: Option<bool>,
    /// What the guest has mapped.
    pub mapped_bytes: Option<u64>,
    /// Space of the pool that its group holds, all legs together.
    pub allocated_bytes: u64,
    /// Memory for map pages in its target.
    pub cache_bytes: u64,
    /// Last Seq handed out.
    pub seq: Option<u64>,
    /// Everything up to this Seq is durable.
    pub durable_seq: Option<u64>,
    /// The activation.
    #[serde(rename = "gen")]
    pub gen_number: u64,
    /// The process that serves it.
    pub target: Option<Target>,
    /// Its copies.
    pub legs: Vec<Leg>,
    /// Progress of a resync.
    pub resync: Option<Resync>,
    /// The last resync that came to its end since the volume was attached, or its target was started anew.
    pub last_resync: Option<LastResync>,
    /// Drives that are there again, or that the operator brought back, and that are brought up to date in their turn.
    #[serde(default)]
    pub returning: Vec<String>,
    /// Progress of a scrub.
    pub scrub: Option<Scrub>,
    /// How it is encrypted; `null` if it is not.
    pub encryption: Option<Encryption>,
    /// Progress of the walk to a new data key; `null` if none is wanted.
    pub rekey: Option<Rekey>,
    /// What its group has run out of for good, or will soon, as long as it is served.
    #[serde(default)]
    pub limits: Vec<Limit>,
    /// Limits.
    pub qos: Option<Later>,
    /// The snapshot that it is a clone of.
    pub clone_of: Option<String>,
    /// In one sentence, what is wrong; `null` when nothing is.
    pub status: Option<String>,
    /// What to do about it.
    pub action: Option<String>,
}

/// What a group can run out of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LimitKind {
    /// Rows: its first row cannot name a further one.
    Rows,
    /// Times that it can be opened, if it is encrypted.
    Openings,
    /// Numbers of checkpoints.
    Checkpoints,
}

/// A limit that a volume's group is at or near.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Limit {
    /// Of what.
    pub kind: LimitKind,
    /// How many are left.
    pub left: u64,
    /// In one sentence.
    pub status: String,
    /// What to do about it.
    pub action: String,
}

/// A group: volumes that share log, space and owner; one volume at most for now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Group {
    /// Name, unique on this agent.
    pub name: String,
    /// 128-bit identity; `null` while it has no volume.
    pub id: Option<String>,
    /// Its pool.
    pub pool: String,
    /// When it was created.
    pub created_at: String,
    /// Copies in all; its first volume decides.
    pub leg_count: Option<u8>,
    /// Stripe columns; its first volume decides.
    pub column_count: Option<u8>,
    /// Stripe unit; its first volume decides.
    pub stripe_unit_bytes: Option<u64>,
    /// Names of its volumes.
    pub volumes: Vec<String>,
    /// How it is encrypted; `null` if it is not.
    pub encryption: Option<Encryption>,
}

/// How a volume or group is encrypted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Encryption {
    /// What encrypts its blocks.
    pub cipher: String,
    /// The key that wraps its secret.
    pub kek: String,
    /// Version of that key; `null` when it was destroyed: nobody can read the volume any more. Also of a group without
    /// a volume: it has no secret yet.
    pub key_version: Option<u32>,
    /// When a walk to a new data key ended last.
    pub rekeyed_at: Option<String>,
}

/// A walk to a new data key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Rekey {
    /// Where it stands.
    pub state: RekeyState,
    /// Number of the data key.
    pub data_key: u16,
    /// When it was asked for.
    pub started_at: String,
    /// Size of the volume; `null` before its target was looked at.
    pub bytes_total: Option<u64>,
    /// How much of it was looked at, from its beginning.
    pub bytes_done: u64,
    /// What was written again; a target that is started anew begins to count again.
    pub bytes_rewritten: u64,
    /// What has to happen before it goes on; `null` if nothing has to.
    pub waits_for: Option<String>,
}

/// Where a walk to a new data key stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RekeyState {
    /// Something has to happen before it goes on.
    Waiting,
    /// Another target takes over, which writes under the new key.
    Starting,
    /// Blocks are written again.
    Running,
    /// Nothing needs the older keys any more; they are about to go.
    Ending,
}

/// Something of a later version: always `null` today.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub enum Later {}

/// A target process.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Target {
    /// Its process.
    pub pid: u32,
    /// Version of its program.
    pub version: Option<String>,
    /// The file that it is started from.
    pub binary: Option<String>,
    /// How often it was started anew since the agent started or the volume was attached.
    pub restarts: u64,
    /// Resident memory.
    pub memory_bytes: Option<u64>,
}

/// One copy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Leg {
    /// Its number.
    pub leg: u8,
    /// The drives that it lies on.
    pub drives: Vec<LegDrive>,
}

/// A drive's part of a copy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct LegDrive {
    /// The drive.
    pub id: String,
    /// State of the copy on it.
    pub state: CopyState,
    /// Since which Seq it misses writes.
    pub stale_since_seq: Option<u64>,
    /// Reads that failed.
    pub read_errors: Option<u64>,
    /// Writes and flushes that failed.
    pub write_errors: Option<u64>,
    /// Blocks that did not pass their check.
    pub check_errors: Option<u64>,
    /// Blocks rewritten from another leg.
    pub repaired_blocks: Option<u64>,
}

/// Progress of a resync.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Resync {
    /// The drive.
    pub drive: String,
    /// All of it, as far as can be told from what was seen so far.
    pub bytes_total: Option<u64>,
    /// Done.
    pub bytes_copied: Option<u64>,
    /// To do.
    pub bytes_left: Option<u64>,
    /// What the drive was found to have right, and was not copied: it could not say itself what it has.
    pub bytes_kept: u64,
    /// What no leg has right: those blocks read as errors, as before.
    pub bytes_lost: u64,
    /// Speed.
    pub bytes_per_second: Option<u64>,
    /// Time left at this speed.
    pub eta_seconds: Option<u64>,
}

/// What a resync has done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct LastResync {
    /// The drive.
    pub drive: String,
    /// What was copied to it.
    pub bytes_copied: u64,
    /// See `Resync`.
    pub bytes_kept: u64,
    /// See `Resync`.
    pub bytes_lost: u64,
}

/// State of a scrub.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScrubState {
    /// There was none.
    None,
    /// Under way.
    Running,
    /// Wanted; it goes on when what it waits for is there.
    Paused,
    /// It looked at everything.
    Finished,
    /// It was ended before it had looked at everything.
    Stopped,
}

/// The last scrub of a volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Scrub {
    /// The volume.
    pub volume: String,
    /// Whether it is under way.
    pub state: ScrubState,
    /// Why it is paused.
    pub waits_for: Option<String>,
    /// When it began.
    pub started_at: Option<String>,
    /// When it had looked at everything.
    pub finished_at: Option<String>,
    /// What it has to read, all copies together, as far as can be told.
    pub bytes_total: Option<u64>,
    /// What it has read.
    pub bytes_done: u64,
    /// Speed.
    pub bytes_per_second: Option<u64>,
    /// Time left at this speed.
    pub eta_seconds: Option<u64>,
    /// Copies that it looked at: one of each block on each leg.
    pub copies_checked: u64,
    /// Copies that were wrong and are right again.
    pub copies_repaired: u64,
    /// Copies of blocks that no leg had right.
    pub copies_lost: u64,
    /// The last copies that were wrong, the newest last; all of them are among the events.
    pub last_findings: Vec<ScrubFinding>,
    /// What no leg has right, by this scrub and, until it is through, the one before.
    pub lost: Vec<LostRange>,
    /// The volume's part of that.
    pub lost_bytes: u64,
    /// What all scrubs of the volume found, this one among them.
    #[serde(default)]
    pub totals: FoundTotals,
}

/// A copy that was wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ScrubFinding {
    /// What it is.
    pub kind: FoundKind,
    /// The block (of 4096 bytes) of the volume that it is, or the first one that it leads to.
    pub lba: Option<u64>,
    /// Where that is in the volume.
    pub offset_bytes: Option<u64>,
    /// The volume.
    pub volume: String,
    /// The drive.
    pub drive: String,
    /// Where it is on the drive.
    pub drive_offset_bytes: u64,
    /// What became of it.
    pub outcome: FoundOutcome,
}

/// Something that no leg has right.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct LostRange {
    /// What it is.
    pub kind: FoundKind,
    /// The first block (of 4096 bytes) of the volume that it makes unreadable.
    pub lba: Option<u64>,
    /// Where that is in the volume.
    pub offset_bytes: Option<u64>,
    /// How much from there on.
    pub length_bytes: Option<u64>,
}

/// The scrubs of a pool's volumes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct PoolScrub {
    /// The pool.
    pub pool: String,
    /// Running or paused while any is; finished when all are.
    pub state: ScrubState,
    /// When the first of them began.
    pub started_at: Option<String>,
    /// When the last of them had looked at everything.
    pub finished_at: Option<String>,
    /// What they have to read, as far as can be told.
    pub bytes_total: Option<u64>,
    /// What they have read.
    pub bytes_done: u64,
    /// Speed.
    pub bytes_per_second: Option<u64>,
    /// Time left at this speed.
    pub eta_seconds: Option<u64>,
    /// Copies that were looked at.
    pub copies_checked: u64,
    /// Copies that were wrong and are right again.
    pub copies_repaired: u64,
    /// Copies of blocks that no leg had right.
    pub copies_lost: u64,
    /// What of the volumes no leg has right.
    pub lost_bytes: u64,
    /// One by one.
    pub volumes: Vec<Scrub>,
}

/// A pool.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Pool {
    /// Name, unique on this agent.
    pub name: String,
    /// 128-bit identity.
    pub id: String,
    /// When it was created.
    pub created_at: Option<String>,
    /// How well it is.
    pub health: Health,
    /// In one sentence, what is wrong; `null` when nothing is.
    pub status: Option<String>,
    /// What to do about it.
    pub action: Option<String>,
    /// Space that can be handed out in all.
    pub size_bytes: u64,
    /// Handed out.
    pub allocated_bytes: u64,
    /// Left, the reserve not counted.
    pub free_bytes: u64,
    /// Kept back: the reserve, and what spares are for.
    pub reserved_bytes: u64,
    /// Bound of the rate at which a drive is brought up to date; 0 is no bound.
    pub resync_bytes_per_second: u64,
    /// Bound of the rate at which a scrub reads copies; 0 is no bound.
    pub scrub_bytes_per_second: u64,
    /// From the end of a volume's scrub to the beginning of its next; 0 is never.
    pub scrub_every_seconds: u64,
    /// Free space for the content of so many drives is kept back.
    pub spares: u32,
    /// How long a drive is missing or broken before spare space takes its place.
    pub spare_delay_seconds: u64,
    /// How long a volume is left alone when it is detached before something is done on it all the same; `null` is for ever.
    pub tend_after_seconds: Option<u64>,
    /// Its volumes are being spread evenly over its drives.
    pub rebalancing: bool,
    /// Handed out, but not in use by any group.
    pub reclaimable_bytes: u64,
    /// Sizes of all volumes times their copies.
    pub provisioned_bytes: u64,
    /// Its drives.
    pub drives: Vec<Drive>,
    /// Names of its volumes.
    pub volumes: Vec<String>,
    /// What is going on in the background.
    pub tasks: Vec<Task>,
}

/// What a task is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// A drive is to be empty.
    Evacuate,
    /// A drive is to leave its pool.
    Remove,
    /// Another drive takes its place.
    Replace,
    /// It was missing or broken for so long that spare space takes its place.
    Spare,
    /// Extents go from a fuller drive to an emptier one.
    Rebalance,
    /// A volume gets one more copy.
    AddLeg,
    /// A volume loses a copy.
    DropLeg,
}

impl From<Errand> for TaskKind {
    fn from(errand: Errand) -> Self {
        match errand {
            Errand::Evacuate => Self::Evacuate,
            Errand::Remove => Self::Remove,
            Errand::Replace => Self::Replace,
            Errand::Spare => Self::Spare,
        }
    }
}

/// How a task stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// It has not been looked at yet, or others go first.
    Queued,
    /// It goes on.
    Running,
    /// It did not work, and is tried again by itself.
    Waiting,
    /// It goes on by itself when what it waits for has happened (`waits_for`).
    Blocked,
}

/// Something that goes on in the background.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Task {
    /// What it is for.
    pub kind: TaskKind,
    /// The drive that is left.
    pub drive: Option<String>,
    /// The volume that moves.
    pub volume: String,
    /// Its group.
    pub group: String,
    /// How it stands.
    pub state: TaskState,
    /// What has to happen before it goes on.
    pub waits_for: Option<String>,
    /// What it has to copy, as far as can be told; at first, all extents.
    pub bytes_total: Option<u64>,
    /// What it has copied.
    pub bytes_copied: u64,
    /// When the move that is under way was planned.
    pub started_at: Option<String>,
    /// Why it did not work the last time.
    pub last_error: Option<String>,
}

/// A drive.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Drive {
    /// 128-bit identity.
    pub id: String,
    /// Where it is, or was last.
    pub path: String,
    /// Failure domain: node.
    pub node: Option<String>,
    /// Failure domain: rack.
    pub rack: Option<String>,
    /// Failure domain: zone.
    pub zone: Option<String>,
    /// Class of speed.
    pub class: Option<String>,
    /// State.
    pub state: DriveState,
    /// Space that can be handed out in all.
    pub size_bytes: u64,
    /// Handed out.
    pub allocated_bytes: u64,
    /// Reads that failed, as far as running targets know.
    pub read_errors: u64,
    /// Writes that failed.
    pub write_errors: u64,
    /// Blocks that did not pass their check.
    pub check_errors: u64,
    /// Operations that exceeded their deadline.
    pub slow_events: u64,
    /// How long operations took, in all running targets together.
    #[serde(default)]
    pub latency: Option<DriveLatency>,
    /// What the drive says of its own health; NVMe and SATA drives are asked, every few minutes.
    #[serde(default)]
    pub smart: Option<Smart>,
}

/// How long operations of a drive took.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct DriveLatency {
    /// Upper bounds of the counts, in nanoseconds; what is longer is in one count more.
    pub bounds_nanos: Vec<u64>,
    /// The counts, by kind of operation.
    pub operations: Vec<crate::figures::Latency>,
}

/// What an NVMe or SATA drive says of its own health; `null` is what it does not say.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Smart {
    /// When it was asked.
    pub read_at: String,
    /// What it warns of.
    pub warnings: Vec<String>,
    /// Degrees Celsius.
    pub temperature_celsius: Option<i32>,
    /// Spare that is left.
    pub spare_percent: Option<u8>,
    /// Below this it is a warning.
    pub spare_threshold_percent: Option<u8>,
    /// Part of the rated life that is used; may exceed 100.
    pub used_percent: Option<u8>,
    /// Read by the host over its life.
    pub read_bytes: Option<u64>,
    /// Written by the host over its life.
    pub written_bytes: Option<u64>,
    /// Hours with power.
    pub power_on_hours: Option<u64>,
    /// Times that power came.
    pub power_cycles: Option<u64>,
    /// Times that power went without notice.
    pub unsafe_shutdowns: Option<u64>,
    /// Times that data could not be recovered.
    pub media_errors: Option<u64>,
    /// Entries of its error log over its life.
    pub error_log_entries: Option<u64>,
}

/// The agent and everything it serves.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// The worst of all pools and volumes.
    pub health: Health,
    /// In one sentence, what is wrong; `null` when nothing is.
    pub status: Option<String>,
    /// What to do about it.
    pub action: Option<String>,
    /// The agent.
    pub agent: AgentInfo,
    /// The pools.
    pub pools: Vec<Pool>,
    /// The volumes.
    pub volumes: Vec<Volume>,
}

/// The agent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct AgentInfo {
    /// Its process.
    pub pid: u32,
    /// Version of its program.
    pub version: String,
    /// Its state folder.
    pub state: String,
    /// When it started.
    pub started_at: String,
}

/// A pool that is on drives but not in the catalogue.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Importable {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: String,
    /// Paths of the drives that were found.
    pub drives: Vec<String>,
}

/// Body of lists of events.
pub type Events = Vec<EventRecord>;
/// Body of a pool's history.
pub type History = Vec<HistoryRecord>;

/// How a key stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// It wraps and unwraps.
    Ready,
    /// It is there and cannot be used: `status` says why.
    Locked,
    /// Groups go over to its newest version.
    Rotating,
    /// It is gone for ever.
    Destroyed,
}

/// Where a transit engine is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct KeyPlace {
    /// The server.
    pub url: String,
    /// Path at which the engine is mounted.
    pub mount: String,
    /// Name of the key there.
    pub key: String,
    /// File with the token.
    pub token_file: String,
    /// File with the certificates of those who may vouch for the server.
    pub ca_file: Option<String>,
}

/// A key that wraps the secrets of groups.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Key {
    /// Its name.
    pub name: String,
    /// Who keeps it.
    pub provider: ProviderKind,
    /// How it stands.
    pub state: KeyState,
    /// The version that wraps; `null` when there is none (any more).
    pub version: Option<u32>,
    /// When it was created.
    pub created_at: String,
    /// Groups whose secrets it wraps, or wrapped before it was destroyed.
    pub groups: Vec<String>,
    /// The volumes of these groups.
    pub volumes: Vec<String>,
    /// Groups without a volume, whose secrets it is to wrap.
    #[serde(default)]
    pub empty_groups: Vec<String>,
    /// Where it is, of provider `transit`.
    pub transit: Option<KeyPlace>,
    /// In one sentence, what is wrong; `null` when nothing is.
    pub status: Option<String>,
    /// What to do about it.
    pub action: Option<String>,
}
