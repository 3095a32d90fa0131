//! Map, delta, merge, free space: everything that is copied on write.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
