//! The records of the catalogue and their keys.
//!
//! | key | record |
//! |---|---|
//! | `pools/NAME` | [`PoolRecord`] |
//! | `drives/ID` | [`DriveRecord`] |
//! | `extents/DRIVE/NUMBER` | [`ExtentRecord`]: taken by creating the key, so never twice |
//! | `keys/NAME` | [`super::KeyRecord`] |
//! | `groups/NAME` | [`GroupRecord`] |
//! | `empty-groups/NAME` | [`EmptyGroupRecord`]; never beside a [`GroupRecord`] of that name |
//! | `rows/GROUP-ID/NUMBER` | [`RowRecord`] |
//! | `volumes/NAME` | [`VolumeRecord`] |
//! | `scrubs/VOLUME-ID` | [`super::ScrubRecord`] |
//! | `moves/GROUP-ID` | [`super::MoveRecord`] |
//! | `left/POOL-ID/DRIVE-ID` | [`LeftRecord`] |
//! | `events/NUMBER` | [`EventRecord`], bounded |
//! | `history/POOL-ID/NUMBER` | [`HistoryRecord`] |
//! | `watch/seen`, `watch/missing` | what the watch saw last (`agent/watch.rs`) |
//!
//! New fields get a default, so that a newer agent reads what an older one wrote.
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use utoipa::ToSchema;

/// Key of a pool.
pub fn pool_key(name: &str) -> String {
    format!("pools/{name}")
}

/// Key of a drive.
pub fn drive_key(id: &str) -> String {
    format!("drives/{id}")
}

/// Key of an extent; numbers are padded so that keys sort as numbers do.
pub fn extent_key(drive: &str, extent: u32) -> String {
    format!("extents/{drive}/{extent:08x}")
}

/// Key of a group.
pub fn group_key(name: &str) -> String {
    format!("groups/{name}")
}

/// Key of a group without a volume.
pub fn empty_group_key(name: &str) -> String {
    format!("empty-groups/{name}")
}

/// Key of a volume.
pub fn volume_key(name: &str) -> String {
    format!("volumes/{name}")
}

/// How far an object's verb came. What is not `Ready` is finished when the verb is repeated or the agent
/// starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Life {
    /// Announced; drives may or may not have been written yet.
    Creating,
    /// Complete.
    Ready,
    /// Going; drives may or may not have been wiped yet.
    Deleting,
}

/// Bytes a second at which a drive is brought up to date unless the pool says otherwise: what a hard disk or a small
/// NVMe drive takes in order, beside the guest's own requests, which a resync makes way for in any case.
pub const DEFAULT_RESYNC_RATE: u64 = 200 << 20;

/// Bytes a second that a scrub reads, all copies together, unless the pool says otherwise: a terabyte in two copies
/// takes six hours. It makes way for the guest in any case.
pub const DEFAULT_SCRUB_RATE: u64 = 100 << 20;

/// Seconds between two scrubs of a volume unless the pool says otherwise: 30 days. What rots on one leg is found
/// before the other leg's copy is likely to rot too.
pub const DEFAULT_SCRUB_EVERY: u64 = 30 * 24 * 3600;

/// Seconds that a drive is missing or broken before spare space takes its place, unless the pool says otherwise: a
/// machine that starts anew, or somebody who plugs a cable in again, is faster.
pub const DEFAULT_SPARE_DELAY: u64 = 10 * 60;
/// Seconds that a volume is left alone when it is detached.
pub const DEFAULT_TEND_AFTER: u64 = 60;

