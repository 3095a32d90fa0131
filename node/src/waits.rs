//! Where nothing may be waited for, checked in debug builds.
//!
//! Whoever holds a lock behind which running guests wait says so for its thread (`forbid`), and whatever may wait for a
//! drive or for the network says so, too (`here`): the two together are a bug that no test finds by chance, for it only
//! shows on the day when a drive does not answer.
use std::cell::Cell;
use std::marker::PhantomData;

thread_local! {
    static FORBIDDEN: Cell<u32> = const { Cell::new(0) };
}

/// While it lives its thread waits for no drive and no network.
pub(crate) struct Forbidden(PhantomData<*const ()>);

/// Forbids waits to this thread.
pub(crate) fn forbid() -> Forbidden {
    FORBIDDEN.set(FORBIDDEN.get() + 1);
    Forbidden(PhantomData)
}

impl Drop for Forbidden {
    fn drop(&mut self) {
        FORBIDDEN.set(FORBIDDEN.get() - 1);
    }
}

/// What comes next may wait.
pub(crate) fn here(what: &str) {
    debug_assert_eq!(FORBIDDEN.get(), 0, "{what} behind a lock that running guests wait for");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_refused_while_it_is_forbidden_and_on_no_other_thread() {
        let (one, two) = (forbid(), forbid());
        drop(one);
        assert!(std::panic::catch_unwind(|| here("a drive")).is_err());
        std::thread::spawn(|| here("a drive")).join().expect("another thread may");
        drop(two);
        here("a drive");
    }
}
