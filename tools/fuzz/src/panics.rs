//! Panics as results: a target's panic is caught, and where it happened is kept.
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// The panic under way on this thread; `None` outside `caught`, where panics are printed as ever.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `work`; `Err` says where and why it panicked.
///
/// # Errors
/// The panic's place and message.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let kept = PLACE.with_borrow_mut(|place| {
                place.as_mut().map(|place| *place = info.to_string().replace('\n', " ")).is_some()
            });
            if !kept {
                before(info);
            }
        }));
    });
    let outer = PLACE.replace(Some(String::new()));
    let result = catch_unwind(AssertUnwindSafe(work));
    let place = PLACE.replace(outer).unwrap_or_default();
    result.map_err(|_| place)
}

/// Within `caught`: where something panicked on this thread that somebody else caught.
pub fn seen() -> Option<String> {
    PLACE.with_borrow(|place| place.clone().filter(|place| !place.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_says_where() {
        assert_eq!(caught(|| 4), Ok(4));
        let inner = || {
            assert_eq!(seen(), None);
            catch_unwind(|| panic!("within")).expect_err("it panics");
            seen()
        };
        assert!(caught(inner).expect("it was caught").is_some_and(|place| place.contains("within")));
        let place = caught(|| panic!("on purpose")).expect_err("it panics");
        assert!(place.contains("panics.rs") && place.contains("on purpose"), "{place}");
    }
}
