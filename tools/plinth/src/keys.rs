//! `plinth key`: keys that wrap the secrets of groups.
//!
//! A passphrase comes from standard input, one line, and never from an argument, which every process of the machine can
//! read. On a terminal it is asked for without being shown, and twice where it is set.
use crate::args::{Global, Key, Output, Provider};
use crate::ask::{confirm, note, while_waiting};
use crate::output::{self, changed};
use crate::print;
use crate::verbs::absolute;
use nix::sys::termios::{self, LocalFlags, SetArg};
use node::agent::DEFAULT_KEY;
use node::client::{Client, part};
use node::keys::{ProviderKind, Secret, SecretText};
use node::params::{CreateKey, RotateKey, UnlockKey};
use node::{Error, Kind, Result};
use serde_json::{Value, json};
use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;

/// Bytes of a passphrase that are read at most; the agent refuses fewer than that already.
const MAX_LINE: usize = 4096;

/// Runs a verb.
pub fn run(global: &Global, verb: Key) -> Result<()> {
    let client = Client::new(global.socket.clone(), global.timeout)?;
    let query = if global.dry_run { "?dry_run=true" } else { "" };
    match verb {
        Key::Create { key, provider, url, mount, there, token_file, ca_file } => {
            let passphrase =
                if provider == Provider::Passphrase { Some(new_passphrase(&key)?) } else { None };
            let body = CreateKey {
                name: key.clone(),
                provider: Some(kind(provider)),
                passphrase,
                url,
                mount,
                key: there,
                token_file: token_file.as_deref().map(absolute).transpose()?,
                ca_file: ca_file.as_deref().map(absolute).transpose()?,
            };
            post(global, &client, &format!("/v1/keys{query}"), &body, &key)
        }
        Key::List => output::list(global.output, &client.get("/v1/keys")?, "name", output::KEYS),
        Key::Show { key } => show(global.output, &client.get(&path(&key))?),
        Key::Rotate { key } => {
            let shown = client.get(&path(&key))?;
            let by_passphrase = shown["provider"] == "passphrase";
            let passphrase = if by_passphrase { Some(new_passphrase(&key)?) } else { None };
            post(global, &client, &format!("{}/rotate{query}", path(&key)), &RotateKey { passphrase }, &key)
        }
        Key::Lock { key } => post(global, &client, &format!("{}/lock{query}", path(&key)), &json!({}), &key),
        Key::Unlock { key } => {
            client.get(&path(&key))?;
            let body =
                UnlockKey { passphrase: SecretText(read_passphrase(&format!("Passphrase of key {key}: "))?) };
            post(global, &client, &format!("{}/unlock{query}", path(&key)), &body, &key)
        }
        Key::Destroy { key, force } => destroy(global, &client, &key, force),
    }
}

/// The key of who names none, which is made on first use: whoever caused that hears what it is good for.
pub struct DefaultKey {
    wanted: bool,
}

impl DefaultKey {
    /// Looks whether it is there. `used`: the verb that follows may make it.
    pub fn before(global: &Global, used: bool) -> Result<Self> {
        if !used || global.dry_run || global.quiet {
            return Ok(Self { wanted: false });
        }
        let client = Client::new(global.socket.clone(), global.timeout)?;
        match client.get(&path(DEFAULT_KEY)) {
            Err(error) if error.kind == Kind::NotFound => Ok(Self { wanted: true }),
            looked => looked.map(|_| Self { wanted: false }),
        }
    }

    /// Tells of it, if it was made since.
    pub fn after(self, global: &Global) -> Result<()> {
        if !self.wanted {
            return Ok(());
        }
        let events = Client::new(global.socket.clone(), global.timeout)?.get("/v1/events")?;
        let made =
            events.as_array().into_iter().flatten().rev().find(|event| event["kind"] == "default_key_made");
        if let Some(message) = made.and_then(|event| event["message"].as_str()) {
            note(global, message);
        }
        Ok(())
    }
}

fn path(key: &str) -> String {
    format!("/v1/keys/{}", part(key))
}

fn kind(provider: Provider) -> ProviderKind {
    match provider {
        Provider::File => ProviderKind::File,
        Provider::Keyring => ProviderKind::Keyring,
        Provider::Passphrase => ProviderKind::Passphrase,
        Provider::Transit => ProviderKind::Transit,
    }
}

