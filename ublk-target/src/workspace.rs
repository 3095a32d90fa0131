//! What a loop needs beside its engine and its drives: memory, ring and lists.
//!
//! It is the part of a start that takes longest, since every page of the memory is made present and pinned, and it
//! can be done before anything else is known. A process that is to take over from another one does it while the other
//! still serves: guests wait for the rest only.
use crate::memory::Area;
use crate::ops::DriveOps;
use crate::ring::Ring;
use crate::target::{Options, TargetError};
use base::{Actions, BLOCK_BYTES};

/// Memory, ring and lists of a loop, on no thread yet.
pub struct Workspace {
    pub(crate) ring: Ring,
    pub(crate) ops: DriveOps,
    pub(crate) out: Actions,
    sizes: Sizes,
}

/// By what it is told whether a workspace fits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Sizes {
    engine_blocks: u32,
    front_bytes: usize,
    actions: usize,
    segments: usize,
}

impl Sizes {
    fn of(engine_blocks: u32, front_bytes: usize, options: &Options) -> Self {
        Self { engine_blocks, front_bytes, actions: options.actions, segments: options.segments }
    }
}

impl Workspace {
    /// Memory for an engine of so many blocks (`Engine::memory_blocks`) and a front end of so many bytes
    /// (`FrontEnd::memory_bytes`), and what belongs to it. May be called on any thread; what it holds is bound to the
    /// thread that runs the target.
    ///
    /// # Errors
    /// `Memory` and `Setup`.
    pub fn new(engine_blocks: u32, front_bytes: usize, options: &Options) -> Result<Self, TargetError> {
        // Eight bytes for the wake-up counter go first, on a page of their own so that the rest stays aligned.
        let area = Area::new(engine_blocks, BLOCK_BYTES + front_bytes)
            .map_err(|source| TargetError::Memory { bytes: bytes(engine_blocks, front_bytes), source })?;
        Ok(Self {
            ring: Ring::new(area).map_err(TargetError::Setup)?,
            ops: DriveOps::new(),
            out: Actions::with_capacity(options.actions, options.segments),
            sizes: Sizes::of(engine_blocks, front_bytes, options),
        })
    }

    /// Whether it is what a loop with these needs needs.
    pub(crate) fn fits(&self, engine_blocks: u32, front_bytes: usize, options: &Options) -> bool {
        self.sizes == Sizes::of(engine_blocks, front_bytes, options)
    }
}

/// Bytes of memory that are present and locked, as far as the limits allow, for an engine of so many blocks, beside those
/// of its front end.
pub const fn bytes(engine_blocks: u32, front_bytes: usize) -> usize {
    engine_blocks as usize * BLOCK_BYTES + front_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that was made for something else is not taken: an engine would name memory that it does not have.
    #[test]
    fn only_what_was_made_for_the_same_needs_fits() {
        let options = Options::default();
        let made = Workspace::new(8, 4096, &options).expect("a ring");
        assert!(made.fits(8, 4096, &options));
        assert!(!made.fits(9, 4096, &options) && !made.fits(8, 0, &options));
        assert!(!made.fits(8, 4096, &Options { actions: options.actions - 1, ..options.clone() }));
        assert!(made.fits(8, 4096, &Options { slots: 1, ..options }), "slots are numbered by the engine");
    }
}
