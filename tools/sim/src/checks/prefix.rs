//! Prefix: what survives a crash is a prefix of the group's order, and a request survives as a whole.
//!
//! Stronger than C3: if a write is found after a crash, then so is every write that was acknowledged before it
//! was issued, and every block of the write itself. Looks at the settled blocks of a volume that has just been
//! read completely after a crash and not yet been written. Does not see writes of zeroes where zeroes were.
use super::Violation;
use crate::model::{Fate, Model};
use crate::stamp::WriteId;

/// Judges the survivors of the last crash.
pub fn after_crash(model: &Model) -> Result<(), Violation> {
    let mut newest: Option<WriteId> = None;
    let survived = |id: WriteId, block: u64, index: u32| {
        let history = &model.blocks[block as usize];
        let state = &history.states[history.durable as usize];
        history.durable >= index && state.content.contains(&id)
    };
    for (block, history) in model.blocks.iter().enumerate() {
        if history.is_unsettled() {
            continue;
        }
        let id = history.states[history.durable as usize].write;
        let write = &model.writes[id as usize];
        let visible = !write.zero && survived(id, block as u64, history.durable);
        if id != 0 && visible && newest.is_none_or(|n| model.writes[n as usize].issued < write.issued) {
            newest = Some(id);
        }
    }
    let Some(newest) = newest else { return Ok(()) };
    let issued = model.writes[newest as usize].issued;
    let older = model.acks[model.cut.clone()]
        .iter()
        .filter(|id| matches!(model.writes[**id as usize].fate, Fate::Acked(step) if step < issued));
    for id in older.chain([&newest]) {
        let write = &model.writes[*id as usize];
        for (block, index) in write.blocks().zip(&write.states) {
            let history = &model.blocks[block as usize];
            let content = history.states[history.durable as usize].content;
            let later = &history.states[*index as usize..history.before_crash.max(*index) as usize];
            let same = later.iter().any(|state| state.content == content);
            if !history.is_unsettled() && history.durable < *index && !same {
                let what = if *id == newest {
                    format!("write {id} survived in part, but not in block {block}")
                } else {
                    format!("write {newest} survived, but not write {id} before it (block {block})")
                };
                return Err(Violation::new("prefix", what));
            }
        }
    }
    Ok(())
}
