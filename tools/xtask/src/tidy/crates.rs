//! Which crate may know which, and what the pure ones must declare.

use super::tree::{Finding, SourceFile, Tree};

/// A crate's folder, its name, and the crates of this workspace that it may depend on.
struct Place {
    folder: &'static str,
    name: &'static str,
    may: &'static [&'static str],
}

const PURE: &[&str] = &["base", "cow", "rlog", "fence", "volume"];

const PLACES: &[Place] = &[
    Place { folder: "base", name: "base", may: &[] },
    Place { folder: "cow", name: "cow", may: &["base"] },
    Place { folder: "rlog", name: "rlog", may: &["base"] },
    Place { folder: "fence", name: "fence", may: &["base"] },
    Place { folder: "volume", name: "volume", may: &["base", "cow", "rlog", "fence"] },
    Place { folder: "ublk-target", name: "ublk-target", may: &["base", "cow", "rlog", "fence", "volume"] },
    Place { folder: "node", name: "node", may: &["base", "cow", "rlog", "fence", "volume", "ublk-target"] },
    Place {
        folder: "tools/plinth",
        name: "plinth",
        may: &["base", "cow", "rlog", "fence", "volume", "ublk-target", "node"],
    },
    Place { folder: "tools/simkit", name: "simkit", may: &["base", "cow", "rlog", "fence", "volume"] },
    Place { folder: "tools/sim", name: "sim", may: &["base", "cow", "rlog", "fence", "volume", "simkit"] },
    Place { folder: "vm-tests", name: "vm-tests", may: &[] },
    Place { folder: "tools/xtask", name: "xtask", may: &["vm-tests"] },
];

/// Dependencies point one way; the three siblings never import each other. Tests of a pure crate may use the
/// simulated world.
pub fn directions(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for place in PLACES {
        let Some(manifest) = tree.file(&format!("{}/Cargo.toml", place.folder)) else { continue };
        for dependency in dependencies(manifest) {
            let known = PLACES.iter().any(|p| p.name == dependency.name);
            let for_tests = dependency.for_tests && dependency.name == "simkit";
            if known && !place.may.contains(&dependency.name.as_str()) && !for_tests {
                let why = format!("{} must not depend on {}", place.name, dependency.name);
                found.push(manifest.finding(dependency.line, why));
            }
        }
    }
    found
}

struct Dependency {
    name: String,
    line: usize,
    for_tests: bool,
}

fn dependencies(manifest: &SourceFile) -> Vec<Dependency> {
    let mut found = Vec::new();
    let mut section = String::new();
    for (at, line) in manifest.text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']).to_owned();
            // [dependencies.NAME] is a dependency of its own.
            if let Some((kind, name)) = section.rsplit_once('.')
                && kind.ends_with("dependencies")
            {
                let for_tests = kind.ends_with("dev-dependencies");
                found.push(Dependency { name: name.to_owned(), line: at + 1, for_tests });
            }
        } else if section.ends_with("dependencies") && !line.starts_with('#') {
            let name: String =
                line.chars().take_while(|c| c.is_alphanumeric() || *c == '-' || *c == '_').collect();
            if !name.is_empty() {
                found.push(Dependency {
                    name,
                    line: at + 1,
                    for_tests: section.ends_with("dev-dependencies"),
                });
            }
        }
    }
    found
}

/// The pure crates have no std and no unsafe, so that no clock, file or thread can be named in them.
pub fn core_attributes(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for name in PURE {
        let Some(root) = tree.file(&format!("{name}/src/lib.rs")) else { continue };
        for attribute in ["#![no_std]", "#![forbid(unsafe_code)]"] {
            if !root.text.lines().any(|l| l.trim() == attribute) {
                found.push(root.finding(0, format!("a pure crate declares {attribute}")));
            }
        }
        let conditional = root.text.lines().position(|l| l.contains("extern crate std"));
        if let Some(at) = conditional.filter(|at| !follows_test_gate(&root.text, *at)) {
            found.push(root.finding(at + 1, "a pure crate has std in its tests only"));
        }
    }
    found
}

fn follows_test_gate(text: &str, at: usize) -> bool {
    at > 0 && text.lines().nth(at - 1).is_some_and(|l| l.trim() == "#[cfg(test)]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_and_upward_dependencies_are_found() {
        let tree = Tree::of(&[
            ("cow/Cargo.toml", "[dependencies]\nbase.workspace = true\nrlog = { path = \"../rlog\" }\n"),
            ("base/Cargo.toml", "[dependencies.volume]\npath = \"../volume\"\n"),
            ("fence/Cargo.toml", "[dev-dependencies]\nsimkit.workspace = true\ncow.workspace = true\n"),
        ]);
        let found = directions(&tree);
        let whys: Vec<&str> = found.iter().map(|f| f.why.as_str()).collect();
        assert_eq!(
            whys,
            ["base must not depend on volume", "cow must not depend on rlog", "fence must not depend on cow"]
        );
    }

    #[test]
    fn a_pure_crate_with_std_is_found() {
        let tree = Tree::of(&[("cow/src/lib.rs", "//! x\n#![no_std]\nextern crate std;\n")]);
        assert_eq!(core_attributes(&tree).len(), 2);
        let good = "//! x\n#![no_std]\n#![forbid(unsafe_code)]\n#[cfg(test)]\nextern crate std;\n";
        assert!(core_attributes(&Tree::of(&[("cow/src/lib.rs", good)])).is_empty());
    }
}
