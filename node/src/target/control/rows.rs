//! The row in hand: from the agent that hands it out to the engine that wants it, and back if it is not used.
//!
//! One row is kept ahead, with its drives open, so that a group grows while the agent is away. A drive that joins the
//! group is opened on a thread of its own: that may take long, and stale marks must not wait for it.
//!
//! Crash story: a row belongs to the group from the catalogue's transaction on, and goes back only when the agent is
//! told so, by the number of its grant (`refused`). That is said only of a grant that nobody here can use any more:
//! one that the engine asks for again after it was handed over, or one whose drives did not open. A grant that was
//! refused or handed over once is never taken again, whatever line still carries it. A target that dies before
//! the agent heard it leaves the row handed out; the next one is offered it again.
use super::{Serving, Shared, State};
use crate::error::{Error, Kind};
use crate::protocol::Notice;
use crate::target_spec::Row;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

/// The rows that a target knows of.
#[derive(Default)]
pub(super) struct Rows {
    /// The row in hand; its drives are open, unless it is from the spec.
    pub(super) kept: Option<Row>,
    /// The row that the engine waits for, and since when.
    pub(super) wanted: Option<(u32, Instant)>,
    /// The row that an agent was last asked for.
    next: Option<u32>,
    /// Its drives are being opened.
    preparing: bool,
    /// The row and grant that the engine got last.
    handed: Option<(u32, u64)>,
    /// The row and grant that were refused last.
    refused: Option<(u32, u64)>,
    /// No row may lie on these drives: they are being emptied.
    pub(super) avoid: BTreeSet<String>,
}

impl Rows {
    /// With a row that the spec offers.
    pub(super) fn with(kept: Option<Row>) -> Self {
        Self { kept, ..Self::default() }
    }

    /// Whether a row is of no use any more: the engine had it, or it was refused.
    fn is_over(&self, row: &Row) -> bool {
        let handed = self.handed.is_some_and(|(no, grant)| (row.row, row.grant) <= (no, grant));
        handed || self.refused == Some((row.row, row.grant))
    }

    /// Why a row is not wanted, if it lies where none may lie.
    fn avoided(&self, row: &Row) -> Option<Error> {
        let on = row.extents.iter().find(|extent| self.avoid.contains(&extent.drive))?;
        let message = format!("drive {} is being emptied", on.drive);
        Some(Error::new(Kind::Refused, on.drive.clone(), message))
    }
}

impl Shared {
    /// A row came from an agent.
    pub(super) fn got_row(self: &Arc<Self>, row: Row, serving: &Arc<dyn Serving>) {
        let mut state = self.lock();
        if state.rows.preparing || state.rows.is_over(&row) {
            return;
        }
        if let Some(error) = state.rows.avoided(&row) {
            return state.refuse_row(&row, &error, &**serving);
        }
        if serving.ready(&row) {
            state.take_row(row, &**serving);
        } else {
            self.prepare(&mut state, row, serving);
        }
    }

    /// Opens the drives of a row in the background.
    fn prepare(self: &Arc<Self>, state: &mut State, row: Row, serving: &Arc<dyn Serving>) {
        state.rows.preparing = true;
        let (shared, serving) = (self.clone(), serving.clone());
        std::thread::spawn(move || {
            let outcome = serving.prepare(&row);
            let mut state = shared.lock();
            state.rows.preparing = false;
            match outcome {
                Ok(()) => state.take_row(row, &*serving),
                Err(error) => state.refuse_row(&row, &error, &*serving),
            }
        });
    }

    pub(super) fn no_row(&self, row: u32, serving: &dyn Serving) {
        let mut state = self.lock();
        state.rows.next = Some(row);
        if state.rows.wanted.take_if(|(wanted, _)| *wanted == row).is_some() {
            drop(state);
            serving.no_row();
        }
    }

