//! The device of a volume, as its target needs it: the kernel's; in tests one of their own.
//!
//! A device that was taken over from a former target has users that count on it. A target that cannot open it, whatever
//! the reason, leaves it to the next one, in which requests wait; only a detach takes it away. And it is served with the
//! size that it has, if it cannot have the volume's.
use super::{Glue, warning};
use base::Sectors;
use std::sync::atomic::Ordering;
use ublk_target::ublk::{UblkDevice, UblkError};

/// See `UblkDevice`, whose functions these are.
pub(super) trait Device: Send + Sync {
    fn id(&self) -> u32;
    fn recovering(&self) -> bool;
    fn start(&self) -> Result<(), UblkError>;
    fn follow_size(&self) -> Result<(), UblkError>;
    fn check_resizes(&self, sectors: Sectors) -> Result<(), UblkError>;
    fn resize(&self, sectors: Sectors) -> Result<(), UblkError>;
    fn quiesce(&self) -> Result<(), UblkError>;
    fn stop(&self) -> Result<(), UblkError>;
    fn delete(&self) -> Result<(), UblkError>;
}

impl Device for UblkDevice {
    fn id(&self) -> u32 {
        self.id()
    }
    fn recovering(&self) -> bool {
        self.recovering()
    }
    fn start(&self) -> Result<(), UblkError> {
        self.start()
    }
    fn follow_size(&self) -> Result<(), UblkError> {
        self.follow_size()
    }
    fn check_resizes(&self, sectors: Sectors) -> Result<(), UblkError> {
        self.check_resizes(sectors)
    }
    fn resize(&self, sectors: Sectors) -> Result<(), UblkError> {
        self.resize(sectors)
    }
    fn quiesce(&self) -> Result<(), UblkError> {
        self.quiesce()
    }
    fn stop(&self) -> Result<(), UblkError> {
        self.stop()
    }
    fn delete(&self) -> Result<(), UblkError> {
        self.delete()
    }
}

impl Glue {
    /// The device, if a former target had it.
    pub(super) fn taken_over(&self) -> Option<&dyn Device> {
        self.device.as_deref().filter(|device| device.recovering())
    }

    /// A device that was taken over has the size that the volume had; the volume was resized since, and its target killed
    /// before it could say so. `grown`: the group has the volume's size.
    pub(super) fn follow_size(&self, device: &dyn Device, grown: bool) {
        let why = match grown.then(|| device.follow_size()) {
            Some(Ok(())) => return,
            Some(Err(error)) => error.to_string(),
            None => "the group does not take the volume's size".to_owned(),
        };
        let name = &self.spec.volume.name;
        let message = format!(
            "the device of volume {name} keeps the size that it has: {why}; it has the volume's when it is detached and \
             attached again"
        );
        let _ = self.notes.send(warning("size_kept", message));
    }

    /// See `Serving::abandon`.
    pub(super) fn leave_unopened(&self) {
        if self.taken_over().is_some() {
            self.stays.store(true, Ordering::Release);
        }
        self.handle.stop();
    }
}

#[cfg(test)]
pub(super) mod tests;
