//! The log: the ring of every current leg, the chain after the checkpoint, and what recovery would make of it.
//!
//! The same scan, chain and decision table as recovery's, without its writing. What the accepted commits lack
//! above D is what a crash leaves; below D it is damage.
//!
//! Without the keys of an encrypted group only the headers of commits are seen. How many commits one voids its header
//! tells, and not which: a commit that is missing may be one of those. Whether the data above D is there is not known, so
//! the log may end earlier than here.
use crate::group::{CopyAt, GroupView};
use crate::keys::{Form, Seals};
use crate::overlay::{LogBlock, Overlay};
use crate::report::{Object, Report, Severity, Where};
use crate::ring;
use base::{BLOCK_BYTES, Blocks, Check, Column, CommitNo, DriveBlock, Lba, LegId, Pba, Seq, VolumeId};
use rlog::replay::{self, Data, Decision, Found, Lacking};
use rlog::{
    Candidate, Chain, ChainStart, Commit, History, LegSet, Outside, Plain, RecordKind, RingShape, Scan,
    SuperblockId, Unseal,
};
use volume::Place;

mod forged;
mod unseen;

/// A block that a record of the accepted log names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named {
    pub pba: Pba,
    pub volume: VolumeId,
    pub lba: Lba,
    pub commit: CommitNo,
}

/// The log as the next opening would accept it.
pub(crate) struct Log {
    /// Every commit that was found on the ring, of whatever activation; with the keys of an encrypted group those that
    /// they open.
    pub scan: Scan,
    pub chain: Chain,
    /// For each commit of `chain.accepted`: D covers it.
    pub durable: Vec<bool>,
    pub overlay: Overlay,
    pub named: Vec<Named>,
}

/// A commit of the chain, read again.
struct Parsed {
    index: usize,
    /// Those that take a Seq; none if they are not to be seen.
    records: Vec<Record>,
}

/// A write or hole.
struct Record {
    kind: RecordKind,
    volume: VolumeId,
    lba: Lba,
    blocks: Blocks,
    seq: Seq,
    written: Vec<(Lba, Pba, Check)>,
}

/// Reads the ring and follows the chain.
pub(crate) fn read(view: &GroupView<'_>, history: &History, report: &mut Report) -> Log {
    let (scan, whole) = scan(view, report);
    let whole = whole.as_ref().unwrap_or(&scan);
    forged::report(view, history, &scan, whole, report);
    let superblock = &view.superblock;
    let start = ChainStart {
        next: superblock.next_commit,
        previous: superblock.previous,
        next_seq: superblock.ckpt_seq.next(),
        durable: superblock.durable,
        superblock: SuperblockId { generation: superblock.generation, version: superblock.version },
        tails: superblock.ring_start,
    };
    let mut limit = CommitNo::new(u64::MAX);
    loop {
        let chain = chain_before(view, &scan, &start, history, limit);
        let commits = commits(view, &scan, &chain, report);
        match judge(view, &scan, &chain, &commits) {
            Ok(lacking) => {
                report_chain(view, &scan, &chain, &lacking, report);
                ring::check(view, history, (&scan, whole), &chain, report);
                return lay_over(scan, chain, &commits);
            }
            Err(cut) => limit = cut,
        }
    }
}

/// The ring's shape.
pub(crate) fn shape(view: &GroupView<'_>) -> RingShape {
    let geometry = view.geometry();
    let pieces = geometry.pieces.iter().filter(|piece| piece.blocks > 0);
    let pieces: Vec<_> =
        pieces.map(|piece| rlog::Piece { blocks: Blocks::new(u64::from(piece.blocks)) }).collect();
    RingShape::new(&pieces, usize::from(geometry.columns))
}

/// The chain; where no records are seen, over the places of commits that may be voided.
fn chain_before(
    view: &GroupView<'_>,
    scan: &Scan,
    start: &ChainStart,
    history: &History,
    limit: CommitNo,
) -> Chain {
    match view.seals {
        Seals::Shut => unseen::chain_before(scan, start, history, limit),
        Seals::None | Seals::Open(_) => scan.chain_before(start, history, limit),
    }
}

/// With what the group's commits are read.
fn unsealing<T>(view: &GroupView<'_>, with: impl FnOnce(&mut dyn Unseal) -> T) -> T {
    match &view.seals {
        Seals::None => with(&mut Plain),
        Seals::Shut => with(&mut Outside),
        Seals::Open(opener) => with(opener.borrow_mut().reader.commits()),
    }
}

