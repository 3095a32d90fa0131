//! The scenarios: a table, and what every one of them needs on the host's side.
//!
//! A scenario has two halves of the same name. The half inside the machine (`guest::steps`) uses the product
//! as a person would and reports checks; the half here decides what the machine is made of, when it is cut,
//! and judges what must be judged from outside. Most need nothing special here and run [`simple`].

mod bench;
mod bench_check;
mod demo;
mod matrix;
pub(crate) mod native;
mod power_cut;
mod restart_unit;
mod table;

use crate::children;
use crate::error::{Context, Error, Result};
use crate::initramfs::{self, Contents};
use crate::kernel::{Kernel, Which};
use crate::machine::{Accel, Drive, Machine, Plan, choose_accel, emulator_raced};
use crate::protocol::Message;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
pub use table::{ALL, find};

/// One row of the table of scenarios.
#[derive(Debug)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it shows, for `--list`.
    pub about: &'static str,
    /// The drives of its machine.
    pub drives: u32,
    /// The size of each in MiB.
    pub drive_mib: u64,
    /// The memory of its machine in MiB.
    pub memory_mib: u32,
    /// Kernel modules beside the base ones.
    pub modules: &'static [&'static str],
    /// Programs of this host that it runs inside.
    pub programs: &'static [&'static str],
    /// Programs that are fetched rather than installed: the package, and the file in it.
    pub fetched: &'static [(&'static str, &'static str)],
    /// Whether it needs the product's binary.
    pub product: bool,
    /// Whether its power is cut and many images of a cut are opened (`plinth-cut`).
    pub cut: bool,
    /// The count of a run with `--full`.
    pub rounds: u64,
    /// The count of any other run, the smoke set's among them.
    pub smoke_rounds: u64,
    /// When it is given up.
    pub limit: Duration,
    /// Whether it says how long something may take: no other machine runs beside it.
    pub alone: bool,
    /// On which kernels it runs in the smoke set; none keeps it out.
    pub smoke: &'static [Which],
    /// Its half on this side.
    pub host: fn(&mut Session<'_>) -> Result<()>,
}

/// What all scenarios of one command share.
#[derive(Debug)]
pub struct Bench {
    /// Kernels and the memory of the accelerator are kept here (`PLINTH_CACHE`).
    pub cache: PathBuf,
    /// Folders of runs go here.
    pub work: PathBuf,
    /// The guest agent.
    pub agent: PathBuf,
    /// The product, where it was built.
    pub plinth: Option<PathBuf>,
    /// `plinth-cut`, where it was built.
    pub cutter: Option<PathBuf>,
    /// How many images of a cut are opened, if not the usual number.
    pub images: Option<u64>,
    /// A program and its words for the scenario `exec`.
    pub exec: Option<(PathBuf, Vec<String>)>,
    /// A bug that the product was built with, for a run that must fail.
    pub planted: Option<String>,
    /// Whether checks are printed as they are made.
    pub tells: bool,
    /// The unit that ships with the product.
    pub unit: PathBuf,
    /// How many rounds a scenario makes, if not its own number.
    pub rounds: Option<u64>,
    /// Whether the full counts run instead of those of the smoke set.
    pub full: bool,
    /// What random choices start from.
    pub seed: u64,
}

/// One check and what was wrong, if it failed.
pub type Check = (String, std::result::Result<(), String>);

/// One run of one scenario.
pub struct Session<'a> {
    /// The bench.
    pub bench: &'a Bench,
    /// The row of the table.
    pub scenario: &'a Scenario,
    /// The kernel it runs on.
    pub kernel: Kernel,
    /// How its machines run.
    pub accel: Accel,
    /// The folder of this run.
    pub folder: PathBuf,
    /// All checks so far.
    pub checks: Vec<Check>,
    /// Images that were made and opened after a cut; each is one state of all drives of a pool.
    pub images: u64,
    boots: u32,
    /// Whether a machine is at work: what fails then may be its emulator's fault, what fails elsewhere never is.
    inside: bool,
    /// Boots that failed because of the emulator, and what they were for was done anew.
    excused: Vec<u32>,
    initramfs: Option<PathBuf>,
}

/// How a run ended.
#[derive(Debug)]
pub struct Report {
    /// The checks that were made.
    pub checks: Vec<Check>,
    /// Rounds that were asked for.
    pub rounds: u64,
    /// Images that were made and opened after a cut; each is one state of all drives of a pool.
    pub images: u64,
    /// Whether a machine died of its emulator.
    pub emulator_raced: bool,
    /// Why it failed, if it did.
    pub failure: Option<String>,
    /// The log for a person.
    pub log: PathBuf,
    /// How long it took.
    pub took: Duration,
}

/// Images of a cut in a run with `--full`, and in any other.
pub const FULL_IMAGES: u64 = 39;
const SMOKE_IMAGES: u64 = 15;

/// How often a run is made again whose machine its emulator has crashed.
const EMULATOR_RETRIES: u32 = 2;

