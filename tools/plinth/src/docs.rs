//! Completions and manual pages, made from the grammar.
use crate::args::Cli;
use crate::print;
use clap::CommandFactory;
use node::{Error, Kind, Result};
use std::path::Path;

/// Prints completions for a shell.
pub fn completions(shell: clap_complete::Shell) -> Result<()> {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "plinth", &mut out);
    print(&String::from_utf8_lossy(&out))
}

/// Prints the manual page, or writes one page per verb into a folder.
pub fn manual(folder: Option<&Path>) -> Result<()> {
    let Some(folder) = folder else {
        let mut out = Vec::new();
        let rendered = clap_mangen::Man::new(Cli::command()).render(&mut out);
        rendered.map_err(|error| Error::general(Kind::Failed, format!("cannot make the page: {error}")))?;
        return print(&String::from_utf8_lossy(&out));
    };
    std::fs::create_dir_all(folder).map_err(|source| Error::io("make", folder, &source))?;
    clap_mangen::generate_to(Cli::command(), folder).map_err(|source| Error::io("write", folder, &source))
}
