//! The agent's locks, and what may be waited for under each.
//!
//! | lock | held | waits under it |
//! |---|---|---|
//! | of verbs of keys (`key_verbs`) | by such a verb, from its first look to its last write | any |
//! | of verbs (`lock`) | by a verb, from its first look to its last write | drives, who keeps keys |
//! | of records (`records`) | while the catalogue is looked at and changed, and the index of extents with it | none |
//!
//! They are taken in this order. A verb holds the lock of records, too, but for what it does `aside`: whatever reads or
//! writes drives or asks who keeps a key. So no verb gets between another one's steps, and what serves a running guest (a
//! row, a mark, the next target, that one serves) waits for nobody's drive and nobody's server: it takes the lock of
//! records alone, and never the lock of verbs. So does a look at how things stand.
//!
//! What a verb knew before it went aside may have changed behind it: a group got a row, a mark or an activation, a drive
//! was found elsewhere, a volume was attached. It looks again, or its transaction names the version that it decided on
//! and is refused. What only verbs change it still knows: pools, which drives they have, moves, keys, the names of things,
//! and the extents that a group had.
//!
//! The end of a move, a rekey, a scrub or an attachment is told (`events`) under the lock under which it was written down:
//! whoever sees that it is over finds what is said of it.
//!
//! Debug builds stop at a wait in the wrong place (`waits`).
#[cfg(test)]
mod tests;

use super::Agent;
use super::space::Space;
use crate::waits::{self, Forbidden};
use std::ops::{Deref, DerefMut};
use std::sync::{MutexGuard, PoisonError};

/// The lock of records, held.
pub(crate) struct Records<'a> {
    space: MutexGuard<'a, Space>,
    _no_waits: Forbidden,
}

impl Deref for Records<'_> {
    type Target = Space;
    fn deref(&self) -> &Space {
        &self.space
    }
}

impl DerefMut for Records<'_> {
    fn deref_mut(&mut self) -> &mut Space {
        &mut self.space
    }
}

/// The locks of verbs and of records, held by a verb.
pub(crate) struct Verb<'a> {
    agent: &'a Agent,
    /// `None` while the verb is aside. Given back before the other one.
    records: Option<Records<'a>>,
    _turn: MutexGuard<'a, ()>,
}

impl Verb<'_> {
    /// Does what may wait, without the lock of records.
    pub(crate) fn aside<T>(&mut self, work: impl FnOnce() -> T) -> T {
        self.records = None;
        let outcome = work();
        self.records = Some(self.agent.records());
        outcome
    }
}

impl Deref for Verb<'_> {
    type Target = Space;
    fn deref(&self) -> &Space {
        self.records.as_ref().expect("nobody looks while it is aside")
    }
}

impl DerefMut for Verb<'_> {
    fn deref_mut(&mut self) -> &mut Space {
        self.records.as_mut().expect("nobody looks while it is aside")
    }
}

impl Agent {
    /// Takes the lock of verbs, and that of records.
    pub(crate) fn lock(&self) -> Verb<'_> {
        waits::here("waiting for a verb");
        // A verb that panicked left the catalogue in a state that its repetition finishes.
        let turn = self.verbs.lock().unwrap_or_else(PoisonError::into_inner);
        Verb { agent: self, records: Some(self.records()), _turn: turn }
    }

    /// Takes the lock of records.
    pub(crate) fn records(&self) -> Records<'_> {
        waits::here("taking the lock of records twice");
        // The index may only lack extents that are taken: the catalogue refuses to take them twice.
        let mut space = self.space.lock().unwrap_or_else(PoisonError::into_inner);
        space.renew(&self.store);
        Records { space, _no_waits: waits::forbid() }
    }
}
