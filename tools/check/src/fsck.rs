//! The check: labels, then extents, then group by group everything that the newest superblock leads to.
use crate::copies::{self, Item};
use crate::directory;
use crate::drive::Drive;
use crate::extents::{self, Holders};
use crate::group::GroupView;
use crate::home::{self, HomePages};
use crate::keys::{self, Form, Keyring, NoKeys, Seals};
use crate::log::{self, Log};
use crate::map::Visit;
use crate::media::Media;
use crate::overlay::Overlay;
use crate::report::{Object, Report, Severity};
use crate::scan::{Scan, find_groups};
use crate::space::{self, Blockset, Usage};
use crate::supers;
use base::{Pba, Uuid};
use fence::CopyEntry;
use std::collections::BTreeMap;

/// Blocks of the log that are verified together.
const LOG_BATCH: usize = 1024;

/// What the caller knows besides the drives.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// What the catalogue says of the copies of a group, by group; a group that is not listed has no catalogue.
    pub catalogue: BTreeMap<Uuid, Vec<CopyEntry>>,
}

/// Checks drives: each with the name that findings use. Of encrypted groups only what needs no keys.
pub fn fsck(drives: &[(&str, &dyn Media)], options: &Options) -> Report {
    fsck_with_keys(drives, options, &NoKeys)
}

/// Checks drives: each with the name that findings use. Of the groups that `keys` has keys of everything.
pub fn fsck_with_keys(drives: &[(&str, &dyn Media)], options: &Options, keys: &dyn Keyring) -> Report {
    let mut report = Report::default();
    let known = identify(drives, &mut report);
    check(&known, options, keys, &mut report);
    report
}

/// Checks drives whose identity the caller knows.
pub fn fsck_drives(drives: &[Drive<'_>], options: &Options) -> Report {
    let mut report = Report::default();
    check(drives, options, &NoKeys, &mut report);
    report
}

/// Reads the labels; a drive that is given twice, or a copy of another, is left out.
pub(crate) fn identify<'a>(drives: &[(&str, &'a dyn Media)], report: &mut Report) -> Vec<Drive<'a>> {
    let mut known: Vec<Drive<'a>> = Vec::new();
    for (name, media) in drives {
        let Some(drive) = Drive::identify(name, *media, report) else { continue };
        match known.iter().find(|other| other.uuid == drive.uuid) {
            Some(other) => {
                let what =
                    format!("{name} has the label of {}: it is a copy, or the same drive again", other.name);
                report.add(Severity::Damage, Object::Drive, what, Vec::new());
            }
            None => known.push(drive),
        }
    }
    known
}

fn check(drives: &[Drive<'_>], options: &Options, keys: &dyn Keyring, report: &mut Report) {
    report.counts.drives += drives.len() as u64;
    let scan = find_groups(drives, report);
    let mut holders = Holders::new();
    for homes in &scan.groups {
        report.counts.groups += 1;
        report.enter_group(Some(homes.group.to_string()));
        match supers::read(drives, homes, options, keys, report) {
            Some(view) => check_group(view, &scan, &mut holders, report),
            None => supers::report_none(drives, homes, report),
        }
        report.enter_group(None);
    }
    extents::check_strays(drives, &scan, &holders, report);
}

fn check_group(mut view: GroupView<'_>, scan: &Scan, holders: &mut Holders, report: &mut Report) {
    if view.is_encrypted() {
        report.note_encrypted(matches!(view.seals, Seals::Open(_)));
    }
    supers::check(&view, report);
    let mut pages = HomePages::default();
    home::read_rows(&mut view, &mut pages, report);
    supers::check_covered(&view, report);
    extents::check_extents(&view, scan, holders, report);
    let history = home::read_history(&view, &mut pages, report);
    let log = log::read(&view, &history, report);
    check_log_data(&view, &log, report);

    let mut usage = Usage::default();
    usage.take_log(&view, &log, report);
    let region_blocks = view.geometry().extent_blocks;
    let mut visit = |pba: Pba, _: &Object| {
        let new = usage.reached.add(pba, region_blocks);
        if !new {
            usage.conflict(pba, "two Refs lead to it");
        }
        new
    };
    let found = directory::walk(&view, &log.overlay, true, report, &mut visit);
    if let Some(found) = &found {
        check_identity(&view, scan, found, report);
    }
    if let Some(found) = found.filter(|found| found.bitmaps_known) {
        space::compare(&view, &found, &mut usage, report);
    }
    let claims = claims(&view, &usage);
    space::report_conflicts(&view, &usage, &claims, &log, report);
    keys::report(&view, report);
}

/// The names in the home headers are those of the volume that the directory has.
fn check_identity(view: &GroupView<'_>, scan: &Scan, found: &directory::Found, report: &mut Report) {
    // Those of an encrypted group are no business of who has no keys.
    let Some(volume::names::Found::Plain(names)) = extents::newest_names(view, scan) else { return };
    let mut volumes = found.volumes.iter().peekable();
    if volumes.peek().is_some() && !volumes.any(|volume| volume.uuid == names.volume_id) {
        let what = format!(
            "no volume has the identity {}, which the headers of the home row give to {}",
            names.volume_id, names.volume
        );
        report.add(Severity::Damage, Object::Volumes, what, Vec::new());
    }
}

/// The blocks that a read would find in the log.
fn check_log_data(view: &GroupView<'_>, log: &Log, report: &mut Report) {
    let items: Vec<Item> = log
        .overlay
        .blocks()
        .filter(|(_, _, block)| block.pba.get() < view.space().get())
        .map(|(volume, lba, block)| {
            let object = Object::LogData { volume: volume.get(), lba: lba.get() };
            let form = Form::Data(volume, lba, block.seq);
            Item { may_lack: log::may_lack(log, block), ..Item::new(object, form, block.pba, block.check) }
        })
        .collect();
    report.counts.data += items.len() as u64;
    for batch in items.chunks(LOG_BATCH) {
        copies::verify(view, batch, report);
    }
}

/// Who claims the blocks that are in conflict: everything is walked again, without its data.
fn claims(view: &GroupView<'_>, usage: &Usage) -> BTreeMap<Pba, Vec<Object>> {
    let mut claims: BTreeMap<Pba, Vec<Object>> = BTreeMap::new();
    if usage.conflicts.is_empty() {
        return claims;
    }
    // A page that is reached again is not walked again: what it holds is in conflict as often as it is.
    let mut seen = Blockset::default();
    let region_blocks = view.geometry().extent_blocks;
    let mut visit = |pba: Pba, object: &Object| {
        if usage.conflicts.contains_key(&pba) {
            claims.entry(pba).or_default().push(object.clone());
        }
        seen.add(pba, region_blocks)
    };
    let visit: &mut Visit<'_> = &mut visit;
    directory::walk(view, &Overlay::default(), false, &mut Report::default(), visit);
    claims
}
