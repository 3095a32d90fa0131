//! Secrets in memory: bytes that are not swapped out, not in a core, not shown, and wiped when they go.
//!
//! A [`Secret`] lies in pages that are locked (`mlock`), left out of cores (`MADV_DONTDUMP`) and not handed to children
//! (`MADV_DONTFORK`). Without root only few pages may be locked (RLIMIT_MEMLOCK), so secrets share pages: an arena hands
//! out pieces of [`GRANULE`] bytes. Pages are kept once they are there; a piece is zero before it is handed out and wiped
//! when it comes back. Where locking fails the secret is kept all the same, and [`take_unlocked`] says so once: a service
//! that does not start protects nobody.
//!
//! What this does not do: registers, stacks and the buffers of libraries that a secret passes through are theirs.
//!
//! Crash story: a process that is killed wipes nothing; the kernel zeroes its pages before anybody else gets them, and
//! [`harden_process`] has seen to it that no core of them is written.
use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of the smallest piece: a secret takes a whole number of them.
const GRANULE: usize = 64;
/// Bytes that are mapped at once: as many secrets of 64 bytes as a node has groups, in a quarter of the 64 KiB that
/// Linux before 5.16 lets a user lock.
const ARENA_BYTES: usize = 16 << 10;
/// Bytes of a page, at least; arenas are multiples of it.
const PAGE_BYTES: usize = 4096;
/// Bytes of a secret at most.
pub const MAX_SECRET_BYTES: usize = 64 << 10;

const _: () = assert!(ARENA_BYTES.is_multiple_of(PAGE_BYTES) && PAGE_BYTES.is_multiple_of(GRANULE));
const _: () = assert!(MAX_SECRET_BYTES.is_multiple_of(PAGE_BYTES), "the largest secret fills its arena");

/// Memory for secrets that could not be locked.
#[derive(Debug, thiserror::Error)]
#[error("memory for keys cannot be locked: {source}; under memory pressure keys may be written to swap")]
pub struct Unlocked {
    source: io::Error,
}

/// One mapping.
struct Arena {
    start: NonNull<u8>,
    /// Which granules are handed out.
    taken: Vec<bool>,
}

// SAFETY: plain memory that this value alone owns; nothing in it is tied to a thread.
unsafe impl Send for Arena {}

impl Arena {
    /// Maps at least `bytes` bytes, zeroed, locked if that is possible.
    fn map(bytes: usize) -> io::Result<(Self, Option<Unlocked>)> {
        use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap_anonymous};
        let bytes = bytes.max(ARENA_BYTES).next_multiple_of(PAGE_BYTES);
        let size = NonZeroUsize::new(bytes).expect("an arena is not empty");
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice; it aliases nothing.
        let start = unsafe { mmap_anonymous(None, size, access, MapFlags::MAP_PRIVATE)? };
        for advice in [MmapAdvise::MADV_DONTDUMP, MmapAdvise::MADV_DONTFORK] {
            // SAFETY: the range is exactly the mapping made above; neither advice changes its content.
            unsafe { madvise(start, bytes, advice)? };
        }
        // SAFETY: the range is exactly the mapping made above.
        let locked = unsafe { mlock(start, bytes) };
        let unlocked = locked.err().map(|errno| Unlocked { source: errno.into() });
        Ok((Self { start: start.cast(), taken: vec![false; bytes / GRANULE] }, unlocked))
    }

    /// Takes `count` free granules in a row; the first one's number.
    fn take(&mut self, count: usize) -> Option<usize> {
        let mut free = 0;
        for at in 0..self.taken.len() {
            free = if self.taken[at] { 0 } else { free + 1 };
            if free == count {
                let first = at + 1 - count;
                self.taken[first..=at].fill(true);
                return Some(first);
            }
        }
        None
    }
}

/// All arenas of the process.
struct Arenas {
    arenas: Vec<Arena>,
    /// The first failure to lock, until somebody asked.
    unlocked: Option<Unlocked>,
    told: bool,
}

static ARENAS: Mutex<Arenas> = Mutex::new(Arenas { arenas: Vec::new(), unlocked: None, told: false });

