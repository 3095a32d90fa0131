//! The third and fourth step: the ring, the chain, and what of it counts.
use super::{Fill, Record, Recovery, Replayed, Stage};
use crate::config::Refusal;
use crate::keys::{Form, is_stored};
use crate::planted::Planted;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use base::{BLOCK_BYTES, Blocks, Check, Column, CommitNo, LegId, Pba};
use fence::DriveSet;
use rlog::replay::{self, Data, Decision, Found};
use rlog::{Commit, LegSet, RecordKind, RingShape, Scan};

/// What was found of the data of commits, by commit check: verified once, even if the chain is made anew.
#[derive(Default)]
pub(super) struct Verified {
    known: BTreeMap<[u8; 16], Blocks2>,
    /// What is being read: replayed index, leg, block, check, and the result that has it.
    reading: Vec<Reading>,
    /// Per commit that is being read again, the results that should have it: one for each leg.
    commits: Vec<Vec<usize>>,
    /// Commits with a block of which no leg said anything.
    silent: BTreeSet<[u8; 16]>,
    /// Rings that could not be read as a whole, because their drive does not answer.
    silent_rings: BTreeSet<(LegId, Column)>,
}

pub(super) const SILENT: Refusal =
    Refusal::Unreadable("the newest commits: the drives that have them do not answer");

/// Blocks that recovery reads or writes between two looks, beside one commit more: 16 MiB. What was read is in memory until
/// it was looked at.
const WINDOW_BLOCKS: usize = 4096;

/// Per commit: each block with the legs that have it right.
type Blocks2 = Vec<(Pba, LegSet, LegSet)>;

pub(super) struct Reading {
    commit: usize,
    pub leg: LegId,
    pub pba: Pba,
    check: Check,
    form: Form,
    /// The result that has it, and which block of that.
    pub id: usize,
    pub index: u32,
}

impl Recovery {
    /// The ring's shape.
    pub(super) fn ring_shape(&self) -> RingShape {
        let geometry = self.geometry();
        let pieces: Vec<rlog::Piece> = geometry
            .pieces
            .iter()
            .filter(|piece| piece.blocks > 0)
            .map(|piece| rlog::Piece { blocks: Blocks::new(u64::from(piece.blocks)) })
            .collect();
        RingShape::new(&pieces, usize::from(geometry.columns))
    }

    pub(super) fn begin_ring(&mut self) -> Result<(), Refusal> {
        let legs = usize::from(self.geometry().legs);
        #[allow(unused_mut, reason = "only a planted bug changes it")]
        let mut scan = Scan::new(self.request.group, self.ring_shape(), legs);
        #[cfg(feature = "planted")]
        for (bug, rule) in [
            (Planted::ReplayWithoutChain, rlog::Ignored::Previous),
            (Planted::ReplayWithoutChain, rlog::Ignored::Owner),
            (Planted::OldGenAccepted, rlog::Ignored::Owner),
            (Planted::VoidIgnored, rlog::Ignored::Voids),
        ] {
            if self.config.bug(bug) {
                scan.ignore(rule);
            }
        }
        self.scan = Some(scan);
        self.read_ring(0, 0)
    }

    /// Reads one column's ring of one leg, or goes on to the next that is there.
    fn read_ring(&mut self, leg: u8, column: u8) -> Result<(), Refusal> {
        let geometry = self.geometry();
        let (mut leg, mut column) = (leg, column);
        loop {
            if column == geometry.columns {
                (leg, column) = (leg + 1, 0);
            }
            if leg == geometry.legs {
                return self.follow_chain();
            }
            let (row, block, _) = geometry.ring_place(0);
            let pba = geometry.pba(crate::Place { row, column: Column::new(column), block });
            if let Some((handle, at)) = self.locate(pba, LegId::new(leg)) {
                self.script.read(handle, at, geometry.ring_blocks());
                self.at(Stage::Ring { leg, column });
                return Ok(());
            }
            column += 1;
        }
    }

