//! Units, the boundary between engine and driver, checks and codec.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
