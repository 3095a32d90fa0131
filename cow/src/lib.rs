//! Map, delta, merge, free space: everything that is copied on write.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod bitmap;
mod block_lists;
pub mod cache;
pub mod cut;
pub mod delta;
pub mod directory;
pub mod layout;
pub mod merge;
pub mod open;
pub mod page;
mod page_buffers;
pub mod reap;
pub mod refs;
pub mod region;
pub mod runs;
pub mod seal;
mod shelves;
pub mod space;
pub mod space_layout;
pub mod tree;
pub mod walk;

pub use cache::{PageCache, Reserve};
pub use cut::MAX_CUTS;
pub use delta::Delta;
pub use directory::{BadDirectory, CutEntry, CutList, Directory, Root, VolumeEntry, VolumeState, Volumes};
pub use layout::PAGE_REFS;
pub use merge::{MIN_MERGE_BUFFERS, Merge, Sink, Step};
pub use open::{Open, OpenStep};
pub use reap::{Reap, ReapStep};
pub use refs::{Ref, RefFlags};
pub use seal::{MIN_SEAL_BUFFERS, Seal, SealStep};
pub use space::{Class, Contradiction, Fixed, Space, SpaceConfig, Want};
pub use tree::{Height, Leaf};
pub use walk::{Walk, WalkStep};
