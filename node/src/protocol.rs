//! What agent and target say to each other: one JSON object per line over the target's control socket.
//!
//! The target is the server: it outlives the agent, and an agent that starts again connects to the targets
//! that it finds. One agent is heard at a time; a new connection ends the one before. Every request is
//! answered once, in order, but for `Detach`, which is answered at the end; notices come in between. Nothing here is on the I/O path.
use crate::error::Error;
use crate::moves::{Holds, MoveOrder, TargetMove};
use crate::scrub::{Order, Seen, TargetScrub};
use crate::target_spec::Row;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Version of this protocol; an agent takes over targets of its own version and older ones.
pub const PROTOCOL_VERSION: u32 = 1;
/// Bytes of a line at most, for a target that does not say how many it hears: so it was before targets said so.
pub const FIRST_MAX_LINE: usize = 1 << 20;
/// Bytes that an extent takes in the largest line that there can be, the order of a move.
const MOVED_EXTENT_BYTES: usize = r#"{"old":4294967295,"to":31,"new":4294967295},"#.len();
/// Bytes of a line at most: all extents that a group can have are to move, and the rest of the order is less than a line
/// was before. What is in a line is held in memory only while it is there, so only groups that large pay for it.
pub const MAX_LINE: usize = FIRST_MAX_LINE + volume::rows::MAX_EXTENTS * MOVED_EXTENT_BYTES;

/// Agent to target.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// How it stands. Answered by `Answer::Status`.
    Status,
    /// Finish, close the group cleanly, remove the device, end. Answered by `Answer::Detached` before the
    /// process ends.
    Detach,
    /// Make room for another target of this group: finish, close the group, end, but leave the device. Answered by
    /// `Answer::Done` at once, or refused; the end of the connection says that it is done. Targets before it
    /// answer that this is no request, and can be killed over ublk.
    HandOver,
    /// The volume has this size from now on.
    Resize {
        /// Size in bytes, not less than now.
        size_bytes: u64,
    },
    /// Extents for the next row, kept until the engine wants them.
    Row(Row),
    /// The pool has no space for this row.
    NoRow {
        /// The row.
        row: u32,
    },
    /// The pool grew: ask again.
    SpaceAdded,
    /// A drive of the group whose copy is not current is there again, and is to be brought up to date. Answered at
    /// once; how it went is in the status (`TargetStatus::returned`).
    ReturnDrive {
        /// The drive, by id.
        drive: String,
        /// Where it is.
        path: PathBuf,
    },
    /// The group goes on without this drive, as if it had failed: its copy is stale, durably, before anything that it
    /// misses is acknowledged. Answered once that has begun; done already is done.
    TakeOut {
        /// The drive, by id.
        drive: String,
    },
    /// The bound of the rate at which drives are brought up to date.
    ResyncRate {
        /// In a second; 0 is no bound.
        bytes: u64,
    },
    /// The scrub that is wanted; `None` is none. Answered by `Answer::Scrub`.
    Scrub {
        /// Which one, and from where.
        order: Option<Order>,
        /// The last findings that were seen.
        seen: Option<Seen>,
    },
    /// The bound of the rate at which a scrub reads copies.
    ScrubRate {
        /// In a second; 0 is no bound.
        bytes: u64,
    },
    /// The walk to a new data key: begun if it is wanted and can be, and how far it is. Answered by `Answer::Rekey`.
    Rekey {
        /// The data key that is wanted. An activation under an older one begins nothing.
        to: u16,
        /// Begin it, if none is under way and none has come to a good end.
        start: bool,
    },
    /// What the group has on a drive. Answered by `Answer::Holds`. From now on no row is taken that lies on the drives to
    /// avoid, and one in hand goes back; those named before may be used again.
    Holds {
        /// The drive, by id.
        drive: String,
        /// Drives that are being emptied.
        avoid: BTreeSet<String>,
    },
    /// The move that is wanted. Answered by `Answer::Move`: how it stands; begun with the first look. `avoid` as above.
    Move {
        /// What goes where.
        order: MoveOrder,
        /// Drives that are being emptied.
        avoid: BTreeSet<String>,
    },
    /// A drive whose copy is not current is let go: its file is closed.
    ReleaseDrive {
        /// The drive, by id.
        drive: String,
    },
}

