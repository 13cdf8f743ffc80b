//! A runtime for callers without one, started when first needed.
//!
//! It has a thread of its own, so that connections kept between calls are served between calls too.

use std::sync::{Mutex, PoisonError};

use tokio::runtime::{Builder, Handle, Runtime};

use crate::error::{Error, ErrorKind, Result};

#[derive(Default)]
pub(super) struct Blocking(Mutex<Option<Runtime>>);

impl Blocking {
    /// Runs `work` to its end on this thread.
    pub(super) fn run<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.handle()?.block_on(work)
    }

    /// The runtime, for threads that may wait on it.
    pub(super) fn handle(&self) -> Result<Handle> {
        if Handle::try_current().is_ok() {
            let message = "a blocking call on an asynchronous thread; await `answer` or `stream` there";
            return Err(Error::new(ErrorKind::InvalidRequest, message));
        }
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = &*slot {
            return Ok(runtime.handle().clone());
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("margay")
            .enable_all()
            .build()
            .map_err(|error| Error::new(ErrorKind::Io, "no thread for blocking calls").with_source(error))?;
        Ok(slot.insert(runtime).handle().clone())
    }
}

impl std::fmt::Debug for Blocking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Blocking")
    }
}

impl Drop for Blocking {
    fn drop(&mut self) {
        // A plain drop waits for the threads, and panics on an asynchronous thread.
        if let Some(runtime) = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            runtime.shutdown_background();
        }
    }
}
