//! The agent: the verbs, over catalogue and drives.
//!
//! Verbs that change something hold one lock from their first look at the catalogue to their last write:
//! they are rare, and it makes each easy to follow. What serves a running guest never waits for it (`locks`). The
//! catalogue's compare-and-swap stands behind the locks.
//! Each verb announces in the catalogue what it will do before it touches a drive; killed at any step, it is
//! finished by its repetition or when the agent starts (`resume`).
pub mod attach;
mod chores;
mod drive_states;
pub mod events;
mod format;
mod found;
mod groups;
mod headers;
mod heal;
pub mod import;
mod keys;
mod limits;
mod locks;
mod moving;
pub mod placement;
pub mod pools;
mod rebuild;
mod rekey;
mod rescan;
pub mod resume;
pub mod rows;
mod scrub;
mod smart;
pub mod space;
mod support;
mod tend;
#[cfg(test)]
pub(crate) mod testing;
mod upgrade;
pub mod view;
pub mod volumes;
mod watch;

use crate::catalogue::{
    Catalogue, DriveRecord, Embedded, GroupRecord, PoolRecord, Store, Versioned, VolumeRecord, records,
};
use crate::error::{Error, Kind, Result};
use crate::keys::Keys;
pub(crate) use crate::steps::{blocking, locked, spawn};
use crate::supervise::Supervisor;
pub use keys::DEFAULT_KEY;
pub(crate) use pools::uuid as parse_id;
use space::Space;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
pub(crate) use upgrade::{Chosen, over_nbd};
pub use watch::Seen;

/// Version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where the agent keeps and finds things.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its state folder.
    pub state: PathBuf,
    /// Its control socket.
    pub socket: PathBuf,
    /// The program that is started as `plinth target`.
    pub program: PathBuf,
    /// Where the stable names of devices are made.
    pub links: PathBuf,
    /// Whether drives are also looked for among the kernel's block devices.
    pub scan_devices: bool,
    /// Where metrics are served beside the socket.
    pub metrics: Option<SocketAddr>,
}

impl Options {
    /// The catalogue.
    pub fn catalogue(&self) -> PathBuf {
        self.state.join("catalogue.redb")
    }
    /// The control socket of a group's target.
    pub fn target_socket(&self, group: &str) -> PathBuf {
        self.state.join("targets").join(format!("{group}.sock"))
    }
    /// Where a group's target listens for a guest that there is none of: its volume is tended.
    pub fn tended_socket(&self, group: &str) -> PathBuf {
        self.state.join("targets").join(format!("{group}.tend"))
    }
    /// The spec of a group's target.
    pub fn target_spec(&self, group: &str) -> PathBuf {
        self.state.join("targets").join(format!("{group}.json"))
    }
    /// Where keys of provider `file` lie.
    pub fn keys(&self) -> PathBuf {
        self.state.join("keys")
    }
    /// What a group's target writes to its standard error.
    pub fn target_log(&self, group: &str) -> PathBuf {
        self.state.join("targets").join(format!("{group}.log"))
    }
    /// What a group's target ran before it was handed to another binary, where that file is gone.
    pub fn kept_program(&self, group: &str) -> PathBuf {
        self.state.join("targets").join(format!("{group}.program"))
    }
    /// Where a group's target marks drives as stale, durably.
    pub fn stale_marks(&self, group: &str) -> PathBuf {
        self.state.join("groups").join(format!("{group}.stale"))
    }
}

/// The agent.
pub struct Agent {
    /// Where things are.
    pub options: Options,
    /// The catalogue.
    pub store: Store,
    /// The targets.
    pub supervisor: Supervisor,
    /// What happened.
    pub events: Arc<events::EventLog>,
    /// What wraps the secrets of groups.
    pub keys: Keys,
    /// When it started.
    pub started_at: String,
    /// Held by a verb of keys from its first look to its last write. Taken before the verbs' lock, never behind it.
    key_verbs: Mutex<()>,
    /// Held by a verb from its first look to its last write.
    verbs: Mutex<()>,
    /// Held while the catalogue is looked at and changed; nothing is waited for under it.
    space: Mutex<Space>,
    /// What is left for a verb to do.
    chores: chores::Chores,
    /// Number of the next scan for drives.
    next_scan: AtomicU64,
    /// Number of the newest scan of which the outcome was noted.
    noted_scan: AtomicU64,
    /// Extents among the unwiped ones of groups, by identity, that may be wiped although a target has their drive open: it
    /// refused them. Lost with the agent; they are wiped when their drive is let go then.
    refused: Mutex<BTreeSet<(String, (String, u32))>>,
    /// Drives that the last scan did not find; kept in the catalogue too.
    unseen: Mutex<BTreeSet<String>>,
    /// Volumes that want a row and have been told that there is no space.
    starved: Mutex<BTreeSet<String>>,
    /// What drives say of themselves.
    smart: smart::Answers,
    /// Drives that come back.
    healing: heal::Healing,
    /// Scrubs.
    scrubbing: scrub::Scrubbing,
    /// Drives that are emptied.
    moving: moving::Moving,
    /// Walks to new data keys.
    rekeying: rekey::Rekeying,
    /// Volumes that nobody has attached and something is to be done on.
    tending: tend::Tending,
}

