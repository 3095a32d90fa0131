//! The tests of the engine in its small world: one program, for each one would compile the engine anew.
mod world;

mod activations;
mod beyond;
mod doors_faults;
mod doors_joining;
mod doors_log;
mod doors_shapes;
mod doors_space;
mod encrypted;
mod every_bit;
mod failed_flush;
mod full_pool;
mod history;
mod legs;
mod legs_beside;
mod limits;
mod moving;
mod moving_errors;
mod overdue;
mod rekey;
mod resync;
mod resync_amount;
mod resync_pace;
mod rotten;
mod scrub;
mod scrub_pace;
mod silent;
mod smoke;
mod two_layers;
mod version_before;

/// A file that no line above names would never run.
#[test]
fn every_file_is_part_of_the_program() {
    let named = include_str!("engine.rs");
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests")).expect("the tests");
    let mut found = 0;
    for file in files {
        let name = file.expect("an entry").file_name().into_string().expect("a name");
        let Some(name) = name.strip_suffix(".rs") else { continue };
        let alone = ["engine", "allocations"].contains(&name);
        assert!(alone || named.contains(&format!("\nmod {name};\n")), "engine.rs does not name {name}");
        found += 1;
    }
    assert!(found > 20, "{found} files");
}
