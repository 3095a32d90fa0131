//! What the log says on top of the map: the newest record wins, block by block.
use base::{Blocks, Check, CommitNo, Lba, Pba, Seq, VolumeId};
use std::collections::BTreeMap;

/// A block that the log holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LogBlock {
    pub pba: Pba,
    pub check: Check,
    pub seq: Seq,
    /// Place of the commit in the accepted log.
    pub commit: usize,
}

/// The log of one volume, laid over its map.
#[derive(Default)]
struct Layer {
    blocks: BTreeMap<u64, LogBlock>,
    /// Ranges that records name, written or not: start to end, disjoint.
    covered: BTreeMap<u64, u64>,
    /// Behind the last block that records name, and the commit that names it.
    end: (Lba, CommitNo),
}

/// The log, laid over the maps of all volumes.
#[derive(Default)]
pub(crate) struct Overlay(BTreeMap<VolumeId, Layer>);

impl Overlay {
    /// A write; records come in the order of their Seqs.
    pub fn write(&mut self, volume: VolumeId, lba: Lba, block: LogBlock) {
        let layer = self.0.entry(volume).or_default();
        layer.blocks.insert(lba.get(), block);
        layer.cover(lba.get(), lba.get() + 1);
    }

    /// A discard or write-zeroes.
    pub fn hole(&mut self, volume: VolumeId, lba: Lba, blocks: Blocks) {
        let layer = self.0.entry(volume).or_default();
        let (start, end) = (lba.get(), lba.get() + blocks.get());
        let mut behind = layer.blocks.split_off(&start);
        layer.blocks.append(&mut behind.split_off(&end));
        layer.cover(start, end);
    }

    /// Whether a record replaced what the map says of this block.
    pub fn replaces(&self, volume: VolumeId, lba: Lba) -> bool {
        let before = |layer: &Layer| layer.covered.range(..=lba.get()).next_back().map(|(_, end)| *end);
        self.0.get(&volume).and_then(before).is_some_and(|end| lba.get() < end)
    }

    /// The blocks that a read would find in the log.
    pub fn blocks(&self) -> impl Iterator<Item = (VolumeId, Lba, &LogBlock)> {
        self.0.iter().flat_map(|(volume, layer)| {
            layer.blocks.iter().map(|(lba, block)| (*volume, Lba::new(*lba), block))
        })
    }

    /// A record names blocks up to `end`.
    pub fn name(&mut self, volume: VolumeId, end: Lba, commit: CommitNo) {
        let layer = self.0.entry(volume).or_default();
        if end > layer.end.0 {
            layer.end = (end, commit);
        }
    }

    /// The volumes that records name, behind the last block that they name, and the commit that names it.
    pub fn ends(&self) -> impl Iterator<Item = (VolumeId, Lba, CommitNo)> {
        self.0.iter().map(|(volume, layer)| (*volume, layer.end.0, layer.end.1))
    }
}

impl Layer {
    fn cover(&mut self, start: u64, end: u64) {
        let (mut start, mut end) = (start, end);
        // Everything that begins at or before the end and reaches the start melts into one range.
        while let Some((first, last)) = self.covered.range(..=end).next_back().map(|(a, b)| (*a, *b)) {
            if last < start {
                break;
            }
            self.covered.remove(&first);
            (start, end) = (start.min(first), end.max(last));
        }
        self.covered.insert(start, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_record_wins_block_by_block() {
        let block = |pba| LogBlock { pba: Pba::new(pba), check: Check::NONE, seq: Seq::new(pba), commit: 0 };
        let volume = VolumeId::new(1);
        let mut overlay = Overlay::default();
        for lba in 10..20 {
            overlay.write(volume, Lba::new(lba), block(100 + lba));
        }
        overlay.hole(volume, Lba::new(12), Blocks::new(3));
        overlay.write(volume, Lba::new(13), block(200));
        overlay.hole(volume, Lba::new(1000), Blocks::new(1 << 30));
        overlay.hole(volume, Lba::new(900), Blocks::new(100));
        let found: Vec<(u64, u64)> = overlay.blocks().map(|(_, lba, b)| (lba.get(), b.pba.get())).collect();
        assert_eq!(
            found,
            [(10, 110), (11, 111), (13, 200), (15, 115), (16, 116), (17, 117), (18, 118), (19, 119)]
        );
        for (lba, replaced) in
            [(9, false), (10, true), (12, true), (19, true), (20, false), (899, false), (900, true)]
        {
            assert_eq!(overlay.replaces(volume, Lba::new(lba)), replaced, "Lba {lba}");
        }
        assert!(!overlay.replaces(VolumeId::new(2), Lba::new(10)));
        for (end, commit) in [(20, 1), (1100, 2), (14, 3)] {
            overlay.name(volume, Lba::new(end), CommitNo::new(commit));
        }
        let ends: Vec<_> = overlay.ends().collect();
        assert_eq!(ends, [(volume, Lba::new(1100), CommitNo::new(2))]);
        assert_eq!(overlay.0[&volume].covered.len(), 2);
    }
}
