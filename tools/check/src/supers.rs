//! Superblocks: all slots of all home extents, which one is the newest, and which copies are current.
//!
//! A version goes to one slot of every current copy, flushed, then to the other. So a crash explains, in a group
//! that was not closed, one bad slot beside a good one, and older versions; it does not explain two bad slots of
//! one copy, nor, in a group that was closed, a bad slot, nor a copy without the newest version when another has
//! it twice (the second slots are written only after the first ones are flushed everywhere). A group that was
//! closed an instant before the crash can have a torn second slot too; there the slot must look like one: whole
//! sectors of an older version among those of the newest.
//!
//! With the keys of an encrypted group a superblock counts only if it has the group's code. If none has, the keys are not
//! the group's, or all of its superblocks were made by somebody else: that is told once, and the group is looked at as
//! without keys.
use crate::drive::Drive;
use crate::fsck::Options;
use crate::group::GroupView;
use crate::keys::{Keyring, Seals};
use crate::report::{Object, Report, Severity, Where};
use crate::scan::{GroupHomes, is_zero};
use base::{Block, Check, CheckKind, DriveBlock, DriveIx, ExtentNo, Gen, SECTOR_BYTES, Uuid, codec};
use fence::{CopyState, CopyTable, DriveSet};
use rlog::Commit;
use rlog::layout::H_GROUP;
use volume::keys::reader::Reader;
use volume::layout::OWN_CHECK;
use volume::layout::extent::{RING_FIRST, SUPERBLOCKS};
use volume::layout::superblock as at;
use volume::superblock::Home;
use volume::{Bad, Superblock};

mod versions;

/// What a slot holds.
#[derive(Clone, Debug)]
pub(crate) enum SlotState {
    /// A superblock of the group that says that it lies here.
    Valid(Box<Superblock>, Home),
    /// Such a one, with bytes set that this version does not know.
    More(Box<Superblock>, Home),
    /// Such a one without the code of its group: what it would be if it counted.
    Forged(Box<SlotState>),
    /// One that passes its check and belongs elsewhere; where, if it is of this group.
    Foreign(Option<Home>),
    Zero,
    Bad(Bad, Box<Block>),
    Unreadable(String),
}

/// A slot.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub drive: usize,
    pub extent: ExtentNo,
    pub slot: u8,
    pub at: DriveBlock,
    pub state: SlotState,
}

impl Slot {
    /// (Gen, version) of what it holds.
    pub fn newness(&self) -> Option<(Gen, u64)> {
        self.superblock().map(Superblock::newness)
    }

    fn superblock(&self) -> Option<&Superblock> {
        match &self.state {
            SlotState::Valid(superblock, _) | SlotState::More(superblock, _) => Some(superblock),
            _ => None,
        }
    }

    /// What is wrong with it.
    pub fn fault(&self) -> Option<String> {
        match &self.state {
            SlotState::Valid(..) | SlotState::More(..) => None,
            SlotState::Foreign(None) => Some("holds a superblock of another group".into()),
            SlotState::Foreign(Some(home)) => Some(format!(
                "holds a superblock that belongs elsewhere: to leg {} column {}, drive {} of the table, extent {}",
                home.leg, home.column, home.extent.drive, home.extent.extent
            )),
            SlotState::Forged(_) => Some(
                "is whole and not what was sealed here (changed, or made by somebody without the group's keys)".into(),
            ),
            SlotState::Zero => Some("is empty".into()),
            SlotState::Bad(Bad::Newer(version), _) => {
                Some(format!("has format version {version}: use a newer program"))
            }
            SlotState::Bad(Bad::Magic, _) => Some("holds something else".into()),
            SlotState::Bad(Bad::Check, _) => Some("fails its check".into()),
            SlotState::Bad(Bad::Content, _) => Some("passes its check and says something impossible".into()),
            SlotState::Unreadable(why) => Some(format!("cannot be read: {why}")),
        }
    }
}

