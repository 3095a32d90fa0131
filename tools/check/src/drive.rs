//! A drive as the check knows it: its label, or what the caller says of it.
use crate::media::Media;
use crate::report::{Object, Report, Severity, Where};
use base::{Block, Blocks, DriveBlock, ExtentNo, Uuid};
use volume::label::{Found, extent_start, extents, judge, places};
use volume::layout::label::COPY_AT;
use volume::layout::{FIRST_EXTENT_BLOCK, FORMAT_VERSION, TAIL_BLOCKS};
use volume::{Bad, Label};

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
                let what = format!("{}; the other copy is good", describe(block.as_deref(), &label, copy));
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
                    format!(
                        "every copy of the label is damaged (the first {}, the second {}): the drive is refused",
                        fault(first.as_deref()),
                        fault(second.as_deref())
                    ),
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
        for (copy, at, block) in [(0, first_at, &first), (1, second_at, &second)] {
            let unknown =
                |block: &Block| Label::decode(block) == Ok(label.clone()) && says_more(block, &label);
            if block.as_deref().is_some_and(unknown) {
                let what = "has bytes set that this program does not know: use a newer one".into();
                bad(report, Severity::Damage, Object::Label(copy), what, at);
            }
        }
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

/// What is wrong with a copy, beside the label that counts.
fn describe(block: Option<&Block>, label: &Label, copy: u8) -> String {
    match block.map(|block| (block, Label::decode(block))) {
        Some((block, Ok(other))) if other == *label => {
            format!("says that it is copy {}, and is in the place of copy {copy}", block[COPY_AT])
        }
        Some((_, Ok(other))) => {
            let (newer, older) = (label.written, other.written);
            let age = match newer.cmp(&older) {
                std::cmp::Ordering::Equal => format!("has the same number ({older}) as the other"),
                _ => format!("is number {older}, the other is number {newer}"),
            };
            format!("{age} and says another {}", differences(&other, label).join(" and "))
        }
        _ => fault(block).to_owned(),
    }
}

/// Why a copy is no label.
fn fault(block: Option<&Block>) -> &'static str {
    match block.map(Label::decode) {
        None => "cannot be read",
        Some(Ok(_)) => "is good",
        Some(Err(Bad::Magic)) => "is not there",
        Some(Err(Bad::Check)) => "fails its check",
        Some(Err(Bad::Content)) => "passes its check and says something impossible",
        Some(Err(Bad::Newer(_))) => "is of a newer format",
    }
}

/// The fields in which two labels differ.
fn differences(a: &Label, b: &Label) -> Vec<&'static str> {
    let fields = [
        ("pool", a.pool != b.pool),
        ("name of the pool", a.pool_name != b.pool_name),
        ("drive", a.drive != b.drive),
        ("size", a.blocks != b.blocks),
        ("size of extents", a.extent_blocks != b.extent_blocks),
        ("number of the writing", a.written != b.written),
        ("node", a.node != b.node),
        ("rack", a.rack != b.rack),
        ("zone", a.zone != b.zone),
        ("class", a.class != b.class),
    ];
    fields.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field).collect()
}

/// Whether a block that holds this label holds more than that.
fn says_more(block: &Block, label: &Label) -> bool {
    label.encode(block[COPY_AT]) != *block
}
