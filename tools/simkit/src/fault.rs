//! The faults that a simulated world knows, by name, with a count of how often each acted.

/// What can go wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FaultKind {
    /// A read fails with a medium error.
    ReadError,
    /// A write fails with a medium error; its blocks hold old, new or garbage.
    WriteError,
    /// A flush fails; of what it should have made durable some is lost, some stays volatile, some is given up.
    FlushError,
    /// The drive is gone; what is in flight fails, partly done.
    Death,
    /// A dead drive is there again after a crash, with what it held.
    Return,
    /// An operation takes a thousand times as long.
    Slow,
    /// Likewise a read; the drive's writes go on at their pace.
    SlowRead,
    /// An operation ends only after many seconds, well or badly.
    Hang,
    /// One bit of a block at rest is turned.
    BitRot,
    /// A write lands on another block, and is reported as done.
    Misdirected,
    /// A write lands nowhere, and is reported as done.
    LostWrite,
    /// A read returns what the block held before its last write.
    StaleRead,
    /// A read returns noise.
    GarbageRead,
    /// A flush reports success and makes nothing durable.
    LyingFlush,
    /// At a crash an unflushed write was kept.
    CrashKept,
    /// At a crash an unflushed write was dropped.
    CrashDropped,
    /// At a crash an unflushed write was torn between sectors.
    CrashTorn,
    /// At a crash an unflushed write left noise in some sectors.
    CrashGarbage,
    /// The process alone was killed; the drives kept their caches.
    ProcessCrash,
    /// All lost power.
    NodeCrash,
    /// A crash while the engine was recovering.
    CrashInRecovery,
    /// The pool had no extents for a row.
    NoRow,
    /// The control plane answered late.
    SlowControl,
    /// A drive was set back to an earlier state of itself.
    OldContent,
    /// A drive came back with another drive's content.
    ForeignContent,
    /// The process did not run for seconds, while its operations ended.
    Pause,
    /// The clock leapt ahead, and nothing else did.
    ClockLeap,
    /// A drive was reset: of what was in its cache some is lost, no request fails, and the driver has the next flush
    /// fail.
    Reset,
    /// A dead drive is there again while the group is served, with what it held when it died.
    Replug,
    /// Likewise, with what it held some time before.
    ReplugOld,
    /// A write that was given up landed after all.
    LateLanding,
    /// A drive was found with the content of a drive of another group.
    OtherGroup,
    /// A drive was found blank, or full of noise.
    Blank,
    /// Two drives were found with each other's content.
    Swapped,
    /// Every leg had lost writes in one run; the next ones likewise.
    LostOnEveryLeg,
    /// Every leg had writes that went astray.
    AstrayOnEveryLeg,
    /// Every leg had reads of what was there before.
    StaleOnEveryLeg,
    /// Every leg had reads of noise.
    GarbageOnEveryLeg,
    /// Every leg was reset.
    ResetOnEveryLeg,
    /// Every leg was set back to an earlier state of itself.
    OldOnEveryLeg,
    /// A drive answers nothing any more, until power or the process goes away.
    Silence,
    /// What a flush that failed should have covered is read as it was written, and no later flush makes it durable.
    GivenUp,
}

