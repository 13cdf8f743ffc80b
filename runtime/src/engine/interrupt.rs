//! Ends a computation that is running: at once when the caller cancels, and when the deadline passes.
//!
//! ONNX Runtime looks at its run options between two nodes of the graph, so a long prefill ends within one node.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use ort::session::RunOptions;

use super::session::inference;
use crate::error::{Error, ErrorKind, Result};
use crate::request::{Listening, Request};

/// The run options of one request's computations, and who terminates them.
pub(super) struct Interrupt {
    run: Arc<RunOptions>,
    _cancel: Option<Listening>,
    _alarm: Option<Alarm>,
}

impl Interrupt {
    /// Run options that nobody terminates.
    pub(super) fn never() -> Result<Self> {
        Ok(Self { run: Arc::new(RunOptions::new().map_err(inference)?), _cancel: None, _alarm: None })
    }

    /// Run options that `request`'s cancel and deadline terminate.
    pub(super) fn of(request: &Request) -> Result<Self> {
        let Self { run, .. } = Self::never()?;
        let terminate: Arc<dyn Fn() + Send + Sync> = {
            let run = Arc::clone(&run);
            // A failure to interrupt costs time only: the request is checked again before the next step.
            Arc::new(move || drop(run.terminate()))
        };
        let alarm = request.deadline.instant().map(|at| Alarm::set(at, Arc::clone(&terminate))).transpose()?;
        Ok(Self { run, _cancel: Some(request.cancel.listen(terminate)), _alarm: alarm })
    }

    /// What every computation of the request is given.
    pub(super) fn run(&self) -> &RunOptions {
        &self.run
    }
}

/// Calls a function at a moment, unless it is dropped before.
struct Alarm(Arc<(Mutex<bool>, Condvar)>);

impl Alarm {
    fn set(at: Instant, ring: Arc<dyn Fn() + Send + Sync>) -> Result<Self> {
        let shared = Arc::new((Mutex::new(false), Condvar::new()));
        let waiting = Arc::clone(&shared);
        let wait = move || {
            let mut off = waiting.0.lock().unwrap_or_else(PoisonError::into_inner);
            while !*off {
                let left = at.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return ring();
                }
                off = waiting.1.wait_timeout(off, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        };
        thread::Builder::new().name("margay-deadline".into()).spawn(wait).map_err(|error| {
            Error::new(ErrorKind::Inference, "no thread can be started to watch the deadline").with_source(error)
        })?;
        Ok(Self(shared))
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_alarm_rings_once_its_moment_is_there_and_never_after_it_was_dropped() {
        let (rung, bell) = mpsc::channel();
        let set = |at| {
            let rung = rung.clone();
            Alarm::set(at, Arc::new(move || rung.send(()).unwrap())).unwrap()
        };
        let alarm = set(Instant::now());
        bell.recv().unwrap();
        drop(alarm);
        let far = set(Instant::now() + Duration::from_secs(3600));
        drop(far);
        drop(rung);
        // The threads have let go of the bell: neither will ring it again.
        assert!(bell.recv().is_err());
    }

    /// Needs ONNX Runtime, which only the feature `fetch` is certain to find.
    #[cfg(feature = "fetch")]
    mod with_the_toy {
        use super::*;
        use crate::device::library::Locate;
        use crate::{Bundle, Cancel, Deadline, DeviceOptions, Engine};

        fn toy() -> Engine {
            let library = Locate::from_environment().find_or_fetch(&mut |_| ()).unwrap();
            let options = DeviceOptions { library: Some(library), threads: Some(1), ..DeviceOptions::default() };
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/toy");
            Engine::load(&Bundle::open(folder).unwrap(), options).unwrap()
        }

        /// No check of the request stands between the cancel and the computation here: only the run options can end it.
        #[test]
        fn a_prefill_that_is_cancelled_ends_inside_onnx_runtime_and_harms_nothing() {
            let engine = toy();
            let prompt: Vec<u32> = (5..400).map(|id| id % 320).collect();
            let whole = engine.logits(&prompt).unwrap();
            let mut turn = engine.queue.turn(None).unwrap();
            let sequence = turn.sequence().unwrap();
            sequence.resume(&prompt[..10], 0).unwrap();
            sequence.finish(&prompt[..10], Interrupt::never().unwrap().run()).unwrap();

            let cancel = Cancel::default();
            let request = Request::user("").cancel(cancel.clone());
            let interrupt = Interrupt::of(&request).unwrap();
            cancel.cancel();
            let known = sequence.resume(&prompt, 0).unwrap();
            let error = sequence.finish(&prompt, interrupt.run()).map(<[f32]>::to_vec).unwrap_err();
            assert!(error.to_string().contains("terminate"), "{error}");
            // The beginning is as it was, and another request goes on from there.
            assert_eq!(known, 10);
            assert_eq!(sequence.resume(&prompt, 0).unwrap(), 10);
            let logits = sequence.finish(&prompt, Interrupt::never().unwrap().run()).unwrap();
            assert!(logits.iter().zip(&whole).all(|(a, b)| (a - b).abs() < 1e-4));
        }

        #[test]
        fn a_deadline_that_passes_ends_it_too() {
            let engine = toy();
            let mut turn = engine.queue.turn(None).unwrap();
            let sequence = turn.sequence().unwrap();
            let request = Request::user("").deadline(Deadline::after(Duration::ZERO));
            let interrupt = Interrupt::of(&request).unwrap();
            // The alarm is another thread's: it may take a few runs until it has rung, and from then on every run ends.
            let error = loop {
                if let Err(error) = sequence.read(&[1, 2, 3], 0, interrupt.run()) {
                    break error;
                }
            };
            assert!(error.to_string().contains("terminate"), "{error}");
            assert!(sequence.read(&[1, 2, 3], 0, interrupt.run()).is_err());
        }
    }
}
