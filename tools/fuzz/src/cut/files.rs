//! A volume that holds an ext4: its journal is replayed, its structure is checked, and the files that the load had
//! synced are there.
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};
use vm_tests::children::find_program;
use vm_tests::oracle::{Oracle, file_content, file_path};

/// Checks the file system in `volume`, which is changed; `folder` is made and removed.
///
/// # Errors
/// In words: what e2fsck found, or which file is not what it must be.
pub fn check(volume: &Path, folder: &Path, oracle: &Oracle) -> Result<(), String> {
    // The first replays the journal and puts free counts right, as every boot does; the second must find nothing.
    let replayed = run("e2fsck", &["-p"], volume)?;
    if !matches!(replayed.status.code(), Some(0 | 1)) {
        return Err(format!("e2fsck -p: {}", said(&replayed)));
    }
    let checked = run("e2fsck", &["-f", "-n"], volume)?;
    if !checked.status.success() {
        return Err(format!("e2fsck finds errors behind the journal: {}", said(&checked)));
    }
    if oracle.files().is_empty() {
        return Ok(());
    }
    let outcome = compare(volume, folder, oracle);
    let _ = fs::remove_dir_all(folder);
    outcome
}

fn compare(volume: &Path, folder: &Path, oracle: &Oracle) -> Result<(), String> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    let (script, mut names) = (folder.join("script"), Vec::new());
    let mut file = File::create(&script).map_err(|error| format!("cannot make the script: {error}"))?;
    for (number, name) in oracle.files().iter().enumerate() {
        let to = folder.join(number.to_string());
        writeln!(file, "dump /{} {}", file_path(*name), to.display()).map_err(|error| error.to_string())?;
        names.push((*name, to));
    }
    let dumped = run("debugfs", &["-f", &script.to_string_lossy()], volume)?;
    for (name, dump) in names {
        let there =
            fs::read(&dump).map_err(|_| format!("/{} is gone: {}", file_path(name), said(&dumped)))?;
        if there != file_content(name) {
            return Err(format!("/{} was synced and has another content", file_path(name)));
        }
    }
    Ok(())
}

fn run(program: &str, words: &[&str], volume: &Path) -> Result<Output, String> {
    let found = find_program(program).ok_or_else(|| format!("{program} is not installed"))?;
    let output = Command::new(found).args(words).arg(volume).output();
    output.map_err(|error| format!("cannot run {program}: {error}"))
}

fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let text = String::from_utf8_lossy(&text).trim().replace('\n', " | ");
    text.chars().take(600).collect()
}
