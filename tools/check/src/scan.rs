//! Which extents hold what, and so which groups are on the drives.
//!
//! An extent that is free has a header of zeroes; one that was never used may hold anything, from before the
//! drive joined the pool. So a first block that is neither a header nor zero means something only if the
//! superblock slots behind it hold a superblock that says that it lies just there.
use crate::drive::Drive;
use crate::report::{Object, Report, Severity};
use base::{BLOCK_BYTES, Block, ExtentNo, RowNo, Uuid};
use std::collections::{BTreeMap, BTreeSet};
use volume::layout::OWN_CHECK;
use volume::layout::extent::{HEADER, SUPERBLOCKS};
use volume::names::Found;
use volume::{Bad, Header, Names, StoredEnvelope, Superblock};

/// Where a group's home extents are, as far as the drives at hand tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupHomes {
    /// The group.
    pub group: Uuid,
    /// Home extents: index of the drive, extent.
    pub homes: Vec<(usize, ExtentNo)>,
}

/// What the headers of all extents say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scan {
    /// Groups that have a home extent, in order of identity.
    pub groups: Vec<GroupHomes>,
    /// Headers by (index of the drive, extent).
    pub headers: BTreeMap<(usize, u32), Header>,
    /// Names in these headers, by the same; an impossible one is `None`.
    pub names: BTreeMap<(usize, u32), Option<Found>>,
    /// Envelopes in them.
    pub envelopes: BTreeMap<(usize, u32), StoredEnvelope>,
    /// Headers with bytes set that this version does not know.
    pub unknown: BTreeSet<(usize, u32)>,
    /// Headers that cannot be read, although there is or may be one.
    pub doubtful: BTreeMap<(usize, u32), Doubt>,
}

/// Why a header cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doubt {
    /// The drive does not read it.
    Unreadable,
    /// It begins like one and is none.
    Damaged,
    /// A newer version wrote it.
    Newer,
}

/// Reads the header of every extent of every drive.
pub fn find_groups(drives: &[Drive<'_>], report: &mut Report) -> Scan {
    let mut scan = Scan::default();
    let mut homes: BTreeMap<Uuid, Vec<(usize, ExtentNo)>> = BTreeMap::new();
    for (index, drive) in drives.iter().enumerate() {
        for extent in (0..drive.extents).map(ExtentNo::new) {
            let at = drive.block_of(extent, HEADER);
            let block = match drive.media().read(at) {
                Ok(block) => block,
                Err(error) => {
                    let what = format!("cannot be read: {error}");
                    report.add(Severity::Repairable, Object::Header(extent.get()), what, vec![drive.at(at)]);
                    scan.doubtful.insert((index, extent.get()), Doubt::Unreadable);
                    Box::new([u8::MAX; BLOCK_BYTES])
                }
            };
            let home = match Header::decode(&block) {
                Ok(header) => {
                    scan.note((index, extent.get()), header, &block);
                    (header.row == RowNo::ZERO).then_some(header.group)
                }
                Err(Bad::Newer(version)) => {
                    let what = format!("format version {version}: use a newer program");
                    report.add(Severity::Damage, Object::Header(extent.get()), what, vec![drive.at(at)]);
                    scan.doubtful.insert((index, extent.get()), Doubt::Newer);
                    None
                }
                Err(_) if is_zero(&block) => None,
                Err(Bad::Check | Bad::Content) => {
                    scan.doubtful.insert((index, extent.get()), Doubt::Damaged);
                    home_without_header(drive, extent)
                }
                Err(_) => home_without_header(drive, extent),
            };
            if let Some(group) = home {
                homes.entry(group).or_default().push((index, extent));
            }
        }
    }
    scan.groups = homes.into_iter().map(|(group, homes)| GroupHomes { group, homes }).collect();
    scan
}

impl Scan {
    fn note(&mut self, at: (usize, u32), header: Header, block: &Block) {
        self.headers.insert(at, header);
        if let Ok(Some(envelope)) = StoredEnvelope::read(block) {
            self.envelopes.insert(at, envelope);
        }
        match Names::read(block) {
            Ok(Found::None) => {}
            Ok(names) => drop(self.names.insert(at, Some(names))),
            Err(_) => {
                self.names.insert(at, None);
                return;
            }
        }
        let mut known = header.encode();
        Names::copy_known(block, &mut known);
        if known[..OWN_CHECK] != block[..OWN_CHECK] {
            self.unknown.insert(at);
        }
    }
}

/// The group of an extent whose header is damaged, if a superblock in it says that it is a home extent.
fn home_without_header(drive: &Drive<'_>, extent: ExtentNo) -> Option<Uuid> {
    SUPERBLOCKS.iter().find_map(|slot| {
        let block = drive.media().read(drive.block_of(extent, *slot)).ok()?;
        let (superblock, home) = Superblock::decode(&block).ok()?;
        let listed = superblock.drives.get(usize::from(home.extent.drive.get()))?;
        (listed.drive == drive.uuid && home.extent.extent == extent).then_some(superblock.group)
    })
}

pub(crate) fn is_zero(block: &Block) -> bool {
    block.iter().all(|byte| *byte == 0)
}
