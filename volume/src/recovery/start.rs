//! From what recovery found to a group: the delta is filled from the accepted log (`layers`).
use super::layers::{LAYER_HOLE_CHANGES, Layers};
use super::{Record, Recovery};
use crate::buffers::{Buffers, MERGE_BUFFERS, SEAL_BUFFERS};
use crate::config::MAX_COMMITS;
use crate::config::{DriveInfo, DriveStats, Refusal};
use crate::drives::{Drive, Drives, Health};
use crate::flusher::Flusher;
use crate::group::Group;
use crate::group::checkpoint::{Checkpoint, Gathered, REAP_LEAF_CHANGES, REAP_LEAVES};
use crate::group::growth::Growth;
use crate::group::io::ColumnIo;
use crate::group::pages::PageReads;
use crate::group::repair::Repairs;
use crate::group::super_writer::Writer;
use crate::group::sweep::Sweep;
use crate::group::write::{Log, Mark};
use crate::holds::Holds;
use crate::rows::RowPages;
use crate::slots::Slots;
use alloc::vec::Vec;
use base::limits::MAX_DRIVES;
use base::{Blocks, CkptNo, DriveIx, Phase, Seq, VolumeId};
use cow::directory::{CutList, Directory, VolumeEntry, VolumeState};
use cow::{Height, Merge, Open, PageCache, Ref, Seal, Space, SpaceConfig};
use rlog::Ring;

/// A group on its way to being served, and the records in its delta, whose blocks count as used once its directory is read.
pub(crate) struct Started {
    pub group: Group,
    pub records: Vec<Record>,
}

/// Blocks that one checkpoint can set plus clear: every entry of a layer mapped, replaced and overwritten
/// within the layer, the pages above it old and new; what holes and cut subtrees free; voided commits.
fn max_changes(delta_entries: u32, hole_changes: u64) -> u32 {
    let pages = 2 * u32::from(Height::MAX.get());
    delta_entries * (3 + pages)
        + hole_changes as u32
        + REAP_LEAVES * REAP_LEAF_CHANGES as u32
        + (MAX_COMMITS * crate::config::MAX_COMMIT_DATA_BLOCKS * 2) as u32
}

impl Recovery {
    /// Makes the group. Nothing is in flight any more.
    pub(crate) fn into_group(mut self) -> Result<Started, Refusal> {
        let mut superblock = self.superblock.clone().expect("a superblock was found");
        // Drives that join while the group is served find room.
        superblock.drives.reserve_exact(MAX_DRIVES - superblock.drives.len());
        let geometry = superblock.geometry;
        let commits = self.accepted();
        let chain = self.chain.take().expect("a chain");
        let config = self.config;
        let layers = Layers::of(&commits, config.delta_entries as usize).ok_or(Refusal::Damaged(
            "its log has more changes than were ever made between two checkpoints",
        ))?;
        let records: Vec<Record> = commits.into_iter().flat_map(|commit| commit.records).collect();
        let checkpoint = match layers.frozen_to {
            Some(end) => Checkpoint::of_frozen(self.first_attempt(), end),
            None => Checkpoint::new(self.first_attempt()),
        };
        let space_config = SpaceConfig {
            region_blocks: geometry.extent_blocks,
            home_regions: u32::from(geometry.columns),
            max_loaded: config.loaded_regions,
            max_regions: superblock.rows * u32::from(geometry.columns),
            max_changes: max_changes(layers.entries as u32, layers.most_hole_changes.max(LAYER_HOLE_CHANGES)),
        };
        let completed = Seq::new(chain.next_seq.get() - 1);
        let mark = Mark { next: chain.next, previous: chain.previous, positions: chain.heads };
        let ring = Ring::restore(self.ring_shape(), superblock.ring_start, chain.heads);
        let buffers = Buffers::new(&config);
        let space = Space::new(space_config);
        let fresh = superblock.directory.is_absent();
        let group_blocks = Blocks::new(u64::from(superblock.rows) * geometry.row_blocks());
        let volume = self.new_volume(fresh)?;
        let (history_pages, history_lines) = self.history_size();
        let group = Group {
            geometry,
            phase: Phase::Recovering,
            halt: self.ended,
            buffers,
            drives: self.drives(&superblock.drives, completed, superblock.ckpt),
            rows: core::mem::take(&mut self.rows),
            ops: self.group_ops(&superblock.drives),
            slots: Slots::new(config.slots),
            writer: Writer::new(superblock.version, self.newest_slots.clone(), superblock.homes().collect()),
            flusher: Flusher::default(),
            holds: Holds::default(),
            log: Log::new(ring, mark, chain.next_seq),
            volume,
            directory: Directory::none(),
            cuts: CutList::default(),
            new_volume: volume,
            opening: (!fresh).then(|| Open::new(superblock.directory, group_blocks)),
            top_read: false,
            open_failed: false,
            grown: volume.sectors,
            hole_changes: layers.hole_changes,
            row_pages: RowPages::from_levels(core::mem::take(&mut self.row_levels)),
            new_row_pages: None,
            home_pages: self.home_pages(),
            history_pages,
            history_lines,
            planted_freed: 0,
            planted_flushing: 0,
            active: layers.active,
            frozen: layers.frozen,
            cache: PageCache::new(buffers.cache, config.cache_pages),
            reads: PageReads::new(),
            space,
            merge: Merge::new(buffers.merge, MERGE_BUFFERS),
            seal: Seal::new(buffers.seal, SEAL_BUFFERS, &space_config),
            checkpoint,
            growth: Growth::new(),
            repairs: Repairs::new(),
            sweep: Sweep::new(),
            rekey: crate::group::rekey::Rekey::new(),
            moving: crate::group::moving::Moving::default(),
            overdue: self.forsaken.watch,
            history: self.history.lines().to_vec(),
            completed,
            durable: superblock.durable.max(completed),
            unflushed: 0,
            flushing: 0,
            unflushed_since: None,
            again: true,
            closing: false,
            runs: Vec::with_capacity(crate::config::MAX_COMMIT_DATA_BLOCKS),
            gathered: Gathered::new(),
            columns: ColumnIo::new(),
            superblock,
            config,
        };
        Ok(Started { group, records })
    }

