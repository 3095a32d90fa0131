//! What goes on beside its caller: steps that block, on threads of their own, and tasks.
//!
//! tokio compiles whatever runs a task once for each type of task. Here all have one type, a box: a quarter of the agent's
//! functions was that code before.
use crate::error::{Error, Kind, Result};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::task::JoinHandle;

/// What is behind a lock, also when somebody panicked under it.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a step leaves: nothing, if it was cut short.
type Left<T> = Arc<Mutex<Option<Result<T>>>>;

fn taken<T>(left: &Left<T>) -> Result<T> {
    let outcome = locked(left).take();
    outcome.unwrap_or_else(|| {
        Err(Error::general(Kind::Failed, "a step of the agent was cut short").hint("see its log"))
    })
}

/// Runs what waits for catalogue or drives on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let left = Left::default();
    let outcome = left.clone();
    let step: Box<dyn FnOnce() + Send> = Box::new(move || {
        let done = work();
        *locked(&outcome) = Some(done);
    });
    // A panic shows in what it left.
    let _ = tokio::task::spawn_blocking(step).await;
    taken(&left)
}

/// Begins a task that goes on by itself.
pub(crate) fn spawn(work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    let task: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(work);
    tokio::spawn(task)
}

/// Does something to its end, also if nobody waits for the outcome any more.
pub(crate) async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let left = Left::default();
    let outcome = left.clone();
    let running = spawn(async move {
        let done = work.await;
        *locked(&outcome) = Some(done);
    });
    // As in `blocking`.
    let _ = running.await;
    taken(&left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_step_that_panics_is_an_error_to_who_waits() {
        let cut = |outcome: Result<()>| {
            let error = outcome.expect_err("it did not end");
            assert!(error.kind == Kind::Failed && error.message.contains("cut short"), "{error}");
        };
        cut(blocking(|| panic!("planted")).await);
        cut(to_its_end(async { panic!("planted") }).await);
        assert_eq!(blocking(|| Ok(1)).await, Ok(1));
        assert_eq!(to_its_end(async { Ok(2) }).await, Ok(2));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_nobody_waits_for_any_more_goes_on() {
        let (go, told) = tokio::sync::oneshot::channel::<()>();
        let (done, ended) = channel();
        let waits = to_its_end(async move {
            told.await.expect("is told");
            done.send(()).expect("is heard");
            Ok(())
        });
        // Polled once, then given up.
        assert!(tokio::time::timeout(std::time::Duration::ZERO, waits).await.is_err());
        go.send(()).expect("it is still there");
        tokio::task::spawn_blocking(move || ended.recv().expect("it goes on")).await.expect("no panic");
    }
}
