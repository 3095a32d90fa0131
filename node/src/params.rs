//! What the socket is asked: bodies and queries of the requests that change something.
//!
//! Paths are absolute: the agent does not know the caller's folder. Sizes are bytes, multiples of 4096.
use crate::keys::{ProviderKind, SecretText};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use utoipa::ToSchema;

/// Query of every changing request.
#[derive(Clone, Copy, Default, Debug, Serialize, Deserialize)]
pub struct Dry {
    /// Check everything, change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Where drives are.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Labels {
    /// Failure domain: node.
    pub node: Option<String>,
    /// Failure domain: rack.
    pub rack: Option<String>,
    /// Failure domain: zone.
    pub zone: Option<String>,
    /// Class of speed.
    pub class: Option<String>,
}

/// `POST /v1/pools`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreatePool {
    /// Its name.
    pub name: String,
    /// Its drives.
    #[schema(value_type = Vec<String>)]
    pub drives: Vec<PathBuf>,
    /// Where they are.
    #[serde(default)]
    pub labels: Labels,
    /// Take drives although something else seems to be on them.
    #[serde(default)]
    pub force: bool,
    /// Size of an extent; 64 MiB unless said.
    #[serde(default)]
    pub extent_bytes: Option<u64>,
}

/// `POST /v1/pools/NAME/drives`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddDrives {
    /// The drives.
    #[schema(value_type = Vec<String>)]
    pub drives: Vec<PathBuf>,
    /// Where they are.
    #[serde(default)]
    pub labels: Labels,
    /// Take drives although something else seems to be on them.
    #[serde(default)]
    pub force: bool,
}

/// `POST /v1/pools/NAME/drives/DRIVE/replace`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplaceDrive {
    /// The drive that takes over: one of the pool by path or id, or the path of another, which is added to it.
    #[schema(value_type = String)]
    pub new: PathBuf,
    /// Take it although something else seems to be on it.
    #[serde(default)]
    pub force: bool,
}

/// `PATCH /v1/pools/NAME` and `PATCH /v1/volumes/NAME`: properties, each `key=value`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Set {
    /// The property.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// `POST /v1/import`.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportPool {
    /// Name or identity of the pool; all pools on the given drives otherwise.
    pub pool: Option<String>,
    /// Drives to look at besides those that the kernel lists.
    #[schema(value_type = Vec<String>)]
    #[serde(default)]
    pub drives: Vec<PathBuf>,
    /// Give up groups of which only parts are there: their extents are wiped and free.
    #[serde(default)]
    pub force: bool,
}

/// `POST /v1/drives/wipe`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WipeDrive {
    /// The drive.
    #[schema(value_type = String)]
    pub drive: PathBuf,
}

/// `POST /v1/volumes`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateVolume {
    /// Its name.
    pub name: String,
    /// Its pool.
    pub pool: String,
    /// Its size.
    pub size_bytes: u64,
    /// Copies in all; 2 unless said.
    #[serde(default)]
    pub legs: Option<u8>,
    /// Stripe columns; 1 unless said.
    #[serde(default)]
    pub columns: Option<u8>,
    /// Stripe unit; 64 KiB unless said.
    #[serde(default)]
    pub stripe_unit_bytes: Option<u64>,
    /// Its group, which may be there without a volume; one of its own, named like the volume, unless said.
    #[serde(default)]
    pub group: Option<String>,
    /// What is written to its drives is encrypted. Decided once and for all; in a group that was there before, by that.
    #[serde(default)]
    pub encrypt: bool,
    /// The key that wraps its secret; the key `default`, made when it is wanted, unless said. Only with `encrypt`.
    #[serde(default)]
    pub kek: Option<String>,
}

/// `POST /v1/groups`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateGroup {
    /// Its name.
    pub name: String,
    /// Its pool.
    pub pool: String,
    /// What is written to drives of it is encrypted. Decided once and for all.
    #[serde(default)]
    pub encrypt: bool,
    /// The key that is to wrap its secret; the key `default`, made when it is wanted, unless said. Only with `encrypt`.
    #[serde(default)]
    pub kek: Option<String>,
}

/// `POST /v1/volumes/NAME/resize`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResizeVolume {
    /// The new size, or what is added to it.
    pub size_bytes: u64,
    /// The size is added.
    #[serde(default)]
    pub relative: bool,
}

/// `POST /v1/volumes/NAME/rename`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenameVolume {
    /// The new name.
    pub name: String,
}

/// `POST /v1/volumes/NAME/attach`.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AttachVolume {
    /// Serve NBD on this socket instead of a device.
    #[schema(value_type = Option<String>)]
    #[serde(default)]
    pub nbd: Option<PathBuf>,
    /// Refuse writes.
    #[serde(default)]
    pub read_only: bool,
    /// Where no current copy is there, go on from a stale one: what it lacks is given up.
    #[serde(default)]
    pub force_stale: bool,
}

/// `POST /v1/volumes/NAME/upgrade`.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpgradeVolume {
    /// The binary that is to serve; the agent's own unless given.
    #[schema(value_type = Option<String>)]
    #[serde(default)]
    pub binary: Option<PathBuf>,
}

/// `POST /v1/keys`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// Its name.
    pub name: String,
    /// Who keeps it; `file` unless said.
    #[serde(default)]
    pub provider: Option<ProviderKind>,
    /// Of provider `passphrase`: the passphrase.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<SecretText>,
    /// Of provider `transit`: the server, `https://HOST:PORT`.
    #[serde(default)]
    pub url: Option<String>,
    /// Path at which its engine is mounted; `transit` unless said.
    #[serde(default)]
    pub mount: Option<String>,
    /// Name of the key there; as here unless said.
    #[serde(default)]
    pub key: Option<String>,
    /// File with the token, mode 0600.
    #[schema(value_type = Option<String>)]
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// File with the certificates of those who may vouch for the server; the system's unless said.
    #[schema(value_type = Option<String>)]
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

/// `POST /v1/keys/NAME/rotate`: of provider `passphrase`, the new passphrase.
#[derive(Default, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateKey {
    /// The new passphrase.
    #[schema(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<SecretText>,
}

/// `POST /v1/keys/NAME/unlock`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UnlockKey {
    /// The passphrase.
    #[schema(value_type = String)]
    pub passphrase: SecretText,
}

/// Query of `DELETE /v1/keys/NAME`.
#[derive(Clone, Copy, Default, Debug, Serialize, Deserialize)]
pub struct DestroyKey {
    /// Check everything, change nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Also while volumes that need it are attached.
    #[serde(default)]
    pub force: bool,
}

/// `POST /v1/agent/stop`.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StopAgent {
    /// Detach every volume first.
    #[serde(default)]
    pub all: bool,
}

/// `GET /v1/events`.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct EventsQuery {
    /// Only what happened at or after this instant (RFC 3339), or within this time (`10m`).
    pub since: Option<String>,
    /// Only what has a higher number.
    pub after: Option<u64>,
    /// Wait this long for the first event, in milliseconds.
    pub wait_ms: Option<u64>,
    /// So many at most, the oldest first.
    pub limit: Option<usize>,
}