impl Agent {
    /// Opens the catalogue in the state folder. The caller holds the folder's lock.
    ///
    /// # Errors
    /// The catalogue's.
    pub fn open(options: Options) -> Result<Arc<Self>> {
        let catalogue = Embedded::open(&options.catalogue())?;
        Self::over(options, Arc::new(catalogue))
    }

    fn over(options: Options, catalogue: Arc<dyn Catalogue>) -> Result<Arc<Self>> {
        let store = Store::new(catalogue);
        let space = Mutex::new(Space::load(&store)?);
        let supervisor = Supervisor::default();
        let events = Arc::new(events::EventLog::open(store.clone(), supervisor.news.clone())?);
        let started_at = crate::text::now();
        let scrubbing = scrub::Scrubbing::load(&store)?;
        let unseen = Mutex::new(watch::missing(&store)?);
        let keys = Keys::new(store.clone(), options.keys());
        Ok(Arc::new(Self {
            options,
            store,
            keys,
            key_verbs: Mutex::default(),
            verbs: Mutex::default(),
            chores: chores::Chores::default(),
            next_scan: AtomicU64::new(1),
            noted_scan: AtomicU64::new(0),
            refused: Mutex::default(),
            supervisor,
            events,
            started_at,
            space,
            unseen,
            starved: Mutex::default(),
            smart: smart::Answers::default(),
            healing: heal::Healing::default(),
            scrubbing,
            moving: moving::Moving::default(),
            rekeying: rekey::Rekeying::default(),
            tending: tend::Tending::default(),
        }))
    }

    /// Whether a drive seems to be there: found by the last scan, and its path leads somewhere.
    pub(crate) fn is_there(&self, drive: &DriveRecord) -> bool {
        let unseen = self.unseen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        drive.path.exists() && !unseen.contains(&drive.id)
    }

    /// A pool that is complete.
    pub(crate) fn ready_pool(&self, name: &str) -> Result<Versioned<PoolRecord>> {
        let pool = self.pool(name)?;
        match pool.life {
            records::Life::Ready => Ok(pool),
            records::Life::Creating => {
                Err(Error::new(Kind::Busy, name, format!("pool {name} is not complete"))
                    .hint("repeat plinth pool create, or remove it with plinth pool delete"))
            }
            records::Life::Deleting => {
                Err(Error::new(Kind::Busy, name, format!("pool {name} is being deleted"))
                    .hint("repeat plinth pool delete"))
            }
        }
    }

    /// A target serves: whatever waited for one looks at once.
    pub(crate) fn look_at_target(&self) {
        self.moving.look_now();
        self.healing.look_now();
        self.scrubbing.look_now();
        self.rekeying.look_now();
    }

    /// A pool, complete or not.
    pub(crate) fn pool(&self, name: &str) -> Result<Versioned<PoolRecord>> {
        self.store.get(&records::pool_key(name))?.ok_or_else(|| {
            Error::new(Kind::NotFound, name, format!("there is no pool {name}")).hint("see plinth pool list")
        })
    }

    /// A volume, complete or not.
    pub(crate) fn volume(&self, name: &str) -> Result<Versioned<VolumeRecord>> {
        self.store.get(&records::volume_key(name))?.ok_or_else(|| {
            Error::new(Kind::NotFound, name, format!("there is no volume {name}"))
                .hint("see plinth volume list")
        })
    }

    /// A volume that is complete.
    pub(crate) fn ready_volume(&self, name: &str) -> Result<Versioned<VolumeRecord>> {
        let volume = self.volume(name)?;
        match volume.life {
            records::Life::Ready => Ok(volume),
            records::Life::Creating => {
                Err(Error::new(Kind::Busy, name, format!("volume {name} is not complete"))
                    .hint("repeat plinth volume create, or remove it with plinth volume delete"))
            }
            records::Life::Deleting => {
                Err(Error::new(Kind::Busy, name, format!("volume {name} is being deleted"))
                    .hint("repeat plinth volume delete"))
            }
        }
    }

    /// The group of a volume.
    pub(crate) fn group(&self, name: &str) -> Result<Versioned<GroupRecord>> {
        self.store.get(&records::group_key(name))?.ok_or_else(|| groups::no_group(name))
    }

    /// The drives of a pool, in the order in which they were added. One that left it since its record was read is not
    /// among them.
    pub(crate) fn pool_drives(&self, pool: &PoolRecord) -> Result<Vec<Versioned<DriveRecord>>> {
        let mut drives = Vec::with_capacity(pool.drives.len());
        for id in &pool.drives {
            match self.store.get(&records::drive_key(id))? {
                Some(drive) => drives.push(drive),
                None if self.still_lists(pool, id)? => {
                    let message = format!("the catalogue lists drive {id} without its entry");
                    return Err(Error::new(Kind::Damage, id.clone(), message));
                }
                None => {}
            }
        }
        Ok(drives)
    }

    /// Whether a drive is one of a pool's by now: it leaves the list together with its entry.
    fn still_lists(&self, pool: &PoolRecord, drive: &String) -> Result<bool> {
        let now = self.store.get::<PoolRecord>(&records::pool_key(&pool.name))?;
        Ok(now.is_some_and(|now| now.id == pool.id && now.drives.contains(drive)))
    }
}
