//! Looks at drives that nobody serves: `fsck` says whether every byte that counts is right on every current copy
//! and whether free space is exact; `inspect` shows what is there.
//!
//! Entry points: [`fsck`] and [`inspect`] over anything that is a [`Media`], [`open_media`] for files and block
//! devices, [`find_groups`] for what the drives hold.
//!
//! Architecture invariants: the code of the format is linked, the engine is not used, so that an error of the
//! engine is not repeated here; nothing is ever written. A group that was not closed is checked as recovery would
//! find it: the log is followed and judged by the same table, its records are laid over the map, and what only a
//! crash explains is a note, not damage. Of an encrypted group without its keys everything is checked that anybody can
//! check, and the report says what was not.
#![forbid(unsafe_code)]

mod copies;
mod directory;
mod drive;
mod extents;
mod fsck;
mod group;
mod home;
mod inspect;
mod keys;
mod log;
mod map;
mod media;
mod overlay;
mod report;
mod ring;
mod scan;
mod space;
mod summary;
mod supers;

pub use drive::Drive;
pub use fsck::{Options, fsck, fsck_drives, fsck_with_keys};
pub use inspect::{inspect, inspect_with_keys, to_text};
pub use keys::{Keyring, NoKeys};
pub use media::{FileMedia, Media, MemoryMedia, open_media};
pub use report::{Counts, Encrypted, Finding, Object, Report, Severity, Where};
pub use scan::{Doubt, GroupHomes, Scan, find_groups};
pub use summary::{Group, Held, KeysOf, LeftOut, Summary, groups};