    /// A column's ring has been read.
    pub(super) fn judge_ring(&mut self, leg: u8, column: u8) -> Result<(), Refusal> {
        let data = core::mem::take(&mut self.script.results[0]);
        self.script.clear();
        if data.silent {
            self.verified.silent_rings.insert((LegId::new(leg), Column::new(column)));
            let silent = |leg| self.verified.silent_rings.contains(&(leg, Column::new(column)));
            if self.ring_legs(Column::new(column)).iter().all(silent) {
                return Err(SILENT);
            }
        }
        let blocks = self.geometry().ring_blocks();
        let scan = self.scan.as_mut().expect("a scan");
        let mut plain = rlog::Plain;
        let keys: &mut dyn rlog::Unseal = match self.keys.as_deref_mut() {
            Some(keys) => keys,
            None => &mut plain,
        };
        let mut at = 0;
        while at < blocks {
            let bytes = &data.bytes[at as usize * BLOCK_BYTES..];
            let taken = scan.feed(keys, LegId::new(leg), Column::new(column), at, bytes) as u32;
            assert!(taken > 0, "a whole piece always gets on");
            at += taken;
        }
        self.read_ring(leg, column + 1)
    }

    fn follow_chain(&mut self) -> Result<(), Refusal> {
        let scan = self.scan.as_ref().expect("a scan");
        for candidate in scan.candidates() {
            self.highest_gen = self.highest_gen.max(candidate.fields.generation);
        }
        let chain = scan.chain_before(&self.chain_start(), &self.history, self.limit);
        if let Some(newer) = chain.newer_superblock {
            return Err(Refusal::NewerSuperblock { version: newer.version });
        }
        // The activation before completed and flushed all up to its own first commit, whether or not anything there has a
        // Seq that D could speak of.
        let promised = self.history.newest().filter(|line| chain.next < line.first_commit);
        if let Some(commit) = chain.missing_below_d.or(promised.map(|_| chain.next)) {
            self.counts.count(replay::Row::PromisedMissing);
            return Err(Refusal::LogDamaged { commit: commit.get() });
        }
        self.chain = Some(chain);
        self.replayed.clear();
        self.read_commits();
        self.at(Stage::Commits);
        Ok(())
    }

    /// Reads the next commits of the chain again, each from every leg that has it: a read that went well once may
    /// fail the next time.
    fn read_commits(&mut self) {
        self.script.clear();
        self.verified.commits.clear();
        let geometry = self.geometry();
        let chain = self.chain.as_ref().expect("a chain");
        let mut reading = 0;
        for index in &chain.accepted[self.replayed.len()..] {
            if reading >= WINDOW_BLOCKS {
                break;
            }
            let candidate = &self.scan.as_ref().expect("a scan").candidates()[*index];
            let (row, block, _) = geometry.ring_place(candidate.fields.offset);
            let pba = geometry.pba(crate::Place { row, column: candidate.column, block });
            let blocks = candidate.blocks;
            let copies: Vec<_> = candidate.legs.iter().filter_map(|leg| self.locate(pba, leg)).collect();
            reading += copies.len() * blocks as usize;
            let read = copies.into_iter().map(|(handle, at)| self.script.read(handle, at, blocks));
            self.verified.commits.push(read.collect());
        }
    }

