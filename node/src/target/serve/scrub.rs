//! The scrub of the group that is served: begun and ended as the agent wants it, and what it finds, told in batches.
//!
//! See `crate::scrub` for what agent and target owe each other.
use super::{Engine, Glue};
use crate::error::{Error, Kind, Result};
use crate::scrub::{Copies, FoundCopy, FoundKind, FoundOutcome, Order, Seen, TargetScrub};
use base::BLOCK_BYTES;
use std::sync::PoisonError;
use volume::{Finding, Outcome, ScrubStats, What};

/// What is known of the scrub here.
#[derive(Default)]
pub(super) struct Keeper {
    /// The scrub that was last begun, unless it was ended.
    run: Option<u64>,
    begun: u64,
    /// Number of the batch that waits to be seen.
    batch: u64,
    found: Vec<FoundCopy>,
}

impl Keeper {
    /// A batch was seen.
    fn seen(&mut self, seen: Option<Seen>, gen_number: u64) {
        if seen == Some(Seen { gen_number, batch: self.batch }) {
            self.found.clear();
        }
    }
}

/// What a turn at the engine gave.
struct Turned {
    found: Vec<FoundCopy>,
    refused: bool,
    stats: ScrubStats,
    resyncing: bool,
}

/// One turn at the engine. With `take`, what was found is taken along: the batch before was seen. `None` while it does
/// not serve, and then nothing was taken.
fn turn(engine: &mut Engine, order: Option<Order>, run: Option<u64>, take: bool) -> Option<Turned> {
    engine.volume().stats()?;
    let mut found = Vec::new();
    if take {
        engine.take_findings(&mut found);
    }
    let found = found.iter().map(|finding| describe(engine, finding)).collect();
    let mut refused = false;
    match order {
        Some(order) if run != Some(order.run) => {
            engine.stop_scrub();
            refused = !engine.start_scrub(order.from_block);
        }
        None if run.is_some() => engine.stop_scrub(),
        _ => {}
    }
    let stats = engine.volume().stats()?;
    Some(Turned { found, refused, stats: stats.scrub, resyncing: stats.resync.is_some() })
}

fn describe(engine: &Engine, finding: &Finding) -> FoundCopy {
    let place = finding.what.place();
    let drive = engine.volume().drive(finding.drive).expect("a finding is on a drive of the table");
    FoundCopy {
        kind: match finding.what {
            What::Unknown => FoundKind::Unknown,
            What::Data(_) => FoundKind::Data,
            What::Page { .. } => FoundKind::MapPage,
            What::CutPage => FoundKind::CutPage,
            What::Bitmap(_) => FoundKind::Bitmap,
            What::BitmapPage => FoundKind::BitmapPage,
            What::Directory => FoundKind::Directory,
            What::RowPage => FoundKind::RowPage,
            What::HistoryPage => FoundKind::HistoryPage,
            What::Header { .. } => FoundKind::Header,
            What::Superblock => FoundKind::Superblock,
            What::Commit(_) => FoundKind::Commit,
        },
        lba: place.map(|(lba, _)| lba.get()),
        blocks: place.map(|(_, blocks)| blocks.get()),
        drive: drive.to_string(),
        drive_block: finding.at.get(),
        outcome: match finding.outcome {
            Outcome::Repaired => FoundOutcome::Repaired,
            Outcome::Lost => FoundOutcome::Lost,
            Outcome::DriveOut => FoundOutcome::DriveOut,
        },
    }
}

impl Glue {
    /// See `Serving::scrub`.
    pub(super) fn look_at_scrub(&self, order: Option<Order>, seen: Option<Seen>) -> Result<TargetScrub> {
        let gen_number = self.spec.gen_number;
        let name = &self.spec.volume.name;
        let mut keeper = self.scrub.lock().unwrap_or_else(PoisonError::into_inner);
        keeper.seen(seen, gen_number);
        let (run, take) = (keeper.run, keeper.found.is_empty());
        let turned = self.look(move |engine| turn(engine, order, run, take)).flatten();
        let turned = turned.ok_or_else(|| {
            Error::new(Kind::Busy, name.clone(), format!("volume {name} does not answer")).hint("try again")
        })?;
        if take {
            keeper.found = turned.found;
            keeper.batch += u64::from(!keeper.found.is_empty());
        }
        if turned.refused {
            keeper.run = None;
            let message = format!("volume {name} takes no writes now, so nothing on it can be repaired");
            return Err(Error::new(Kind::Refused, name.clone(), message));
        }
        let wanted = order.map(|order| order.run);
        if wanted.is_some() && wanted != run {
            keeper.begun += 1;
        }
        keeper.run = wanted;
        let stats = turned.stats;
        Ok(TargetScrub {
            gen_number,
            begun: keeper.begun,
            run: wanted,
            finished: wanted.is_some() && stats.finished,
            stands_aside: turned.resyncing,
            position: stats.walked_blocks,
            copies: Copies {
                checked: stats.checked_copies,
                repaired: stats.repaired_copies,
                lost: stats.lost_copies,
            },
            batch: keeper.batch,
            found: keeper.found.clone(),
        })
    }

    /// See `Serving::scrub_rate`.
    pub(super) fn set_scrub_rate(&self, bytes: u64) {
        let copies = copies_of(bytes);
        self.handle.with_engine(move |engine| engine.set_scrub_rate(copies));
    }
}

/// The engine counts copies, of all legs together, as the pool's rate counts bytes. A rate below one copy is one: 0 would be
/// no bound.
fn copies_of(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_of_bytes_is_one_of_copies_and_never_turns_into_no_bound() {
        assert_eq!(copies_of(100 << 20), 25_600);
        assert_eq!((copies_of(0), copies_of(1), copies_of(4096), copies_of(4097)), (0, 1, 1, 2));
        assert_eq!(copies_of(u64::MAX), u64::MAX / 4096 + 1);
    }
}
