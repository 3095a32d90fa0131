//! A group on files or on loop devices, and the processes that serve it.
//!
//! This side does what the agent does: makes the group, hands out rows (the same extents whenever the same row is asked
//! for), starts the target again. Extents are as small as the format allows, so that rows, laps of the ring and
//! checkpoints are many.
use super::loops::Loops;
use base::{Blocks, DriveIx, Extent, ExtentNo, Uuid};
use node::keys::GroupSecret;
use node::protocol::{FromTarget, Notice, Request};
use node::target_spec::{FrontEndSpec, Row, RowExtent, TargetDrive, TargetVolume};
use node::{Error, Kind, Result, TargetSpec};
use plinth_check::{FileMedia, Keyring, Media, Options, Severity, fsck_with_keys, open_media};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use volume::keys::GroupKeys;
use volume::label::{Label, places};
use volume::layout::{FIRST_EXTENT_BLOCK, TAIL_BLOCKS};
use volume::{Geometry, create};

const EXTENT_BLOCKS: u32 = 512;
const EXTENTS: u32 = 32;
const STRIPE_BLOCKS: u32 = 16;
/// A target that takes longer to listen, or to end, does neither.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a group is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Copies of everything, each on a drive of its own.
    pub legs: u8,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// Whether its drives are loop devices over files; else they are the files.
    pub on_loops: bool,
}

/// A group and its drives.
pub struct Group {
    folder: PathBuf,
    legs: u8,
    /// The drives, by number.
    drives: Vec<PathBuf>,
    /// What the drives are, unless they are files. Given back with the group.
    _loops: Loops,
    sectors: u64,
    starts: u64,
    /// The keys, of a group that is encrypted.
    secret: Option<GroupSecret>,
}

/// A target that runs.
pub struct Running {
    child: Child,
    control: PathBuf,
}

