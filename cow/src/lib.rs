//! Map, delta, merge, free space: everything that is copied on write.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;

pub mod cache;
pub mod delta;
pub mod layout;
pub mod page;
pub mod refs;
pub mod tree;

pub use cache::{PageCache, Reserve};
pub use delta::Delta;
pub use layout::PAGE_REFS;
pub use refs::{Ref, RefFlags};
pub use tree::{Height, Leaf};