/// A pool.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PoolRecord {
    /// 128-bit identity, also on every label.
    pub id: String,
    /// Its name.
    pub name: String,
    /// RFC 3339.
    pub created_at: String,
    /// How far it is.
    pub life: Life,
    /// Blocks of an extent.
    pub extent_blocks: u32,
    /// Drives, by id, in the order in which they were added.
    pub drives: Vec<String>,
    /// Space that is not handed out, in bytes.
    #[serde(default)]
    pub reserve_bytes: u64,
    /// Bound of the rate at which a drive of a group is brought up to date, in bytes a second; 0 is no bound.
    #[serde(default = "default_resync_rate")]
    pub resync_bytes_per_second: u64,
    /// Bound of the rate at which a scrub of a group reads copies, in bytes a second; 0 is no bound.
    #[serde(default = "default_scrub_rate")]
    pub scrub_bytes_per_second: u64,
    /// Seconds from the end of a volume's scrub to the beginning of its next; 0 is never.
    #[serde(default = "default_scrub_every")]
    pub scrub_every_seconds: u64,
    /// Free space for the content of so many drives, the fullest, is kept back.
    #[serde(default)]
    pub spares: u32,
    /// Seconds that a drive is missing or broken before spare space takes its place.
    #[serde(default = "default_spare_delay")]
    pub spare_delay_seconds: u64,
    /// Seconds that a volume is left alone when it is detached before something is done on it all the same; `None` is never.
    #[serde(default = "default_tend_after")]
    pub tend_after_seconds: Option<u64>,
    /// Its volumes are to be spread evenly over its drives.
    #[serde(default)]
    pub rebalancing: bool,
    /// Groups that an import found on its drives and could not rebuild.
    #[serde(default)]
    pub left_out: Vec<LeftOut>,
}

/// A group that is on the drives of a pool and not in the catalogue. Its extents stay taken.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its identity; where that is not known, `of extent E of drive D`.
    pub group: String,
    /// Why, in a sentence that follows its name.
    pub why: String,
    /// Not all of its extents are known: nothing new is handed out until they are.
    pub blocks: bool,
}

const fn default_resync_rate() -> u64 {
    DEFAULT_RESYNC_RATE
}

const fn default_scrub_rate() -> u64 {
    DEFAULT_SCRUB_RATE
}

const fn default_spare_delay() -> u64 {
    DEFAULT_SPARE_DELAY
}

const fn default_tend_after() -> Option<u64> {
    Some(DEFAULT_TEND_AFTER)
}

const fn default_scrub_every() -> u64 {
    DEFAULT_SCRUB_EVERY
}

/// What the operator or the agent last said of a drive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DriveState {
    /// There and usable.
    Online,
    /// Taken out by the operator.
    Offline,
    /// Out of use after errors.
    Failed,
    /// Not found at any path.
    Missing,
    /// Being emptied.
    Evacuating,
}

/// Why a drive is emptied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Errand {
    /// It is to be empty.
    Evacuate,
    /// It is to leave its pool.
    Remove,
    /// Another drive takes its place, and it is to leave its pool.
    Replace,
    /// It was missing or broken for so long that spare space takes its place.
    Spare,
}

impl Errand {
    /// Whether the drive leaves its pool in the end.
    pub const fn removes(self) -> bool {
        matches!(self, Self::Remove | Self::Replace)
    }
}

/// That a drive is to be empty. Nothing new is placed on it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Leaving {
    /// Why.
    pub errand: Errand,
    /// The one drive that takes over; any, if none is named.
    #[serde(default)]
    pub to: Option<String>,
}

/// A drive that left its pool: a repeated verb finds that it is done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LeftRecord {
    /// 128-bit identity.
    pub id: String,
    /// Where it was last.
    pub path: PathBuf,
    /// The drive that took its place, if one was named.
    pub to: Option<String>,
}

/// Key of a drive that left its pool.
pub fn left_key(pool: &str, drive: &str) -> String {
    format!("left/{pool}/{drive}")
}

/// A drive of a pool.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DriveRecord {
    /// 128-bit identity, also on its label.
    pub id: String,
    /// Identity of its pool.
    pub pool: String,
    /// Where it was last found.
    pub path: PathBuf,
    /// How far it is: `Creating` until its label is durable.
    pub life: Life,
    /// Whether the operator allows its use.
    pub state: DriveState,
    /// Failure domains; empty if not said.
    pub node: String,
    /// Its rack.
    pub rack: String,
    /// Its zone.
    pub zone: String,
    /// Its class of speed.
    pub class: String,
    /// Blocks of the drive when it was added.
    pub blocks: u64,
    /// Extents that it holds.
    pub extents: u32,
    /// Number of its newest label.
    pub written: u64,
    /// It is being emptied, or is empty and stays so.
    #[serde(default)]
    pub leaving: Option<Leaving>,
    /// Since when it is missing or broken, in a pool with spares.
    #[serde(default)]
    pub lost: Option<Lost>,
}