fn post(global: &Global, client: &Client, path: &str, body: &impl serde::Serialize, key: &str) -> Result<()> {
    let answer = while_waiting(global, "asking for the key", || client.post(path, body))?;
    changed(global.output, &answer, key)
}

/// Names every volume that nobody will read again, and every group that waits for one.
fn destroy(global: &Global, client: &Client, key: &str, force: bool) -> Result<()> {
    let shown = client.get(&path(key))?;
    if shown["state"] != "destroyed" {
        let names = |field: &str| {
            let names = shown[field].as_array().into_iter().flatten().filter_map(Value::as_str);
            names.collect::<Vec<_>>().join(", ")
        };
        let (volumes, empty) = (names("volumes"), names("empty_groups"));
        let mut lost = if volumes.is_empty() {
            "no volume needs it".to_owned()
        } else {
            format!("everything in these volumes is lost: {volumes}")
        };
        if !empty.is_empty() {
            lost += &format!("; no volume can be made any more in these groups: {empty}");
        }
        confirm(global, key, &format!("destroy key {key} for ever ({lost})"))?;
    }
    let path = format!("{}?dry_run={}&force={force}", path(key), global.dry_run);
    changed(global.output, &while_waiting(global, "destroying", || client.delete(&path))?, key)
}

fn show(output: Output, key: &Value) -> Result<()> {
    if output != Output::Table {
        return output::list(output, key, "name", output::KEYS);
    }
    print(&output::fields(key))?;
    if !key["transit"].is_null() {
        print(&format!("\ntransit\n{}", output::fields(&key["transit"])))?;
    }
    for list in ["groups", "volumes", "empty_groups"] {
        let names = output::names(key, list);
        if !names.is_empty() {
            print(&format!("{list}  {names}\n"))?;
        }
    }
    Ok(())
}

/// A passphrase that is set: on a terminal, typed twice.
fn new_passphrase(key: &str) -> Result<SecretText> {
    let first = read_passphrase(&format!("New passphrase of key {key}: "))?;
    if std::io::stdin().is_terminal() && !first.same(read_passphrase("The same again: ")?.expose()) {
        return Err(Error::invalid(key, "the two passphrases differ"));
    }
    Ok(SecretText(first))
}

/// One line of standard input, without its end; not shown on a terminal.
fn read_passphrase(question: &str) -> Result<Secret> {
    let _silent = Silent::begin(question);
    let failed = |source: std::io::Error| {
        Error::general(Kind::Failed, format!("cannot read the passphrase: {source}"))
    };
    // Byte by byte from the file itself: the buffer of standard input would keep a copy.
    let mut input = std::fs::File::from(std::io::stdin().as_fd().try_clone_to_owned().map_err(failed)?);
    let mut line = Secret::zeroed(MAX_LINE);
    let mut len = 0;
    while len < MAX_LINE {
        let read = input.read(&mut line.expose_mut()[len..=len]);
        if read.map_err(failed)? == 0 || line.expose()[len] == b'\n' {
            break;
        }
        len += 1;
    }
    line.truncate(len);
    if line.is_empty() || std::str::from_utf8(line.expose()).is_err() {
        return Err(Error::general(Kind::Invalid, "standard input holds no passphrase")
            .hint("it is one line of text: plinth key ... < FILE"));
    }
    Ok(line)
}

/// A terminal that does not show what is typed, until this is dropped.
struct Silent(Option<termios::Termios>);

impl Silent {
    fn begin(question: &str) -> Self {
        let input = std::io::stdin();
        if !input.is_terminal() {
            return Self(None);
        }
        let _ = write!(std::io::stderr(), "{question}");
        let _ = std::io::stderr().flush();
        let Ok(before) = termios::tcgetattr(&input) else { return Self(None) };
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        let _ = termios::tcsetattr(&input, SetArg::TCSAFLUSH, &silent);
        Self(Some(before))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = termios::tcsetattr(std::io::stdin(), SetArg::TCSAFLUSH, before);
            let _ = writeln!(std::io::stderr());
        }
    }
}
