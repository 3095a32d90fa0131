//! What an import needs to know of the groups on drives: superblocks and rows, no maps, no log.
use crate::fsck::{Options, identify};
use crate::home::{self, HomePages};
use crate::media::Media;
use crate::report::Report;
use crate::scan::find_groups;
use crate::supers;
use base::{Extent, Gen, Uuid};
use fence::CopyEntry;
use volume::Geometry;

/// A group as its newest superblock and its row pages describe it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// The group.
    pub group: Uuid,
    /// The pool.
    pub pool: Uuid,
    /// Highest Gen found.
    pub generation: Gen,
    /// Its shape.
    pub geometry: Geometry,
    /// Its drive table.
    pub drives: Vec<CopyEntry>,
    /// Its rows: per row the extents, ordered by leg, then column.
    pub rows: Vec<Vec<Extent>>,
}

/// The groups on these drives, and in sentences what could not be read.
pub fn groups(drives: &[(&str, &dyn Media)]) -> (Vec<Group>, Vec<String>) {
    let mut report = Report::default();
    let known = identify(drives, &mut report);
    let scan = find_groups(&known, &mut report);
    let mut groups = Vec::new();
    for homes in &scan.groups {
        report.enter_group(Some(homes.group.to_string()));
        if let Some(mut view) = supers::read(&known, homes, &Options::default(), &mut report) {
            home::read_rows(&mut view, &mut HomePages::default(), &mut report);
            let per_row = view.superblock.geometry.row_extents();
            groups.push(Group {
                group: view.group,
                pool: view.superblock.pool,
                generation: view.superblock.generation,
                geometry: view.superblock.geometry,
                drives: view.table.entries().to_vec(),
                rows: view.rows.chunks_exact(per_row).map(<[Extent]>::to_vec).collect(),
            });
        }
        report.enter_group(None);
    }
    (groups, report.problems().map(ToString::to_string).collect())
}
