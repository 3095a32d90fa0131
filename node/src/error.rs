//! Errors for people: what failed, on which object, why, and what to do.
//!
//! One small kind decides the exit code of the command line, the status of the HTTP answer and the `kind` in
//! JSON, so that the three cannot disagree. The sentence names the object; the hint says what to do next.
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// What sort of failure it is. The exit codes are part of the interface: they only grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It went wrong in a way that no other kind names (exit 1).
    Failed,
    /// The request makes no sense (exit 2).
    Invalid,
    /// A tool or package is missing (exit 3).
    MissingTool,
    /// Damage was found and is still there (exit 4).
    Damage,
    /// No such object (exit 5).
    NotFound,
    /// Refused, because it is in use or would destroy something (exit 6).
    Refused,
    /// No space, or too few drives (exit 7).
    NoSpace,
    /// Permission or key (exit 8).
    Permission,
    /// Agent or site not reachable (exit 9).
    Unreachable,
    /// This build or this kernel cannot do it (exit 10).
    NotSupported,
    /// The name is taken by something else (exit 11).
    Exists,
    /// It took longer than allowed (exit 12).
    Timeout,
    /// Something else is being done to the object (exit 13).
    Busy,
    /// `status --check`: not everything is healthy (exit 14).
    NotHealthy,
}

impl Kind {
    /// Exit code of the command line.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Invalid => 2,
            Self::MissingTool => 3,
            Self::Damage => 4,
            Self::NotFound => 5,
            Self::Refused => 6,
            Self::NoSpace => 7,
            Self::Permission => 8,
            Self::Unreachable => 9,
            Self::NotSupported => 10,
            Self::Exists => 11,
            Self::Timeout => 12,
            Self::Busy => 13,
            Self::NotHealthy => 14,
        }
    }

    /// Status code of the HTTP answer.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Failed | Self::MissingTool | Self::Damage => 500,
            Self::Invalid => 400,
            Self::NotFound => 404,
            Self::Refused | Self::Exists | Self::Busy => 409,
            Self::NoSpace => 507,
            Self::Permission => 403,
            Self::Unreachable | Self::NotHealthy => 503,
            Self::NotSupported => 501,
            Self::Timeout => 504,
        }
    }
}

/// One failure.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error, ToSchema)]
pub struct Error {
    /// What sort.
    pub kind: Kind,
    /// The object concerned (a pool, volume, drive path); `None` when there is none.
    pub object: Option<String>,
    /// One sentence that names the object and the reason.
    pub message: String,
    /// What to do, if there is something.
    pub hint: Option<String>,
}

/// Result with `Error`.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A failure of this kind, about this object.
    pub fn new(kind: Kind, object: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind, object: Some(object.into()), message: message.into(), hint: None }
    }

    /// A failure that concerns no object.
    pub fn general(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, object: None, message: message.into(), hint: None }
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A request that makes no sense.
    pub fn invalid(object: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, object, message)
    }

    /// Something of a later version.
    pub fn not_supported(message: impl Into<String>) -> Self {
        Self::general(Kind::NotSupported, message)
    }

    /// An operating system error on a path, with the kind that its number means.
    pub fn io(what: &str, path: &std::path::Path, source: &std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::NotFound => Kind::NotFound,
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => Kind::Permission,
            std::io::ErrorKind::StorageFull => Kind::NoSpace,
            std::io::ErrorKind::ResourceBusy => Kind::Refused,
            std::io::ErrorKind::TimedOut => Kind::Timeout,
            _ => Kind::Failed,
        };
        let path = path.display().to_string();
        Self::new(kind, path.clone(), format!("cannot {what} {path}: {source}"))
    }

    /// The body of an error answer: `{"error":{kind,object,message,hint,exit_code}}`.
    pub fn body(&self) -> ErrorBody {
        ErrorBody {
            error: ErrorFields {
                kind: self.kind,
                object: self.object.clone(),
                message: self.message.clone(),
                hint: self.hint.clone(),
                exit_code: self.kind.exit_code(),
            },
        }
    }
}

impl fmt::Display for Error {
    /// One line: the sentence, then the hint in parentheses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

/// The JSON body of an error.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// The failure.
    pub error: ErrorFields,
}

/// The fields of an error in JSON.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorFields {
    /// What sort.
    pub kind: Kind,
    /// The object concerned.
    pub object: Option<String>,
    /// One sentence.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// Exit code of the command line.
    pub exit_code: u8,
}

impl From<ErrorFields> for Error {
    fn from(fields: ErrorFields) -> Self {
        Self { kind: fields.kind, object: fields.object, message: fields.message, hint: fields.hint }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_with_its_hint() {
        let error = Error::new(Kind::NotFound, "v1", "there is no volume v1").hint("see plinth volume list");
        assert_eq!(error.to_string(), "there is no volume v1 (see plinth volume list)");
        assert_eq!(error.body().error.exit_code, 5);
    }

    #[test]
    fn the_json_has_every_field_even_when_unknown() {
        let body = serde_json::to_value(Error::general(Kind::Busy, "wait").body()).expect("encodes");
        assert_eq!(
            body,
            serde_json::json!({"error": {"kind": "busy", "object": null, "message": "wait", "hint": null,
                "exit_code": 13}})
        );
    }
}
