//! A drive as the check knows it: its label, or what the caller says of it.
use crate::media::Media;
use crate::report::{Object, Report, Severity, Where};
use base::{Block, Blocks, DriveBlock, ExtentNo, Uuid};
use volume::Label;
use volume::label::{Found, extent_start, extents, judge, places};
use volume::layout::{FIRST_EXTENT_BLOCK, FORMAT_VERSION, TAIL_BLOCKS};

/// Blocks of an extent at most: what the geometry of a group admits.
const MAX_EXTENT_BLOCKS: u32 = cow::bitmap::MAX_REGION_BLOCKS;

/// A drive whose identity is known.
#[derive(Clone)]
pub struct Drive<'a> {
    /// What findings call it.
    pub name: String,
    /// Its identity.
    pub uuid: Uuid,
    /// Its pool, if it has a label.
    pub pool: Option<Uuid>,
    /// Blocks of an extent.
    pub extent_blocks: u32,
    /// Extents that it has room for.
    pub extents: u32,
    /// Its label, if it has one.
    pub label: Option<Label>,
    media: &'a dyn Media,
}

impl<'a> Drive<'a> {
    /// A drive without a label, of which the caller knows who it is.
    pub fn unlabelled(name: String, uuid: Uuid, extent_blocks: u32, media: &'a dyn Media) -> Self {
        let room = media.blocks().get().saturating_sub(FIRST_EXTENT_BLOCK) / u64::from(extent_blocks);
        let extents = u32::try_from(room).unwrap_or(u32::MAX);
        Self { name, uuid, pool: None, extent_blocks, extents, label: None, media }
    }

    /// Reads the label. `None`, with a finding, if there is none that can be believed.
    pub fn identify(name: &str, media: &'a dyn Media, report: &mut Report) -> Option<Self> {
        let bad = |report: &mut Report, severity, object, what: String, block: DriveBlock| {
            let at = vec![Where { drive: name.to_owned(), block: block.get() }];
            report.add(severity, object, what, at);
        };
        let size = media.blocks();
        if size.get() < 2 * TAIL_BLOCKS {
            bad(
                report,
                Severity::Damage,
                Object::Drive,
                "too small to be a drive of a pool".into(),
                DriveBlock::ZERO,
            );
            return None;
        }
        let read = |at: DriveBlock| media.read(at).ok();
        let [first_at, mut second_at] = places(size);
        let (first, mut second) = (read(first_at), read(second_at));
        // A drive that has grown keeps its second copy where its end was.
        if let Some(Ok(label)) = first.as_deref().map(Label::decode)
            && label.blocks < size
        {
            second_at = places(label.blocks)[1];
            second = read(second_at);
        }
        let label = match judge(first.as_deref(), second.as_deref()) {
            Found::Good(label) => label,
            Found::Repair(label, copy) => {
                let (place, block) = if copy == 0 { (first_at, &first) } else { (second_at, &second) };
                let what = format!("{}; the other copy is good", describe(block.as_deref()));
                bad(report, Severity::Repairable, Object::Label(copy), what, place);
                label
            }
            Found::None => {
                bad(
                    report,
                    Severity::Damage,
                    Object::Drive,
                    "has no label: not a drive of a pool".into(),
                    first_at,
                );
                return None;
            }
            Found::Damaged => {
                bad(
                    report,
                    Severity::Damage,
                    Object::Label(0),
                    "every copy of the label is damaged".into(),
                    first_at,
                );
                return None;
            }
            Found::Newer(version) => {
                let what = format!(
                    "format version {version}, this program reads up to {FORMAT_VERSION}: use a newer one"
                );
                bad(report, Severity::Damage, Object::Label(0), what, first_at);
                return None;
            }
        };
        if label.blocks > size {
            let what = format!("the drive had {} blocks when it was added and has {size} now", label.blocks);
            bad(report, Severity::Damage, Object::Drive, what, first_at);
        }
        if label.extent_blocks > MAX_EXTENT_BLOCKS {
            let what = format!("says that extents have {} blocks, which none can have", label.extent_blocks);
            bad(report, Severity::Damage, Object::Label(0), what, first_at);
            return None;
        }
        Some(Self {
            name: name.to_owned(),
            uuid: label.drive,
            pool: Some(label.pool),
            extent_blocks: label.extent_blocks,
            extents: extents(label.blocks.min(size), label.extent_blocks),
            label: Some(label),
            media,
        })
    }

    /// What it is read through.
    pub fn media(&self) -> &'a dyn Media {
        self.media
    }

    /// A block of an extent.
    pub fn block_of(&self, extent: ExtentNo, block: u32) -> DriveBlock {
        extent_start(extent, self.extent_blocks) + Blocks::new(u64::from(block))
    }

    /// A place on it, for a finding.
    pub fn at(&self, block: DriveBlock) -> Where {
        Where { drive: self.name.clone(), block: block.get() }
    }
}

/// What a label that is not one looks like.
fn describe(block: Option<&Block>) -> &'static str {
    match block.map(Label::decode) {
        None => "cannot be read",
        Some(Ok(_)) => "is older than the other copy, or another drive's",
        Some(Err(volume::Bad::Magic)) => "is not there",
        Some(Err(_)) => "fails its check",
    }
}