/// What is on the ring; with the keys of an encrypted group also what anybody takes for a commit.
fn scan(view: &GroupView<'_>, report: &mut Report) -> (Scan, Option<Scan>) {
    let geometry = view.geometry();
    let new = || Scan::new(view.group, shape(view), usize::from(geometry.legs));
    let (mut scan, mut whole) = (new(), matches!(view.seals, Seals::Open(_)).then(new));
    for column in (0..geometry.columns).map(Column::new) {
        for copy in view.copies(ring_pba(view, column, 0)) {
            let bytes = ring_bytes(view, &copy, column, report);
            unsealing(view, |keys| feed(&mut scan, keys, copy.leg, column, &bytes));
            whole.iter_mut().for_each(|whole| feed(whole, &mut Outside, copy.leg, column, &bytes));
        }
    }
    (scan, whole)
}

fn feed(scan: &mut Scan, keys: &mut dyn Unseal, leg: LegId, column: Column, bytes: &[u8]) {
    let mut at = 0;
    while at < bytes.len() {
        let taken = scan.feed(keys, leg, column, (at / BLOCK_BYTES) as u32, &bytes[at..]);
        assert!(taken > 0, "a whole ring always gets on");
        at += taken * BLOCK_BYTES;
    }
}

/// The Pba of a ring block.
fn ring_pba(view: &GroupView<'_>, column: Column, offset: u32) -> Pba {
    let (row, block, _) = view.geometry().ring_place(offset);
    view.geometry().pba(Place { row, column, block })
}

/// One leg's column of the ring; what cannot be read is zero, which is no commit.
fn ring_bytes(view: &GroupView<'_>, copy: &CopyAt, column: Column, report: &mut Report) -> Vec<u8> {
    let media = view.drive(copy).media();
    let mut bytes = vec![0; view.geometry().ring_blocks() as usize * BLOCK_BYTES];
    if media.read_into(copy.block, &mut bytes).is_ok() {
        return bytes;
    }
    let mut lost = Vec::new();
    for (i, block) in bytes.chunks_exact_mut(BLOCK_BYTES).enumerate() {
        let at: DriveBlock = copy.block + Blocks::new(i as u64);
        if media.read_into(at, block).is_err() {
            block.fill(0);
            lost.push(view.drive(copy).at(at));
        }
    }
    let what = format!("{} blocks cannot be read", lost.len());
    lost.truncate(4);
    report.add(Severity::Repairable, Object::Ring(copy.leg.get(), column.get()), what, lost);
    bytes
}

/// The accepted commits' bytes, each from a leg that has it.
fn commits(view: &GroupView<'_>, scan: &Scan, chain: &Chain, report: &mut Report) -> Vec<Parsed> {
    let mut all = Vec::with_capacity(chain.accepted.len());
    for index in &chain.accepted {
        let candidate = &scan.candidates()[*index];
        let pba = ring_pba(view, candidate.column, candidate.fields.offset);
        let mut bytes = vec![0; candidate.blocks as usize * BLOCK_BYTES];
        let mut copies = view.copies(pba).filter(|copy| candidate.legs.contains(copy.leg));
        let records = copies.find_map(|copy| {
            view.drive(&copy).media().read_into(copy.block, &mut bytes).ok()?;
            unsealing(view, |keys| records_of(&mut bytes, keys, candidate.check))
        });
        let Some(records) = records else {
            let what = "could be read a moment ago and cannot be now";
            report.add(Severity::Damage, Object::Commit(candidate.fields.no.get()), what, view.places(pba));
            break;
        };
        all.push(Parsed { index: *index, records });
    }
    all
}

/// The records of a commit that has this check.
fn records_of(bytes: &mut [u8], keys: &mut dyn Unseal, check: Check) -> Option<Vec<Record>> {
    let commit = Commit::open(bytes, keys).ok().filter(|commit| commit.check() == check)?;
    if commit.is_sealed() {
        return Some(Vec::new());
    }
    let records = commit.records().filter_map(|record| {
        Some(Record {
            kind: record.kind,
            volume: record.volume,
            lba: record.lba,
            blocks: record.blocks,
            seq: record.seq?,
            written: record.each_block().collect(),
        })
    });
    Some(records.collect())
}

/// What the legs lack, by place in the chain; or the commit before which the log ends.
fn judge(
    view: &GroupView<'_>,
    scan: &Scan,
    chain: &Chain,
    commits: &[Parsed],
) -> Result<Vec<(usize, Lacking)>, CommitNo> {
    let mut all = Vec::new();
    for commit in commits {
        let candidate = &scan.candidates()[commit.index];
        let covered = candidate.at_or_below(chain.durable);
        let current = view.legs(ring_pba(view, candidate.column, 0));
        let data = if covered { Data::NotRead } else { data_found(view, current, &commit.records) };
        let found = Found {
            current,
            at_or_below_d: covered,
            predecessor: true,
            voided: false,
            commit_on: candidate.legs,
            data,
        };
        match replay::decide(&found).1 {
            Decision::AcceptAndComplete(lacking) => {
                all.push((commit.index, lacking));
            }
            Decision::CutHere => return Err(candidate.fields.no),
            Decision::Accept | Decision::SkipVoided | Decision::RefuseMissing => {}
        }
    }
    Ok(all)
}

