//! Time as the engine sees it: an argument, never a clock.
use core::ops::{Add, Sub};

/// Nanoseconds since an arbitrary start that the driver chose; never goes back within a run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Instant(u64);

/// A span in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Duration(u64);

impl Instant {
    /// The start.
    pub const ZERO: Self = Self(0);
    /// From nanoseconds since the start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }
    /// Nanoseconds since the start.
    pub const fn nanos(self) -> u64 {
        self.0
    }
}

impl Duration {
    /// From milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis * 1_000_000)
    }
    /// From nanoseconds.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }
    /// In nanoseconds.
    pub const fn nanos(self) -> u64 {
        self.0
    }
    /// A part of it, rounded down.
    #[must_use]
    pub const fn part(self, of: u64) -> Self {
        Self(self.0 / of)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl Sub for Instant {
    type Output = Duration;
    /// Zero if `other` is later: a deadline check never panics on a clock that the driver rounded.
    fn sub(self, other: Self) -> Duration {
        Duration(self.0.saturating_sub(other.0))
    }
}