    /// Commits are there: their records; after the last ones, the data to be read.
    pub(super) fn judge_commits(&mut self) -> Result<(), Refusal> {
        let chain = self.chain.as_ref().expect("a chain");
        let (accepted, durable) = (chain.accepted.clone(), chain.durable);
        let read = core::mem::take(&mut self.verified.commits);
        let from = self.replayed.len();
        for (copies, index) in read.iter().zip(&accepted[from..]) {
            let candidate = &self.scan.as_ref().expect("a scan").candidates()[*index];
            let is_it = |bytes: &[u8]| Commit::parse(bytes).is_ok_and(|view| view.check() == candidate.check);
            let whole: Vec<usize> =
                copies.iter().copied().filter(|id| is_it(&self.script.results[*id].bytes)).collect();
            if whole.is_empty() {
                // Above D it may be on a single leg of several, whose drive is losing its mind: then it never completed.
                // A commit that every leg had a moment ago may have been flushed and acknowledged, though no later
                // one says so; so may one of which a drive says nothing.
                if copies.iter().any(|id| self.script.results[*id].silent) {
                    return Err(SILENT);
                }
                let everywhere = self.ring_legs(candidate.column).without(candidate.legs).is_empty();
                if candidate.at_or_below(durable) || everywhere {
                    return Err(Refusal::Unreadable("a commit that could be read a moment ago"));
                }
                self.limit = candidate.fields.no;
                self.counts.count(replay::Row::NeverCompleted);
                return self.follow_chain();
            }
            // Its own check is no code: whoever forges one on one leg has not forged it on the others.
            let Some((bytes, records)) = whole.into_iter().find_map(|id| self.open_commit(id)) else {
                return Err(Refusal::Unreadable("a commit that could be opened a moment ago"));
            };
            if !records.iter().all(|record| self.possible(record)) {
                return Err(Refusal::Damaged("its log names blocks that the group does not have"));
            }
            self.replayed.push(Replayed { candidate: *index, bytes, records });
        }
        if self.replayed.len() < accepted.len() {
            self.read_commits();
            return Ok(());
        }
        self.script.clear();
        self.read_data();
        self.at(Stage::Verify);
        Ok(())
    }

    /// A commit that was read, and its records; `None` if the keys do not open it.
    fn open_commit(&mut self, id: usize) -> Option<(Vec<u8>, Vec<Record>)> {
        let bytes = core::mem::take(&mut self.script.results[id].bytes);
        let mut opened = bytes.clone();
        let mut plain = rlog::Plain;
        let keys: &mut dyn rlog::Unseal = match self.keys.as_deref_mut() {
            Some(keys) => keys,
            None => &mut plain,
        };
        let records = Commit::open(&mut opened, keys).map(|view| records_of(&view)).ok()?;
        Some((bytes, records))
    }

    /// Whether a record can be one of this group: its rows have the blocks. A row is in use only once a superblock
    /// that names it is durable, so any other record was never written by us, though its check is right.
    fn possible(&self, record: &Record) -> bool {
        let space = u64::from(self.superblock().rows) * self.geometry().row_blocks();
        record.data.iter().all(|(pba, _)| pba.get() < space)
    }

    /// Above D every block of data is read on every current leg: those of the next commits. Whether there were any.
    fn read_data(&mut self) -> bool {
        let durable = self.chain.as_ref().expect("a chain").durable;
        for commit in 0..self.replayed.len() {
            if self.verified.reading.len() >= WINDOW_BLOCKS {
                break;
            }
            let candidate =
                &self.scan.as_ref().expect("a scan").candidates()[self.replayed[commit].candidate];
            let known = self.verified.known.contains_key(&candidate.check.0);
            if candidate.at_or_below(durable) || known || self.config.bug(Planted::TailNotVerified) {
                continue;
            }
            for leg in self.legs() {
                self.read_commit_data(commit, leg);
            }
        }
        !self.verified.reading.is_empty()
    }

    fn read_commit_data(&mut self, commit: usize, leg: LegId) {
        let each = |record: &Record| {
            let (volume, first, seq) = (record.volume, record.lba, record.seq);
            let block = move |(i, (pba, check)): (usize, (Pba, Check))| {
                (pba, check, Form::Data(volume, first + Blocks::new(i as u64), seq))
            };
            record.data.clone().into_iter().enumerate().map(block)
        };
        let blocks: Vec<(Pba, Check, Form)> = self.replayed[commit].records.iter().flat_map(each).collect();
        let mut at = 0;
        while at < blocks.len() {
            let first = blocks[at].0;
            let most = self.geometry().contiguous(first).get() as usize;
            let follows = |i: &usize| blocks[at + i].0 == first + Blocks::new(*i as u64);
            let run = (1..most.min(blocks.len() - at)).take_while(follows).count() + 1;
            if let Some((handle, block)) = self.locate(first, leg) {
                let id = self.script.read(handle, block, run as u32);
                for (index, (pba, check, form)) in blocks[at..at + run].iter().copied().enumerate() {
                    let index = index as u32;
                    self.verified.reading.push(Reading { commit, leg, pba, check, form, id, index });
                }
            }
            at += run;
        }
    }

