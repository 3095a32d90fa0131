//! The way to a transit engine: HTTPS, a token from a file, a deadline, and nothing else.
//!
//! No proxy of the environment, no redirect (the token is for this server), no connection that is kept: requests are rare.
//! Plain HTTP is for debug builds and this machine alone. What is sent and received lies in locked memory here; the
//! buffers of the HTTP and TLS libraries are theirs.
use crate::catalogue::TransitPlace;
use crate::error::{Error, Kind, Result};
use crate::keys::Secret;
use crate::keys::file::read_private;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use ureq::http::Uri;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

/// The longest that a request may take, from the name of the server to the end of its answer.
pub const CALL_DEADLINE: Duration = Duration::from_secs(15);
/// The longest that the connection may take of it.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of an answer at most.
const MAX_ANSWER: usize = 32 << 10;
/// Bytes of a token at most.
const MAX_TOKEN: usize = 8 << 10;
/// Where systems keep the certificates that they trust: Debian and its kin, Red Hat and its kin, SUSE, Alpine.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What a server said.
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: Secret,
}

impl Answer {
    /// Whether it did what it was asked.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Refuses what is no place for a token.
///
/// # Errors
/// `Invalid`.
pub fn check_url(name: &str, url: &str) -> Result<()> {
    let refuse = |why: &str| {
        Err(Error::invalid(name, format!("{url:?} is no place of a transit engine: {why}"))
            .hint("give it as https://HOST:PORT"))
    };
    let Ok(uri) = url.parse::<Uri>() else { return refuse("it is no URL") };
    let Some(authority) = uri.authority().filter(|authority| !authority.host().is_empty()) else {
        return refuse("it names no host");
    };
    // What follows a # is no part of a `Uri`: every path put behind it would be none either.
    let more = url.contains(['@', '#']) || uri.query().is_some() || uri.path() != "/" || url.ends_with('/');
    if more {
        return refuse("it has more than a host and a port");
    }
    // Without one that is a number requests would go to that of the scheme, and the token with them.
    if authority.port_u16().is_none() && authority.as_str() != authority.host() {
        return refuse("its port is none");
    }
    match uri.scheme_str() {
        Some("https") => Ok(()),
        Some("http") if cfg!(debug_assertions) && is_loopback(authority.host()) => Ok(()),
        _ => refuse("the way there is not encrypted"),
    }
}

fn is_loopback(host: &str) -> bool {
    host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The token, without the white space around it.
///
/// # Errors
/// `Permission` when others may read its file, or it is no token; `NotFound`.
pub fn token(place: &TransitPlace) -> Result<Secret> {
    let path = &place.token_file;
    let file = read_private(path, MAX_TOKEN + 1)?;
    let token = file.expose().trim_ascii();
    if token.is_empty() || token.len() > MAX_TOKEN || !token.iter().all(u8::is_ascii_graphic) {
        let name = path.display().to_string();
        return Err(Error::new(Kind::Permission, name.clone(), format!("{name} holds no token")));
    }
    Ok(Secret::copy_of(token))
}

/// The certificates of those who may vouch for the server.
///
/// # Errors
/// `Invalid` when the file holds none; `NotFound`.
pub fn roots(place: &TransitPlace) -> Result<RootCerts> {
    let system = || SYSTEM_ROOTS.iter().map(PathBuf::from).find(|path| path.exists());
    let Some(path) = place.ca_file.clone().or_else(system) else {
        return Ok(RootCerts::Specific(Arc::new(Vec::new())));
    };
    let certificates = read_roots(&path)?;
    if certificates.is_empty() {
        let name = path.display().to_string();
        return Err(Error::invalid(name.clone(), format!("{name} holds no certificate (PEM)")));
    }
    Ok(RootCerts::Specific(Arc::new(certificates)))
}

fn read_roots(path: &Path) -> Result<Vec<Certificate<'static>>> {
    let pem = std::fs::read(path).map_err(|source| Error::io("read", path, &source))?;
    let certificate = |item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    };
    Ok(parse_pem(&pem).filter_map(certificate).collect())
}

/// Posts a body to a path of the engine, over `way` or the way that this module makes.
///
/// # Errors
/// `Unreachable` when no answer comes; those of token and certificates. Any answer is one.
pub fn post(
    name: &str,
    place: &TransitPlace,
    way: Option<&ureq::Agent>,
    path: &str,
    body: &[u8],
    what: &str,
) -> Result<Answer> {
    check_url(name, &place.url)?;
    let token = token(place)?;
    let unreachable = |error: ureq::Error| unreachable(name, place, what, error);
    let token = ureq::http::HeaderValue::from_bytes(token.expose()).map(|mut value| {
        value.set_sensitive(true);
        value
    });
    let token = token.map_err(|_| Error::new(Kind::Permission, name, "the token is no token"))?;
    let client = match way {
        Some(way) => way.clone(),
        None => config(place)?.new_agent(),
    };
    let request = client
        .post(format!("{}/v1/{}/{path}", place.url, place.mount))
        .header("x-vault-token", token)
        .header("x-vault-request", "true")
        .content_type("application/json");
    let mut answer = request.send(body).map_err(unreachable)?;
    let status = answer.status().as_u16();
    let mut reader = answer.body_mut().with_config().limit(MAX_ANSWER as u64 + 1).reader();
    let mut read = Secret::zeroed(MAX_ANSWER);
    let mut len = 0;
    loop {
        match reader.read(&mut read.expose_mut()[len..]) {
            Ok(0) if len < MAX_ANSWER => break,
            Ok(more) if more > 0 => len += more,
            Ok(_) => {
                let message =
                    format!("the server at {} answers with more than {MAX_ANSWER} bytes", place.url);
                return Err(Error::new(Kind::Failed, name, message).hint("check --url"));
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreachable(error.into())),
        }
    }
    read.truncate(len);
    Ok(Answer { status, body: read })
}

/// How requests are made.
///
/// # Errors
/// Those of the certificates.
pub fn config(place: &TransitPlace) -> Result<ureq::config::Config> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(provider)
        .root_certs(roots(place)?)
        .build();
    let config = ureq::Agent::config_builder()
        .tls_config(tls)
        .https_only(place.url.starts_with("https:"))
        .http_status_as_error(false)
        .proxy(None)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .max_idle_connections(0)
        .timeout_global(Some(deadline()))
        .timeout_connect(Some(CONNECT_DEADLINE));
    Ok(config.build())
}

/// The deadline. Unit tests of servers that hang do not wait so long.
const fn deadline() -> Duration {
    if cfg!(test) { Duration::from_secs(2) } else { CALL_DEADLINE }
}

fn unreachable(name: &str, place: &TransitPlace, what: &str, error: ureq::Error) -> Error {
    let (why, hint) = match &error {
        ureq::Error::Timeout(_) => (format!("no answer within {} s", deadline().as_secs_f32()), "is it up?"),
        ureq::Error::HostNotFound => ("its name is not known".to_owned(), "check --url"),
        ureq::Error::Rustls(error) => (format!("{error}"), "check --ca-file and the server's certificate"),
        ureq::Error::Tls(why) => ((*why).to_owned(), "check --ca-file and the server's certificate"),
        ureq::Error::Io(error) => {
            let tls = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
            let hint = if tls { "check --ca-file and the server's certificate" } else { "is it up?" };
            (error.to_string(), hint)
        }
        // What a server says that speaks no HTTP is not told.
        _ => ("it does not speak as it should".to_owned(), "check --url"),
    };
    let message =
        format!("the transit engine at {} cannot be reached to {what} key {name}: {why}", place.url);
    Error::new(Kind::Unreachable, name, message).hint(hint)
}