/// Reads the superblocks of a group. `None`, with a finding, if none can be used.
pub(crate) fn read<'a>(
    drives: &'a [Drive<'a>],
    homes: &GroupHomes,
    options: &Options,
    keys: &dyn Keyring,
    report: &mut Report,
) -> Option<GroupView<'a>> {
    let mut slots = Vec::new();
    let mut reader = keys.keys_of(homes.group).map(|keys| Reader::new(keys, homes.group));
    for (drive, extent) in &homes.homes {
        read_slots(drives, homes.group, (*drive, *extent), reader.as_ref(), &mut slots);
    }
    if newest(&slots).is_none() && believe_forged(&mut slots, report) {
        reader = None;
    }
    let first = newest(&slots)?.clone();
    // Home extents whose headers are gone are known from the superblock alone.
    for home in first.homes() {
        let uuid = first.drives[usize::from(home.extent.drive.get())].drive;
        let drive = drives.iter().position(|drive| drive.uuid == uuid);
        let known = |drive| homes.homes.contains(&(drive, home.extent.extent));
        if let Some(drive) = drive.filter(|drive| !known(*drive)) {
            read_slots(drives, homes.group, (drive, home.extent.extent), reader.as_ref(), &mut slots);
        }
    }
    let superblock = newest(&slots)?.clone();
    let mut table = match CopyTable::from_entries(&superblock.drives) {
        Some(table) => table,
        None => {
            report.add(Severity::Damage, Object::Group, "the superblock lists a drive twice", Vec::new());
            return None;
        }
    };
    for slot in slots.iter().filter(|slot| slot.newness() != Some(superblock.newness())) {
        table.merge(slot.superblock().map_or(&[][..], |older| &older.drives));
    }
    if let Some(view) = options.catalogue.get(&homes.group) {
        table.merge_catalogue(view);
    }
    let at_hand = |uuid: Uuid| drives.iter().position(|drive| drive.uuid == uuid);
    let handles: Vec<Option<usize>> = table.entries().iter().map(|entry| at_hand(entry.drive)).collect();
    let mut current = DriveSet::EMPTY;
    for index in table.current().iter().filter(|index| handles[usize::from(index.get())].is_some()) {
        current.insert(index);
    }
    let rows = superblock.home.clone();
    let group = homes.group;
    let seals = match (superblock.checks, reader) {
        (CheckKind::Xxh3, _) => Seals::None,
        (CheckKind::AesGcm, None) => Seals::Shut,
        (CheckKind::AesGcm, Some(reader)) => Seals::open(reader),
    };
    Some(GroupView {
        drives,
        group,
        superblock,
        slots,
        table,
        handles,
        current,
        rows,
        seals,
        only_alike: false,
    })
}

/// If superblocks lack their code, and no other is there: takes them for what they say, and tells so.
fn believe_forged(slots: &mut [Slot], report: &mut Report) -> bool {
    let mut encrypted = None;
    for slot in slots {
        if let SlotState::Forged(said) = &slot.state {
            slot.state = (**said).clone();
            let kind = slot.superblock().map(|superblock| superblock.checks == CheckKind::AesGcm);
            encrypted = encrypted.max(kind);
        }
    }
    let what = match encrypted {
        None => return false,
        Some(true) => {
            "no superblock was made with the keys given: they are another group's, or all superblocks were changed"
        }
        Some(false) => {
            "is not encrypted by its superblocks, and keys of it were given: all superblocks were changed, or it never was"
        }
    };
    report.add(Severity::Damage, Object::Group, what, Vec::new());
    true
}

/// Why a group has home extents and no superblock that can be used.
pub(crate) enum Unusable {
    /// It was being made or deleted: the extents go back.
    Never,
    /// What is wrong with its slots.
    Faults(String),
}

