//! The move that the agent wants, on its way to the engine, and rows in hand that lie where nothing is to lie.
//!
//! The drives that take over are opened on a thread of its own: that may take long, and so may an errand that the group
//! is busy with. One move at a time; the agent asks for the next when it has heard how this one came out.
//!
//! Crash story: nothing here is durable and nothing has to be. The catalogue has the move before it is asked for, and
//! the superblock says whether its rows hold. A target that starts anew is asked for the same move again.
use super::{Serving, Shared};
use crate::error::{Error, Kind, Result};
use crate::moves::{Holds, MoveEnd, MoveOrder, MoveState, TargetMove};
use std::collections::BTreeSet;
use std::sync::Arc;

/// How far the move that was asked for last has come here.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    /// Its drives are being opened.
    Opening,
    /// The engine has it.
    Handed,
    /// There was nothing left to do.
    Done,
    /// It does not go to the engine.
    Failed(MoveEnd),
}

/// The move that was asked for last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Asked {
    id: u64,
    step: Step,
}

impl Shared {
    /// See `Request::Holds`.
    pub(super) fn holds(
        self: &Arc<Self>,
        drive: &str,
        avoid: BTreeSet<String>,
        serving: &Arc<dyn Serving>,
    ) -> Result<Holds> {
        self.avoid_rows(avoid)?;
        serving.holds(drive)
    }

    /// No row may lie on these drives; one in hand that does goes back.
    fn avoid_rows(&self, avoid: BTreeSet<String>) -> Result<()> {
        let mut state = self.lock();
        if !state.serving {
            return Err(self.not_yet());
        }
        state.rows.avoid = avoid;
        state.refuse_avoided();
        Ok(())
    }

    /// See `Request::Move`.
    pub(super) fn look_at_move(
        self: &Arc<Self>,
        order: MoveOrder,
        avoid: BTreeSet<String>,
        serving: &Arc<dyn Serving>,
    ) -> Result<TargetMove> {
        self.avoid_rows(avoid)?;
        let id = order.id;
        let mut state = self.lock();
        let step = match &state.moving {
            Some(asked) if asked.id == id => asked.step.clone(),
            Some(asked) if asked.step == Step::Opening => {
                let name = self.spec.group_name.clone();
                return Err(Error::new(Kind::Busy, name, "the drives of another move are being opened"));
            }
            _ => {
                state.moving = Some(Asked { id, step: Step::Opening });
                let (shared, serving) = (self.clone(), serving.clone());
                std::thread::spawn(move || shared.begin_move(&order, &*serving));
                Step::Opening
            }
        };
        drop(state);
        let still = |state| TargetMove { id, state, settled: None, copied_bytes: 0, walked_bytes: 0 };
        match step {
            Step::Opening => Ok(still(MoveState::Waiting)),
            Step::Done => Ok(still(MoveState::Done)),
            Step::Failed(why) => Ok(still(MoveState::GivenUp(why))),
            Step::Handed => serving.moving(id),
        }
    }

    fn begin_move(&self, order: &MoveOrder, serving: &dyn Serving) {
        let step = match serving.begin_move(order) {
            Ok(true) => Step::Handed,
            Ok(false) => Step::Done,
            Err(error) if error.kind == Kind::Busy => Step::Failed(MoveEnd::NotServing),
            Err(error) => Step::Failed(MoveEnd::NotOpened(error.to_string())),
        };
        self.lock().moving = Some(Asked { id: order.id, step });
    }
}
