//! `bench`, outside: keeps the rows for the report.

use super::Session;
use crate::error::{Error, Result};
use std::fs;

/// The host's half.
pub fn run(session: &mut Session<'_>) -> Result<()> {
    let drives = session.new_drives(false)?;
    let mut machine = session.boot(&drives, &[])?;
    let mut rows = Vec::new();
    session.follow(&mut machine, |text| {
        if let Some(row) = text.strip_prefix("row ") {
            rows.push(row.to_owned());
        }
    })?;
    let path = session.folder.join("rows");
    fs::write(&path, rows.join("\n"))
        .map_err(|e| Error::failed(format!("cannot write {}: {e}", path.display())))?;
    if rows.is_empty() { Err(Error::failed("the bench measured nothing")) } else { Ok(()) }
}
