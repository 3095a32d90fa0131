//! `plinth-kill`: kills the process that serves a volume, again and again, and checks that nothing is lost.
//!
//! The process is this program itself, as `target --spec FILE` (the same code as `plinth target`), or the one that
//! `--plinth` names. Exits with 0 when everything was right, 1 when it was not, 2 on words it does not know.
use node::TargetSpec;
use plinth_fuzz::kill::{campaign::Campaign, group::Shape, loops};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The groups that are killed, one after the other.
const SHAPES: [Shape; 4] = [
    Shape { legs: 2, encrypted: false, on_loops: true },
    Shape { legs: 1, encrypted: true, on_loops: true },
    Shape { legs: 2, encrypted: true, on_loops: false },
    Shape { legs: 1, encrypted: false, on_loops: false },
];

const USAGE: &str = "plinth-kill [--kills N] [--seed S] [--plinth PROGRAM] [--folder FOLDER]
  --kills N          kills in all: of a mirror and of a group with a single leg, each plain and encrypted (200 unless said);
                     a plain and an encrypted one of them on loop devices, where the host has any to give
  --seed S           where random numbers begin (1 unless said)
  --plinth PROGRAM   a plinth to kill instead of this program's own target
  --folder FOLDER    where the drives are made (a temporary folder unless said)";

/// What was asked for.
struct Asked {
    kills: u64,
    seed: u64,
    program: Option<PathBuf>,
    folder: PathBuf,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [target, spec, path] = words.as_slice()
        && target == "target"
        && spec == "--spec"
    {
        return serve(Path::new(path));
    }
    let Some(asked) = parse(words.into_iter()) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(&asked) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("plinth-kill: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(spec: &Path) -> ExitCode {
    match TargetSpec::read(spec).and_then(node::target::serve::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.kind.exit_code())
        }
    }
}

fn run(asked: &Asked) -> node::Result<bool> {
    let own = std::env::current_exe();
    let own = own.map_err(|source| node::Error::io("find", Path::new("plinth-kill"), &source))?;
    let program = asked.program.clone().unwrap_or(own);
    let (mut passed, mut failed) = (0, 0);
    let lacking = loops::lacking(&asked.folder)?;
    if let Some(why) = &lacking {
        println!("kills: all on files, for there are no loop devices here ({why})");
    }
    for (turn, mut shape) in SHAPES.into_iter().enumerate() {
        shape.on_loops &= lacking.is_none();
        let encrypted = if shape.encrypted { " encrypted" } else { "" };
        let on = if shape.on_loops { " on loop devices" } else { "" };
        let (legs, how) = (shape.legs, format!("{encrypted}{on}"));
        let folder = asked.folder.join(format!("{legs}-leg{}", how.replace(' ', "-")));
        let mut campaign = Campaign::new(&folder, shape, &program, asked.seed)?;
        let (tally, wrong) = campaign.run((asked.kills + 3 - turn as u64) / 4);
        println!(
            "kills of {legs} leg{how}: {} passed, {} failed, {} writes acknowledged, slowest start {} ms",
            tally.passed, tally.failed, tally.acknowledged, tally.slowest_ms
        );
        match wrong {
            Some(wrong) => println!("{wrong}; drives, spec and log are in {}", folder.display()),
            None => drop(std::fs::remove_dir_all(&folder)),
        }
        passed += tally.passed;
        failed += tally.failed;
    }
    // Fails, and is kept, if something is left in it.
    let _ = std::fs::remove_dir(&asked.folder);
    println!("kills: {passed} passed, {failed} failed");
    Ok(failed == 0)
}

fn parse(mut words: impl Iterator<Item = String>) -> Option<Asked> {
    let folder = std::env::temp_dir().join(format!("plinth-kill-{}", std::process::id()));
    let mut asked = Asked { kills: 200, seed: 1, program: None, folder };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--kills" => asked.kills = words.next()?.parse().ok()?,
            "--seed" => asked.seed = words.next()?.parse().ok()?,
            "--plinth" => asked.program = Some(PathBuf::from(words.next()?)),
            "--folder" => asked.folder = PathBuf::from(words.next()?),
            _ => return None,
        }
    }
    Some(asked)
}