    /// Data has been read: what each leg has. What is right goes back to where it was read (`renew`).
    pub(super) fn judge_data(&mut self) {
        let reading = core::mem::take(&mut self.verified.reading);
        self.note_data(&reading);
        self.at(Stage::Renew);
        self.renew_data(&reading);
    }

    /// The next data; after the last of it, the decision about each commit.
    pub(super) fn judge_more(&mut self) -> Result<(), Refusal> {
        self.script.clear();
        if self.read_data() {
            self.at(Stage::Verify);
            return Ok(());
        }
        self.fills.clear();
        self.commit_fills.clear();
        let voided = self.chain.as_ref().expect("a chain").voided.len();
        for _ in 0..voided {
            self.counts.count(replay::Row::Voided);
        }
        for index in 0..self.replayed.len() {
            let found = self.found(index);
            let (row, decision) = replay::decide(&found);
            self.counts.count(row);
            match decision {
                Decision::SkipVoided => {}
                Decision::Accept => self.write_commit(index, LegSet::EMPTY),
                Decision::AcceptAndComplete(lacking) => {
                    self.write_commit(index, lacking.commit);
                    self.fill_data(index);
                }
                Decision::CutHere => {
                    self.check_silence(index)?;
                    for _ in index + 1..self.replayed.len() {
                        self.counts.count(replay::Row::AfterCut);
                    }
                    let scan = self.scan.as_ref().expect("a scan");
                    self.limit = scan.candidates()[self.replayed[index].candidate].fields.no;
                    return self.follow_chain();
                }
                Decision::RefuseMissing => {
                    let scan = self.scan.as_ref().expect("a scan");
                    let commit = scan.candidates()[self.replayed[index].candidate].fields.no.get();
                    return Err(Refusal::LogDamaged { commit });
                }
            }
        }
        self.count_end();
        self.complete_tail()
    }

    /// A commit is cut because its data is nowhere: the drives must have said so.
    ///
    /// Crash story: of a mirror one drive was left. It had a commit and its data, flushed and acknowledged, but no
    /// later commit that said so; in the next recovery it did not answer the read of the data. Cut there, the log
    /// would have lost what it promised. A leg that answers, with whatever it has, was waited for by the
    /// acknowledgement: then there was none.
    fn check_silence(&self, index: usize) -> Result<(), Refusal> {
        let scan = self.scan.as_ref().expect("a scan");
        let check = scan.candidates()[self.replayed[index].candidate].check;
        if self.verified.silent.contains(&check.0) { Err(SILENT) } else { Ok(()) }
    }

    /// The chain ended where no commit could be read, or where one was cut: the table's row for that.
    fn count_end(&mut self) {
        if self.limit == CommitNo::new(u64::MAX) {
            self.counts.count(replay::Row::NeverCompleted);
        }
    }

    /// Collects, for every block that was read, the legs that have it right, and keeps content that a leg lacks.
    fn note_data(&mut self, reading: &[Reading]) {
        let scan = self.scan.as_ref().expect("a scan");
        for read in reading {
            let check = scan.candidates()[self.replayed[read.commit].candidate].check;
            let blocks = self.verified.known.entry(check.0).or_default();
            if !blocks.iter().any(|(pba, _, _)| *pba == read.pba) {
                blocks.push((read.pba, LegSet::EMPTY, LegSet::EMPTY));
            }
            let entry = blocks.iter_mut().find(|(pba, _, _)| *pba == read.pba).expect("entered above");
            entry.1.insert(read.leg);
            let block = self.script.results[read.id].block(read.index);
            let keys = self.keys.as_deref_mut();
            if block.is_some_and(|block| is_stored(keys, block, read.pba, read.form, read.check)) {
                entry.2.insert(read.leg);
            }
        }
        self.note_silence(reading);
        self.keep_content(reading);
    }

