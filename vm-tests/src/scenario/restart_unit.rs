//! `restart-unit`, outside: a root with systemd, the product's unit, and a unit that runs the scenario.

use super::{Session, simple_on};
use crate::error::{Context, Error, Result};
use crate::machine::Drive;
use crate::sysroot;
use std::fs;

/// Runs the scenario inside once systemd is up; its console is the machine's.
const RUNNER: &str = "[Unit]\nDescription=Runs the scenario\n\n[Service]\nType=oneshot\n\
                      ExecStart=/usr/bin/plinth-guest run\nStandardOutput=tty\nStandardError=tty\n\
                      TTYPath=/dev/ttyS0\n";

/// The host's half.
pub fn run(session: &mut Session<'_>) -> Result<()> {
    let bench = session.bench;
    let plinth = bench.plinth.clone().ok_or_else(|| Error::missing("the plinth binary was not built"))?;
    let unit = fs::read_to_string(&bench.unit).doing(|| format!("read {}", bench.unit.display()))?;
    let start = unit.lines().find_map(|l| l.strip_prefix("ExecStart="));
    let program = start.and_then(|l| l.split_whitespace().next());
    let program = program.ok_or_else(|| Error::failed(format!("{} starts nothing", bench.unit.display())))?;
    let runner = session.folder.join("plinth-scenario.service");
    fs::write(&runner, RUNNER).doing(|| format!("write {}", runner.display()))?;
    let system = "/etc/systemd/system";
    let mut extras = vec![
        ("/usr/bin/plinth-guest".to_owned(), bench.agent.clone(), 0o755),
        ("/usr/bin/plinth".to_owned(), plinth.clone(), 0o755),
        (format!("{system}/plinth.service"), bench.unit.clone(), 0o644),
        (format!("{system}/plinth-scenario.service"), runner, 0o644),
    ];
    if program != "/usr/bin/plinth" {
        extras.push((program.to_owned(), plinth, 0o755));
    }
    let image = session.folder.join("drive-root.img");
    sysroot::make(&bench.cache, &image, &session.folder, &extras)?;
    let mut drives = vec![Drive { image, log: None, can_slow: false, sector_bytes: 512 }];
    drives.extend(session.new_drives(false)?);
    simple_on(session, &drives, &[("root", "systemd".to_owned())])
}
