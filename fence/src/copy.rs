//! The state of a group's copy on one drive, and the table of its transitions.
//!
//! S and C of a copy that is not current are the Seq and the checkpoint of the last flush that succeeded on that
//! drive while it was current: everything up to there is on it, of everything later some may be. The resync
//! copies what is newer. Crash story: a copy that fails again while it is resynced has received newer data in
//! an order of the resync's own, so nothing but the old S and C may be said of it; were they raised, the next
//! resync would leave out what the first one had not reached yet.
use crate::layout::*;
use base::codec::{put_u32, put_u64, put_uuid, u32_at, u64_at, uuid_at};
use base::{CkptNo, Seq, Uuid};

/// What a copy on a drive is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyState {
    /// It has everything that was acknowledged; it is read, and every write waits for it.
    Current,
    /// It lacks what came after `seq` and pages written after checkpoint `ckpt`. It is neither read nor written.
    Stale {
        /// S.
        seq: Seq,
        /// C.
        ckpt: CkptNo,
        /// It may lack any of what came before, too.
        unproven: bool,
    },
    /// It is being brought up to date: written, but not read and not counted on.
    Resyncing {
        /// S.
        seq: Seq,
        /// C.
        ckpt: CkptNo,
        /// It may have lacked any of what came before, too.
        unproven: bool,
    },
}

/// What can happen to a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The drive failed, was reset, or is absent when the group is opened. Everything up to these was flushed
    /// on it.
    Fail {
        /// Seq of its last good flush.
        seq: Seq,
        /// Checkpoint of its last good flush.
        ckpt: CkptNo,
    },
    /// Its history is not a prefix of the group's, or it cannot say what it is: it is unproven.
    Diverge,
    /// A resync begins, with a checkpoint.
    BeginResync,
    /// A checkpoint taken after the last copy was flushed on it.
    FinishResync,
}

/// A transition that does not exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Illegal {
    /// The state.
    pub from: CopyState,
    /// What should have happened to it.
    pub event: Event,
}

impl CopyState {
    /// A copy that has nothing yet: a new leg, a replaced drive.
    pub const EMPTY: Self = Self::stale(Seq::ZERO, CkptNo::ZERO);

    /// A copy that has everything up to S and C.
    pub const fn stale(seq: Seq, ckpt: CkptNo) -> Self {
        Self::Stale { seq, ckpt, unproven: false }
    }

    /// Whether what it has of what is not newer than S and C must be found out.
    pub const fn is_unproven(self) -> bool {
        matches!(self, Self::Stale { unproven: true, .. } | Self::Resyncing { unproven: true, .. })
    }

    /// Whether it is current.
    pub const fn is_current(self) -> bool {
        matches!(self, Self::Current)
    }

    /// S and C; `None` if it is current.
    pub const fn since(self) -> Option<(Seq, CkptNo)> {
        match self {
            Self::Current => None,
            Self::Stale { seq, ckpt, .. } | Self::Resyncing { seq, ckpt, .. } => Some((seq, ckpt)),
        }
    }

    /// The same state of a copy that says itself that it has no more than this.
    #[must_use]
    pub fn at_most(mut self, most_seq: Seq, most_ckpt: CkptNo) -> Self {
        if let Self::Stale { seq, ckpt, .. } | Self::Resyncing { seq, ckpt, .. } = &mut self {
            (*seq, *ckpt) = ((*seq).min(most_seq), (*ckpt).min(most_ckpt));
        }
        self
    }

