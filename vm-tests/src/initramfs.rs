//! The first root of a machine: the guest agent as init, busybox, kernel modules, and the programs that the
//! scenario runs, each with the libraries that the loader would find for it on this host.
//!
//! Everything is copied to the path it has here, so that nothing inside needs a search path. Programs are
//! stripped of debug information: the root lives in the machine's memory.

use crate::children::{find_program, run_checked};
use crate::cpio::Archive;
use crate::error::{Context, Error, Result};
use crate::kernel::Kernel;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The file that lists the modules in the order of loading, one path per line.
pub const MODULE_LIST: &str = "/modules/order";

/// Modules that every machine loads, beside what they depend on.
const BASE_MODULES: [&str; 4] = ["virtio_pci", "virtio_console", "nvme", "virtio_rng"];

/// What goes into a root beside the guest agent and busybox.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// Kernel modules by name.
    pub modules: Vec<String>,
    /// Programs of this host by name; they keep their path.
    pub programs: Vec<String>,
    /// Files: where they go, and where they are here. They get mode 755 and their libraries.
    pub binaries: Vec<(String, PathBuf)>,
    /// Files with content made by the scenario: path and content.
    pub texts: Vec<(String, String)>,
}

/// Writes the archive for `kernel` to `path`, with `agent` as init.
///
/// # Errors
/// A program, library or module is missing or cannot be read.
pub fn write(path: &Path, kernel: &Kernel, agent: &Path, contents: &Contents) -> Result<()> {
    let mut root = Root::default();
    root.program_as("/init", agent)?;
    let busybox = find_program("busybox")
        .ok_or_else(|| Error::missing("busybox is not installed; run `cargo xtask setup`"))?;
    root.program_as("/bin/busybox", &busybox)?;
    root.links.insert("/bin/sh".into(), "busybox".into());
    for name in &contents.programs {
        let found = find_program(name)
            .ok_or_else(|| Error::missing(format!("{name} is not installed; run `cargo xtask setup`")))?;
        root.program_as(&found.to_string_lossy(), &found)?;
    }
    for (inside, outside) in &contents.binaries {
        root.program_as(inside, outside)?;
    }
    for (inside, text) in &contents.texts {
        root.files.insert(inside.clone(), (0o644, text.clone().into_bytes()));
    }
    let names: Vec<&str> =
        BASE_MODULES.into_iter().chain(contents.modules.iter().map(String::as_str)).collect();
    root.modules(kernel, &names)?;
    fs::write(path, root.archive()).doing(|| format!("write {}", path.display()))
}

#[derive(Default)]
struct Root {
    files: BTreeMap<String, (u32, Vec<u8>)>,
    links: BTreeMap<String, String>,
}

impl Root {
    /// Adds an executable and every library it is linked with.
    fn program_as(&mut self, inside: &str, outside: &Path) -> Result<()> {
        if self.files.contains_key(inside) {
            return Ok(());
        }
        let bytes = stripped(outside)?;
        self.files.insert(inside.to_owned(), (0o755, bytes));
        for library in libraries(outside)? {
            let name = library.to_string_lossy().into_owned();
            if let Entry::Vacant(place) = self.files.entry(name) {
                let bytes = fs::read(&library).doing(|| format!("read {}", library.display()))?;
                place.insert((0o755, bytes));
            }
        }
        Ok(())
    }

    fn modules(&mut self, kernel: &Kernel, names: &[&str]) -> Result<()> {
        let mut order = String::new();
        for file in kernel.module_files(names)? {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let inside = format!("/modules/{}", name.trim_end_matches(".xz").trim_end_matches(".zst"));
            self.files.insert(inside.clone(), (0o644, decompressed(&file)?));
            order.push_str(&inside);
            order.push('\n');
        }
        self.files.insert(MODULE_LIST.into(), (0o644, order.into_bytes()));
        Ok(())
    }

    fn archive(self) -> Vec<u8> {
        let mut archive = Archive::new();
        let mut folders: BTreeSet<String> =
            ["/dev", "/proc", "/sys", "/run", "/tmp", "/mnt", "/root", "/var/lib", "/etc"]
                .map(str::to_owned)
                .into();
        folders.extend(self.files.keys().chain(self.links.keys()).cloned().flat_map(parents));
        folders.extend(folders.clone().into_iter().flat_map(parents));
        for folder in &folders {
            archive.folder(folder);
        }
        archive.character_device("/dev/console", 5, 1);
        for (path, (mode, content)) in &self.files {
            archive.file(path, *mode, content);
        }
        for (path, target) in &self.links {
            archive.link(path, target);
        }
        archive.finish()
    }
}

/// The folders above a path, outermost first, without the root itself.
fn parents(path: String) -> Vec<String> {
    let cuts: Vec<usize> = path.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0).collect();
    cuts.into_iter().map(|at| path[..at].to_owned()).collect()
}

fn stripped(path: &Path) -> Result<Vec<u8>> {
    let plain = || fs::read(path).doing(|| format!("read {}", path.display()));
    let bytes = plain()?;
    // Scripts and what the distribution ships are already small.
    if !bytes.starts_with(b"\x7fELF") || path.starts_with("/usr") || path.starts_with("/bin") {
        return Ok(bytes);
    }
    let scratch = path.with_extension(format!("stripped-{}", crate::children::unique()));
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(&scratch).arg(path);
    if find_program("strip").is_none() || run_checked(&strip).is_err() {
        return Ok(bytes);
    }
    let small = fs::read(&scratch).doing(|| format!("read {}", scratch.display()));
    let _ = fs::remove_file(&scratch);
    small
}

/// The files that the loader would map for an executable; empty for a static one or a script.
fn libraries(path: &Path) -> Result<Vec<PathBuf>> {
    let mut command = Command::new("ldd");
    command.arg(path);
    let output = crate::children::run_lines(&command, std::time::Duration::from_secs(60), |_| {})?;
    if !output.success {
        return Ok(Vec::new());
    }
    parse_ldd(&output.text).map_err(|missing| {
        Error::missing(format!("{} needs the library {missing}, which is not installed", path.display()))
    })
}

fn parse_ldd(text: &str) -> std::result::Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        if let Some((name, _)) = line.split_once(" => not found") {
            return Err(name.to_owned());
        }
        let place = line.split_once(" => ").map_or(line, |(_, place)| place);
        let place = place.split(" (").next().unwrap_or_default().trim();
        if place.starts_with('/') {
            found.push(PathBuf::from(place));
        }
    }
    Ok(found)
}

fn decompressed(path: &Path) -> Result<Vec<u8>> {
    let (program, args) = match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => ("xz", "-dc"),
        Some("zst") => ("zstd", "-dc"),
        _ => return fs::read(path).doing(|| format!("read {}", path.display())),
    };
    let output = Command::new(program).arg(args).arg(path).output();
    let output = output.doing(|| format!("run {program}; `cargo xtask setup` installs it"))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(Error::failed(format!("{program} cannot unpack {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_lines_of_every_kind() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found = parse_ldd(text).expect("complete");
        assert_eq!(
            found,
            [Path::new("/lib/x86_64-linux-gnu/libc.so.6"), Path::new("/lib64/ld-linux-x86-64.so.2")]
        );
        assert_eq!(parse_ldd("\tlibx.so => not found\n"), Err("libx.so".to_owned()));
        assert_eq!(parse_ldd("\tstatically linked\n"), Ok(vec![]));
    }

    #[test]
    fn parents_are_outermost_first() {
        assert_eq!(parents("/a/b/c".into()), ["/a", "/a/b"]);
        assert_eq!(parents("/a".into()), Vec::<String>::new());
    }
}
