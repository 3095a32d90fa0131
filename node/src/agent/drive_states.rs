//! Drives that the operator takes out of use and brings back: `drive offline`, `drive fail`, `drive online`.
//!
//! Crash story: what the operator wants is in the catalogue before any target hears of it, and what follows from it
//! (`heal`) is found anew at each look; a verb that is cut short is finished by its repetition, or by the agent that
//! starts next. A drive goes out only if every place of every group on it has another current copy: that is asked
//! before anything is written, of all groups, and once more by each engine, which knows best; if one refuses then
//! (another drive failed in between), the drive is online again everywhere.
use super::Agent;
use crate::catalogue::DriveRecord;
use crate::drives;
use crate::error::{Error, Kind, Result};

impl Agent {
    /// Refuses a drive whose identity is there more than once.
    ///
    /// # Errors
    /// `Refused`, naming the paths.
    pub(super) fn refuse_doubled(&self, drive: &DriveRecord) -> Result<()> {
        let records = self.store.list::<DriveRecord>("drives/")?;
        let known: Vec<_> = records.iter().map(|drive| drive.path.clone()).collect();
        let scan = drives::scan(&known, self.options.scan_devices, true);
        let Some(paths) = scan.doubled.get(&drive.id) else { return Ok(()) };
        let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        let message = format!("drive {} is there more than once: {}", drive.id, paths.join(" "));
        Err(Error::new(Kind::Refused, drive.id.clone(), message)
            .hint("a copied drive has the identity of the original; take all but one of them away"))
    }
}
