//! Memory for reads that a drive may never answer.
//!
//! A read that hangs in the kernel may still fill the memory that it names, minutes later, so that memory cannot be used for
//! anything else, and whoever waits for the read (a request, a page of the map, a scrub, a recovery) would wait as long as
//! the drive hangs. The pages are exchanged instead: the read keeps those that it has, the area gets new ones at the same
//! address, and the read can be answered.
//!
//! That is sound for registered memory alone. An operation that was submitted holds the registration that it found, and
//! with it the pages, by themselves and not by their address, at whatever point on its way it hangs. One that names memory
//! by its address may be stuck in front of the point where the kernel looks the pages up, and would find the new ones.
//! A registration that holds old pages is of no use for new operations, so the part of the memory that it is for is registered
//! anew. If that fails, nothing counts as registered any more: transfers pin their pages themselves, and the next read that
//! hangs is waited for.
use super::Ring;
use crate::memory::MAX_REGISTERED_BYTES;
use crate::ops::Remainder;
use base::BLOCK_BYTES;
use std::io;

impl Ring {
    /// Exchanges the memory of these reads, of which the kernel has each one; says of each whether it worked: from
    /// then on it reaches no memory of the area.
    ///
    /// # Errors
    /// What was gathered cannot be submitted.
    pub(crate) fn exchange(&mut self, reads: &[Remainder<'_>]) -> io::Result<Vec<bool>> {
        // One that the kernel has not seen yet would find the new registration.
        self.submit()?;
        let mut renewed = Vec::new();
        let mut done = Vec::with_capacity(reads.len());
        for read in reads {
            let part = self.registered_part(read);
            let exchanged = part.is_some_and(|(first, bytes)| self.area_mut().renew(first, bytes).is_ok());
            if let Some((first, _)) = part.filter(|_| exchanged) {
                renewed.push(first / MAX_REGISTERED_BYTES);
            }
            done.push(exchanged);
        }
        renewed.sort_unstable();
        renewed.dedup();
        self.registered &= renewed.into_iter().all(|index| self.register_again(index).is_ok());
        Ok(done)
    }

    /// The bytes of the engine's part that an operation names by a registration: their first, their number.
    fn registered_part(&self, rest: &Remainder<'_>) -> Option<(usize, usize)> {
        let [only] = rest.segments else { return None };
        let first = only.buf.get() as usize * BLOCK_BYTES + rest.skip;
        let bytes = only.blocks as usize * BLOCK_BYTES - rest.skip;
        self.registered_buffer(first, bytes).map(|_| (first, bytes))
    }

    fn register_again(&self, index: usize) -> io::Result<()> {
        let piece = super::piece(self.area(), index);
        // SAFETY: the piece lies in the area, which outlives the ring's use of it.
        unsafe { self.uring.submitter().register_buffers_update(index as u32, &[piece], None) }
    }
}

#[cfg(test)]
#[path = "exchange/tests.rs"]
mod tests;
