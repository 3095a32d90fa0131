//! Drives that are there again, on their way from the agent to the engine.
//!
//! A drive is opened on a thread of its own: that may take long (a drive in error recovery, a lock that the kernel
//! has not let go of yet), and marks, rows and status must not wait for it. One at a time, as the engine brings one
//! up to date at a time; which one is next is the agent's to say.
//!
//! Crash story: nothing here is durable and nothing has to be. Until the engine has brought the drive up to date,
//! its copy is stale in superblocks and catalogue, and the next target, or the next agent, begins anew.
use super::{Serving, Shared};
use crate::error::{Error, Kind, Result};
use crate::protocol::ReturnedDrive;
use std::path::PathBuf;
use std::sync::Arc;

impl Shared {
    /// Begins to hand a drive back to the engine.
    pub(super) fn return_drive(
        self: &Arc<Self>,
        drive: String,
        path: PathBuf,
        serving: &Arc<dyn Serving>,
    ) -> Result<()> {
        let mut state = self.lock();
        if !state.serving {
            return Err(Error::new(Kind::Busy, drive, "the group is not served yet"));
        }
        if let Some(other) = state.returned.as_ref().filter(|returned| !returned.settled) {
            let message = format!("drive {} is being handed back to the group", other.drive);
            return Err(Error::new(Kind::Busy, drive, message));
        }
        state.returned = Some(ReturnedDrive { drive: drive.clone(), settled: false, error: None });
        drop(state);
        let (shared, serving) = (self.clone(), serving.clone());
        std::thread::spawn(move || {
            let error = serving.hand_back(&drive, &path).err();
            shared.lock().returned = Some(ReturnedDrive { drive, settled: true, error });
        });
        Ok(())
    }

    /// Closes a drive that the group does not count on.
    pub(super) fn release_drive(&self, drive: &str, serving: &dyn Serving) -> Result<()> {
        let busy = |returned: &ReturnedDrive| !returned.settled && returned.drive == drive;
        if self.lock().returned.as_ref().is_some_and(busy) {
            let message = format!("drive {drive} is being handed back to the group");
            return Err(Error::new(Kind::Busy, drive, message));
        }
        serving.release(drive)
    }
}
