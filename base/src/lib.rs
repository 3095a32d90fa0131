//! The ground of every other crate: units, the boundary between engine and driver, checks and codec.
//!
//! Architecture invariants: nothing here does I/O, reads a clock or allocates after start; the kernel's
//! constants are absent (they live in `ublk-target` only); no type here knows what a volume is.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod aead;
pub mod boundary;
pub mod check;
pub mod codec;
pub mod engine;
pub mod limits;
pub mod memory;
pub mod sets;
pub mod time;
pub mod units;

pub use aead::{Aead, Ciphers, KEY_BYTES, NONCE_BYTES, Nonce, TAG_BYTES, Tag};
pub use boundary::{
    Action, Actions, Change, DriveOp, Extent, Fault, IoToken, MoveGrant, NewDrive, Op, Reply, Request,
    RowGrant, Segment, SegmentRange, SlotId,
};
pub use check::{Check, CheckKind};
pub use engine::{Engine, Phase};
pub use limits::{BLOCK_BYTES, SECTOR_BYTES, SECTORS_PER_BLOCK};
pub use memory::{Block, BufId, Memory, VecMemory};
pub use sets::{DriveSet, LegSet};
pub use time::{Duration, Instant};
pub use units::{
    Blocks, CkptNo, Column, CommitNo, DriveBlock, DriveIx, ExtentNo, Gen, Lba, LegId, Pba, RegionNo, RowNo,
    Sector, Sectors, Seq, Uuid, VolumeId,
};
