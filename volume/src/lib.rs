//! The engine of a group: geometry, superblock, write path, checkpoint, recovery.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
