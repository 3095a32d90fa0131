//! Sealing and opening allocate nothing, also not in the library, which is C: its `malloc` is ours here, and counts.
//!
//! glibc only, whose allocator can be reached behind its back; the driver is built for it.
use base::{Ciphers, CommitNo, Nonce, Tag};
use std::cell::Cell;
use std::ffi::c_void;
use ublk_target::AwsLc;

thread_local! {
    /// Calls by this thread.
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

unsafe extern "C" {
    fn __libc_malloc(bytes: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, bytes: usize) -> *mut c_void;
    fn __libc_realloc(former: *mut c_void, bytes: usize) -> *mut c_void;
}

fn count() {
    let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
}

// SAFETY: takes the place of the C library's function of this name, and does what that does.
#[unsafe(no_mangle)]
extern "C" fn malloc(bytes: usize) -> *mut c_void {
    count();
    // SAFETY: glibc's own, with what the caller gave.
    unsafe { __libc_malloc(bytes) }
}

// SAFETY: as for `malloc`.
#[unsafe(no_mangle)]
extern "C" fn calloc(count_of: usize, bytes: usize) -> *mut c_void {
    count();
    // SAFETY: glibc's own, with what the caller gave.
    unsafe { __libc_calloc(count_of, bytes) }
}

// SAFETY: as for `malloc`; the caller's promise about `former` is glibc's.
#[unsafe(no_mangle)]
unsafe extern "C" fn realloc(former: *mut c_void, bytes: usize) -> *mut c_void {
    count();
    // SAFETY: glibc's own, with what the caller gave.
    unsafe { __libc_realloc(former, bytes) }
}

#[test]
fn nothing_is_allocated() {
    let before = CALLS.get();
    let mut cipher = AwsLc.cipher();
    assert!(CALLS.get() > before, "the counting counts");
    let mut text = vec![1; 4096];
    let before = CALLS.get();
    for no in 0..100 {
        cipher.set_key(&[no as u8; 32]);
        let nonce = Nonce::commit(CommitNo::new(no));
        let tag = cipher.seal(&nonce, b"about", &mut text);
        assert!(cipher.open(&nonce, b"about", &mut text, &tag));
        assert!(!cipher.open(&nonce, b"about", &mut text, &Tag([0; 12])));
    }
    assert_eq!(CALLS.get(), before);
}
