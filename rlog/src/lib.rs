//! Records, commits, the ring, replay and history.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