impl Group {
    /// Makes the drives of a new group in `folder`, which is made too.
    ///
    /// # Errors
    /// The file system's; there are no loop devices.
    pub fn create(folder: &Path, shape: Shape, sectors: u64) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|source| Error::io("make", folder, &source))?;
        let secret = if shape.encrypted { Some(GroupSecret::random()?) } else { None };
        let legs = shape.legs;
        let (mut drives, mut loops) = (Vec::new(), Loops::default());
        for drive in 0..legs {
            let file = make_drive(folder, drive)?;
            drives.push(if shape.on_loops { loops.over(&file)? } else { file });
        }
        let group =
            Self { folder: folder.to_owned(), legs, drives, _loops: loops, sectors, starts: 0, secret };
        let new = create::NewGroup {
            pool: Uuid([8; 16]),
            group: Uuid([9; 16]),
            geometry: Geometry::new(
                legs,
                1,
                STRIPE_BLOCKS,
                EXTENT_BLOCKS,
                Geometry::default_ring(1, EXTENT_BLOCKS),
            ),
            drives: (0..legs).map(drive_uuid).collect(),
            home: (0..legs)
                .map(|drive| Extent { drive: DriveIx::new(drive), extent: ExtentNo::ZERO })
                .collect(),
        };
        let open = |path: &PathBuf| {
            File::options().write(true).open(path).map_err(|source| Error::io("open", path, &source))
        };
        let files = group.drives.iter().map(open).collect::<Result<Vec<File>>>()?;
        let phases = match &group.secret {
            Some(secret) => create::plan_encrypted(&new, secret.keys()),
            None => create::plan(&new),
        };
        for (drive, at, block) in phases.expect("a possible shape").into_iter().flatten() {
            let index = usize::from(drive.get());
            let written = files[index].write_all_at(&block[..], at.get() * 4096);
            written.map_err(|source| Error::io("write", &group.drive(drive.get()), &source))?;
        }
        Ok(group)
    }

    fn drive(&self, drive: u8) -> PathBuf {
        self.drives[usize::from(drive)].clone()
    }

    /// The socket that NBD is served on.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("nbd")
    }

    /// Starts a target: `program target --spec FILE`.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(&mut self, program: &Path) -> Result<Running> {
        self.starts += 1;
        let spec = self.spec();
        let path = self.folder.join("spec.json");
        spec.write(&path)?;
        let log = self.folder.join("log");
        let log =
            File::options().create(true).append(true).open(&log).map_err(|e| Error::io("open", &log, &e))?;
        let mut command = Command::new(program);
        let input = if self.secret.is_some() { Stdio::piped() } else { Stdio::null() };
        command.arg("target").arg("--spec").arg(&path).stdin(input).stdout(Stdio::null()).stderr(log);
        let mut child = command.spawn().map_err(|source| Error::io("start", program, &source))?;
        if let (Some(secret), Some(mut pipe)) = (&self.secret, child.stdin.take()) {
            let told = pipe.write_all(secret.secret().expose());
            told.map_err(|source| Error::io("tell its secret to", program, &source))?;
        }
        let running = Running { child, control: spec.control_socket.clone() };
        Ok(running)
    }

    /// Answers the target's wishes, in a thread of its own that ends with the target.
    ///
    /// # Errors
    /// The target ends instead of listening.
    pub fn attend(&self, running: &mut Running) -> Result<()> {
        let stream = running.patiently(|control| UnixStream::connect(control))?;
        let rows = (0..EXTENTS).map(|row| self.row(row)).collect();
        std::thread::spawn(move || answer(stream, rows));
        Ok(())
    }

    fn row(&self, row: u32) -> Row {
        let extent = |drive| RowExtent {
            drive: drive_uuid(drive).to_string(),
            path: self.drive(drive),
            blocks: drive_blocks().get(),
            extent: row,
            away: false,
        };
        Row { row, extents: (0..self.legs).map(extent).collect(), grant: 0 }
    }

    fn spec(&self) -> TargetSpec {
        let drive = |drive| TargetDrive {
            id: drive_uuid(drive).to_string(),
            path: Some(self.drive(drive)),
            left: false,
            blocks: drive_blocks().get(),
            homes: vec![0],
            stale_version: None,
            stale_since: None,
        };
        TargetSpec {
            pool: Uuid([8; 16]).to_string(),
            group: Uuid([9; 16]).to_string(),
            group_name: "kills".into(),
            catalogue_counts: true,
            gen_number: self.starts,
            activation: format!("{}", Uuid((u128::from(self.starts) | 1 << 100).to_be_bytes())),
            salt: format!("{:032x}", self.starts),
            legs: self.legs,
            columns: 1,
            stripe_blocks: STRIPE_BLOCKS,
            extent_blocks: EXTENT_BLOCKS,
            drives: (0..self.legs).map(drive).collect(),
            rows: Vec::new(),
            volume: TargetVolume {
                id: Uuid([7; 16]).to_string(),
                name: "kills".into(),
                size_bytes: self.sectors * 512,
            },
            front_end: FrontEndSpec::Nbd { socket: self.socket() },
            read_only: false,
            cache_bytes: 1 << 20,
            resync_bytes_per_second: 0,
            scrub_bytes_per_second: 0,
            forced: false,
            served_gen: None,
            encrypted: self.secret.is_some(),
            control_socket: self.folder.join("control"),
            stale_marks: self.folder.join("marks"),
        }
    }

    /// Checks the drives, once the group is closed.
    ///
    /// # Errors
    /// What is wrong on them.
    pub fn check(&self) -> Result<()> {
        let names: Vec<String> = (0..self.legs).map(|drive| format!("drive{drive}")).collect();
        let mut media: Vec<FileMedia> = Vec::new();
        for drive in 0..self.legs {
            let path = self.drive(drive);
            media.push(open_media(&path).map_err(|source| Error::io("open", &path, &source))?);
        }
        let named = names.iter().zip(&media).map(|(name, media)| (name.as_str(), media as &dyn Media));
        let report = fsck_with_keys(&named.collect::<Vec<_>>(), &Options::default(), self);
        match report.findings.iter().find(|finding| finding.severity > Severity::Note) {
            None => Ok(()),
            Some(finding) => Err(Error::general(Kind::Damage, format!("the check finds {finding:?}"))),
        }
    }
}