    /// The state after an event. The table:
    ///
    /// - A current copy that diverges has nothing: nobody knows what was ever flushed there. Of any other, S and C say
    ///   what was; it is unproven from then on, until a resync has finished.
    /// - A current copy that fails is stale since its last good flush.
    /// - A stale copy that fails (is found absent) again stays stale since the same.
    /// - A resyncing copy that fails is stale since the same as before, whatever was flushed on it meanwhile.
    /// - A resync begins from stale only, and finishes from resyncing only: a copy that is found resyncing when
    ///   a group is opened failed first.
    pub const fn after(self, event: Event) -> Result<Self, Illegal> {
        match (self, event) {
            (Self::Current, Event::Diverge) => Ok(Self::EMPTY),
            (Self::Stale { seq, ckpt, .. } | Self::Resyncing { seq, ckpt, .. }, Event::Diverge) => {
                Ok(Self::Stale { seq, ckpt, unproven: true })
            }
            (Self::Current, Event::Fail { seq, ckpt }) => Ok(Self::stale(seq, ckpt)),
            (
                Self::Stale { seq, ckpt, unproven } | Self::Resyncing { seq, ckpt, unproven },
                Event::Fail { .. },
            ) => Ok(Self::Stale { seq, ckpt, unproven }),
            (Self::Stale { seq, ckpt, unproven }, Event::BeginResync) => {
                Ok(Self::Resyncing { seq, ckpt, unproven })
            }
            (Self::Resyncing { .. }, Event::FinishResync) => Ok(Self::Current),
            (Self::Current | Self::Resyncing { .. }, Event::BeginResync)
            | (Self::Current | Self::Stale { .. }, Event::FinishResync) => Err(Illegal { from: self, event }),
        }
    }

    /// What is safe to believe when two equally new views disagree, which no correct run produces: the copy
    /// has what both say it has, and is not current unless both say so.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        match (self.since(), other.since()) {
            _ if self == other => self,
            (None, _) => other,
            (_, None) => self,
            (Some(a), Some(b)) => Self::Stale {
                seq: a.0.min(b.0),
                ckpt: a.1.min(b.1),
                unproven: self.is_unproven() || other.is_unproven(),
            },
        }
    }
}

/// A drive of the group, as the superblock and the catalogue know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopyEntry {
    /// The drive.
    pub drive: Uuid,
    /// Its copy.
    pub state: CopyState,
    /// Version of the superblock that says so first. Of two views the one with the higher version is right.
    pub version: u64,
}

impl CopyEntry {
    /// Stores the entry in the first `ENTRY_BYTES` bytes.
    pub fn encode(&self, out: &mut [u8]) {
        let out = &mut out[..ENTRY_BYTES];
        out.fill(0);
        put_uuid(out, E_DRIVE, self.drive);
        out[E_STATE] = match self.state {
            CopyState::Current => STATE_CURRENT,
            CopyState::Stale { .. } => STATE_STALE,
            CopyState::Resyncing { .. } => STATE_RESYNCING,
        };
        if let Some((seq, ckpt)) = self.state.since() {
            put_u32(out, E_CKPT, ckpt.get());
            put_u64(out, E_SEQ, seq.get());
        }
        out[E_FLAGS] = if self.state.is_unproven() { FLAG_UNPROVEN } else { 0 };
        put_u64(out, E_VERSION, self.version);
    }

