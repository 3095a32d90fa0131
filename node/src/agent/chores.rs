//! What has to be done by a verb and was noticed by somebody who may not wait for one.
//!
//! Crash story: nothing of it is written down. A scan is repeated when the agent starts; an envelope that a drive lacks
//! keeps the version of the key before, and a rotation that waits for it writes it (`agent/keys`).
use super::Agent;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Notify, watch};

/// What is to be done.
#[derive(Default)]
pub(super) struct Chores {
    wanted: Mutex<Wanted>,
    wake: Notify,
}

#[derive(Default)]
struct Wanted {
    /// Drives were found with which a verb has something to do.
    rescan: bool,
    /// Groups, by name, of which a drive may have an old envelope.
    envelopes: BTreeSet<String>,
}

impl Chores {
    fn add(&self, change: impl FnOnce(&mut Wanted)) {
        change(&mut self.wanted.lock().unwrap_or_else(PoisonError::into_inner));
        self.wake.notify_one();
    }

    /// Has drives that were found looked at by a verb.
    pub(super) fn rescan(&self) {
        self.add(|wanted| wanted.rescan = true);
    }

    /// Has the envelope of a group written where it is old.
    pub(super) fn envelope(&self, group: &str) {
        self.add(|wanted| wanted.envelopes.extend([group.to_owned()]));
    }
}

impl Agent {
    /// Does what comes up until the agent ends.
    pub(crate) async fn do_chores(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = self.chores.wake.notified() => {}
            }
            let this = self.clone();
            let done = super::blocking(move || {
                this.settle_chores();
                Ok(())
            });
            if let Err(error) = done.await {
                tracing::error!("{error}");
            }
        }
    }

    /// Does what has come up.
    pub(super) fn settle_chores(&self) {
        let wanted = std::mem::take(&mut *self.chores.wanted.lock().unwrap_or_else(PoisonError::into_inner));
        let mut verb = self.lock();
        if wanted.rescan
            && let Err(error) = self.rescan(&mut verb)
        {
            tracing::error!("drives could not be looked for: {error}");
        }
        for name in wanted.envelopes {
            // A group that went meanwhile needs nothing.
            if let Ok(group) = self.group(&name) {
                verb.aside(|| self.settle_at_hand(&group));
            }
        }
    }
}
