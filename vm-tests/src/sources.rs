//! Where this machine takes its Debian packages from.
//!
//! The bench takes its kernels from the archive that the machine itself uses, so that a mirror, a proxy or
//! an offline site needs no second setting. Both forms of apt sources are read: one-line `sources.list`
//! and deb822 `.sources`; what is commented out or disabled does not count.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// One active source of binary packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The archive, as written.
    pub uri: String,
    /// Its suites, in order.
    pub suites: Vec<String>,
    /// Its components, in order.
    pub components: Vec<String>,
}

/// Reads every active source under `etc_apt` (usually /etc/apt). What cannot be read counts as absent.
#[must_use]
pub fn read(etc_apt: &Path) -> Vec<Source> {
    let mut found = Vec::new();
    if let Ok(text) = fs::read_to_string(etc_apt.join("sources.list")) {
        found.extend(parse_one_line(&text));
    }
    let parts = fs::read_dir(etc_apt.join("sources.list.d")).into_iter().flatten().flatten();
    let mut parts: Vec<_> = parts.map(|entry| entry.path()).collect();
    parts.sort();
    for path in parts {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        match path.extension().and_then(|e| e.to_str()) {
            Some("list") => found.extend(parse_one_line(&text)),
            Some("sources") => found.extend(parse_deb822(&text)),
            _ => {}
        }
    }
    found
}

/// Parses the one-line form: `deb [options] URI SUITE COMPONENT...`.
#[must_use]
pub fn parse_one_line(text: &str) -> Vec<Source> {
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line.strip_prefix("deb").filter(|r| r.starts_with([' ', '\t'])) else { continue };
        let rest = rest.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']').map_or("", |(_, after)| after),
            None => rest,
        };
        let mut words = rest.split_whitespace().map(str::to_owned);
        let (Some(uri), Some(suite)) = (words.next(), words.next()) else { continue };
        found.push(Source { uri, suites: vec![suite], components: words.collect() });
    }
    found
}

/// Parses deb822: paragraphs of `Field: value` with continuation lines; one source for each URI.
#[must_use]
pub fn parse_deb822(text: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    let mut last = String::new();
    for line in text.lines().chain([""]) {
        if line.trim().is_empty() {
            found.extend(paragraph(&fields));
            fields.clear();
            last.clear();
        } else if line.starts_with('#') {
            // A comment line may stand between a field and its continuation.
        } else if line.starts_with([' ', '\t']) {
            if let Some(value) = fields.get_mut(&last) {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((key, value)) = line.split_once(':') {
            last = key.trim().to_ascii_lowercase();
            fields.insert(last.clone(), value.trim().to_owned());
        }
    }
    found
}

fn paragraph(fields: &BTreeMap<String, String>) -> Vec<Source> {
    let words = |key: &str| -> Vec<String> {
        fields.get(key).map(|v| v.split_whitespace().map(str::to_owned).collect()).unwrap_or_default()
    };
    let off = fields.get("enabled").is_some_and(|v| matches!(v.as_str(), "no" | "false" | "0" | "off"));
    if off || !words("types").iter().any(|t| t == "deb") {
        return Vec::new();
    }
    let (suites, components) = (words("suites"), words("components"));
    let source = |uri| Source { uri, suites: suites.clone(), components: components.clone() };
    words("uris").into_iter().map(source).collect()
}

/// The two archives that Debian kernels come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archives {
    /// The main archive, which also holds the backports.
    pub main: String,
    /// The security archive, if the machine has one.
    pub security: Option<String>,
}

/// Picks Debian's archives out of a machine's sources; `None` where it has no Debian source.
#[must_use]
pub fn debian_archives(sources: &[Source]) -> Option<Archives> {
    const CODENAMES: [&str; 6] = ["bookworm", "trixie", "forky", "stable", "oldstable", "testing"];
    const POCKETS: [&str; 4] = ["", "-updates", "-security", "-backports"];
    // Third-party archives name suites after Debian's, but with a tail or a component of their own.
    let suite_of = |suite: &str| {
        CODENAMES.iter().find_map(|c| suite.strip_prefix(c)).is_some_and(|tail| POCKETS.contains(&tail))
    };
    let of_debian = |s: &&Source| {
        s.suites.iter().any(|suite| suite_of(suite)) && s.components.iter().any(|c| c == "main")
    };
    let security = |s: &&Source| s.suites.iter().any(|suite| suite.ends_with("-security"));
    let main = sources.iter().filter(of_debian).find(|s| !security(s))?.uri.clone();
    let security = sources.iter().filter(of_debian).find(security).map(|s| s.uri.clone());
    Some(Archives { main, security })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_form_with_options_and_comments() {
        let text = "# deb http://no.example/debian bookworm main\n\
                    deb [arch=amd64 signed-by=/x.gpg] http://a.example/debian bookworm main contrib # here\n\
                    deb-src http://a.example/debian bookworm main\n\
                    deb http://s.example/debian-security bookworm-security main\n";
        let found = parse_one_line(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].uri, "http://a.example/debian");
        assert_eq!(found[0].components, ["main", "contrib"]);
        assert_eq!(
            debian_archives(&found),
            Some(Archives {
                main: "http://a.example/debian".into(),
                security: Some("http://s.example/debian-security".into())
            })
        );
    }

    #[test]
    fn deb822_form_with_continuations_disabled_and_source_only_paragraphs() {
        let text = "Types: deb deb-src\nURIs: http://a.example/debian\nSuites: trixie\n trixie-updates\n\
                    # a comment\nComponents: main\n\n\
                    Enabled: no\nTypes: deb\nURIs: http://b.example/debian\nSuites: trixie\nComponents: main\n\n\
                    Types: deb-src\nURIs: http://c.example/debian\nSuites: trixie\nComponents: main\n";
        let found = parse_deb822(text);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].suites, ["trixie", "trixie-updates"]);
        assert_eq!(
            debian_archives(&found),
            Some(Archives { main: "http://a.example/debian".into(), security: None })
        );
    }

    #[test]
    fn foreign_sources_are_not_debian() {
        let found = parse_one_line(
            "deb http://u.example/ubuntu noble main\n\
             deb https://third.example/repo bookworm stable\n",
        );
        assert_eq!(debian_archives(&found), None);
        assert_eq!(debian_archives(&[]), None);
    }
}
