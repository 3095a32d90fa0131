//! For tests: a file that fails, and a catalogue in it.
use super::Embedded;
use redb::Database;
use std::sync::{Arc, Mutex, MutexGuard};

/// A file in memory, of which one operation fails, and everything behind it until it is healed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Medium(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    /// Changes that still work; `None`: all.
    left: Option<u32>,
    /// The one that fails is done all the same.
    done: bool,
    failed: bool,
}

impl Medium {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic")
    }

    /// Behind so many changes everything fails; `done`: the first that fails is done all the same.
    pub(crate) fn fail_behind(&self, changes: u32, done: bool) {
        let mut state = self.state();
        (state.left, state.done, state.failed) = (Some(changes), done, false);
    }

    /// Everything works again.
    pub(crate) fn heal(&self) {
        self.state().left = None;
    }

    /// Whether anything failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.state().failed
    }

    fn change(&self, work: impl FnOnce(&mut Vec<u8>)) -> std::io::Result<()> {
        let mut state = self.state();
        let fails = state.left == Some(0);
        if !fails || (state.done && !state.failed) {
            work(&mut state.bytes);
        }
        state.left = state.left.map(|left| left.saturating_sub(1));
        state.failed |= fails;
        if fails { Err(std::io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl redb::StorageBackend for Medium {
    fn len(&self) -> std::io::Result<u64> {
        Ok(self.state().bytes.len() as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        let from = offset as usize;
        out.copy_from_slice(&self.state().bytes[from..from + out.len()]);
        Ok(())
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.change(|bytes| bytes.resize(len as usize, 0))
    }
    fn sync_data(&self) -> std::io::Result<()> {
        self.change(|_| ())
    }
    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.change(|bytes| bytes[offset as usize..offset as usize + data.len()].copy_from_slice(data))
    }
}

/// A catalogue in it.
pub(crate) fn on(medium: &Medium) -> Embedded {
    let medium = medium.clone();
    let opener = move || Database::builder().create_with_backend(medium.clone());
    Embedded::open_with("c".into(), Box::new(opener)).expect("opens")
}
