//! What the simulator needs to know of an engine beyond `base::Engine`.
use crate::checks::Violation;
use crate::checks::c5::AtRest;
use crate::shape::Shape;
use base::{DriveBlock, ExtentNo, Seq, Uuid};
use simkit::{Control, Open, Rng, SimDrive};

/// How a scrub stands.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scrubbed {
    /// It came to its end.
    pub finished: bool,
    /// Copies that were wrong, among those told with this call: the drive, and where on it.
    pub wrong: Vec<(Uuid, DriveBlock)>,
    /// Of those, the ones that no leg has right.
    pub lost: u64,
}

/// An engine under test, as a maker of itself.
pub trait Subject: Open + Clone {
    /// Changes a shape that this engine cannot have into one that it can.
    fn bend(_: &mut Shape) {}
    /// Drives and control plane of a new group of this shape, everything durable, and what opens it.
    fn create(shape: &Shape, planted: Option<&str>, rng: &mut Rng) -> (Self, Vec<SimDrive>, Control);
    /// Names of the bugs that can be planted, each with the clause that should catch it.
    fn plantable() -> Vec<&'static str>;
    /// How often each row of the recovery table fired in this engine, by name; in the same order always.
    fn recovery_rows(engine: &Self::Engine) -> Vec<(&'static str, u64)>;
    /// Blocks that were repaired since the engine started, by drive.
    fn repaired(_: &Self::Engine) -> Vec<u64> {
        Vec::new()
    }
    /// By drive, blocks that did not pass their check since the engine started.
    fn check_errors(_: &Self::Engine) -> Vec<(Uuid, u64)> {
        Vec::new()
    }
    /// Drives of the group that lack something.
    fn lacking(_: &Self::Engine) -> Vec<Uuid> {
        Vec::new()
    }
    /// Whether a drive is out, and the engine does nothing with it.
    fn is_out(_: &Self::Engine, _: Uuid) -> bool {
        false
    }
    /// Whether a drive has everything and is counted on.
    fn is_current(_: &Self::Engine, _: Uuid) -> bool {
        false
    }
    /// Whether it takes no writes any more, because something failed: a close of it promises nothing.
    fn has_halted(_: &Self::Engine) -> bool {
        false
    }
    /// Puts a drive out, if the engine can do without it.
    fn take_out(_: &mut Self::Engine, _: Uuid) {}
    /// Whether a drive is being left.
    fn moving(_: &Self::Engine) -> bool {
        false
    }
    /// Whether that is done but for what was given up, and may still land where nothing of the group is to be any more.
    fn lingers(_: &Self::Engine) -> bool {
        false
    }
    /// The extents of a drive that rows name.
    fn extents_on(_: &Self::Engine, _: Uuid) -> Vec<ExtentNo> {
        Vec::new()
    }
    /// Legs of each row; none if the engine does not serve.
    fn legs(_: &Self::Engine) -> Option<u8> {
        None
    }
    /// Size of the volume in sectors that is durable; none if the engine does not serve.
    fn sectors(_: &Self::Engine) -> Option<u64> {
        None
    }
    /// Makes the volume grow to so many sectors. False if it cannot.
    fn grow(_: &mut Self::Engine, _: u64) -> bool {
        false
    }
    /// Whether a drive's own newest superblock says that its copy has everything.
    fn says_current(&self, _: &SimDrive) -> bool {
        false
    }
    /// From now on engines are opened with the operator's word that what stale copies lack is given up, or without.
    fn force(&mut self, _: bool) {}
    /// Whether a drive is current though no row names it.
    fn counts_on(_: &Self::Engine, _: Uuid) -> bool {
        false
    }
    /// Extents of a drive of the world that the home row may lie on.
    fn home_extents(&self, _: usize) -> Vec<ExtentNo> {
        Vec::new()
    }
    /// Wipes what a group that left this drive has there.
    fn wipe(&self, _: &mut SimDrive) {}
    /// Starts to write again what lies under an older key than the one who serves has.
    fn start_rekey(&self, _: &mut Self::Engine) {}
    /// If that has come to its end, nobody has the older keys any more.
    fn rekeyed(&mut self, _: &Self::Engine) {}
    /// Starts a scrub of everything. False if this engine cannot, or not now.
    fn start_scrub(_: &mut Self::Engine) -> bool {
        false
    }
    /// Ends a scrub where it is.
    fn stop_scrub(_: &mut Self::Engine) {}
    /// How the scrub stands that was started last; what it found since the last call is counted and forgotten.
    fn scrub(_: &mut Self::Engine) -> Scrubbed {
        Scrubbed::default()
    }
    /// D, as the engine knows it: everything up to there was flushed.
    fn durable(_: &Self::Engine) -> Seq {
        Seq::ZERO
    }
    /// The newest activation that the drives know, and the highest D that anything intact of it says on those that are heard; if `only_whole`, no commits count while a
    /// copy lacks the newest version.
    fn promised(&self, _: &[SimDrive], _heard: &[bool], _only_whole: bool) -> (u64, Seq) {
        (0, Seq::ZERO)
    }
    /// Where each block of a closed group lies on each leg whose drive counts, copies in doubt left out; an error
    /// says what is damaged.
    fn at_rest(&self, drives: &[SimDrive], counts: &[bool], scrubbed: bool) -> Result<AtRest, Violation>;
    /// Why the engine refused to open, for messages.
    fn refusal(engine: &Self::Engine) -> String;
}
