//! Images of drives that earlier builds wrote open, verify and read the same in this one.
//!
//! If one of these fails the format has changed, or a group of an earlier build is lost: not the images are wrong.
//! They were made by `examples/make_images.rs`; a new version of the format adds images and keeps these.
mod world;

use std::path::{Path, PathBuf};
use world::{Rng, World, image};

fn images() -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/images");
    let paths = std::fs::read_dir(folder).expect("the images").map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|e| e == "img")).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).expect("an image"))).collect()
}

#[test]
fn every_image_is_clean_opens_and_reads_the_same() {
    let images = images();
    assert!(images.len() >= 8, "images are missing");
    for (path, bytes) in images {
        let name = path.display().to_string();
        let (drives, content) = image::decode(&bytes);
        assert_eq!(image::encode(&drives, content), bytes, "{name}");
        let report = drives.assert_clean(&name);
        assert!(report.counts.data > 50 && report.counts.extents > 2, "{name}: {:?}", report.counts);
        assert_eq!(report.counts.commits > 0, name.contains("crashed"), "{name}");
        let mut world = World::serve(drives);
        assert_eq!(world.content(), content, "{name}");
        world.work(&mut Rng(1), 100);
        world.close().assert_clean(&name);
    }
}

/// What `inspect` shows of them has what a person looks for, as JSON and as text.
#[test]
fn images_can_be_inspected() {
    for (path, bytes) in images() {
        let (drives, _) = image::decode(&bytes);
        let names: Vec<String> = (0..drives.media.len()).map(|i| format!("d{i}")).collect();
        let given: Vec<(&str, &dyn plinth_check::Media)> =
            names.iter().zip(&drives.media).map(|(name, media)| (name.as_str(), media as _)).collect();
        let shown = plinth_check::inspect(&given);
        let group = &shown["groups"][0];
        let name = path.display();
        assert_eq!(shown["problems"].as_array().map(Vec::len), Some(0), "{name}");
        assert_eq!(shown["drives"].as_array().map(Vec::len), Some(given.len()), "{name}");
        assert_eq!(group["superblock"]["geometry"]["legs"], drives.legs, "{name}");
        assert_eq!(group["directory"]["volumes"][0]["size_bytes"], world::SECTORS * 512, "{name}");
        assert!(group["directory"]["volumes"][0]["data_blocks"].as_u64() > Some(50), "{name}");
        assert!(!group["log"]["ring"].as_array().expect("a list").is_empty(), "{name}");
        let text = plinth_check::to_text(&shown);
        for line in ["pool name: tank", "pages by level: ", "durable seq: "] {
            assert!(text.contains(line), "{name}: no {line:?} in\n{text}");
        }
    }
}
