//! Reading, repairing and writing the two copies of a drive's label.
//!
//! Crash story: one copy is written and flushed before the other is touched, so that a cut at any instant
//! leaves a good copy, old or new.
use super::Media;
use crate::error::{Error, Kind, Result};
use base::{BLOCK_BYTES, Block, DriveBlock};
use volume::Label;
use volume::label::{Found, judge, places};
use volume::layout::{FIRST_EXTENT_BLOCK, TAIL_BLOCKS};

/// What a drive's label says, in the agent's terms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LabelState {
    /// A good label; `repaired` names what was written again.
    Ours {
        /// The label.
        label: Label,
        /// The copy (0 or 1) that was bad, if one was.
        bad_copy: Option<u8>,
    },
    /// No label.
    None,
}

/// Reads the label of a drive.
///
/// # Errors
/// `Damage` when every copy is damaged, `NotSupported` when a newer version wrote it, or the drive's.
pub fn read_label(media: &Media) -> Result<LabelState> {
    let name = media.path().display().to_string();
    if media.blocks().get() < 2 * TAIL_BLOCKS {
        return Ok(LabelState::None);
    }
    let [first, second] = places(media.blocks());
    let first = media.read(first);
    let mut second = media.read(second);
    // A drive that has grown keeps its second copy where its end was.
    if let Ok(block) = &first
        && let Ok(label) = Label::decode(block)
        && label.blocks < media.blocks()
    {
        second = media.read(places(label.blocks)[1]);
    }
    if let (Err(error), Err(_)) = (&first, &second) {
        return Err(error.clone());
    }
    match judge(first.as_deref().ok(), second.as_deref().ok()) {
        Found::Good(label) => Ok(LabelState::Ours { label, bad_copy: None }),
        Found::Repair(label, copy) => Ok(LabelState::Ours { label, bad_copy: Some(copy) }),
        Found::None => Ok(LabelState::None),
        Found::Damaged => Err(Error::new(
            Kind::Damage,
            name.clone(),
            format!("every copy of the label on {name} is damaged"),
        )
        .hint("the drive is refused; its data may still be complete on the other legs")),
        Found::Newer(version) => Err(Error::new(
            Kind::NotSupported,
            name.clone(),
            format!(
                "{name} has format version {version}, this plinth reads up to {}",
                volume::layout::FORMAT_VERSION
            ),
        )
        .hint("use a newer plinth")),
    }
}

/// Writes both copies, each flushed before the next.
///
/// # Errors
/// The drive's.
pub fn write_label(media: &Media, label: &Label) -> Result<()> {
    for (copy, place) in places(label.blocks).into_iter().enumerate() {
        media.write(place, &label.encode(copy as u8))?;
        media.flush()?;
    }
    Ok(())
}

/// Writes the bad copy of a label again.
///
/// # Errors
/// The drive's.
pub fn repair_label(media: &Media, label: &Label, copy: u8) -> Result<()> {
    media.write(places(label.blocks)[usize::from(copy)], &label.encode(copy))?;
    media.flush()
}

/// Zeroes the first and the last MiB and what follows it: labels and whatever signatures were there.
///
/// # Errors
/// The drive's.
pub fn clear_ends(media: &Media) -> Result<()> {
    let zeroes: Block = [0; BLOCK_BYTES];
    let end = media.blocks().get();
    let tail = end.saturating_sub(2 * TAIL_BLOCKS).max(FIRST_EXTENT_BLOCK.min(end));
    // The second copy first: with a label at the start left, the drive is still recognised after a crash.
    for at in (tail..end).chain(0..FIRST_EXTENT_BLOCK.min(end)) {
        media.write(DriveBlock::new(at), &zeroes)?;
    }
    media.flush()
}
