//! The walk to a new data key of the group that is served: begun as the agent wants it, looked at while it goes on.
use super::{Engine, Glue};
use crate::error::{Error, Kind, Result};
use crate::protocol::TargetRekey;
use base::BLOCK_BYTES;

/// One turn at the engine: whether it refused to begin, and how far it is. `None` while it does not serve.
fn turn(engine: &mut Engine, to: u16, start: bool) -> Option<(bool, TargetRekey)> {
    let data_key = engine.volume().stats()?.data_key;
    let before = engine.volume().stats()?.rekey;
    // Under a newer key than that one nothing is left that an older look could ask for.
    let begins = start && data_key >= to && !before.running && !before.finished;
    let refused = begins && !engine.start_rekey();
    let stats = engine.volume().stats()?.rekey;
    let bytes = |blocks: u64| blocks * BLOCK_BYTES as u64;
    let look = TargetRekey {
        data_key,
        running: stats.running,
        finished: stats.finished && data_key >= to,
        total_bytes: bytes(stats.total_blocks),
        walked_bytes: bytes(stats.walked_blocks),
        rewritten_bytes: bytes(stats.rewritten_blocks),
        lost_bytes: bytes(stats.lost_blocks),
        no_space: stats.no_space,
    };
    Some((refused, look))
}

impl Glue {
    /// See `Serving::rekey`.
    pub(super) fn look_at_rekey(&self, to: u16, start: bool) -> Result<TargetRekey> {
        let name = &self.spec.volume.name;
        let (refused, look) =
            self.look(move |engine| turn(engine, to, start)).flatten().ok_or_else(|| {
                Error::new(Kind::Busy, name.clone(), format!("volume {name} does not answer"))
                    .hint("try again")
            })?;
        if refused {
            let message = format!("volume {name} takes no writes now, so nothing on it can be written again");
            return Err(Error::new(Kind::Refused, name.clone(), message));
        }
        Ok(look)
    }
}