/// Target to agent, in answer to a request.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To `Status`.
    Status(Box<TargetStatus>),
    /// It was done.
    Done,
    /// To `Scrub`.
    Scrub(Box<TargetScrub>),
    /// To `Rekey`.
    Rekey(TargetRekey),
    /// To `Holds`.
    Holds(Holds),
    /// To `Move`.
    Move(TargetMove),
    /// To `Detach`: the group is closed, nothing is in flight, the device is gone.
    Detached,
    /// It was not done.
    Failed(Error),
}

/// Target to agent, unasked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// Requests are served; sent once to each agent that connects, after recovery.
    Serving {
        /// Number of the ublk device, if that is the front end.
        device_number: Option<u32>,
        /// The Gen of its activation, which is on the drives; `None` when nothing was written, or from an older target.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gen_number: Option<u64>,
    },
    /// The group does not open or cannot go on; the process ends.
    Failed(Error),
    /// Extents for this row are wanted. Answered by `Request::Row` or `Request::NoRow`.
    WantRow {
        /// The row.
        row: u32,
        /// The grant of this row that was handed over last is not used and never will be: its extents go back.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refused: Option<u64>,
    },
    /// These drives are stale; it is durable in the group's file of marks.
    Stale {
        /// The drives, by id.
        drives: Vec<String>,
        /// Version of the superblock that says so.
        version: u64,
        /// Since when, in the order of `drives`: Seq and checkpoint of the last good flush; empty if that is not known.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        since: Vec<(u64, u32)>,
        /// Those among them that the target had open: they went stale because of what they did, not because they
        /// were away.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        failed: Vec<String>,
    },
    /// This drive is current again; it is durable in the group's file of marks.
    Current {
        /// The drive, by id.
        drive: String,
        /// Version of the superblock that says so.
        version: u64,
        /// Blocks that were copied to it, if it came back just now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        copied_blocks: Option<u64>,
    },
    /// Something to record.
    Event {
        /// Whether it is a warning or worse.
        severity: crate::catalogue::Severity,
        /// What sort, in snake case.
        kind: String,
        /// One sentence.
        message: String,
    },
}

/// A line from target to agent.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromTarget {
    /// The first line of a connection.
    Hello {
        /// `PROTOCOL_VERSION` of the target.
        protocol: u32,
        /// Its process.
        pid: u32,
        /// Version of its program.
        version: String,
        /// Identity of the group.
        group: String,
        /// The Gen that it was started with.
        gen_number: u64,
        /// Bytes of a line that it hears at most; `FIRST_MAX_LINE` from an older target, which does not say so.
        #[serde(default = "first_max_line")]
        max_line: usize,
    },
    /// To a request.
    Answer(Answer),
    /// Unasked.
    Notice(Notice),
}

const fn first_max_line() -> usize {
    FIRST_MAX_LINE
}

/// Where the target stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetPhase {
    /// Reading superblocks and log; requests wait.
    Recovering,
    /// Requests are served.
    Serving,
    /// Reads are served, writes are refused.
    ReadOnly,
    /// Closing the group.
    Closing,
    /// Closed, or refused to open.
    Ended,
}