    /// The volume of a group that has no checkpoint yet: all of it a hole since Seq 1.
    fn new_volume(&self, fresh: bool) -> Result<VolumeEntry, Refusal> {
        let create = self.request.create;
        if fresh && create.is_none() {
            return Err(Refusal::Damaged("it has no volume: its creation was not finished"));
        }
        let created = Seq::new(1);
        Ok(VolumeEntry {
            id: VolumeId::new(1),
            height: Height::from_raw(5).expect("five levels"),
            state: VolumeState::Live,
            sectors: create.map_or(base::Sectors::ZERO, |c| c.sectors),
            created,
            data: Some(base::Blocks::ZERO),
            root: Ref::hole(created),
            uuid: create.map_or(base::Uuid::NIL, |c| c.uuid),
        })
    }

    fn drives(&self, table: &[fence::CopyEntry], flushed: Seq, ckpt: CkptNo) -> Drives {
        let mut drives = Drives::new();
        for (i, entry) in table.iter().enumerate() {
            let handle = self.handles[i];
            // One that was forsaken keeps its number: under that the driver tells when it is quiet.
            let number = handle.or_else(|| self.forsaken_as(entry.drive));
            let at_hand = number.map(|h| self.request.drives[usize::from(h.get())].info);
            let info =
                at_hand.unwrap_or(DriveInfo { uuid: entry.drive, blocks: Blocks::ZERO, volatile: true });
            let current = self.current.contains(DriveIx::new(i as u8));
            let (flushed, flushed_ckpt) = entry.state.since().unwrap_or((flushed, ckpt));
            let health = match (current, handle) {
                (true, _) => Health::Current,
                (false, Some(_)) => Health::Stale,
                (false, None) => Health::Missing,
            };
            drives.list.push(Drive {
                info,
                handle: number.unwrap_or(DriveIx::new(u8::MAX)),
                health,
                flushed,
                flushed_ckpt,
                reads_in_flight: 0,
                stats: DriveStats::default(),
            });
        }
        drives
    }

    /// Pages that the history has now, and lines of the newest of them.
    fn history_size(&self) -> (usize, usize) {
        let found = self.history_pages.len();
        match self.history_change {
            Some(change) => (found - change.replaced + change.made, change.lines),
            None => (found, self.history_pages.first().map_or(0, |(_, lines)| lines.len())),
        }
    }

    fn home_pages(&mut self) -> crate::rows::HomePages {
        let mut pages = self.home_pages.take().expect("home pages");
        // What the new version does not lead to any more is free: it counts.
        let replaced = self.history_change.map_or(0, |change| change.replaced);
        self.history_pages.iter().take(replaced).for_each(|(page, _)| pages.drop_later(page.pba));
        pages.settle();
        pages
    }
}