/// When a drive was lost, by a clock that nobody sets: the time of day may leap, at every boot of a machine whose
/// battery is empty.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lost {
    /// The machine's boot, by the kernel's identity of it.
    pub boot: String,
    /// Seconds of it that had passed.
    pub at_seconds: u64,
}

impl DriveRecord {
    /// Whether it is known only from what other drives say of it, and was not given up.
    pub fn is_lacking(&self) -> bool {
        self.blocks == 0 && self.state != DriveState::Failed
    }
}

/// An extent that is not free.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ExtentRecord {
    /// The drive.
    pub drive: String,
    /// Its number.
    pub extent: u32,
    /// Identity of the group that has it.
    pub group: String,
    /// The row.
    pub row: u32,
    /// The leg.
    pub leg: u8,
    /// The column.
    pub column: u8,
    /// An import found that it is in use, and has no row that says for what: its group was left out, or more may be
    /// known of it elsewhere. It stays taken.
    #[serde(default)]
    pub unbacked: bool,
}

/// The state of one copy: what one drive holds of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CopyState {
    /// Everything that is durable is on it.
    Current,
    /// It misses writes.
    Stale,
    /// It is being brought up to date.
    Resyncing,
    /// The drive is not there.
    Missing,
}

/// What the catalogue knows of one copy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopyRecord {
    /// The drive; its place in the list is the drive's index in the group's table.
    pub drive: String,
    /// The state; `Missing` is not stored, it follows from the drive.
    pub state: CopyState,
    /// Superblock number that said so; the highest anywhere is right.
    pub version: u64,
    /// Since which Seq it is stale, if known.
    pub stale_since_seq: Option<u64>,
    /// And since which checkpoint.
    #[serde(default)]
    pub stale_since_ckpt: Option<u32>,
    /// It went stale because the drive failed operations, not because it was away: it comes back when the operator
    /// says so, or when the drive was gone and is there again.
    #[serde(default)]
    pub failed: bool,
}

/// A consistency group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GroupRecord {
    /// 128-bit identity, also in its superblocks.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Name of its pool.
    pub pool: String,
    /// RFC 3339.
    pub created_at: String,
    /// How far it is.
    pub life: Life,
    /// Mirror copies.
    pub legs: u8,
    /// Stripe columns.
    pub columns: u8,
    /// Blocks of a stripe unit.
    pub stripe_blocks: u32,
    /// Home pages of every extent of the home row; a sixteenth of it, if nothing is said.
    #[serde(default)]
    pub home_blocks: Option<u32>,
    /// The highest activation handed out.
    pub gen_number: u64,
    /// Rows that the newest superblock named when the agent last heard.
    pub rows_used: u32,
    /// Its drives and what is known of each copy, in the order of the group's drive table.
    pub copies: Vec<CopyRecord>,
    /// How often a row was handed out.
    #[serde(default)]
    pub grants: u64,
    /// How many moves were planned.
    #[serde(default)]
    pub moves: u64,
    /// So many mirror copies are wanted; as many as there are, if nothing is said.
    #[serde(default)]
    pub legs_wanted: Option<u8>,
    /// Extents that came back and could not be wiped, because their drive is away: they stay taken until the group
    /// is deleted.
    #[serde(default)]
    pub unwiped: Vec<(String, u32)>,
    /// Its record was rebuilt from drives and nobody else knows what a missing copy missed: until it has served
    /// once, it opens only with all copies that its newest superblock calls current.
    #[serde(default)]
    pub imported: bool,
    /// When it was rebuilt, a copy that may know of more rows was not there or could not be read.
    #[serde(default)]
    pub uncertain: bool,
    /// How its data is encrypted; not at all, if nothing is said. Never changes from one to the other.
    #[serde(default)]
    pub encryption: Option<super::GroupEncryption>,
    /// Of an encrypted group: the Gen that served last, as its target said. Drives that know only older ones were set back.
    #[serde(default)]
    pub served_gen: Option<u64>,
    /// It was made before its volume, and stays, empty, when that goes.
    #[serde(default)]
    pub stays: bool,
}

/// A group without a volume: it has nothing on drives, no identity and no secret yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EmptyGroupRecord {
    /// Its name.
    pub name: String,
    /// Name of its pool.
    pub pool: String,
    /// RFC 3339.
    pub created_at: String,
    /// Name of the key that is to wrap its secret; it will not be encrypted, if there is none.
    #[serde(default)]
    pub key: Option<String>,
}

