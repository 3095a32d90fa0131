//! The verbs: each checks what can be checked here, asks the agent, and prints.
use crate::args::{Cli, Drive, Global, Labels, Node, NodeVerb, Output, Pool, PoolDrive, Verb, Volume};
use crate::ask::{ProgressBar, Waiting, confirm, note, while_waiting};
use crate::output::{self, changed};
use crate::{docs, print};
use node::client::{Client, part};
use node::params::{
    AddDrives, AttachVolume, CreatePool, CreateVolume, ImportPool, RenameVolume, ResizeVolume, Set,
    StopAgent, UpgradeVolume, WipeDrive,
};
use node::{Error, Kind, Result, offline, params, service, support, text};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Runs a command line.
pub fn run(cli: Cli) -> Result<ExitCode> {
    let global = cli.global;
    let call = Call { global: &global };
    match cli.verb {
        Verb::Node(node) => call.node(node)?,
        Verb::Target { spec, ahead } => return target(&spec, ahead),
        Verb::Status { check } => return call.status(check),
        Verb::Pool(verb) => call.pool(verb)?,
        Verb::Drive(verb) => call.drive(verb)?,
        Verb::Volume(verb) => call.volume(verb)?,
        Verb::Scrub(verb) => return crate::scrub::run(&global, verb),
        Verb::Events { follow, since } => crate::events::run(&global, follow, since.as_deref())?,
        Verb::Fsck { drives, keys, repair } => return call.fsck(&drives, &keys, repair),
        Verb::Inspect { drives } => {
            let told = offline::inspect(&drives)?;
            match global.output {
                Output::Json => output::json(&told)?,
                Output::Table | Output::Name => print(&offline::to_text(&told))?,
            }
        }
        Verb::Version => call.version()?,
        Verb::Completions { shell } => docs::completions(shell)?,
        Verb::Man { folder } => docs::manual(folder.as_deref())?,
        Verb::Snapshot(_) => return Err(later("snapshots")),
        Verb::Clone(_) => return Err(later("clones")),
        Verb::Group(verb) => call.group(verb)?,
        Verb::Key(verb) => crate::keys::run(&global, verb)?,
        Verb::Rekey { name, wait } => crate::rekey::run(&global, &name, wait)?,
        Verb::Replica(_) | Verb::Site(_) => return Err(later("replication")),
        Verb::Diff(_) | Verb::Image(_) | Verb::Send(_) | Verb::Receive(_) => return Err(later("backups")),
        Verb::Schedule(_) => return Err(later("schedules")),
        Verb::SupportBundle { file } => call.support_bundle(&file)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn later(what: &str) -> Error {
    Error::not_supported(format!("plinth {} does not support {what}", node::VERSION))
}

/// Serves one group; started by the agent.
fn target(spec: &Path, ahead: bool) -> Result<ExitCode> {
    crate::target::run(spec, ahead)
}

/// A command and its flags.
pub struct Call<'a> {
    /// The flags.
    pub global: &'a Global,
}

impl Call<'_> {
    /// The agent.
    pub fn client(&self) -> Result<Client> {
        Client::new(self.global.socket.clone(), self.global.timeout)
    }

    /// A path that changes something, with the query that says whether it is a rehearsal.
    fn path(&self, path: &str) -> String {
        if self.global.dry_run { format!("{path}?dry_run=true") } else { path.to_owned() }
    }

    /// Asks the agent for a change.
    pub fn post(&self, path: &str, body: &impl serde::Serialize, doing: &str) -> Result<Value> {
        let client = self.client()?;
        while_waiting(self.global, doing, || client.post(&self.path(path), body))
    }

    fn node(&self, node: Node) -> Result<()> {
        if let Some(NodeVerb::Stop { all }) = node.verb {
            if all {
                confirm(self.global, "node", "detach every volume and stop the agent")?;
            }
            if self.global.dry_run {
                return self.client()?.get("/v1/status").map(drop);
            }
            return self.post("/v1/agent/stop", &StopAgent { all }, "stopping").map(drop);
        }
        if node.listen.is_some() {
            return Err(Error::not_supported(
                "serving other nodes is not supported yet; leave --listen away",
            ));
        }
        node::service::log_to_stderr();
        let program =
            std::env::current_exe().map_err(|source| Error::io("find", Path::new("plinth"), &source))?;
        service::run(node::agent::Options {
            state: absolute(&node.state)?,
            socket: absolute(&self.global.socket)?,
            program,
            links: PathBuf::from("/dev/plinth"),
            scan_devices: !node.no_scan,
            metrics: node.metrics_listen,
        })
    }

    fn status(&self, check: bool) -> Result<ExitCode> {
        let status = self.client()?.get("/v1/status")?;
        output::status(self.global.output, &status)?;
        let healthy = status["health"] == "online";
        if check && !healthy {
            Ok(ExitCode::from(Kind::NotHealthy.exit_code()))
        } else {
            Ok(ExitCode::SUCCESS)
        }
    }

    fn version(&self) -> Result<()> {
        match self.global.output {
            Output::Json => output::json(&json!(node::program::own())),
            Output::Table | Output::Name => print(&format!("plinth {}\n", node::VERSION)),
        }
    }

    fn pool(&self, verb: Pool) -> Result<()> {
        let output = self.global.output;
        match verb {
            Pool::Create { pool, drives, labels, extent_size } => {
                if labels.force {
                    confirm(self.global, &pool, &overwrite(&drives))?;
                }
                let body = CreatePool {
                    name: pool.clone(),
                    drives: all_absolute(&drives)?,
                    labels: parse_labels(&labels)?,
                    force: labels.force,
                    extent_bytes: extent_size,
                };
                changed(output, &self.post("/v1/pools", &body, "writing labels")?, &pool)
            }
            Pool::Add { pool, drives, labels } => {
                if labels.force {
                    confirm(self.global, &pool, &overwrite(&drives))?;
                }
                let body = AddDrives {
                    drives: all_absolute(&drives)?,
                    labels: parse_labels(&labels)?,
                    force: labels.force,
                };
                let path = format!("/v1/pools/{}/drives", part(&pool));
                changed(output, &self.post(&path, &body, "writing labels")?, &pool)
            }
            Pool::Status { pool } => output::pool(output, &self.client()?.get(&pool_path(&pool))?),
            Pool::List => output::list(output, &self.client()?.get("/v1/pools")?, "name", output::POOLS),
            Pool::Set { pool, property } => {
                let (key, value) = text::parse_pair(&property)?;
                let path = self.path(&pool_path(&pool));
                changed(output, &self.client()?.patch(&path, &Set { key, value })?, &pool)
            }
            Pool::Import { what, force } => self.import(what, force),
            Pool::Export { pool } => {
                self.post(&format!("{}/export", pool_path(&pool)), &json!({}), "exporting")?;
                changed(output, &json!({ "name": pool }), &pool)
            }
            Pool::History { pool } => {
                let history = self.client()?.get(&format!("{}/history", pool_path(&pool)))?;
                output::list(output, &history, "command", output::HISTORY)
            }
            Pool::Delete { pool, if_exists } => {
                let what = format!("delete pool {pool} and wipe the labels of its drives");
                self.delete(&pool, &pool_path(&pool), if_exists, &what)
            }
            Pool::Rebalance { pool, stop, wait } => crate::drives::rebalance(self.global, &pool, stop, wait),
        }
    }

    fn import(&self, what: Vec<String>, force: bool) -> Result<()> {
        let output = self.global.output;
        if what.is_empty() {
            return output::list(output, &self.client()?.get("/v1/import")?, "name", output::IMPORTABLE);
        }
        if force {
            let named = what.join(" ");
            confirm(self.global, &named, &format!("give up what could not be rebuilt of {named}"))?;
        }
        let mut body = ImportPool { force, ..ImportPool::default() };
        for text in what {
            if text.contains('/') || Path::new(&text).exists() {
                body.drives.push(absolute(Path::new(&text))?);
            } else if body.pool.replace(text).is_some() {
                let message = "one pool at a time: give one name, or the paths of drives";
                return Err(Error::general(Kind::Invalid, message));
            }
        }
        let imported = self.post("/v1/import", &body, "importing")?;
        match output {
            Output::Json => output::json(&imported),
            Output::Table | Output::Name => output::list(Output::Name, &imported, "name", output::POOLS),
        }
    }

    fn drive(&self, verb: Drive) -> Result<()> {
        match verb {
            Drive::List { pool } => {
                let drives = self.client()?.get(&format!("{}/drives", pool_path(&pool)))?;
                output::list(self.global.output, &drives, "id", output::DRIVES)
            }
            Drive::Wipe { drive } => {
                let path = absolute(&drive)?;
                let name = path.display().to_string();
                confirm(self.global, &name, &format!("wipe the drive {name}"))?;
                self.post("/v1/drives/wipe", &WipeDrive { drive: path }, "wiping")?;
                changed(self.global.output, &json!({ "path": name }), &name)
            }
            Drive::Offline(of) => self.drive_state(&of, "offline", "waiting until nothing uses the drive"),
            Drive::Fail(of) => self.drive_state(&of, "fail", "waiting until nothing uses the drive"),
            Drive::Online(of) => self.drive_state(&of, "online", "bringing the drive back"),
            Drive::Evacuate { of, wait } => crate::drives::empty(self.global, &of, "evacuate", wait),
            Drive::Remove { of, wait } => crate::drives::empty(self.global, &of, "remove", wait),
            Drive::Replace { of, new, force, wait } => {
                if force {
                    confirm(self.global, &of.pool, &overwrite(std::slice::from_ref(&new)))?;
                }
                crate::drives::replace(self.global, &of, &new, force, wait)
            }
        }
    }

    /// Changes whether a drive is in use; prints its id.
    fn drive_state(&self, of: &PoolDrive, verb: &str, doing: &str) -> Result<()> {
        let named = crate::drives::named(&of.drive)?;
        let path = format!("{}/drives/{}/{verb}", pool_path(&of.pool), part(&named));
        let changed_drive = self.post(&path, &json!({}), doing)?;
        let id = output::text(&changed_drive, "id");
        changed(self.global.output, &changed_drive, &id)
    }

    /// Waits until no drive of a volume is being brought up to date, or about to be; returns the volume then.
    fn watch_resync(&self, volume: &str) -> Result<Value> {
        let client = self.client()?;
        let late = format!("the resync of volume {volume} is not at its end");
        let waiting = Waiting::new(self.global, &client, volume_path(volume), (volume, late, "it goes on"));
        let mut bar = ProgressBar::new(self.global, "resync");
        loop {
            let shown = waiting.look()?;
            let awaited = shown["returning"].as_array().is_some_and(|drives| !drives.is_empty());
            if !shown["resync"].is_null() {
                bar.show(&shown["resync"], "bytes_copied");
            } else if !awaited {
                return Ok(shown);
            }
            waiting.pause()?;
        }
    }

    fn volume(&self, verb: Volume) -> Result<()> {
        let output = self.global.output;
        match verb {
            Volume::Create { volume, pool, size, legs, columns, stripe_unit, group, encrypt, kek } => {
                let body = CreateVolume {
                    name: volume.clone(),
                    pool,
                    size_bytes: size,
                    legs,
                    columns,
                    stripe_unit_bytes: stripe_unit,
                    group,
                    encrypt,
                    kek,
                };
                let told = crate::keys::DefaultKey::before(self.global, body.encrypt && body.kek.is_none())?;
                let made = self.post("/v1/volumes", &body, "creating")?;
                told.after(self.global)?;
                changed(output, &made, &volume)
            }
            Volume::List => {
                output::list(output, &self.client()?.get("/v1/volumes")?, "name", output::VOLUMES)
            }
            Volume::Show { volume, watch } => {
                let shown = if watch {
                    self.watch_resync(&volume)?
                } else {
                    self.client()?.get(&volume_path(&volume))?
                };
                output::volume(output, &shown)
            }
            Volume::Set { volume, property } => {
                let (key, value) = text::parse_pair(&property)?;
                let path = self.path(&volume_path(&volume));
                changed(output, &self.client()?.patch(&path, &Set { key, value })?, &volume)
            }
            Volume::Resize { volume, size } => {
                let relative = size.starts_with('+');
                let size_bytes = text::parse_size(size.trim_start_matches('+'))?;
                let path = format!("{}/resize", volume_path(&volume));
                let resized = self.post(&path, &ResizeVolume { size_bytes, relative }, "resizing")?;
                changed(output, &resized, &volume)
            }
            Volume::Rename { volume, new } => {
                let path = format!("{}/rename", volume_path(&volume));
                changed(output, &self.post(&path, &RenameVolume { name: new.clone() }, "renaming")?, &new)
            }
            Volume::Delete { volume, if_exists } => {
                let what = format!("delete volume {volume} and everything in it");
                self.delete(&volume, &volume_path(&volume), if_exists, &what)
            }
            Volume::Attach { volume, nbd, read_only, force_stale } => {
                if force_stale {
                    let what = format!("give up what only the missing drives of volume {volume} have");
                    confirm(self.global, &volume, &what)?;
                }
                let body =
                    AttachVolume { nbd: nbd.as_deref().map(absolute).transpose()?, read_only, force_stale };
                self.attach(&volume, &body)
            }
            Volume::Detach { volume } => {
                let path = format!("{}/detach", volume_path(&volume));
                changed(output, &self.post(&path, &json!({}), "closing the volume")?, &volume)
            }
            Volume::Upgrade { volume, binary } => {
                let body = UpgradeVolume { binary: binary.as_deref().map(absolute).transpose()? };
                let path = format!("{}/upgrade", volume_path(&volume));
                changed(output, &self.post(&path, &body, "exchanging the target")?, &volume)
            }
            Volume::Qos(_) => Err(later("limits of volumes")),
        }
    }

    /// Prints one line: the path of the device or socket.
    fn attach(&self, volume: &str, body: &AttachVolume) -> Result<()> {
        let path = format!("{}/attach", volume_path(volume));
        let attached = self.post(&path, body, "attaching")?;
        if self.global.output == Output::Json {
            return output::json(&attached);
        }
        let opened = attached["device"].as_str().or(attached["nbd_socket"].as_str());
        match opened {
            Some(opened) => print(&format!("{opened}\n")),
            None => {
                note(self.global, &format!("volume {volume} could be attached"));
                Ok(())
            }
        }
    }

    /// Asks, and deletes: `what` says what that is.
    pub fn delete(&self, name: &str, path: &str, if_exists: bool, what: &str) -> Result<()> {
        let client = self.client()?;
        // What is not there needs no question.
        match client.get(path) {
            Err(error) if if_exists && is_not_there(&error, name) => return Ok(()),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        confirm(self.global, name, what)?;
        // Nothing is printed: what was there and what was not end alike.
        match while_waiting(self.global, "deleting", || client.delete(&self.path(path))) {
            Err(error) if if_exists && is_not_there(&error, name) => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// Also when the agent does not answer: then above all.
    fn support_bundle(&self, file: &Path) -> Result<()> {
        let path = absolute(file)?;
        support::check_place(&path)?;
        let mut entries = vec![support::Entry::json("plinth.json", &json!(node::program::own()))];
        let told = self.client()?.get_as::<Vec<support::Entry>>("/v1/support-bundle");
        match told {
            Ok(told) => entries.extend(told),
            Err(error) => {
                note(self.global, &format!("{error}; the bundle has only what this machine says"));
                entries.push(support::Entry::json("agent-error.json", &json!(error.body())));
            }
        }
        entries.extend(support::machine());
        if !self.global.dry_run {
            support::write(&path, &entries)?;
        }
        let name = path.display().to_string();
        changed(self.global.output, &json!({ "path": name }), &name)
    }

    fn fsck(&self, drives: &[PathBuf], keys: &Path, repair: bool) -> Result<ExitCode> {
        let repair = repair && !self.global.dry_run;
        let report = while_waiting(self.global, "checking", || offline::fsck(drives, keys, repair))?;
        if self.global.output == Output::Json {
            output::json(&serde_json::to_value(&report).expect("a report encodes as JSON"))?;
        } else {
            for line in &report.checked {
                print(&format!("{line}\n"))?;
            }
            for finding in &report.findings {
                let end = if finding.repaired { " (repaired)" } else { "" };
                print(&format!("{}: {}: {}{end}\n", finding.severity, finding.object, finding.message))?;
            }
            for action in &report.actions {
                print(&format!("what to do about {action}\n"))?;
            }
            print(if report.clean { "clean\n" } else { "damage left\n" })?;
        }
        if report.damaged() { Ok(ExitCode::from(Kind::Damage.exit_code())) } else { Ok(ExitCode::SUCCESS) }
    }
}

/// Whether what is to be deleted does not exist; something else that it needs may not, either.
fn is_not_there(error: &Error, name: &str) -> bool {
    error.kind == Kind::NotFound && error.object.as_deref() == Some(name)
}

fn pool_path(pool: &str) -> String {
    format!("/v1/pools/{}", part(pool))
}

fn volume_path(volume: &str) -> String {
    format!("/v1/volumes/{}", part(volume))
}

fn overwrite(drives: &[PathBuf]) -> String {
    let names: Vec<String> = drives.iter().map(|drive| drive.display().to_string()).collect();
    format!("overwrite whatever is on {}", names.join(" "))
}

/// The caller's folder is not the agent's.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|source| Error::io("name", path, &source))
}

fn all_absolute(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    paths.iter().map(|path| absolute(path)).collect()
}

fn parse_labels(labels: &Labels) -> Result<params::Labels> {
    let mut parsed = params::Labels::default();
    for pair in &labels.label {
        let (key, value) = text::parse_pair(pair)?;
        let place = match key.as_str() {
            "node" => &mut parsed.node,
            "rack" => &mut parsed.rack,
            "zone" => &mut parsed.zone,
            "class" => &mut parsed.class,
            _ => {
                let message = format!("there is no label {key}");
                return Err(Error::invalid(key, message).hint("node, rack, zone and class are labels"));
            }
        };
        if place.replace(value).is_some() {
            return Err(Error::invalid(key.clone(), format!("label {key} is given twice")));
        }
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A drive that is missing is no reason to say that its volume was deleted.
    #[test]
    fn only_what_is_to_be_deleted_may_be_missing() {
        let missing = |object: &str| Error::new(Kind::NotFound, object, "there is none");
        assert!(is_not_there(&missing("v"), "v"));
        assert!(!is_not_there(&missing("/dev/sdc"), "v"));
        assert!(!is_not_there(&Error::new(Kind::Busy, "v", "it is busy"), "v"));
    }
}
