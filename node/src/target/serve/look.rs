//! Looks at the engine from other threads: each happens in time and is answered, or it never happens.
//!
//! Whoever asks waits for the loop only so long, for the loop may be caught in a turn. What it was asked must then not
//! be done later, behind the back of somebody who has heard that it was not: a move that begins when its extents have
//! gone to another group ends both. So there is one place from which a look is taken, by the loop to carry it out, or
//! by who asked, to withdraw it.
use super::{Engine, Glue};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The longest that a look waits for the loop, which comes to it between two of its turns.
pub(super) const LOOK_DEADLINE: Duration = Duration::from_secs(2);

/// A look that nobody has taken yet.
struct Offered<L>(Mutex<Option<L>>);

impl<L> Offered<L> {
    fn take(&self) -> Option<L> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Glue {
    /// Looks at the engine, on its thread, and changes it if need be. `None`: the loop did not come to it in time, nothing
    /// was done and nothing will be. Once the loop has begun, its answer is waited for, for it cannot be taken back.
    pub(super) fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&mut Engine) -> T + Send + 'static,
    ) -> Option<T> {
        let (reply, answer) = channel();
        let offered = Arc::new(Offered(Mutex::new(Some(look))));
        let theirs = offered.clone();
        self.handle.with_engine(move |engine| {
            if let Some(look) = theirs.take() {
                let _ = reply.send(look(engine));
            }
        });
        match answer.recv_timeout(LOOK_DEADLINE) {
            Ok(seen) => Some(seen),
            Err(_) if offered.take().is_some() => None,
            Err(_) => answer.recv().ok(),
        }
    }
}