/// Reads the data of a commit on every leg.
fn data_found(view: &GroupView<'_>, current: LegSet, records: &[Record]) -> Data {
    let (mut complete_on, mut each_somewhere) = (current, true);
    let blocks = records.iter().flat_map(|record| record.written.iter().map(move |block| (record, *block)));
    for (record, (lba, pba, check)) in blocks {
        let form = Form::Data(record.volume, lba, record.seq);
        let mut somewhere = false;
        for copy in view.copies(pba) {
            let block = view.drive(&copy).media().read(copy.block);
            if block.is_ok_and(|mut block| view.seals.judge(&mut block, pba, form, check).is_ok()) {
                somewhere = true;
            } else {
                complete_on.remove(copy.leg);
            }
        }
        each_somewhere &= somewhere;
    }
    Data::Read { complete_on, each_somewhere }
}

fn report_chain(
    view: &GroupView<'_>,
    scan: &Scan,
    chain: &Chain,
    lacking: &[(usize, Lacking)],
    report: &mut Report,
) {
    let clean = view.superblock.clean;
    report.counts.commits += chain.accepted.len() as u64;
    if let Some(named) = chain.newer_superblock {
        let what = format!(
            "a commit names superblock Gen {} version {}, newer than any at hand: a drive with it is missing",
            named.generation, named.version
        );
        report.add(Severity::Damage, Object::Group, what, Vec::new());
    }
    if let Some(missing) = chain.missing_below_d {
        let what = format!("no copy has it, and everything up to Seq {} was promised", chain.durable);
        report.add(Severity::Damage, Object::Commit(missing.get()), what, Vec::new());
    }
    if clean && !chain.accepted.is_empty() {
        let what = format!("was closed, and {} commits follow", chain.accepted.len());
        report.add(Severity::Damage, Object::Group, what, Vec::new());
    } else if !clean {
        let most = if matches!(view.seals, Seals::Shut) { "at most " } else { "" };
        let what = format!(
            "was not closed: the next opening replays {most}{} commits, up to Seq {}",
            chain.accepted.len(),
            Seq::new(chain.next_seq.get() - 1)
        );
        report.add(Severity::Note, Object::Group, what, Vec::new());
    }
    for (index, lacking) in lacking {
        report_lacking(view, &scan.candidates()[*index], chain.durable, lacking.commit, report);
    }
}

/// A commit that is not on every leg. (Data that is not is found when all data is looked at.)
fn report_lacking(view: &GroupView<'_>, commit: &Candidate, durable: Seq, legs: LegSet, report: &mut Report) {
    let covered = commit.at_or_below(durable);
    let severity = if covered { Severity::Repairable } else { Severity::Note };
    let pba = ring_pba(view, commit.column, commit.fields.offset);
    for leg in legs.iter() {
        let at = view.copies(pba).filter(|copy| copy.leg == leg).map(|copy| view.place(&copy)).collect();
        // Without the keys it is not known whether its data is there.
        let end =
            if covered || !matches!(view.seals, Seals::Shut) { "" } else { ", or ends the log before it" };
        let what = format!("leg {leg} does not have it; the next opening writes it there{end}");
        report.add(severity, Object::Commit(commit.fields.no.get()), what, at);
    }
}

fn lay_over(scan: Scan, chain: Chain, commits: &[Parsed]) -> Log {
    let (mut overlay, mut named, mut durable) = (Overlay::default(), Vec::new(), Vec::new());
    for (place, parsed) in commits.iter().enumerate() {
        let candidate = &scan.candidates()[parsed.index];
        let no = candidate.fields.no;
        durable.push(candidate.at_or_below(chain.durable));
        for record in &parsed.records {
            overlay.name(record.volume, record.lba + record.blocks, no);
            if record.kind == RecordKind::Hole {
                overlay.hole(record.volume, record.lba, record.blocks);
            }
            for (lba, pba, check) in record.written.iter().copied() {
                named.push(Named { pba, volume: record.volume, lba, commit: no });
                let block = LogBlock { pba, check, seq: record.seq, commit: place };
                overlay.write(record.volume, lba, block);
            }
        }
    }
    Log { scan, chain, durable, overlay, named }
}

/// The legs that a commit of the log may be missing data on.
pub(crate) fn may_lack(log: &Log, block: &LogBlock) -> LegSet {
    if log.durable[block.commit] { LegSet::EMPTY } else { LegSet::first(base::limits::MAX_LEGS) }
}

/// Every copy of a ring block that counts.
pub(crate) fn ring_place(view: &GroupView<'_>, column: Column, offset: u32) -> Vec<(CopyAt, Where)> {
    view.copies(ring_pba(view, column, offset)).map(|copy| (copy, view.place(&copy))).collect()
}