impl Bench {
    /// Has what several runs may need at the same moment: the kernels, and how machines run.
    ///
    /// # Errors
    /// There is no such kernel to be had.
    pub fn prepare(&self, kernels: impl Iterator<Item = Which>) -> Result<()> {
        for which in kernels {
            let kernel = Kernel::obtain(which, &self.cache)?;
            choose_accel(&self.cache, || self.probe(&kernel))?;
        }
        Ok(())
    }

    /// Runs `scenario` on `which`. A failed scenario is a report; an error means that none could be made.
    ///
    /// # Errors
    /// No kernel, no QEMU, or the run's folder cannot be made.
    pub fn run(&self, scenario: &Scenario, which: Which) -> Result<Report> {
        let mut report = self.run_once(scenario, which)?;
        for _ in 0..EMULATOR_RETRIES {
            if report.failure.is_none() || !report.emulator_raced {
                break;
            }
            eprintln!("  {}: the emulator crashed the machine (int3), once more", scenario.name);
            report = self.run_once(scenario, which)?;
        }
        Ok(report)
    }

    fn run_once(&self, scenario: &Scenario, which: Which) -> Result<Report> {
        let kernel = Kernel::obtain(which, &self.cache)?;
        let accel = choose_accel(&self.cache, || self.probe(&kernel))?;
        let folder = self.work.join(format!("{}-{}", scenario.name, which.name()));
        let start = Instant::now();
        let mut session = Session::new(self, scenario, kernel, accel, folder)?;
        let outcome = (scenario.host)(&mut session);
        let failed: Vec<&str> =
            session.checks.iter().filter(|(_, o)| o.is_err()).map(|(name, _)| name.as_str()).collect();
        let failure = match outcome {
            Err(error) => Some(error.to_string()),
            Ok(()) if !failed.is_empty() => Some(format!("failed: {}", failed.join(", "))),
            Ok(()) if session.checks.is_empty() => Some("nothing was checked".to_owned()),
            Ok(()) => None,
        };
        let log = session.log(session.boots.max(1));
        if failure.is_none() {
            session.remove_images();
        }
        let (rounds, images) = (session.rounds(), session.images);
        let mut others = (1..=session.boots).filter(|boot| !session.excused.contains(boot));
        let emulator_raced = others.any(|boot| emulator_raced(&session.log(boot)));
        Ok(Report {
            checks: session.checks,
            rounds,
            images,
            emulator_raced,
            failure,
            log,
            took: start.elapsed(),
        })
    }

    /// Boots a bare machine with KVM; the caller learns whether that works here.
    fn probe(&self, kernel: &Kernel) -> Result<()> {
        let row = find("boot").expect("boot is in the table");
        let folder = self.work.join("kvm-probe");
        let mut session = Session::new(self, row, kernel.clone(), Accel::Kvm, folder)?;
        session.boot(&[], &[]).map(|_| ())
    }
}