impl Keyring for Group {
    fn keys_of(&self, _: Uuid) -> Option<GroupKeys> {
        self.secret.as_ref().map(GroupSecret::keys)
    }
}

impl Running {
    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Tries until it works, the target has ended, or patience has.
    ///
    /// # Errors
    /// The last try's, or the target's end.
    pub fn patiently<T>(&mut self, mut attempt: impl FnMut(&Path) -> std::io::Result<T>) -> Result<T> {
        let start = Instant::now();
        loop {
            let error = match attempt(&self.control) {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(Error::general(
                    Kind::Failed,
                    format!("the target ended with {status}, see its log"),
                ));
            }
            if start.elapsed() > PATIENCE {
                return Err(Error::general(Kind::Timeout, format!("the target does not answer: {error}")));
            }
            std::thread::yield_now();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// SIGKILL; returns when the process is gone.
    ///
    /// # Errors
    /// The operating system's.
    pub fn kill(mut self) -> Result<()> {
        let gone = self.child.kill().and_then(|()| self.child.wait());
        gone.map(|_| ())
            .map_err(|source| Error::general(Kind::Failed, format!("cannot kill the target: {source}")))
    }

    /// Has the group closed; returns when the process has ended well.
    ///
    /// # Errors
    /// It does not end, or not well.
    pub fn close(mut self) -> Result<()> {
        let mut stream = self.patiently(|control| UnixStream::connect(control))?;
        let line = serde_json::to_string(&Request::Detach).expect("a request encodes as JSON") + "\n";
        let sent = stream.write_all(line.as_bytes());
        sent.map_err(|source| Error::general(Kind::Failed, format!("the target hangs up: {source}")))?;
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Ok(Some(status)) = self.child.try_wait() {
                let ended =
                    Error::general(Kind::Failed, format!("the target ended with {status}, see its log"));
                return if status.success() { Ok(()) } else { Err(ended) };
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.kill()?;
        Err(Error::general(Kind::Timeout, "the target does not close its group"))
    }
}

/// Answers what the target asks for until it is gone.
fn answer(stream: UnixStream, rows: Vec<Row>) {
    let Ok(mut writer) = stream.try_clone() else { return };
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return };
        if let Ok(FromTarget::Notice(Notice::WantRow { row, .. })) = serde_json::from_str(&line) {
            let request = match rows.get(row as usize) {
                Some(row) => Request::Row(row.clone()),
                None => Request::NoRow { row },
            };
            let line = serde_json::to_string(&request).expect("a request encodes as JSON") + "\n";
            if writer.write_all(line.as_bytes()).is_err() {
                return;
            }
        }
    }
}

/// The file of a drive, labelled.
fn make_drive(folder: &Path, drive: u8) -> Result<PathBuf> {
    let path = folder.join(format!("drive{drive}"));
    let made = File::create_new(&path).and_then(|file| {
        file.set_len(drive_blocks().get() * 4096)?;
        for (copy, place) in places(drive_blocks()).into_iter().enumerate() {
            file.write_all_at(&label(drive).encode(copy as u8), place.get() * 4096)?;
        }
        file.sync_all()
    });
    made.map(|()| path.clone()).map_err(|source| Error::io("make", &path, &source))
}

fn drive_uuid(drive: u8) -> Uuid {
    Uuid([drive + 1; 16])
}

fn drive_blocks() -> Blocks {
    Blocks::new(FIRST_EXTENT_BLOCK + u64::from(EXTENTS * EXTENT_BLOCKS) + TAIL_BLOCKS)
}

fn label(drive: u8) -> Label {
    Label {
        pool: Uuid([8; 16]),
        pool_name: "kills".into(),
        drive: drive_uuid(drive),
        blocks: drive_blocks(),
        extent_blocks: EXTENT_BLOCKS,
        written: 1,
        node: String::new(),
        rack: String::new(),
        zone: String::new(),
        class: String::new(),
    }
}