fn arenas() -> MutexGuard<'static, Arenas> {
    // Nothing in here panics between two changes that belong together.
    ARENAS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Arenas {
    /// A zeroed piece: arena, first granule, address.
    fn take(&mut self, bytes: usize) -> (usize, usize, NonNull<u8>) {
        let count = bytes.div_ceil(GRANULE);
        for (number, arena) in self.arenas.iter_mut().enumerate() {
            if let Some(first) = arena.take(count) {
                // SAFETY: the granule lies inside the arena's mapping.
                return (number, first, unsafe { arena.start.add(first * GRANULE) });
            }
        }
        let (mut arena, unlocked) = Arena::map(bytes).expect("memory for keys is there");
        if !self.told && self.unlocked.is_none() {
            self.unlocked = unlocked;
        }
        let first = arena.take(count).expect("a new arena has room for what it was made for");
        let start = arena.start;
        self.arenas.push(arena);
        (self.arenas.len() - 1, first, start)
    }
}

/// Says once in the life of the process that memory for secrets could not be locked: for the log.
pub fn take_unlocked() -> Option<Unlocked> {
    let mut arenas = arenas();
    let unlocked = arenas.unlocked.take();
    arenas.told |= unlocked.is_some();
    unlocked
}

/// Bytes that nobody but their user sees. Neither shown nor cloned nor compared by accident: there is no `Display`, no
/// `Clone`, no `PartialEq`, and `Debug` tells nothing.
pub struct Secret {
    start: NonNull<u8>,
    len: usize,
    arena: usize,
    first: usize,
    granules: usize,
}

// SAFETY: the piece belongs to this value alone until it is dropped; nothing in it is tied to a thread.
unsafe impl Send for Secret {}
// SAFETY: a shared reference only reads the piece.
unsafe impl Sync for Secret {}

impl Secret {
    /// `len` zero bytes, to be filled in; panics beyond `MAX_SECRET_BYTES`.
    pub fn zeroed(len: usize) -> Self {
        assert!(len <= MAX_SECRET_BYTES, "a secret is short");
        let granules = len.max(1).div_ceil(GRANULE);
        let (arena, first, start) = arenas().take(granules * GRANULE);
        Self { start, len, arena, first, granules }
    }

    /// Moves bytes out of ordinary memory: they are wiped where they were.
    pub fn take(from: &mut [u8]) -> Self {
        let secret = Self::copy_of(from);
        wipe(from);
        secret
    }

    /// Copies bytes that somebody else wipes.
    pub fn copy_of(from: &[u8]) -> Self {
        let mut secret = Self::zeroed(from.len());
        secret.expose_mut().copy_from_slice(from);
        secret
    }

    /// A second copy, on purpose.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self::copy_of(self.expose())
    }

    /// The bytes. Whoever copies them from here answers for the copy.
    pub fn expose(&self) -> &[u8] {
        // SAFETY: `len` bytes of a piece that belongs to `self`, initialised since it was mapped.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The bytes, to change.
    pub fn expose_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `expose`, and borrowed mutably here.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keeps the first `len` bytes and wipes the rest; panics if there are fewer.
    pub fn truncate(&mut self, len: usize) {
        wipe(&mut self.expose_mut()[len..]);
        self.len = len;
    }

    /// Whether both hold the same bytes. Takes as long whatever the bytes are; the length is no secret.
    pub fn same(&self, other: &[u8]) -> bool {
        let differ = |so_far: u8, (a, b): (&u8, &u8)| std::hint::black_box(so_far | (a ^ b));
        self.len == other.len() && self.expose().iter().zip(other).fold(0, differ) == 0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        wipe(self.expose_mut());
        arenas().arenas[self.arena].taken[self.first..self.first + self.granules].fill(false);
    }
}

/// Overwrites bytes with zeroes, also where the compiler sees that nobody reads them any more.
pub fn wipe(bytes: &mut [u8]) {
    for byte in bytes.iter_mut() {
        // SAFETY: a valid, exclusive reference; volatile so that the write stays.
        unsafe { std::ptr::write_volatile(byte, 0) };
    }
    std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
}