    /// Whether a block was right where it was read.
    pub(super) fn was_right(&self, read: &Reading) -> bool {
        let scan = self.scan.as_ref().expect("a scan");
        let check = scan.candidates()[self.replayed[read.commit].candidate].check;
        let mut blocks = self.verified.known[&check.0].iter();
        blocks.any(|(pba, _, right)| *pba == read.pba && right.contains(read.leg))
    }

    fn note_silence(&mut self, reading: &[Reading]) {
        let scan = self.scan.as_ref().expect("a scan");
        let block =
            |read: &Reading| (scan.candidates()[self.replayed[read.commit].candidate].check.0, read.pba);
        let results = &self.script.results;
        let answered =
            |read: &&Reading| !results[read.id].silent || results[read.id].block(read.index).is_some();
        let said: BTreeSet<_> = reading.iter().filter(answered).map(block).collect();
        let silent = reading.iter().map(block).filter(|block| !said.contains(block));
        self.verified.silent.extend(silent.map(|(check, _)| check));
    }

    fn keep_content(&mut self, reading: &[Reading]) {
        let scan = self.scan.as_ref().expect("a scan");
        for read in reading {
            let check = scan.candidates()[self.replayed[read.commit].candidate].check;
            let blocks = &self.verified.known[&check.0];
            let (_, asked, right) = blocks.iter().find(|(pba, _, _)| *pba == read.pba).expect("noted");
            if asked != right && right.contains(read.leg) && !self.contents.contains_key(&read.pba.get()) {
                let block = self.script.results[read.id].block(read.index).expect("a right block");
                self.contents.insert(read.pba.get(), block.to_vec());
            }
        }
    }

    /// What the table is asked about a commit.
    fn found(&self, index: usize) -> Found {
        let scan = self.scan.as_ref().expect("a scan");
        let candidate = &scan.candidates()[self.replayed[index].candidate];
        let durable = self.chain.as_ref().expect("a chain").durable;
        // With several columns a leg can be current where the data lies and not where the commit does. Such a leg
        // lacks no commit, but it may lack data.
        let ring = self.ring_legs(candidate.column);
        let known = self.verified.known.get(&candidate.check.0);
        let mut current = ring;
        for leg in known.into_iter().flatten().flat_map(|(_, asked, _)| asked.iter()) {
            current.insert(leg);
        }
        let mut commit_on = candidate.legs;
        for leg in current.without(ring).iter() {
            commit_on.insert(leg);
        }
        let data = match known {
            _ if candidate.at_or_below(durable) => Data::NotRead,
            None => Data::intact(current),
            Some(blocks) => Data::Read {
                complete_on: self.complete_on(blocks, current),
                each_somewhere: blocks.iter().all(|(_, _, right)| !right.is_empty()),
            },
        };
        Found {
            current,
            at_or_below_d: candidate.at_or_below(durable),
            predecessor: true,
            voided: false,
            commit_on,
            data,
        }
    }

    /// The legs on which no block is known to be wrong.
    fn complete_on(&self, blocks: &Blocks2, current: LegSet) -> LegSet {
        let mut complete = current;
        for (_, asked, right) in blocks {
            complete = complete.without(asked.without(*right));
        }
        complete
    }

    /// The legs whose ring of a column is current.
    fn ring_legs(&self, column: Column) -> LegSet {
        let geometry = self.geometry();
        let (row, block, _) = geometry.ring_place(0);
        self.current_legs(geometry.pba(crate::Place { row, column, block }))
    }