impl FaultKind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 42] = [
        Self::ReadError,
        Self::WriteError,
        Self::FlushError,
        Self::Death,
        Self::Return,
        Self::Slow,
        Self::SlowRead,
        Self::Hang,
        Self::BitRot,
        Self::Misdirected,
        Self::LostWrite,
        Self::StaleRead,
        Self::GarbageRead,
        Self::LyingFlush,
        Self::CrashKept,
        Self::CrashDropped,
        Self::CrashTorn,
        Self::CrashGarbage,
        Self::ProcessCrash,
        Self::NodeCrash,
        Self::CrashInRecovery,
        Self::NoRow,
        Self::SlowControl,
        Self::OldContent,
        Self::ForeignContent,
        Self::Pause,
        Self::ClockLeap,
        Self::Reset,
        Self::Replug,
        Self::ReplugOld,
        Self::LateLanding,
        Self::OtherGroup,
        Self::Blank,
        Self::Swapped,
        Self::LostOnEveryLeg,
        Self::AstrayOnEveryLeg,
        Self::StaleOnEveryLeg,
        Self::GarbageOnEveryLeg,
        Self::ResetOnEveryLeg,
        Self::OldOnEveryLeg,
        Self::Silence,
        Self::GivenUp,
    ];

    /// What counts where this fault has acted on every leg in one run: for those that only then go beyond what checks and
    /// other legs make good.
    pub const fn on_every_leg(self) -> Option<Self> {
        match self {
            Self::LostWrite => Some(Self::LostOnEveryLeg),
            Self::Misdirected => Some(Self::AstrayOnEveryLeg),
            Self::StaleRead => Some(Self::StaleOnEveryLeg),
            Self::GarbageRead => Some(Self::GarbageOnEveryLeg),
            Self::Reset => Some(Self::ResetOnEveryLeg),
            Self::OldContent => Some(Self::OldOnEveryLeg),
            _ => None,
        }
    }

    /// The name in counts and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReadError => "read-error",
            Self::WriteError => "write-error",
            Self::FlushError => "flush-error",
            Self::Death => "death",
            Self::Return => "return",
            Self::Slow => "slow",
            Self::SlowRead => "slow-read",
            Self::Hang => "hang",
            Self::BitRot => "bit-rot",
            Self::Misdirected => "misdirected-write",
            Self::LostWrite => "lost-write",
            Self::StaleRead => "stale-read",
            Self::GarbageRead => "garbage-read",
            Self::LyingFlush => "lying-flush",
            Self::CrashKept => "crash-kept",
            Self::CrashDropped => "crash-dropped",
            Self::CrashTorn => "crash-torn",
            Self::CrashGarbage => "crash-garbage",
            Self::ProcessCrash => "process-crash",
            Self::NodeCrash => "node-crash",
            Self::CrashInRecovery => "crash-in-recovery",
            Self::NoRow => "no-row",
            Self::SlowControl => "slow-control",
            Self::OldContent => "old-content",
            Self::ForeignContent => "foreign-content",
            Self::Pause => "pause",
            Self::ClockLeap => "clock-leap",
            Self::Reset => "reset",
            Self::Replug => "replug",
            Self::ReplugOld => "replug-old",
            Self::LateLanding => "late-landing",
            Self::OtherGroup => "other-group",
            Self::Blank => "blank",
            Self::Swapped => "swapped",
            Self::LostOnEveryLeg => "lost-write-on-every-leg",
            Self::AstrayOnEveryLeg => "misdirected-write-on-every-leg",
            Self::StaleOnEveryLeg => "stale-read-on-every-leg",
            Self::GarbageOnEveryLeg => "garbage-read-on-every-leg",
            Self::ResetOnEveryLeg => "reset-on-every-leg",
            Self::OldOnEveryLeg => "old-content-on-every-leg",
            Self::Silence => "silence",
            Self::GivenUp => "given-up-by-flush",
        }
    }
}

/// How often each fault acted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FaultCounts([u64; FaultKind::ALL.len()]);

impl Default for FaultCounts {
    fn default() -> Self {
        Self([0; FaultKind::ALL.len()])
    }
}

impl FaultCounts {
    /// One more of this kind.
    pub fn add(&mut self, kind: FaultKind) {
        self.0[kind as usize] += 1;
    }

    /// How often this kind acted.
    pub fn of(&self, kind: FaultKind) -> u64 {
        self.0[kind as usize]
    }

    /// All kinds together.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Adds another count to this one.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }
}

/// A fault that waits on a drive for operations that it applies to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Armed {
    /// What will happen.
    pub kind: FaultKind,
    /// To how many operations; `u32::MAX` is for ever.
    pub times: u32,
}

impl Armed {
    /// To the next operation that it fits.
    pub const fn once(kind: FaultKind) -> Self {
        Self { kind, times: 1 }
    }

    /// To every operation that it fits, until healed.
    pub const fn for_ever(kind: FaultKind) -> Self {
        Self { kind, times: u32::MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_listed_in_the_order_of_their_numbers() {
        for (i, kind) in FaultKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, i, "{}", kind.name());
        }
    }
}
