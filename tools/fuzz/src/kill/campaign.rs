//! Kills, one after the other: load, SIGKILL in the middle of it, a new target, everything read and judged.
use super::client::{Client, Command};
use super::group::{Group, Running, Shape};
use super::oracle::Oracle;
use crate::random::Random;
use node::{Error, Kind, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Sectors of the volume: 8 MiB.
const SECTORS: u64 = 16_384;
/// Requests in flight at once.
const DEPTH: usize = 32;
/// Sectors read at once.
const READ_SECTORS: u64 = 1024;

/// What a campaign came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Kills after which everything was right.
    pub passed: u64,
    /// Kills after which it was not.
    pub failed: u64,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// The longest from a start to the first answer, in milliseconds.
    pub slowest_ms: u64,
}

/// A campaign against one group.
pub struct Campaign {
    group: Group,
    program: PathBuf,
    random: Random,
    oracle: Oracle,
    tally: Tally,
}

impl Campaign {
    /// A new group in `folder`; `program target --spec FILE` serves it.
    ///
    /// # Errors
    /// As [`Group::create`].
    pub fn new(folder: &Path, shape: Shape, program: &Path, seed: u64) -> Result<Self> {
        let group = Group::create(folder, shape, SECTORS)?;
        let (random, oracle) = (Random::new(seed), Oracle::new(SECTORS));
        Ok(Self { group, program: program.to_owned(), random, oracle, tally: Tally::default() })
    }

    /// So many kills; then the group is closed and checked. Stops at the first failure, which is the returned
    /// sentence.
    pub fn run(&mut self, kills: u64) -> (Tally, Option<String>) {
        for kill in 1..=kills {
            if let Err(error) = self.one() {
                self.tally.failed += 1;
                return (self.tally, Some(format!("after kill {kill}: {error}")));
            }
            self.tally.passed += 1;
        }
        let end = self.finish().err();
        self.tally.failed += u64::from(end.is_some());
        (self.tally, end.map(|error| format!("after the last kill: {error}")))
    }

    fn one(&mut self) -> Result<()> {
        if self.random.once_in(5) {
            self.killed_while_starting()?;
        }
        let (mut running, mut client) = self.serve()?;
        self.load(&mut running, &mut client)?;
        running.kill()?;
        let (running, mut client) = self.serve()?;
        self.read_all(&mut client)?;
        // What was read must be there after another kill, too.
        if self.random.once_in(3) {
            running.kill()?;
            let (running, mut client) = self.serve()?;
            self.read_all(&mut client)?;
            return running.kill();
        }
        running.kill()
    }

    fn finish(&mut self) -> Result<()> {
        let (running, client) = self.serve()?;
        drop(client);
        running.close()?;
        self.group.check()
    }

    /// A target that is killed in the midst of its recovery, at an instant that the seed chooses.
    fn killed_while_starting(&mut self) -> Result<()> {
        let running = self.group.start(&self.program)?;
        let microseconds = self.random.below(60_000) as u64;
        std::thread::sleep(Duration::from_micros(microseconds));
        running.kill()
    }

    fn serve(&mut self) -> Result<(Running, Client)> {
        let start = Instant::now();
        let mut running = self.group.start(&self.program)?;
        self.group.attend(&mut running)?;
        let socket = self.group.socket();
        let mut client = running.patiently(|_| Client::connect(&socket))?;
        // The first answer: recovery is over.
        let answered = client.send(Command::Read, 0, 512, &[]).and_then(|_| client.reply());
        match answered {
            Ok(reply) if reply.error == 0 => {}
            other => {
                return Err(Error::general(Kind::Failed, format!("the first read after a start: {other:?}")));
            }
        }
        self.tally.slowest_ms = self.tally.slowest_ms.max(start.elapsed().as_millis() as u64);
        Ok((running, client))
    }

    /// Keeps requests in flight until as many were answered as the seed says. What is in flight then stays so: the
    /// kill comes at once.
    fn load(&mut self, running: &mut Running, client: &mut Client) -> Result<()> {
        let answers = 1 + self.random.below(600);
        let mut sent: HashMap<u64, Option<u64>> = HashMap::new();
        let mut count = 0;
        while count < answers {
            while sent.len() < DEPTH {
                let (cookie, version) = self.send(client).map_err(|source| hung_up(running, &source))?;
                sent.insert(cookie, version);
            }
            let reply = client.reply().map_err(|source| hung_up(running, &source))?;
            if reply.error != 0 {
                return Err(Error::general(
                    Kind::Failed,
                    format!("a request fails with error {}", reply.error),
                ));
            }
            let version = sent.remove(&reply.cookie).ok_or_else(|| {
                Error::general(Kind::Failed, format!("a reply to {}, which nobody asked", reply.cookie))
            })?;
            if let Some(version) = version {
                self.oracle.acknowledged(version);
                self.tally.acknowledged += 1;
            }
            count += 1;
        }
        Ok(())
    }

    /// Sends something random; its cookie, and its version if it changes sectors.
    fn send(&mut self, client: &mut Client) -> std::io::Result<(u64, Option<u64>)> {
        let aligned = !self.random.once_in(4);
        let mut sectors = 1 + self.random.below(64) as u64;
        let mut sector = self.random.below((SECTORS - 128) as usize) as u64;
        if self.random.once_in(3) {
            sector %= 512;
        }
        if aligned {
            (sector, sectors) = (sector / 8 * 8, sectors.next_multiple_of(8));
        }
        let offset = sector * 512;
        let length = (sectors * 512) as u32;
        match self.random.below(20) {
            0 => Ok((client.send(Command::Flush, 0, 0, &[])?, None)),
            what @ 1..=2 => {
                let change = self.oracle.begin(sector, sectors, true);
                let command = if what == 1 { Command::Trim } else { Command::WriteZeroes };
                Ok((client.send(command, offset, length, &[])?, Some(change.version)))
            }
            what => {
                let change = self.oracle.begin(sector, sectors, false);
                let command = Command::Write { fua: what == 3 };
                Ok((client.send(command, offset, length, &Oracle::content(&change))?, Some(change.version)))
            }
        }
    }

    fn read_all(&mut self, client: &mut Client) -> Result<()> {
        let broken =
            |source: std::io::Error| Error::general(Kind::Failed, format!("reading everything: {source}"));
        for sector in (0..SECTORS).step_by(READ_SECTORS as usize) {
            client.send(Command::Read, sector * 512, (READ_SECTORS * 512) as u32, &[]).map_err(broken)?;
            let reply = client.reply().map_err(broken)?;
            if reply.error != 0 {
                let what = format!("reading from sector {sector} on fails with error {}", reply.error);
                return Err(Error::general(Kind::Failed, what));
            }
            let judged = self.oracle.settle(sector, &reply.data);
            judged.map_err(|wrong| Error::general(Kind::Damage, wrong))?;
        }
        self.oracle.settled();
        Ok(())
    }
}

fn hung_up(running: &mut Running, source: &std::io::Error) -> Error {
    Error::general(Kind::Failed, format!("target {} hangs up under load: {source}", running.id()))
}