    /// Notes the legs that a commit is written to: those that lack it, and above D all.
    fn write_commit(&mut self, index: usize, lacking: LegSet) {
        let candidate = &self.scan.as_ref().expect("a scan").candidates()[self.replayed[index].candidate];
        let promised = candidate.at_or_below(self.chain.as_ref().expect("a chain").durable);
        let legs = if promised || !self.renews() { lacking } else { self.ring_legs(candidate.column) };
        self.commit_fills.extend(legs.iter().map(|leg| (leg, index)));
    }

    /// Notes what must be written to legs that lack data of a commit.
    fn fill_data(&mut self, index: usize) {
        let scan = self.scan.as_ref().expect("a scan");
        let check = scan.candidates()[self.replayed[index].candidate].check;
        let Some(blocks) = self.verified.known.get(&check.0) else { return };
        for (pba, asked, right) in blocks {
            for leg in asked.without(*right).iter() {
                // Each is right on some leg, or the commit would not count.
                assert!(self.contents.contains_key(&pba.get()), "content that a leg lacks was kept");
                self.fills.push((leg, *pba));
            }
        }
    }

    /// Writes what the accepted tail lacks on a leg, and with it the version that was found where it was found.
    fn complete_tail(&mut self) -> Result<(), Refusal> {
        self.at(Stage::Complete);
        if !self.config.read_only {
            self.ended = self.no_activation_left();
            self.config.read_only = self.ended.is_some();
        }
        if self.config.read_only {
            self.at(Stage::Done);
            return Ok(());
        }
        if self.config.bug(Planted::TailNotCompleted) {
            self.fills.clear();
            self.commit_fills.clear();
            return Ok(());
        }
        for Fill { leg, pba, bytes } in &self.page_fills {
            if let Some((handle, at)) = self.locate(*pba, *leg) {
                self.script.write(handle, at, bytes.clone());
            }
        }
        self.renew_superblocks();
        Ok(())
    }

    /// Goes on with that: the next of its data and commits, or the flush that follows the last.
    pub(super) fn complete_more(&mut self) {
        self.script.clear();
        let geometry = self.geometry();
        let mut writing = 0;
        while writing < WINDOW_BLOCKS
            && let Some((leg, pba)) = self.fills.pop()
        {
            writing += 1;
            if let Some((handle, at)) = self.locate(pba, leg) {
                self.script.write(handle, at, self.contents[&pba.get()].clone());
            }
        }
        while writing < WINDOW_BLOCKS
            && let Some((leg, index)) = self.commit_fills.pop()
        {
            let candidate = &self.scan.as_ref().expect("a scan").candidates()[self.replayed[index].candidate];
            let (row, block, _) = geometry.ring_place(candidate.fields.offset);
            let pba = geometry.pba(crate::Place { row, column: candidate.column, block });
            let bytes = self.replayed[index].bytes.clone();
            writing += candidate.blocks as usize;
            if let Some((handle, at)) = self.locate(pba, leg) {
                self.script.write(handle, at, bytes);
            }
        }
        if writing == 0 {
            self.contents.clear();
            self.flush_all(Stage::CompleteFlush);
        }
    }

    /// Drives whose copy is current.
    pub(super) fn current_drives(&self) -> DriveSet {
        self.current
    }
}

/// The records of a commit that take a Seq.
fn records_of(view: &rlog::CommitView<'_>) -> Vec<Record> {
    let mut records = Vec::new();
    for record in view.records() {
        let Some(seq) = record.seq.filter(|_| record.kind != RecordKind::Void) else { continue };
        let mut data = Vec::new();
        let mut checks = record.checks();
        for (first, count) in record.runs() {
            for i in 0..count.get() {
                let check = checks.next().expect("a check for each block");
                data.push((first + Blocks::new(i), check));
            }
        }
        let (volume, lba, blocks) = (record.volume, record.lba, record.blocks.get());
        records.push(Record { volume, lba, blocks, seq, data });
    }
    records
}
