//! Ciphers of the activations that were used last.
//!
//! A block is opened under the keys of the activation that wrote it, and a group has had many. Deriving keys and their
//! schedules takes some microseconds and no memory: a fixed number of places is made at the start, and the one that was
//! not used for longest takes the keys of the next activation.
//!
//! Crash story: none, this is only memory. The place of the activation that serves is never taken: it is used by every
//! write.
use super::{Class, GroupKeys};
use alloc::boxed::Box;
use alloc::vec::Vec;
use base::{Aead, Uuid};
use rlog::Line;

/// Places for activations that are read from.
const PLACES: usize = 16;

/// Whose keys a place has.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Owner {
    id: Uuid,
    class: Class,
}

struct Place {
    owner: Option<Owner>,
    used: u64,
    cipher: Box<dyn Aead>,
}

/// Ciphers by activation and class. No call but `new` allocates.
pub struct Sessions {
    keys: GroupKeys,
    group: Uuid,
    places: Vec<Place>,
    clock: u64,
}

impl Sessions {
    /// None has keys yet.
    pub fn new(keys: GroupKeys, group: Uuid) -> Self {
        let place = |_| Place { owner: None, used: 0, cipher: keys.ciphers.cipher() };
        let places = (0..PLACES).map(place).collect();
        Self { places, keys, group, clock: 0 }
    }

    /// The keys that they come from.
    pub const fn keys(&self) -> &GroupKeys {
        &self.keys
    }

    /// The cipher of a class for an activation; `None` if its data key is not at hand.
    pub fn cipher(&mut self, class: Class, line: &Line) -> Option<&mut dyn Aead> {
        self.clock += 1;
        let owner = Owner { id: line.id, class };
        let known = self.places.iter().position(|place| place.owner == Some(owner));
        let at = match known {
            Some(at) => at,
            None => {
                let key = self.keys.derive(class, self.group, line)?;
                let oldest = self.places.iter().enumerate().min_by_key(|(_, place)| place.used);
                let at = oldest.expect("there are places").0;
                self.places[at].cipher.set_key(&key);
                self.places[at].owner = Some(owner);
                at
            }
        };
        self.places[at].used = self.clock;
        Some(&mut *self.places[at].cipher)
    }
}
