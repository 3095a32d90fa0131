//! Moves: the drives that take over are opened, the engine is given the grant, and its figures say how far it is.
//!
//! A drive that takes over must be one that nothing of its former life can reach: like a drive that comes back it is
//! closed and opened anew (`returns.rs`), unless the group has rows on it and counts on it. A drive that the group
//! counts on without any row (one that was listed when the group was made, or came back later) is left first: the
//! engine takes it as a copy that has nothing, and that it is not as long as it is called current.
//!
//! Crash story: whatever the target before this one had done is in the superblock. If the rows have switched, all that
//! may be left is that the old drive is not stale yet: it is retired by a grant without extents. If they have not,
//! the whole grant is handed over, to the same successors: what was copied to them counts for nothing.
use super::{Engine, Glue};
use crate::agent::parse_id;
use crate::catalogue::CopyState;
use crate::error::{Error, Kind, Result};
use crate::moves::{Holds, MoveChange, MoveDrive, MoveEnd, MoveOrder, MoveState, TargetMove};
use crate::target::drives::OpenDrive;
use crate::target::locked::Wanted;
use base::{BLOCK_BYTES, Change, Engine as _, ExtentNo, LegId, MoveGrant, NewDrive, Phase, Reply, Uuid};
use std::time::Duration;
use volume::{CopyHealth, MoveOutcome, MoveRefusal};

/// How long a drive that takes over is tried while somebody has it: udev looks at it as it appears.
const OPEN_PATIENCE: Duration = Duration::from_secs(5);
/// Pause before the engine is told again, or looked at again.
const AGAIN: Duration = Duration::from_millis(20);

/// How a drive stands in the group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Standing {
    health: Option<CopyHealth>,
    rows: bool,
}

fn standing(engine: &Engine, drive: Uuid) -> Option<Standing> {
    let stats = engine.volume().stats()?;
    let view = stats.drives.iter().find(|view| view.uuid == drive);
    Some(Standing {
        health: view.map(|view| view.health),
        rows: !engine.volume().extents_on(drive).is_empty(),
    })
}

/// Whether the rows are those behind the move.
fn has_switched(engine: &Engine, columns: u8, order: &MoveOrder) -> Option<bool> {
    let legs = engine.volume().stats()?.home.len() / usize::from(columns);
    Some(match &order.change {
        MoveChange::AddLeg => legs > usize::from(order.legs),
        MoveChange::DropLeg { .. } => legs < usize::from(order.legs),
        MoveChange::Leave { drive } | MoveChange::Shift { drive } => {
            let there = engine.volume().extents_on(parse_id(drive).ok()?);
            !order.extents.iter().any(|moved| there.contains(&ExtentNo::new(moved.old)))
        }
    })
}

fn engine_change(change: &MoveChange) -> Result<Change> {
    Ok(match change {
        MoveChange::Leave { drive } => Change::Leave(parse_id(drive)?),
        MoveChange::Shift { drive } => Change::Shift(parse_id(drive)?),
        MoveChange::AddLeg => Change::AddLeg,
        MoveChange::DropLeg { leg } => Change::DropLeg(LegId::new(*leg)),
    })
}

fn state_of(outcome: MoveOutcome) -> MoveState {
    match outcome {
        MoveOutcome::Copying => MoveState::Copying,
        MoveOutcome::Done => MoveState::Done,
        MoveOutcome::GivenUp(why) => MoveState::GivenUp(match why {
            MoveRefusal::Misfit => MoveEnd::Misfit,
            MoveRefusal::TableFull => MoveEnd::TableFull,
            MoveRefusal::DriveFailed => MoveEnd::DriveFailed,
            MoveRefusal::LastCopy => MoveEnd::LastCopy,
            MoveRefusal::NotServing => MoveEnd::NotServing,
        }),
    }
}

/// Whether nobody counts on a drive, and nothing is written to it.
const fn is_out(health: CopyHealth) -> bool {
    matches!(health, CopyHealth::Stale(_) | CopyHealth::Missing)
}