/// Environment variable with which a debug build stays open to debuggers.
const STAY_OPEN: &str = "PLINTH_DUMPABLE";

/// No core of this process is written, by a limit that its children inherit.
///
/// # Errors
/// The kernel refuses.
pub fn forbid_cores() -> io::Result<()> {
    if stays_open() {
        return Ok(());
    }
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0)?;
    Ok(())
}

/// No core of this process is written, also not through a pipe (which knows no limit), and no other process of its user
/// looks into its memory: that needs CAP_SYS_PTRACE from now on, and so do most of its files in `/proc`. To be called first
/// thing in `main`.
///
/// # Errors
/// The kernel refuses.
pub fn harden_process() -> io::Result<()> {
    if stays_open() {
        return Ok(());
    }
    forbid_cores()?;
    nix::sys::prctl::set_dumpable(false)?;
    Ok(())
}

fn stays_open() -> bool {
    cfg!(debug_assertions) && std::env::var_os(STAY_OPEN).is_some_and(|value| value == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_share_pages_and_do_not_overlap() {
        let mut secrets: Vec<Secret> = (0..200).map(|n| Secret::zeroed(1 + n % 130)).collect();
        for (n, secret) in secrets.iter_mut().enumerate() {
            assert!(secret.expose().iter().all(|byte| *byte == 0), "a piece is handed out zeroed");
            secret.expose_mut().fill(n as u8);
        }
        for (n, secret) in secrets.iter().enumerate() {
            assert!(secret.same(&vec![n as u8; 1 + n % 130]), "secret {n}");
        }
    }

    #[test]
    fn what_is_moved_in_is_wiped_where_it_was() {
        let mut bytes = *b"canary";
        let secret = Secret::take(&mut bytes);
        assert_eq!(bytes, [0; 6]);
        assert!(secret.same(b"canary") && !secret.same(b"canarz") && !secret.same(b"canar"));
        assert!(secret.duplicate().same(b"canary"));
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }

    #[test]
    fn a_piece_is_wiped_when_it_comes_back() {
        // As large as its arena, so that its end is nobody else's.
        let secret = Secret::copy_of(&vec![7; MAX_SECRET_BYTES]);
        let start = secret.start;
        drop(secret);
        // SAFETY: arenas stay mapped; pieces are handed out from the front, so that nobody has this end now.
        let first = unsafe { start.add(MAX_SECRET_BYTES - 1).read_volatile() };
        assert_eq!(first, 0);
    }

    #[test]
    fn what_is_cut_off_is_wiped() {
        let mut secret = Secret::copy_of(b"abcdef");
        secret.truncate(2);
        assert!(secret.same(b"ab"));
        // SAFETY: still inside the piece, which holds 64 bytes.
        assert_eq!(unsafe { secret.start.add(3).read_volatile() }, 0);
        secret.truncate(0);
        assert!(secret.is_empty() && secret.same(b""));
    }

    #[test]
    fn a_hardened_process_writes_no_core_and_is_closed() {
        use nix::sys::resource::{Resource, getrlimit};
        harden_process().expect("hardens");
        assert!(!nix::sys::prctl::get_dumpable().expect("answers"));
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).expect("answers"), (0, 0));
    }

    /// The kernel says of the mapping that holds a secret: locked (`lo`), not in cores (`dd`), not for children (`dc`).
    #[test]
    fn the_kernel_keeps_them_in_memory_and_out_of_cores() {
        let secret = Secret::copy_of(b"x");
        let address = secret.expose().as_ptr() as usize;
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("reads");
        let mut here = false;
        let mut flags = None;
        for line in maps.lines() {
            if let Some((from, to)) = line.split(' ').next().and_then(|range| range.split_once('-'))
                && let (Ok(from), Ok(to)) = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16))
            {
                here = (from..to).contains(&address);
            } else if here && line.starts_with("VmFlags:") {
                flags = Some(line.to_owned());
            }
        }
        let flags = flags.expect("the mapping is listed");
        for flag in [" dd", " dc"] {
            assert!(flags.contains(flag), "{flag}: {flags}");
        }
        assert!(flags.contains(" lo") || take_unlocked().is_some(), "{flags}");
    }
}
