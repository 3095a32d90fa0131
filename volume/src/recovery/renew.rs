//! What no flush is known to cover is written again where it lies, bit for bit, before the flush that makes it durable.
//!
//! Crash story: on the last current copy a flush failed. The drive had given up what the flush should have covered, and went
//! on to return it when it was read: so does a page cache whose writing back failed, and a drive whose cache is broken. The
//! group took no more writes. Then it was opened again. Recovery read the tail, found it right everywhere and had nothing to
//! write; its flush succeeded, for nothing was left in that cache to be flushed; D became the end of the log, and the guest's
//! next flush was acknowledged. Power failed, and what had been acknowledged was gone: blocks that read as errors, or a
//! commit that D covers, without which the group is refused for ever.
//!
//! The same on a mirror, without any halt: one drive's flush failed, and the process was killed before its mark was durable.
//! It was opened as current, with holes below the new D, and all was well until the other drive was lost.
//!
//! A read says what a drive returns, never what it will have after a power loss. Only a flush does, of what was written
//! before it in the life of the drive in which it succeeds. So recovery takes that for durable which a flush is known to have
//! covered, on every copy that counts, and writes again whatever else it accepts:
//!
//! - *Data and commits above D*, on each current leg. D itself is known: whoever said it had seen the flush succeed on each
//!   drive that was current then, or the drive durably marked.
//! - *The superblock that was found*, in the slot in which it was found, on each current copy. It may be one whose own flush
//!   failed; the version before is in the other slot then, and flushed, for a version is begun only when the one before is
//!   done with, and that other slot is written only when the flush behind this one has succeeded. Crash story: a version
//!   named a new row page, and its flush failed. The next recovery found it, took the page's predecessor for free and wrote
//!   its history page there; power failed, the version was gone, and the one before it names that page.
//!   Where both slots show it one of them is flushed, and it does not matter which.
//!   Known to be flushed is one that a commit names, and one beside a slot in which a later one was begun and is not.
//!   Those are left alone: nothing else leads to all that the group has. Crash story: the only drive failed the write of
//!   a version and left that slot garbled. The group was opened again, wrote the version that was left where it lay, and
//!   the drive failed that, too: of the whole volume nothing was found any more.
//! - *Nothing that a superblock names*: pages of the map, bitmaps, directory, rows, history and headers are flushed before
//!   a version names them, on each drive that it calls current. If that flush fails nothing names them: a drive that
//!   can be spared is durably marked first, and where none can the group halts (`group/checkpoint.rs`, `group/growth.rs`,
//!   `activate.rs`).
//! - *Nothing of a copy that comes back later*: it is believed what its mark says, which is what was flushed there, and
//!   everything newer is copied to it; what is not newer is compared once at most (`group/resync.rs`, `docs/decisions/0005-unproven-copies.md`).
//!
//! What is written is what is there, so a torn write changes nothing where it is durable already, and power may fail at any
//! point; whether a commit counts in the end does not matter to its data either. It is written out of the buffers that
//! were read for the decision, a window at a time: no more is in memory, and nothing is read twice. Ciphertext is written
//! as it is. A write that fails is tried again (`script`). After a clean close there is nothing above D, and one block per copy is written.
use super::Recovery;
use super::log::Reading;
use crate::config::RECOVERY_CHUNK;
use crate::layout::extent as fixed;
use crate::planted::Planted;
use crate::superblock::Home;
use alloc::vec::Vec;
use base::BLOCK_BYTES;

impl Recovery {
    /// Whether it is written again: not by an open that writes nothing.
    pub(super) fn renews(&self) -> bool {
        let writes = !self.config.read_only && self.no_activation_left().is_none();
        writes && !self.config.bug(Planted::TailNotRenewed)
    }

    /// Whether a commit names the version that was found: whoever wrote that commit had seen this version flushed on each
    /// drive that it calls current. The commit itself need not be.
    fn is_named(&self) -> bool {
        let found = self.chain_start().superblock;
        let line = self.superblock().line.map(|line| (line.generation, line.id));
        let candidates = self.scan.as_ref().expect("a scan").candidates().iter();
        candidates
            .map(|commit| &commit.fields)
            .any(|fields| fields.superblock == found && Some((fields.generation, fields.history)) == line)
    }

    /// Each block of data above D that was right where it was read is written there again.
    pub(super) fn renew_data(&mut self, reading: &[Reading]) {
        let mut results = core::mem::take(&mut self.script.results);
        self.script.clear();
        if !self.renews() {
            return;
        }
        for run in reading.chunk_by(|one, next| one.id == next.id) {
            let bytes = core::mem::take(&mut results[run[0].id].bytes);
            let alike = run.chunk_by(|one, next| self.was_right(one) == self.was_right(next));
            let right: Vec<_> = alike.filter(|blocks| self.was_right(&blocks[0])).collect();
            for blocks in right.into_iter().flat_map(|blocks| blocks.chunks(RECOVERY_CHUNK as usize)) {
                let Some((handle, at)) = self.locate(blocks[0].pba, blocks[0].leg) else { continue };
                let from = blocks[0].index as usize * BLOCK_BYTES;
                let content = bytes[from..from + blocks.len() * BLOCK_BYTES].to_vec();
                self.script.write(handle, at, content);
            }
        }
    }

    /// The version that was found is written again in the slot in which it was found, unless it is known to have been
    /// flushed there. Copies that have an older one get it when this is flushed (`catch_up`).
    pub(super) fn renew_superblocks(&mut self) {
        if !self.renews() {
            return;
        }
        let named = self.is_named();
        let homes: Vec<Home> = self.superblock().homes().collect();
        for (i, home) in homes.iter().enumerate() {
            let drive = usize::from(home.extent.drive.get());
            let counts = self.current_drives().contains(home.extent.drive) && !self.lagging[i];
            let Some(handle) = self.handles[drive].filter(|_| counts) else { continue };
            let other = 1 - self.newest_slots[i];
            let followed = self.spoiled_slots.contains(&(handle, home.extent.extent, other));
            if followed || (named && self.superblock().drives[drive].state.is_current()) {
                continue;
            }
            let slot = fixed::SUPERBLOCKS[usize::from(self.newest_slots[i])];
            let at = self.geometry().drive_block(home.extent, slot);
            let block = self.superblock().encode_with(*home, self.keys.as_deref());
            self.script.write(handle, at, block.to_vec());
        }
    }
}
