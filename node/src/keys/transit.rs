//! Keys on a server: the transit engine of Vault, OpenBao and what speaks like them.
//!
//! The server wraps and unwraps; its key never leaves it. What is wrapped begins with what it is for and the group's id,
//! and both are compared when it is opened: so a secret cannot be handed to another group, whatever a server makes of
//! additional data. Versions of the record count rotations; which version of the server's key a wrapped secret needs says
//! the secret itself (`vault:vN:`). Old versions of the server's key stay there until somebody trims them there, because
//! the key may serve others too; for the same reason destroying a key here leaves the server's alone.
//!
//! | request | for |
//! |---|---|
//! | `POST /v1/MOUNT/keys/KEY` | version 1: makes the key; one that is there stays |
//! | `POST /v1/MOUNT/keys/KEY/rotate` | every further version |
//! | `POST /v1/MOUNT/encrypt/KEY`, `decrypt/KEY` | wrapping, unwrapping |
//!
//! Crash story: a rotation that the server has done and the catalogue does not know of is done once more by the repetition:
//! the server has a version that nobody needs.
use super::local::does_not_open;
use super::{PURPOSE, Provider, Secret, SecretText};
use crate::catalogue::{KeyRecord, TransitPlace};
use crate::error::{Error, Kind, Result};
use crate::text;
use base::Uuid;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Answer;
use serde::Deserialize;

pub(crate) mod http;

/// What wrapped secrets of a transit engine begin with.
const PREFIX: &str = "vault:v";

/// Refuses a place that cannot be one, before anything is asked of it.
///
/// # Errors
/// `Invalid`; those of the token's file and the certificates' file.
pub(crate) fn check_place(name: &str, place: &TransitPlace) -> Result<()> {
    http::check_url(name, &place.url)?;
    text::check_name("key", &place.key)?;
    let part = |part: &str| text::check_name("mount", part).is_ok();
    if !place.mount.split('/').all(part) {
        let message = format!("{:?} is no path of a transit engine", place.mount);
        return Err(Error::invalid(name, message).hint("give it as transit or team/transit"));
    }
    for path in std::iter::once(&place.token_file).chain(&place.ca_file) {
        if !path.is_absolute() {
            let message = format!("{} is not an absolute path", path.display());
            return Err(Error::invalid(name, message));
        }
    }
    http::token(place)?;
    http::roots(place).map(drop)
}

/// A key of a transit engine.
pub(crate) struct Transit<'a> {
    name: &'a str,
    place: Option<&'a TransitPlace>,
    /// The way to the server, if it is not the one that `http` makes.
    way: Option<ureq::Agent>,
}

/// The part of an answer that is of use.
#[derive(Deserialize)]
struct Body<T> {
    data: T,
}

#[derive(Deserialize)]
struct Ciphertext {
    ciphertext: String,
}

#[derive(Deserialize)]
struct Plaintext {
    plaintext: SecretText,
}

impl<'a> Transit<'a> {
    pub fn new(key: &'a KeyRecord) -> Self {
        Self { name: &key.name, place: key.transit.as_ref(), way: None }
    }

    /// The same, over a way that somebody else has made: what a server says can come from anywhere then.
    pub fn over(key: &'a KeyRecord, way: ureq::Agent) -> Self {
        Self { way: Some(way), ..Self::new(key) }
    }