impl Glue {
    fn look_serving<T: Send + 'static>(
        &self,
        look: impl FnOnce(&mut Engine) -> Option<T> + Send + 'static,
    ) -> Result<T> {
        let name = &self.spec.group_name;
        let busy = |why: &str| Error::new(Kind::Busy, name.clone(), format!("group {name} {why}"));
        let serving =
            |engine: &mut Engine| (engine.phase() == Phase::Serving).then(|| look(engine)).flatten();
        match self.look(serving) {
            Some(seen) => seen.ok_or_else(|| busy("takes no writes now")),
            None => Err(busy("does not answer")),
        }
    }

    /// See `Serving::holds`.
    pub(super) fn group_holds(&self, id: &str) -> Result<Holds> {
        let uuid = parse_id(id)?;
        let seen = self.look_serving(move |engine| {
            let stats = engine.volume().stats()?;
            let health = stats.drives.iter().find(|view| view.uuid == uuid).map(|view| view.health);
            Some((engine.volume().extents_on(uuid), health))
        })?;
        let state = seen.1.map(|health| match health {
            CopyHealth::Current => CopyState::Current,
            CopyHealth::Failing | CopyHealth::Stale(_) => CopyState::Stale,
            CopyHealth::Resyncing(_) => CopyState::Resyncing,
            CopyHealth::Missing => CopyState::Missing,
        });
        let extents = seen.0.into_iter().map(ExtentNo::get).collect();
        Ok(Holds { extents, state, open: self.open.get(id).is_some() })
    }

    /// See `Serving::begin_move`.
    pub(super) fn hand_move(&self, order: &MoveOrder) -> Result<bool> {
        let (columns, asked) = (self.spec.columns, order.clone());
        let switched = self.look_serving(move |engine| has_switched(engine, columns, &asked))?;
        if switched {
            if let MoveChange::Leave { drive } = &order.change {
                return self.retire(drive);
            }
            for drive in &order.dropped {
                self.retire_whole(drive)?;
            }
            return Ok(false);
        }
        for drive in &order.to {
            self.open_successor(drive)?;
        }
        let mut grant =
            MoveGrant { change: engine_change(&order.change)?, to: Vec::new(), extents: Vec::new() };
        for drive in &order.to {
            let known = self.open.get(&drive.id);
            let lost = || Error::new(Kind::Failed, drive.id.clone(), "the loop lost the drive");
            let OpenDrive { uuid, number, blocks, volatile, .. } = known.ok_or_else(lost)?;
            grant.to.push(NewDrive { uuid, handle: number, blocks, volatile });
        }
        let extent = |moved: &crate::moves::MovedExtent| {
            (ExtentNo::new(moved.old), moved.to, ExtentNo::new(moved.new))
        };
        grant.extents = order.extents.iter().map(extent).collect();
        self.hand_grant(&grant).map(|()| true)
    }

    /// Gives the engine a grant; returns once it has taken it. It does not while it has another one, which may well be off
    /// the same drive, or while a drive is brought up to date.
    fn hand_grant(&self, grant: &MoveGrant) -> Result<()> {
        let copies = |engine: &Engine| {
            let moving = engine.volume().stats()?.moving;
            Some(moving.is_some_and(|moving| moving.outcome == MoveOutcome::Copying))
        };
        loop {
            let asked = grant.clone();
            let taken = self.look_serving(move |engine| {
                if copies(engine)? {
                    return Some(false);
                }
                engine.reply(Reply::Move(asked));
                copies(engine)
            })?;
            if taken {
                return Ok(());
            }
            std::thread::sleep(AGAIN);
        }
    }

    fn standing(&self, drive: Uuid) -> Result<Standing> {
        self.look_serving(move |engine| standing(engine, drive))
    }

    /// Has the group leave a drive on which it has no row. Returns whether the engine was given anything to do.
    fn retire(&self, id: &str) -> Result<bool> {
        let uuid = parse_id(id)?;
        if self.standing(uuid)?.health.is_none_or(is_out) {
            return Ok(false);
        }
        let grant = MoveGrant { change: Change::Leave(uuid), to: Vec::new(), extents: Vec::new() };
        self.hand_grant(&grant).map(|()| true)
    }

    /// Has the group leave a drive, if it has no row there, and waits until it has.
    fn retire_whole(&self, id: &str) -> Result<()> {
        let uuid = parse_id(id)?;
        if self.standing(uuid)?.rows || !self.retire(id)? {
            return Ok(());
        }
        while self.standing(uuid)?.health.is_some_and(|health| !is_out(health)) {
            std::thread::sleep(AGAIN);
        }
        Ok(())
    }

    /// Opens a drive that takes over, so that nothing of its former life can reach it.
    fn open_successor(&self, drive: &MoveDrive) -> Result<()> {
        let uuid = parse_id(&drive.id)?;
        let standing = self.standing(uuid)?;
        match standing.health {
            Some(CopyHealth::Current) if standing.rows => return Ok(()),
            Some(_) if standing.rows => {
                let message = format!("drive {} is not up to date in the group", drive.id);
                return Err(Error::new(Kind::Refused, drive.id.clone(), message));
            }
            _ => self.retire_whole(&drive.id)?,
        }
        if self.open.get(&drive.id).is_some() {
            self.close(&drive.id)?;
        }
        let opened = Wanted::of(&drive.path, &drive.id, &self.spec)?.open(OPEN_PATIENCE)?;
        self.hand_drive(&drive.id, opened)
    }

    /// See `Serving::moving`.
    pub(super) fn moving_status(&self, id: u64) -> Result<TargetMove> {
        // Also when it takes no writes any more: the move has ended then, and says how.
        let seen = self.look(|engine| engine.volume().stats()?.moving).flatten();
        let name = &self.spec.group_name;
        let stats = seen
            .ok_or_else(|| Error::new(Kind::Busy, name.clone(), format!("group {name} does not answer")))?;
        let (state, settled) = (state_of(stats.outcome), stats.settled.map(state_of));
        let bytes = |blocks: u64| blocks * BLOCK_BYTES as u64;
        let (copied_bytes, walked_bytes) = (bytes(stats.copied_blocks), bytes(stats.walked_blocks));
        Ok(TargetMove { id, state, settled, copied_bytes, walked_bytes })
    }
}

#[cfg(test)]
mod tests;
