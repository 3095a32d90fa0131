//! Makes the images that every later build must open: `make_images DIRECTORY`.
//!
//! Deterministic, so that the same build makes the same bytes. Run once for a version of the format, by hand; the
//! images of older versions stay.
#[path = "../tests/world/mod.rs"]
mod world;

use base::Op;
use std::path::Path;
use world::{Drives, Rng, World, image};

fn main() {
    let folder = std::env::args().nth(1).expect("the directory to write to");
    for (legs, columns) in [(1, 1), (2, 1), (2, 2)] {
        let drives = served(legs, columns).close();
        keep(&folder, &format!("v1-counted-{legs}x{columns}"), drives);
    }
    let mut world = served(2, 1);
    world.write(5, 33, 11);
    world.ask(Op::Discard, 2048, 4096);
    world.ask(Op::Flush, 0, 0);
    world.write(1000, 60, 12);
    let drives = world.crash(&mut Rng(6));
    keep(&folder, "v1-counted-2x1-crashed", drives);
}

/// A group with two activations behind it, several rows, and writes, holes and overwritten blocks.
fn served(legs: u8, columns: u8) -> World {
    let mut rng = Rng(2024);
    let mut world = World::serve(Drives::new(legs, columns));
    world.work(&mut rng, 30);
    let mut world = World::serve(world.close());
    world.work(&mut rng, 30);
    world
}

fn keep(folder: &str, name: &str, drives: Drives) {
    drives.assert_clean(name);
    // The content is read from a copy: opening changes what is on the drives.
    let content = World::serve(drives.clone()).content();
    let bytes = image::encode(&drives, content);
    let path = Path::new(folder).join(format!("{name}.img"));
    std::fs::write(&path, &bytes).expect("the directory can be written to");
    println!("{} {} bytes, content {content:?}", path.display(), bytes.len());
}