/// A look at a target.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TargetStatus {
    /// Where it stands.
    pub phase: TargetPhase,
    /// Last Seq handed out.
    pub seq: u64,
    /// Everything up to this Seq is durable on all current legs.
    pub durable_seq: u64,
    /// The activation's Gen as the drives know it.
    pub gen_number: u64,
    /// Rows that the newest superblock names.
    pub rows: u32,
    /// Bytes that the volume has mapped, if known.
    pub mapped_bytes: Option<u64>,
    /// Bytes of space that hold something.
    pub used_bytes: u64,
    /// Size of the volume in bytes.
    pub size_bytes: u64,
    /// Number of the ublk device.
    pub device_number: Option<u32>,
    /// The socket, when NBD is the front end.
    pub nbd_socket: Option<PathBuf>,
    /// Resident memory in bytes.
    pub memory_bytes: u64,
    /// What it counted; earlier builds do not say.
    #[serde(default)]
    pub figures: Option<crate::figures::TargetFigures>,
    /// The drives of the group.
    pub drives: Vec<TargetDriveStatus>,
    /// The drive that is being brought up to date.
    #[serde(default)]
    pub resync: Option<TargetResync>,
    /// The last one that came to its end since the group was opened.
    #[serde(default)]
    pub last_resync: Option<TargetResync>,
    /// The drive that was last handed back.
    #[serde(default)]
    pub returned: Option<ReturnedDrive>,
}

/// A resync as its target sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TargetResync {
    /// The drive.
    pub drive: String,
    /// Copied so far.
    pub copied_bytes: u64,
    /// What the drive was found to have right, though it could not say so itself; earlier builds compare nothing.
    #[serde(default)]
    pub kept_bytes: u64,
    /// What no leg has right.
    pub lost_bytes: u64,
    /// How much of the volume was looked at, from its beginning, whether or not it had to be copied.
    pub walked_bytes: u64,
    /// What was copied per second lately.
    pub bytes_per_second: Option<u64>,
}

/// A walk to a new data key as its target sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TargetRekey {
    /// The data key that this activation writes under.
    pub data_key: u16,
    /// It is under way.
    pub running: bool,
    /// Nothing needs an older data key any more, which is durable.
    pub finished: bool,
    /// Size of the volume.
    pub total_bytes: u64,
    /// How much of it was looked at, from its beginning.
    pub walked_bytes: u64,
    /// What was written again.
    pub rewritten_bytes: u64,
    /// What no leg has right: it keeps the older key.
    pub lost_bytes: u64,
    /// It waits for space.
    pub no_space: bool,
}

/// How it went with a drive that was handed back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReturnedDrive {
    /// The drive.
    pub drive: String,
    /// The group has it, or will not take it; false while it is being opened.
    pub settled: bool,
    /// Why it was not taken.
    pub error: Option<Error>,
}

