//! `cargo xtask test`.
use crate::context::Workspace;
use vm_tests::error::Result;
pub fn command(_: &Workspace, _: &[String]) -> Result<u8> { Ok(0) }
