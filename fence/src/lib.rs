//! Generations and the states of copies.
#![no_std]
#![forbid(unsafe_code)]
extern crate alloc;