    /// Reads an entry; `None` if the bytes cannot be one.
    pub fn decode(from: &[u8]) -> Option<Self> {
        let from = from.get(..ENTRY_BYTES)?;
        let (seq, ckpt) = (Seq::new(u64_at(from, E_SEQ)), CkptNo::new(u32_at(from, E_CKPT)));
        let unproven = from[E_FLAGS] == FLAG_UNPROVEN;
        let state = match from[E_STATE] {
            STATE_CURRENT if seq == Seq::ZERO && ckpt == CkptNo::ZERO && !unproven => CopyState::Current,
            STATE_STALE => CopyState::Stale { seq, ckpt, unproven },
            STATE_RESYNCING => CopyState::Resyncing { seq, ckpt, unproven },
            _ => return None,
        };
        let drive = uuid_at(from, E_DRIVE);
        let sound = drive != Uuid::NIL
            && seq.get() < Seq::LIMIT
            && from[E_FLAGS] & !FLAG_UNPROVEN == 0
            && from[E_UNUSED..E_CKPT].iter().all(|b| *b == 0);
        sound.then_some(Self { drive, state, version: u64_at(from, E_VERSION) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn states() -> [CopyState; 3] {
        let (seq, ckpt) = (Seq::new(7), CkptNo::new(3));
        [CopyState::Current, CopyState::stale(seq, ckpt), resyncing(7, 3, false)]
    }

    fn resyncing(seq: u64, ckpt: u32, unproven: bool) -> CopyState {
        CopyState::Resyncing { seq: Seq::new(seq), ckpt: CkptNo::new(ckpt), unproven }
    }

    #[test]
    fn every_transition() {
        let fail = Event::Fail { seq: Seq::new(9), ckpt: CkptNo::new(4) };
        let [current, stale, copied] = states();
        let failed = CopyState::stale(Seq::new(9), CkptNo::new(4));
        let unproven = CopyState::Stale { seq: Seq::new(7), ckpt: CkptNo::new(3), unproven: true };
        let compared = resyncing(7, 3, true);
        let table = [
            (current, fail, Some(failed)),
            (current, Event::Diverge, Some(CopyState::EMPTY)),
            (current, Event::BeginResync, None),
            (current, Event::FinishResync, None),
            (stale, fail, Some(stale)),
            (stale, Event::Diverge, Some(unproven)),
            (stale, Event::BeginResync, Some(copied)),
            (stale, Event::FinishResync, None),
            (copied, fail, Some(stale)),
            (copied, Event::Diverge, Some(unproven)),
            (copied, Event::BeginResync, None),
            (copied, Event::FinishResync, Some(current)),
            (unproven, fail, Some(unproven)),
            (unproven, Event::Diverge, Some(unproven)),
            (unproven, Event::BeginResync, Some(compared)),
            (unproven, Event::FinishResync, None),
            (compared, fail, Some(unproven)),
            (compared, Event::Diverge, Some(unproven)),
            (compared, Event::BeginResync, None),
            (compared, Event::FinishResync, Some(current)),
        ];
        for (from, event, to) in table {
            assert_eq!(from.after(event), to.ok_or(Illegal { from, event }));
        }
    }

    /// The story: a drive failed at Seq 7, failed again while its resync had flushed Seq 9, and the second
    /// resync, believing 9, left out what the first had not copied.
    #[test]
    fn failing_while_resyncing_keeps_s_and_c() {
        let resyncing = states()[2];
        let again = resyncing.after(Event::Fail { seq: Seq::new(9), ckpt: CkptNo::new(9) });
        assert_eq!(again.map(CopyState::since), Ok(resyncing.since()));
    }

    #[test]
    fn of_two_equally_new_views_the_worse_is_believed() {
        let older = CopyState::stale(Seq::new(5), CkptNo::new(9));
        let unproven = CopyState::Stale { seq: Seq::new(7), ckpt: CkptNo::new(3), unproven: true };
        for (a, b, expected) in [
            (states()[0], states()[0], states()[0]),
            (states()[0], states()[1], states()[1]),
            (states()[0], states()[2], states()[2]),
            (states()[1], states()[2], states()[1]),
            (states()[1], older, CopyState::stale(Seq::new(5), CkptNo::new(3))),
            (states()[1], unproven, unproven),
        ] {
            assert_eq!(a.worse(b), expected);
            assert_eq!(b.worse(a), expected);
        }
    }

    #[test]
    fn golden_bytes() {
        let state = resyncing(0x0102_0304, 0x0506, false);
        let mut entry = CopyEntry { drive: Uuid([0xaa; 16]), state, version: 0x0708 };
        let mut bytes = [0xff; 48];
        entry.encode(&mut bytes);
        let mut expected = [0xff; 48];
        expected[..16].fill(0xaa);
        expected[16..40]
            .copy_from_slice(&[3, 0, 0, 0, 6, 5, 0, 0, 4, 3, 2, 1, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes, expected);
        assert_eq!(CopyEntry::decode(&bytes), Some(entry));
        entry.state = resyncing(0x0102_0304, 0x0506, true);
        entry.encode(&mut bytes);
        expected[17] = 1;
        assert_eq!(bytes, expected);
        assert_eq!(CopyEntry::decode(&bytes), Some(entry));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived_and_what_decodes_encodes_alike(
            bytes in prop::collection::vec(any::<u8>(), 0..60),
            state in 0u8..5,
            flags in 0u8..3,
            plain in any::<bool>(),
        ) {
            let mut bytes = bytes;
            if plain && bytes.len() >= ENTRY_BYTES {
                bytes[E_STATE..E_SEQ].fill(0);
                bytes[E_SEQ + 6..E_VERSION].fill(0);
                (bytes[E_STATE], bytes[E_FLAGS]) = (state, flags);
            }
            if let Some(entry) = CopyEntry::decode(&bytes) {
                let mut back = [0xff; ENTRY_BYTES];
                entry.encode(&mut back);
                prop_assert_eq!(&back[..], &bytes[..ENTRY_BYTES]);
            }
        }
    }
}