impl<'a> Session<'a> {
    fn new(
        bench: &'a Bench,
        scenario: &'a Scenario,
        kernel: Kernel,
        accel: Accel,
        folder: PathBuf,
    ) -> Result<Session<'a>> {
        if folder.exists() {
            fs::remove_dir_all(&folder).doing(|| format!("remove {}", folder.display()))?;
        }
        fs::create_dir_all(&folder).doing(|| format!("make {}", folder.display()))?;
        Ok(Session {
            bench,
            scenario,
            kernel,
            accel,
            folder,
            checks: Vec::new(),
            images: 0,
            boots: 0,
            inside: false,
            excused: Vec::new(),
            initramfs: None,
        })
    }

    /// Whether the last machine failed because of its emulator, so that what it was for can be done anew; a few times
    /// in a run.
    pub fn excuse(&mut self) -> bool {
        let excused = std::mem::take(&mut self.inside)
            && emulator_raced(&self.log(self.boots))
            && self.excused.len() < EMULATOR_RETRIES as usize;
        if excused {
            self.excused.push(self.boots);
        }
        excused
    }

    /// Adds a check made on this side.
    pub fn check(&mut self, name: impl Into<String>, outcome: std::result::Result<(), String>) {
        let name = name.into();
        if self.bench.tells {
            match &outcome {
                Ok(()) => println!("check {name}: ok"),
                Err(why) => println!("check {name}: FAILED {why}"),
            }
        }
        self.checks.push((name, outcome));
    }

    /// How many rounds this run makes.
    #[must_use]
    pub fn rounds(&self) -> u64 {
        let stated = if self.bench.full { self.scenario.rounds } else { self.scenario.smoke_rounds };
        self.bench.rounds.unwrap_or(stated)
    }

    /// How many images of a cut are opened in memory.
    #[must_use]
    pub fn images_of_a_cut(&self) -> u64 {
        self.bench.images.unwrap_or(if self.bench.full { FULL_IMAGES } else { SMOKE_IMAGES })
    }

    /// The conversation with the machine of the given boot; its console is beside it.
    #[must_use]
    pub fn log(&self, boot: u32) -> PathBuf {
        self.folder.join(format!("boot-{boot}.log"))
    }

    /// New drives as the table states, logged or not.
    ///
    /// # Errors
    /// The files cannot be made.
    pub fn new_drives(&self, logged: bool) -> Result<Vec<Drive>> {
        self.some_drives(self.scenario.drives, logged)
    }

    /// Like [`Session::new_drives`], but so many.
    ///
    /// # Errors
    /// The files cannot be made.
    pub fn some_drives(&self, count: u32, logged: bool) -> Result<Vec<Drive>> {
        let size = self.scenario.drive_mib << 20;
        let make = if logged { Drive::logged } else { Drive::plain };
        (0..count).map(|n| make(&self.folder, &format!("drive-{n}"), size)).collect()
    }

    /// Boots a machine of this scenario.
    ///
    /// # Errors
    /// The product is missing, or the machine does not come up.
    pub fn boot(&mut self, drives: &[Drive], more: &[(&str, String)]) -> Result<Machine> {
        (self.boots, self.inside) = (self.boots + 1, true);
        let initramfs = self.initramfs()?;
        let own = |key: &str, value: String| (key.to_owned(), value);
        let mut parameters = vec![
            own("scenario", self.scenario.name.to_owned()),
            own("drives", drives.len().to_string()),
            own("drive_bytes", (self.scenario.drive_mib << 20).to_string()),
            own("accel", if self.accel == Accel::Kvm { "kvm" } else { "tcg" }.to_owned()),
            own("rounds", self.rounds().to_string()),
            own("seed", self.bench.seed.to_string()),
            own("limit_s", self.scenario.limit.as_secs().to_string()),
        ];
        if let Some(bug) = &self.bench.planted {
            parameters.push(own("planted", bug.clone()));
        }
        parameters.extend(more.iter().map(|(k, v)| own(k, v.clone())));
        let log = self.log(self.boots);
        let plan = Plan {
            kernel: &self.kernel,
            initramfs: &initramfs,
            drives,
            parameters: &parameters,
            memory_mib: self.scenario.memory_mib,
            log: &log,
        };
        Machine::boot(&plan, self.accel)
    }

    /// Takes messages until the scenario is over inside, keeps its checks, and hands facts to `tell`.
    ///
    /// # Errors
    /// The machine ends early, the limit passes, or the scenario could not be finished.
    pub fn follow(&mut self, machine: &mut Machine, mut tell: impl FnMut(&str)) -> Result<()> {
        let deadline = Instant::now() + self.scenario.limit;
        loop {
            match machine.next(deadline)? {
                Message::Check(name, outcome) => self.check(name, outcome),
                Message::Note(text) => eprintln!("  {}: {text}", self.scenario.name),
                Message::Tell(text) => tell(&text),
                Message::Result(outcome) => return outcome.map_err(Error::failed),
                Message::Hello(_) => return Err(Error::failed("the machine started over")),
            }
        }
    }

    fn initramfs(&mut self) -> Result<PathBuf> {
        if let Some(path) = &self.initramfs {
            return Ok(path.clone());
        }
        let mut contents = Contents {
            modules: self.scenario.modules.iter().map(|m| (*m).to_owned()).collect(),
            programs: self.scenario.programs.iter().map(|p| (*p).to_owned()).collect(),
            ..Contents::default()
        };
        if self.scenario.product {
            let plinth = self.bench.plinth.clone();
            let plinth = plinth.ok_or_else(|| Error::missing("the plinth binary was not built"))?;
            contents.binaries.push(("/usr/bin/plinth".into(), plinth));
        }
        for (package, inside) in self.scenario.fetched {
            let program = crate::apt::fetched_program(&self.bench.cache, package, inside)?;
            contents.binaries.push(((*inside).to_owned(), program));
        }
        if let Some((program, words)) = &self.bench.exec {
            contents.binaries.push(("/run-me".into(), program.clone()));
            contents.texts.push(("/run-me.args".into(), words.join("\n")));
        }
        let path = self.folder.join("initramfs");
        initramfs::write(&path, &self.kernel, &self.bench.agent, &contents)?;
        self.initramfs = Some(path.clone());
        Ok(path)
    }

    /// Drives of a green run are of no use to anyone; logs stay.
    fn remove_images(&self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == "initramfs" || name.starts_with("drive-") {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// The host's half of a scenario that runs in one machine from beginning to end.
///
/// # Errors
/// As [`Session::boot`] and [`Session::follow`].
pub fn simple(session: &mut Session<'_>) -> Result<()> {
    let drives = session.new_drives(false)?;
    simple_on(session, &drives, &[])
}

/// Like [`simple`], on these drives and with more words for the guest.
///
/// # Errors
/// As [`Session::boot`] and [`Session::follow`].
pub fn simple_on(session: &mut Session<'_>, drives: &[Drive], more: &[(&str, String)]) -> Result<()> {
    let mut machine = session.boot(drives, more)?;
    session.follow(&mut machine, |_| {})
}

/// Removes what a killed run left in the folder of runs, but never the logs of the last one.
pub fn clear_leftovers(work: &Path) {
    children::scratch(&work.join("kvm-probe"));
    for run in fs::read_dir(work).into_iter().flatten().flatten() {
        let _ = fs::remove_file(run.path().join("initramfs"));
    }
}