/// A drive as its target sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TargetDriveStatus {
    /// Identity.
    pub id: String,
    /// State of the copy.
    pub state: crate::catalogue::CopyState,
    /// Since which Seq it is stale.
    pub stale_since_seq: Option<u64>,
    /// Reads that failed.
    pub read_errors: u64,
    /// Writes and flushes that failed.
    pub write_errors: u64,
    /// Blocks that did not pass their check.
    pub check_errors: u64,
    /// Blocks rewritten from another leg.
    pub repaired_blocks: u64,
    /// Operations that exceeded their deadline.
    pub slow_events: u64,
    /// What was done on it; earlier builds do not say.
    #[serde(default)]
    pub figures: Option<crate::figures::DriveFigures>,
    /// The target has its file open.
    #[serde(default)]
    pub open: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An agent of a later version talks to targets of this one: the lines must not drift.
    #[test]
    fn lines_have_the_agreed_form() {
        let line = |value: &dyn erased::Line| value.line();
        assert_eq!(line(&Request::Status), r#""status""#);
        assert_eq!(line(&Request::HandOver), r#""hand_over""#);
        assert_eq!(line(&Request::Resize { size_bytes: 5 }), r#"{"resize":{"size_bytes":5}}"#);
        assert_eq!(line(&Request::NoRow { row: 2 }), r#"{"no_row":{"row":2}}"#);
        let back = Request::ReturnDrive { drive: "d".into(), path: "/p".into() };
        assert_eq!(line(&back), r#"{"return_drive":{"drive":"d","path":"/p"}}"#);
        let out = Request::TakeOut { drive: "d".into() };
        assert_eq!(line(&out), r#"{"take_out":{"drive":"d"}}"#);
        assert_eq!(line(&Request::ResyncRate { bytes: 1 }), r#"{"resync_rate":{"bytes":1}}"#);
        let scrub = Request::Scrub { order: Some(Order { run: 2, from_block: 3 }), seen: None };
        assert_eq!(line(&scrub), r#"{"scrub":{"order":{"run":2,"from_block":3},"seen":null}}"#);
        assert_eq!(line(&Request::ScrubRate { bytes: 1 }), r#"{"scrub_rate":{"bytes":1}}"#);
        let rekey = Request::Rekey { to: 2, start: true };
        assert_eq!(line(&rekey), r#"{"rekey":{"to":2,"start":true}}"#);
        let avoid = BTreeSet::from(["d".to_owned()]);
        let holds = Request::Holds { drive: "d".into(), avoid };
        assert_eq!(line(&holds), r#"{"holds":{"drive":"d","avoid":["d"]}}"#);
        let change = crate::moves::MoveChange::Leave { drive: "d".into() };
        let extents = vec![crate::moves::MovedExtent { old: 4, to: 0, new: 5 }];
        let to = vec![crate::moves::MoveDrive { id: "e".into(), path: "/e".into() }];
        let order = MoveOrder { id: 7, change, legs: 2, to, extents, dropped: Vec::new() };
        let expected = concat!(
            r#"{"move":{"order":{"id":7,"change":{"leave":{"drive":"d"}},"legs":2,"#,
            r#""to":[{"id":"e","path":"/e"}],"extents":[{"old":4,"to":0,"new":5}]},"avoid":[]}}"#
        );
        assert_eq!(line(&Request::Move { order, avoid: BTreeSet::new() }), expected);
        let (since, failed) = (Vec::new(), Vec::new());
        let stale = Notice::Stale { drives: vec!["d".into()], version: 3, since, failed };
        assert_eq!(line(&FromTarget::Notice(stale)), r#"{"notice":{"stale":{"drives":["d"],"version":3}}}"#);
        assert_eq!(
            line(&FromTarget::Notice(Notice::WantRow { row: 1, refused: None })),
            r#"{"notice":{"want_row":{"row":1}}}"#
        );
        assert_eq!(
            line(&FromTarget::Notice(Notice::WantRow { row: 1, refused: Some(4) })),
            r#"{"notice":{"want_row":{"row":1,"refused":4}}}"#
        );
        assert_eq!(line(&FromTarget::Answer(Answer::Detached)), r#"{"answer":"detached"}"#);
    }

    /// What is to move was measured by what it mostly is.
    #[test]
    fn no_extent_takes_more_than_is_counted_for_it() {
        let (old, new, to) = (u32::MAX, u32::MAX, base::limits::MAX_DRIVES - 1);
        let line = serde_json::to_string(&crate::moves::MovedExtent { old, to, new }).expect("encodes");
        assert_eq!(line.len() + ",".len(), MOVED_EXTENT_BYTES);
    }

    /// A target that was started before they said how much they hear hears no more than before.
    #[test]
    fn a_hello_without_a_word_about_lines_is_of_a_target_with_short_ones() {
        let line = r#"{"hello":{"protocol":1,"pid":2,"version":"v","group":"g","gen_number":3}}"#;
        let hello = serde_json::from_str(line).expect("a line");
        assert!(matches!(hello, FromTarget::Hello { max_line: FIRST_MAX_LINE, .. }), "{hello:?}");
    }

    mod erased {
        pub trait Line {
            fn line(&self) -> String;
        }
        impl<T: serde::Serialize> Line for T {
            fn line(&self) -> String {
                serde_json::to_string(self).expect("encodes")
            }
        }
    }
}
