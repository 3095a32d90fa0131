//! Who still reads blocks that a checkpoint has freed.
//!
//! Crash story: a read looks a block up, a checkpoint frees it, a write takes it, and the read returns the
//! other block's data. So every read, repair and copy holds the batch of frees that is current when it starts;
//! what a checkpoint freed becomes allocatable only when nobody holds that batch or an older one.

/// Batches that can be held at once; a checkpoint does not start while the oldest is this far back.
const MAX_BATCHES: u64 = 8;

/// Counts of holders by batch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Holds {
    batch: u64,
    oldest: u64,
    counts: [u32; MAX_BATCHES as usize],
}

impl Holds {
    /// Holds what is mapped now.
    pub fn take(&mut self) -> u64 {
        self.counts[(self.batch % MAX_BATCHES) as usize] += 1;
        self.batch
    }

    /// Holds a batch that somebody else holds at this moment.
    pub fn take_again(&mut self, batch: u64) -> u64 {
        let count = &mut self.counts[(batch % MAX_BATCHES) as usize];
        assert!(*count > 0 && batch <= self.batch && batch >= self.oldest, "batch {batch} is held by nobody");
        *count += 1;
        batch
    }

    /// Lets go.
    pub fn release(&mut self, batch: u64) {
        let count = &mut self.counts[(batch % MAX_BATCHES) as usize];
        assert!(*count > 0 && batch <= self.batch && batch >= self.oldest, "released a hold twice");
        *count -= 1;
    }

    /// A checkpoint became durable: what it freed is held by everybody up to now.
    pub fn next_batch(&mut self) {
        assert!(self.room());
        self.batch += 1;
    }

    /// Whether another batch fits.
    pub fn room(&self) -> bool {
        self.batch - self.oldest + 1 < MAX_BATCHES
    }

    /// Whether nobody holds a batch before the current one.
    pub fn all_released(&mut self) -> bool {
        while self.oldest < self.batch && self.counts[(self.oldest % MAX_BATCHES) as usize] == 0 {
            self.oldest += 1;
        }
        self.oldest == self.batch
    }
}