/// Through what a volume is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FrontendKind {
    /// A ublk device.
    Ublk,
    /// NBD on a Unix socket.
    Nbd,
}

/// That a volume is to be attached, and how. Kept until it is detached: restored when the agent starts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attachment {
    /// Through what.
    pub frontend: FrontendKind,
    /// The socket, for NBD.
    pub nbd_socket: Option<PathBuf>,
    /// Writes are refused.
    pub read_only: bool,
    /// Number of the ublk device, once there is one; a new target takes it over.
    pub device_number: Option<u32>,
    /// A detach was asked for; it is finished when the agent starts.
    pub detaching: bool,
    /// Where no current copy is there, it may go on from a stale one, until it has served once.
    #[serde(default)]
    pub force_stale: bool,
    /// It has served at least once; until then a failure undoes the attachment.
    pub served: bool,
    /// The binary that serves it, and is started again; the agent's own if none is named.
    #[serde(default)]
    pub binary: Option<PathBuf>,
    /// The binary that is to take over; it becomes `binary` when it serves, and is forgotten when it does not.
    #[serde(default)]
    pub next: Option<PathBuf>,
    /// The agent's own: nobody is served, and something is done on the volume meanwhile.
    #[serde(default)]
    pub tended: bool,
}

/// A volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// 128-bit identity.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Name of its pool.
    pub pool: String,
    /// Name of its group.
    pub group: String,
    /// RFC 3339.
    pub created_at: String,
    /// How far it is.
    pub life: Life,
    /// Its size, in bytes.
    pub size_bytes: u64,
    /// Memory for map pages in its target, in bytes.
    pub cache_bytes: u64,
    /// The name before the last rename: a repeated rename finds that it is done.
    #[serde(default)]
    pub renamed_from: Option<String>,
    /// Whether and how it is attached.
    pub attachment: Option<Attachment>,
}

/// How much an event matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// For the record.
    Info,
    /// Redundancy or comfort is lost.
    Warning,
    /// Something does not work.
    Error,
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct EventRecord {
    /// Its number; grows.
    pub id: u64,
    /// RFC 3339.
    pub at: String,
    /// How much it matters.
    pub severity: Severity,
    /// What sort, in snake case: `drive_stale`, `target_restarted`.
    pub kind: String,
    /// The object concerned.
    pub object: String,
    /// One sentence.
    pub message: String,
}

/// A verb that changed a pool.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct HistoryRecord {
    /// RFC 3339.
    pub at: String,
    /// The verb and its object.
    pub command: String,
    /// What it changed, in a sentence.
    pub message: String,
}

/// Key of a row.
pub fn row_key(group: &str, row: u32) -> String {
    format!("rows/{group}/{row:08x}")
}

impl GroupRecord {
    /// Extents of a row that are its copies.
    pub fn row_extents(&self) -> usize {
        usize::from(self.legs) * usize::from(self.columns)
    }

    /// What is left of it when its volume goes; `None` if it goes too.
    pub fn emptied(&self) -> Option<EmptyGroupRecord> {
        self.stays.then(|| EmptyGroupRecord {
            name: self.name.clone(),
            pool: self.pool.clone(),
            created_at: self.created_at.clone(),
            key: self.encryption.as_ref().map(|by| by.key.clone()),
        })
    }

    /// The legs that it is to get or lose.
    pub fn legs_to_change(&self) -> bool {
        self.legs_wanted.is_some_and(|wanted| wanted != self.legs)
    }
}

/// A row of a group: where its extents are. Its key and the keys of its extents are created together.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RowRecord {
    /// The row.
    pub row: u32,
    /// Drive and extent, ordered by leg, then column. A row that was granted while a leg is being added has that leg's
    /// extents too.
    pub extents: Vec<(String, u32)>,
    /// The number of this handing out among all of the group's (`GroupRecord::grants`).
    #[serde(default)]
    pub grant: u64,
}

impl RowRecord {
    /// The drives of its extents.
    pub fn drives(&self) -> impl Iterator<Item = &String> {
        self.extents.iter().map(|(drive, _)| drive)
    }
}