    /// The engine wants a row. That it wants one that it got says that it did not use it.
    pub(super) fn want_row(self: &Arc<Self>, row: u32, serving: &Arc<dyn Serving>) {
        let mut state = self.lock();
        let rows = &mut state.rows;
        rows.wanted = Some((row, Instant::now()));
        rows.refused = rows.handed.filter(|(handed, _)| *handed == row).or(rows.refused);
        let kept = rows.kept.take().filter(|kept| !rows.is_over(kept));
        match kept {
            Some(kept) if kept.row == row && serving.ready(&kept) => state.take_row(kept, &**serving),
            Some(kept) if kept.row == row && !rows.preparing => self.prepare(&mut state, kept, serving),
            kept => {
                rows.kept = kept;
                state.ask(row);
            }
        }
    }

    /// The pool grew: an agent that had nothing is asked again.
    pub(super) fn ask_again(&self) {
        let mut state = self.lock();
        if let (None, Some(row)) = (&state.rows.kept, state.rows.next) {
            state.ask(row);
        }
    }
}

impl State {
    /// A row in hand that lies where none may lie goes back. The agent has another one at once, however often that
    /// happens to a row: it is who says where none may lie.
    pub(super) fn refuse_avoided(&mut self) {
        let rows = &mut self.rows;
        let avoid = &rows.avoid;
        let lies_there = |kept: &mut Row| kept.extents.iter().any(|extent| avoid.contains(&extent.drive));
        if let Some(kept) = rows.kept.take_if(lies_there) {
            rows.refused = Some((kept.row, kept.grant));
            self.ask(kept.row);
        }
    }

    /// A row whose drives are open: for the engine, if it waits for it, else to be kept.
    fn take_row(&mut self, row: Row, serving: &dyn Serving) {
        if self.rows.wanted.take_if(|(wanted, _)| *wanted == row.row).is_none() {
            self.rows.next = None;
            self.rows.kept = Some(row);
            return;
        }
        match serving.row(&row) {
            Ok(()) => {
                self.rows.handed = Some((row.row, row.grant));
                self.ask(row.row + 1);
            }
            Err(error) => self.refuse_row(&row, &error, serving),
        }
    }

    /// A row cannot be used. The agent may have a better one at once; a second time it is
    /// asked only when the engine asks again, after a while.
    fn refuse_row(&mut self, row: &Row, error: &Error, serving: &dyn Serving) {
        let message = format!("row {} cannot be used: {error}", row.row);
        let severity = crate::catalogue::Severity::Warning;
        self.notify(Notice::Event { severity, kind: "row_refused".into(), message });
        let again = self.rows.refused.is_some_and(|(refused, _)| refused == row.row);
        self.rows.refused = Some((row.row, row.grant));
        self.rows.next = Some(row.row);
        if !again {
            self.ask(row.row);
        } else if self.rows.wanted.take_if(|(wanted, _)| *wanted == row.row).is_some() {
            serving.no_row();
        }
    }

    /// Asks the agent for a row, unless one is on its way.
    pub(super) fn ask(&mut self, row: u32) {
        self.rows.next = Some(row);
        if !self.rows.preparing {
            let refused = self.rows.refused.filter(|(refused, _)| *refused == row).map(|(_, grant)| grant);
            self.notify(Notice::WantRow { row, refused });
        }
    }

    /// An agent that came is told what is wanted.
    pub(super) fn ask_anew(&mut self) {
        if let Some(row) = self.rows.wanted.map(|(row, _)| row).or(self.rows.next) {
            self.ask(row);
        }
    }

    /// The engine serves and uses so many rows: one of those that the spec offers may be the next.
    pub(super) fn offered(&mut self, offered: &[Row], used: u32) {
        let rows = &mut self.rows;
        if rows.kept.as_ref().is_none_or(|kept| kept.row < used) {
            rows.kept = offered.iter().find(|row| row.row >= used && !rows.is_over(row)).cloned();
        }
        if rows.kept.is_none() {
            self.ask(used);
        }
    }
}
