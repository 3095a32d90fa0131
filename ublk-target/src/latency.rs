//! How long things took: counts in fixed buckets, and their sum.
//!
//! One thread records, any reads: a record is two loads and two stores, without a lock, an allocation or an atomic
//! read-modify-write. A reader may see a record in its bucket and not yet in the sum; nothing else can be off.
use crate::handle::Count;
use base::Duration;

/// Upper bounds of the buckets in nanoseconds; what is longer goes to one more. From what a fast drive takes to what
/// a broken one does, about three to a power of ten: enough for quantiles, few enough to be kept per drive.
pub const BOUNDS_NANOS: [u64; 16] = [
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    5_000_000_000,
    30_000_000_000,
];
/// Buckets, the one beyond all bounds included.
pub const BUCKETS: usize = BOUNDS_NANOS.len() + 1;

const _: () = {
    let mut n = 1;
    while n < BOUNDS_NANOS.len() {
        assert!(BOUNDS_NANOS[n - 1] < BOUNDS_NANOS[n], "bounds grow");
        n += 1;
    }
};

/// Counts of one sort of operation.
#[derive(Default)]
pub struct Latency {
    buckets: [Count; BUCKETS],
    sum_nanos: Count,
}

impl Latency {
    /// Counts one that took this long.
    pub(crate) fn record(&self, took: Duration) {
        let nanos = took.nanos();
        self.buckets[BOUNDS_NANOS.partition_point(|bound| *bound < nanos)].add(1);
        self.sum_nanos.add(nanos);
    }

    /// Begins at 0 again.
    pub(crate) fn forget(&self) {
        self.buckets.iter().for_each(|bucket| bucket.set(0));
        self.sum_nanos.set(0);
    }

    /// The counts, each for what is longer than the bound before and not longer than its own.
    pub fn counts(&self) -> [u64; BUCKETS] {
        std::array::from_fn(|n| self.buckets[n].get())
    }

    /// All of them together, in nanoseconds.
    pub fn sum_nanos(&self) -> u64 {
        self.sum_nanos.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_goes_to_the_first_bucket_that_is_not_too_short() {
        let latency = Latency::default();
        let bounds = [0, 1, 50_000, 50_001, 1_000_000, 30_000_000_000, 30_000_000_001, u64::MAX / 4];
        bounds.into_iter().for_each(|nanos| latency.record(Duration::from_nanos(nanos)));
        let counts = latency.counts();
        assert_eq!((counts[0], counts[1], counts[4], counts[15], counts[16]), (3, 1, 1, 1, 2));
        assert_eq!(counts.iter().sum::<u64>(), 8);
        assert_eq!(latency.sum_nanos(), bounds.iter().sum::<u64>());
    }
}