    fn place(&self) -> Result<&'a TransitPlace> {
        self.place.ok_or_else(|| {
            let message = format!("the catalogue does not say where key {} is", self.name);
            Error::new(Kind::Damage, self.name, message)
        })
    }

    /// Asks for something; `what` names it in a sentence.
    fn ask(&self, path: &str, body: &[u8], what: &str) -> Result<Answer> {
        http::post(self.name, self.place()?, self.way.as_ref(), path, body, what)
    }

    /// What the server says that is not what was asked for.
    fn refused(&self, answer: &Answer, what: &str) -> Result<Error> {
        let place = self.place()?;
        let at = format!("the transit engine at {}/v1/{}", place.url, place.mount);
        let (kind, why, hint) = match answer.status {
            401 | 403 => (Kind::Permission, "does not allow it", "check the token and its policy"),
            404 => (Kind::NotFound, "is not there, or does not have it", "check --url, --mount and --key"),
            400 => (Kind::Permission, "refuses it", "is it another key, or was its version trimmed there?"),
            429 | 500..=599 => (Kind::Unreachable, "is not able to", "it may be sealed or overloaded"),
            _ => (Kind::Failed, "does not answer like one", "check --url and --mount"),
        };
        // What it says in its body may be anything: the status is told, and nothing else.
        let message = format!("{at}, asked to {what} key {}, {why} (status {})", place.key, answer.status);
        Ok(Error::new(kind, self.name, message).hint(hint))
    }

    fn not_understood(&self, what: &str) -> Error {
        let message =
            format!("the answer of the transit engine, asked to {what} key {}, is not understood", self.name);
        Error::new(Kind::Failed, self.name, message).hint("check --url and --mount")
    }

    /// A change that answers with nothing that matters.
    fn change(&self, path: &str, what: &str) -> Result<()> {
        let answer = self.ask(path, b"{}", what)?;
        if answer.is_success() { Ok(()) } else { Err(self.refused(&answer, what)?) }
    }

    fn encrypt(&self, secret: &[&[u8]]) -> Result<Vec<u8>> {
        const WHAT: &str = "encrypt with";
        let body = json_of_base64("plaintext", secret);
        let answer = self.ask(&format!("encrypt/{}", self.place()?.key), body.expose(), WHAT)?;
        if !answer.is_success() {
            return Err(self.refused(&answer, WHAT)?);
        }
        let read = serde_json::from_slice::<Body<Ciphertext>>(answer.body.expose());
        let text = read.map_err(|_| self.not_understood(WHAT))?.data.ciphertext;
        if !text.starts_with(PREFIX)
            || !text.bytes().all(|byte| byte.is_ascii_graphic())
            || text.contains('"')
        {
            return Err(self.not_understood(WHAT));
        }
        Ok(text.into_bytes())
    }

    /// What `encrypt` was given.
    fn decrypt(&self, wrapped: &[u8]) -> Result<Secret> {
        const WHAT: &str = "decrypt with";
        let text = std::str::from_utf8(wrapped).ok().filter(|text| text.starts_with(PREFIX));
        let text = text.ok_or_else(|| self.not_wrapped())?;
        let body = serde_json::json!({ "ciphertext": text }).to_string();
        let answer = self.ask(&format!("decrypt/{}", self.place()?.key), body.as_bytes(), WHAT)?;
        if !answer.is_success() {
            return Err(self.refused(&answer, WHAT)?);
        }
        let read = serde_json::from_slice::<Body<Plaintext>>(answer.body.expose());
        let text = read.map_err(|_| self.not_understood(WHAT))?.data.plaintext.0;
        let mut secret = Secret::zeroed(text.len());
        let decoded = STANDARD.decode_slice(text.expose(), secret.expose_mut());
        let len = decoded.map_err(|_| self.not_understood(WHAT))?;
        secret.truncate(len);
        Ok(secret)
    }

    fn not_wrapped(&self) -> Error {
        let message =
            format!("the secret that key {} is to open was not wrapped by a transit engine", self.name);
        Error::new(Kind::Permission, self.name, message)
    }
}

/// What is wrapped begins with this, in front of the group's id.
const HEAD: usize = PURPOSE.len() + 16;

impl Provider for Transit<'_> {
    /// Makes or rotates the server's key, and tries it, so that a token that is not allowed to use it is found now.
    fn make(&self, version: u32) -> Result<()> {
        let key = &self.place()?.key;
        if version == 1 {
            match self.change(&format!("keys/{key}"), "make") {
                // Many who may use a key may not make one: somebody else has made it then, or the trial fails.
                Err(error) if error.kind == Kind::Permission => {}
                outcome => outcome?,
            }
        } else {
            self.change(&format!("keys/{key}/rotate"), "rotate")?;
        }
        let trial = super::seal::random_secret(super::seal::KEY_BYTES)?;
        let opened = self.decrypt(&self.encrypt(&[trial.expose()])?)?;
        if opened.same(trial.expose()) {
            return Ok(());
        }
        let message = format!("key {} of the transit engine does not give back what it wrapped", self.name);
        Err(Error::new(Kind::Failed, self.name, message))
    }

    fn wrap(&self, _: u32, group: &Uuid, secret: &Secret) -> Result<Vec<u8>> {
        self.encrypt(&[PURPOSE.as_bytes(), &group.0, secret.expose()])
    }

    fn unwrap(&self, version: u32, group: &Uuid, wrapped: &[u8]) -> Result<Secret> {
        let opened = self.decrypt(wrapped)?;
        let whose = opened.expose().get(..HEAD);
        if whose != Some(&[PURPOSE.as_bytes(), &group.0].concat()[..]) {
            return Err(does_not_open(self.name, version, group));
        }
        Ok(Secret::copy_of(&opened.expose()[HEAD..]))
    }

    fn forget(&self, _: u32) -> Result<()> {
        Ok(())
    }

    fn obstacle(&self, _: u32) -> Option<Error> {
        self.place().and_then(http::token).err()
    }
}

/// `{"FIELD":"BASE64"}` of these bytes in a row, in locked memory from end to end.
fn json_of_base64(field: &str, parts: &[&[u8]]) -> Secret {
    let mut bytes = Secret::zeroed(parts.iter().map(|part| part.len()).sum());
    let mut at = 0;
    for part in parts {
        bytes.expose_mut()[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    let (before, after) = (format!("{{\"{field}\":\""), "\"}");
    let digits = bytes.len().div_ceil(3) * 4;
    let mut json = Secret::zeroed(before.len() + digits + after.len());
    let (head, rest) = json.expose_mut().split_at_mut(before.len());
    head.copy_from_slice(before.as_bytes());
    let written = STANDARD.encode_slice(bytes.expose(), rest).expect("there is room for all digits");
    rest[written..].copy_from_slice(after.as_bytes());
    json
}

#[cfg(test)]
pub(crate) mod server;
#[cfg(test)]
mod tests;
