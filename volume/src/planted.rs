//! Bugs that can be planted, to see that the simulator catches them.
//!
//! They exist only with the feature `planted`; without it `Config::bug` is the constant `false` and the
//! compiler removes every trace.
use crate::config::Config;

macro_rules! planted {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A bug to plant.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Planted {
            $($(#[$doc])* $name,)*
        }

        impl Planted {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name by which it is asked for.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

planted! {
    /// A write is acknowledged when the first leg has it.
    AckBeforeSecondLeg = "ack-before-second-leg",
    /// A write is acknowledged when its own commit is complete, whatever becomes of those before it.
    AckOutOfOrder = "ack-out-of-order",
    /// A flush is acknowledged without flushing.
    FlushSkipped = "flush-skipped",
    /// A flush leaves out all legs but the first.
    FlushOneLeg = "flush-one-leg",
    /// A replaced block is allocatable as soon as its successor is acknowledged.
    FreeAtAck = "free-at-ack",
    /// A replaced block is allocatable as soon as its successor is flushed.
    FreeAtFlush = "free-at-flush",
    /// A replaced block is allocatable as soon as its successor is flushed on one drive.
    FreeAtFirstFlush = "free-at-first-flush",
    /// What a checkpoint freed is allocatable although reads hold it.
    FreeHeld = "free-held",
    /// The checkpoint's superblock is written before its pages are flushed.
    CheckpointNotFlushed = "checkpoint-not-flushed",
    /// The ring is trimmed when a checkpoint begins.
    TrimEarly = "trim-early",
    /// Both slots of a superblock are written at once.
    SlotsTogether = "slots-together",
    /// Of the slots of a superblock the one that holds its newest valid version is written first.
    SlotsNewestFirst = "slots-newest-first",
    /// A drive that failed is forgotten without a durable mark.
    StaleNotDurable = "stale-not-durable",
    /// The catalogue is not told that a drive is stale before writes that it misses are acknowledged.
    StaleNotStored = "stale-not-stored",
    /// Overlapping writes are served at once.
    OverlapNotSerialised = "overlap-not-serialised",
    /// A partial write reads its old content before an overlapping write is complete.
    MergeWithoutWait = "merge-without-wait",
    /// What is read is not checked.
    ReadUnchecked = "read-unchecked",
    /// A repaired block is counted before it is flushed.
    RepairNotFlushed = "repair-not-flushed",
    /// D moves when a flush begins.
    DurableTooEarly = "durable-too-early",
    /// Reads do not look into the layer that is being merged.
    FrozenForgotten = "frozen-forgotten",
    /// A discard is forgotten by the checkpoint.
    HoleForgotten = "hole-forgotten",
    /// The parts of a hole that is split are holes since Seq 0.
    SplitHoleOld = "split-hole-old",
    /// A page of nothing but holes is dropped, and not a hole since the newest of them.
    EmptiedDropped = "emptied-dropped",
    /// A flush leaves out the drives that joined with a later row and hold no superblock.
    JoinedNotFlushed = "joined-not-flushed",
    /// A row is used before a superblock names it.
    RowTooEarly = "row-too-early",
    /// Recovery takes commits by number alone, whichever activation wrote them and whatever they follow.
    ReplayWithoutChain = "replay-without-chain",
    /// Recovery takes commits whose number belongs to a newer activation, if they follow what comes before.
    OldGenAccepted = "old-gen-accepted",
    /// Recovery ignores voids.
    VoidIgnored = "void-ignored",
    /// Recovery accepts commits above D without looking at their data.
    TailNotVerified = "tail-not-verified",
    /// Recovery does not copy to a leg what only the other has.
    TailNotCompleted = "tail-not-completed",
    /// Recovery takes what it can read for durable once a flush succeeds, and does not write it again.
    TailNotRenewed = "tail-not-renewed",
    /// Recovery serves before what it completed is flushed.
    ServeBeforeFlush = "serve-before-flush",
    /// Recovery serves before its history line is durable.
    LineNotDurable = "line-not-durable",
    /// Recovery takes the first valid superblock instead of the newest.
    OldSuperblock = "old-superblock",
    /// A copy whose resync was cut short is taken by the operator's word like any stale one.
    MixtureForced = "mixture-forced",
    /// Blocks named by replayed records are not marked used.
    ReplayNotMarked = "replay-not-marked",
    /// A resync leaves out pages whose newest Seq the drive has, though they were made again since.
    ResyncPrunedBySeq = "resync-pruned-by-seq",
    /// A drive that fails is stale since the last acknowledged write instead of the last flushed one.
    StaleSinceAcked = "stale-since-acked",
    /// A resync walks the map only.
    ResyncMapOnly = "resync-map-only",
    /// A resync does not hold what it copies.
    ResyncNotHeld = "resync-not-held",
    /// A drive that fails while it is resynced is stale since then.
    ResyncFailureCounts = "resync-failure-counts",
    /// What is written while a drive is left does not go to its successor.
    MoveNotShadowed = "move-not-shadowed",
    /// A drive that comes back is believed without being asked.
    ResyncUnprobed = "resync-unprobed",
    /// A drive that comes back is believed to have more than its own superblock says.
    ResyncUnbounded = "resync-unbounded",
    /// A drive that comes back may show the superblocks of another one.
    ResyncNotItsOwn = "resync-not-its-own",
    /// What a drive shows that cannot say what it has counts without a look at its check.
    ResyncUncompared = "resync-uncompared",
    /// A resync copies what is on its list; what is written meanwhile does not go to the drive.
    ResyncListOnce = "resync-list-once",
    /// A drive that was left is not made stale.
    MoveNotRetired = "move-not-retired",
    /// A drive of a leg that was dropped is not made stale.
    LegNotRetired = "leg-not-retired",
    /// A drive joins in the place of one that has rows still.
    PlaceInUse = "place-in-use",
    /// A row is asked for before the regions are there of those that the superblock names.
    RowWhileRecovering = "row-while-recovering",
    /// A move that is over keeps every other errand waiting until nothing of it can land any more.
    MoveLingers = "move-lingers",
    /// A move is said to be over while something that was given up may still land in what goes back.
    MoveToldEarly = "move-told-early",
    /// A drive that comes back while a leg is added gets the headers of that leg.
    HeaderOfNewLeg = "header-of-new-leg",
    /// What a stale copy lacks is given up without a history of its own.
    ForcedNotForked = "forced-not-forked",
    /// A new size of the volume counts before it is durable.
    SizeTooEarly = "size-too-early",
    /// A FUA write is acknowledged like any other.
    FuaNotFlushed = "fua-not-flushed",
    /// A flush that failed is acknowledged.
    FailedFlushCounts = "failed-flush-counts",
    /// Recovery does not ask the catalogue which copies are stale.
    CatalogueIgnored = "catalogue-ignored",
    /// The guest may take the blocks that checkpoints need.
    ReserveGiven = "reserve-given",
    /// A scrub looks at one copy of each block.
    ScrubOneCopy = "scrub-one-copy",
    /// A scrub looks at data only, not at what leads to it.
    ScrubDataOnly = "scrub-data-only",
    /// A scrub takes what it read for the right content without checking it.
    ScrubUnchecked = "scrub-unchecked",
    /// A drive that does not answer stays in, and everybody waits for it.
    SlowKept = "slow-kept",
    /// A resync begins while what was given up on the drive may still land there.
    LateLands = "late-lands",
    /// An activation has the keys of the one before, and counts from where that one was found.
    SaltReused = "salt-reused",
    /// A walk to a new data key ends before it has come by everything.
    RekeyTooEarly = "rekey-too-early",
    /// A checkpoint has the number of the one before.
    CkptReused = "ckpt-reused",
    /// A commit is formed twice.
    CommitReformed = "commit-reformed",
    /// A commit that failed is voided by one behind another that is still under way.
    VoidUnsettled = "void-unsettled",
}

impl Config {
    /// Whether this bug is planted.
    #[inline(always)]
    pub(crate) const fn bug(&self, bug: Planted) -> bool {
        #[cfg(feature = "planted")]
        {
            matches!(self.planted, Some(planted) if planted as u8 == bug as u8)
        }
        #[cfg(not(feature = "planted"))]
        {
            let _ = bug;
            false
        }
    }
}
