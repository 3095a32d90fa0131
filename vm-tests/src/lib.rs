//! Real-kernel scenarios in virtual machines.
//!
//! The host's side fetches kernels ([`kernel`]), packs a first root ([`initramfs`]), boots QEMU
//! ([`machine`]), listens ([`protocol`]) and judges ([`scenario`]); the side inside the machine is [`guest`].
//! Power cuts rest on [`writelog`]. Nothing here links the product: scenarios use its command line.

pub mod apt;
pub mod children;
pub mod cpio;
pub mod error;
pub mod guest;
pub mod here;
pub mod initramfs;
pub mod kernel;
pub mod key;
pub mod machine;
pub mod oracle;
pub mod protocol;
pub mod random;
pub mod scenario;
pub mod sources;
pub mod sysroot;
pub mod writelog;