/// A group has home extents and no superblock: its creation was not finished, or every slot is damaged. The slots of
/// an extent that was never used may hold anything; then no commit of the group is on its ring, for nothing was
/// ever written to it. Also told is where the slots are.
pub(crate) fn why_none(drives: &[Drive<'_>], homes: &GroupHomes) -> (Unusable, Vec<Where>) {
    let mut slots = Vec::new();
    for home in &homes.homes {
        read_slots(drives, homes.group, *home, None, &mut slots);
    }
    let at: Vec<Where> = slots.iter().map(|slot| drives[slot.drive].at(slot.at)).collect();
    let zero = slots.iter().all(|slot| matches!(slot.state, SlotState::Zero));
    let never =
        |slot: &Slot| matches!(slot.state, SlotState::Zero | SlotState::Bad(Bad::Magic | Bad::Check, _));
    if zero || (slots.iter().all(never) && !was_written(drives, homes)) {
        return (Unusable::Never, at);
    }
    let faults: Vec<String> = slots.iter().filter_map(Slot::fault).collect();
    (Unusable::Faults(format!("has no superblock that can be used: {}", faults.join(", "))), at)
}

/// Tells of a group that has home extents and no superblock.
pub(crate) fn report_none(drives: &[Drive<'_>], homes: &GroupHomes, report: &mut Report) {
    match why_none(drives, homes) {
        (Unusable::Never, at) => {
            let what = "has headers and no superblock: it was being made or deleted, and its extents go back";
            report.add(Severity::Note, Object::Group, what, at);
        }
        (Unusable::Faults(what), at) => report.add(Severity::Damage, Object::Group, what, at),
    }
}

/// Whether the home extents have anything that looks like a commit of the group.
fn was_written(drives: &[Drive<'_>], homes: &GroupHomes) -> bool {
    homes.homes.iter().any(|(index, extent)| {
        let drive = &drives[*index];
        let blocks = if extent.get() < drive.extents { RING_FIRST..drive.extent_blocks } else { 0..0 };
        blocks.into_iter().any(|block| match drive.media().read(drive.block_of(*extent, block)) {
            Ok(block) => {
                Commit::blocks(&block[..]).is_ok() && codec::uuid_at(&block[..], H_GROUP) == homes.group
            }
            Err(_) => true,
        })
    })
}

fn read_slots(
    drives: &[Drive<'_>],
    group: Uuid,
    home: (usize, ExtentNo),
    reader: Option<&Reader>,
    slots: &mut Vec<Slot>,
) {
    let (index, extent) = home;
    let drive = &drives[index];
    if extent.get() >= drive.extents {
        return;
    }
    for (slot, block) in SUPERBLOCKS.iter().enumerate() {
        let at = drive.block_of(extent, *block);
        let state = match drive.media().read(at) {
            Err(error) => SlotState::Unreadable(error.to_string()),
            Ok(block) => match Superblock::decode(&block) {
                Ok((superblock, home)) => {
                    let listed = superblock.drives.get(usize::from(home.extent.drive.get()));
                    let of_group = superblock.group;
                    let belongs = of_group == group
                        && home.extent.extent == extent
                        && listed.is_some_and(|entry| entry.drive == drive.uuid);
                    let more = as_coded(&superblock, home, &block) != *block;
                    let genuine = reader.is_none_or(|reader| reader.is_genuine(&superblock, &block));
                    let counts = match more {
                        false => SlotState::Valid(Box::new(superblock), home),
                        true => SlotState::More(Box::new(superblock), home),
                    };
                    match (belongs, genuine) {
                        (false, _) => SlotState::Foreign((of_group == group).then_some(home)),
                        (true, true) => counts,
                        (true, false) => SlotState::Forged(Box::new(counts)),
                    }
                }
                Err(_) if is_zero(&block) => SlotState::Zero,
                Err(bad) => SlotState::Bad(bad, block),
            },
        };
        slots.push(Slot { drive: index, extent, slot: slot as u8, at, state });
    }
}

/// What a superblock is as a block, with the code that this block has: that is its group's to make.
fn as_coded(superblock: &Superblock, home: Home, block: &Block) -> Block {
    let mut whole = superblock.encode(home);
    if superblock.checks == CheckKind::AesGcm {
        whole[at::CODE_AT..OWN_CHECK].copy_from_slice(&block[at::CODE_AT..OWN_CHECK]);
        let check = Check::of(&whole[..OWN_CHECK]);
        codec::put_check(&mut whole, OWN_CHECK, check);
    }
    whole
}

/// The newest superblock; of several that call themselves the same, the one that most slots hold.
fn newest(slots: &[Slot]) -> Option<&Superblock> {
    let newness = slots.iter().filter_map(Slot::newness).max()?;
    let same = || slots.iter().filter_map(Slot::superblock).filter(|one| one.newness() == newness);
    same().max_by_key(|one| same().filter(|other| other == one).count())
}

/// Judges the slots, the drive table and the drives at hand.
pub(crate) fn check(view: &GroupView<'_>, report: &mut Report) {
    check_drives(view, report);
    let superblock = &view.superblock;
    let newest = Some(superblock.newness());
    let copies: Vec<(Home, [Option<&Slot>; 2])> = superblock
        .homes()
        .filter(|home| view.current.contains(home.extent.drive))
        .map(|home| (home, [0, 1].map(|slot| slot_of(view, home, slot))))
        .collect();
    let holds = |slot: &Option<&Slot>| slot.and_then(Slot::newness) == newest;
    let second_begun = copies.iter().any(|(_, slots)| slots.iter().all(holds));
    for (home, slots) in &copies {
        let good = slots.iter().flatten().filter(|slot| slot.newness().is_some()).count();
        for slot in slots.iter().flatten() {
            let Some(fault) = slot.fault() else { continue };
            let readable = !matches!(slot.state, SlotState::Unreadable(_));
            let forged = matches!(slot.state, SlotState::Forged(_));
            let torn = good > 0 && readable && !forged && (!superblock.clean || is_torn(view, slot, *home));
            let severity = if torn { Severity::Note } else { Severity::Repairable };
            let tail = if torn { ": torn by a crash, or damaged" } else { "" };
            report.add(severity, object(*home, slot.slot), format!("{fault}{tail}"), places(view, slot));
        }
        if good > 0 && superblock.clean && second_begun && !slots.iter().any(holds) {
            let what = "holds an older version although the newest was written everywhere";
            for slot in slots.iter().flatten().filter(|slot| slot.newness().is_some()) {
                report.add(Severity::Repairable, object(*home, slot.slot), what, places(view, slot));
            }
        }
    }
    check_elsewhere(view, report);
    versions::check(view, report);
}

/// Superblocks of the group on drives that are not those of its home row.
fn check_elsewhere(view: &GroupView<'_>, report: &mut Report) {
    let home = |slot: &Slot| {
        view.superblock.homes().any(|home| {
            view.handles[usize::from(home.extent.drive.get())] == Some(slot.drive)
                && home.extent.extent == slot.extent
        })
    };
    for slot in view.slots.iter().filter(|slot| !home(slot)) {
        let SlotState::Foreign(Some(claimed)) = slot.state else { continue };
        let what = format!(
            "lies on drive {} by the drive's label, and says that it is another's: the drive is a copy, or its \
             label is",
            view.drives[slot.drive].uuid
        );
        report.add(Severity::Damage, object(claimed, slot.slot), what, places(view, slot));
    }
}

/// Whether a bad slot looks like the newest version written over an older one and cut short: sectors are whole, the
/// first has the older number, and the last, which holds the check, has another check altogether.
///
/// Without the keys of an encrypted group the right code is not known, so one that was damaged looks like an older one.
fn is_torn(view: &GroupView<'_>, slot: &Slot, home: Home) -> bool {
    const LAST: usize = OWN_CHECK / SECTOR_BYTES * SECTOR_BYTES;
    let SlotState::Bad(Bad::Check, block) = &slot.state else { return false };
    let newest = &view.superblock;
    let whole = match &view.seals {
        Seals::Open(opener) => opener.borrow().reader.superblock(newest, home),
        Seals::None | Seals::Shut => as_coded(newest, home, block),
    };
    let number = (Gen::new(codec::u64_at(&block[..], at::GEN_AT)), codec::u64_at(&block[..], at::NUMBER_AT));
    let first_new = block[..SECTOR_BYTES] == whole[..SECTOR_BYTES];
    let last_new = block[LAST..] == whole[LAST..];
    let first_old = block[..at::VERSION_AT + 2] == whole[..at::VERSION_AT + 2] && number < newest.newness();
    let another = |at: usize| (at..at + 16).filter(|i| block[*i] != whole[*i]).count() >= 12;
    let other_code = match newest.checks {
        CheckKind::AesGcm => another(at::CODE_AT) || matches!(view.seals, Seals::Shut),
        CheckKind::Xxh3 => block[at::CODE_AT..OWN_CHECK] == whole[at::CODE_AT..OWN_CHECK],
    };
    let last_old = block[LAST..at::CODE_AT] == whole[LAST..at::CODE_AT] && other_code && another(OWN_CHECK);
    (first_new || first_old) && (last_new || last_old) && !(first_new && last_new)
}

/// Drives that are stale, missing or of another shape.
fn check_drives(view: &GroupView<'_>, report: &mut Report) {
    for (index, entry) in view.table.entries().iter().enumerate() {
        let name = view.drive_name(index);
        let Some(handle) = view.handles[index] else {
            let stale = if entry.state.is_current() { "is current and" } else { "is stale and" };
            let what = format!("{name} {stale} not among the drives given: its copies are not checked");
            report.add(Severity::Note, Object::Group, what, Vec::new());
            continue;
        };
        let drive = &view.drives[handle];
        match entry.state {
            CopyState::Current => {}
            CopyState::Stale { seq, .. } => {
                let what = format!("{name} is stale since Seq {seq}: its copies are not checked");
                report.add(Severity::Note, Object::Group, what, Vec::new());
            }
            CopyState::Resyncing { seq, .. } => {
                let what =
                    format!("{name} was being resynced, from Seq {seq} on: its copies are not checked");
                report.add(Severity::Note, Object::Group, what, Vec::new());
            }
        }
        if drive.extent_blocks != view.geometry().extent_blocks {
            let what = format!(
                "{name} has extents of {} blocks by its label, the group's have {}",
                drive.extent_blocks,
                view.geometry().extent_blocks
            );
            report.add(Severity::Damage, Object::Group, what, Vec::new());
        }
        if drive.pool.is_some_and(|pool| pool != view.superblock.pool) {
            report.add(
                Severity::Damage,
                Object::Group,
                format!("{name} belongs to another pool by its label"),
                Vec::new(),
            );
        }
    }
}

fn slot_of<'v>(view: &'v GroupView<'_>, home: Home, slot: u8) -> Option<&'v Slot> {
    let drive = view.handles[usize::from(home.extent.drive.get())]?;
    view.slots.iter().find(|one| one.drive == drive && one.extent == home.extent.extent && one.slot == slot)
}

fn object(home: Home, slot: u8) -> Object {
    Object::Superblock { leg: home.leg.get(), column: home.column.get(), slot }
}

fn places(view: &GroupView<'_>, slot: &Slot) -> Vec<Where> {
    vec![view.drives[slot.drive].at(slot.at)]
}

/// Whether every place of every row has a copy that counts; reported once if not.
pub(crate) fn check_covered(view: &GroupView<'_>, report: &mut Report) {
    let (legs, columns) = (usize::from(view.geometry().legs), usize::from(view.geometry().columns));
    let mut uncovered = 0;
    let mut lacking = DriveSet::EMPTY;
    for row in view.rows.chunks_exact(legs * columns) {
        for column in 0..columns {
            let drives: Vec<DriveIx> = (0..legs).map(|leg| row[leg * columns + column].drive).collect();
            if !drives.iter().any(|drive| view.current.contains(*drive)) {
                uncovered += 1;
                drives.into_iter().for_each(|drive| lacking.insert(drive));
            }
        }
    }
    if uncovered == 0 {
        return;
    }
    let names: Vec<String> = lacking.iter().map(|drive| view.drive_name(usize::from(drive.get()))).collect();
    let what = format!("no current copy of {uncovered} places is at hand: they are on {}", names.join(", "));
    report.add(Severity::Damage, Object::Group, what, Vec::new());
}
