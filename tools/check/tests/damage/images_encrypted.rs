//! The images of encrypted groups.
use crate::images::{Image, killed, served, with_another};
use crate::world::Drives;
use std::sync::LazyLock;

/// The same as `Image::good`, of an encrypted group.
pub fn encrypted(image: Image) -> &'static Drives {
    static CLOSED: LazyLock<Drives> = LazyLock::new(|| served(Drives::encrypted(2, 1)));
    static STRIPED: LazyLock<Drives> = LazyLock::new(|| served(Drives::encrypted(2, 2)));
    static LOG: LazyLock<Drives> = LazyLock::new(|| killed(CLOSED.clone()));
    static STRIPED_LOG: LazyLock<Drives> = LazyLock::new(|| killed(STRIPED.clone()));
    static TWO: LazyLock<Drives> = LazyLock::new(|| with_another(CLOSED.clone()));
    match image {
        Image::Closed => &CLOSED,
        Image::Striped => &STRIPED,
        Image::Log => &LOG,
        Image::StripedLog => &STRIPED_LOG,
        Image::Two => &TWO,
    }
}
