//! The device's half: a bundle loaded on ONNX Runtime, and greedy generation with its confidence signals.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::bundle::Bundle;
use crate::bundle::digest::ModelDigest;
use crate::bundle::manifest::{Canary, Manifest};
use crate::device::library::{Library, Locate};
use crate::error::{Error, ErrorKind, Result};
use crate::request::{Message, Request};

mod generation;
mod golden;
mod prompt;
mod scoring;
mod session;

pub use generation::{Finish, Generation, Timings, Token};
pub use golden::GoldenReport;
use prompt::PromptFormat;
use session::Decoder;

/// How often a request that waits for its turn looks whether it was cancelled.
const CANCEL_POLL: Duration = Duration::from_millis(10);

/// A loaded model that answers requests, one at a time, from any thread.
///
/// ```no_run
/// use margay::{Bundle, DeviceOptions, Engine, Request};
/// use std::ops::ControlFlow;
///
/// let bundle = Bundle::open("model.bundle")?;
/// let engine = Engine::load(&bundle, DeviceOptions::default())?;
/// let policy = bundle.policy().map(|calibrated| &calibrated.policy);
/// let generation = engine.generate(&Request::user("wake me at six"), policy, &mut |token| {
///     print!("{}", token.text);
///     ControlFlow::Continue(())
/// })?;
/// println!("\n{:?} because {:?}", generation.finish, generation.decision);
/// # Ok::<(), margay::Error>(())
/// ```
pub struct Engine {
    manifest: Manifest,
    digest: ModelDigest,
    prompt: PromptFormat,
    /// Absent while a request has it.
    decoder: Mutex<Option<Decoder>>,
    turn: Condvar,
    report: Report,
}

/// What the model may use of the device.
#[derive(Debug, Clone, Default)]
pub struct DeviceOptions {
    /// Threads that compute one step; `None` is one for each core.
    pub threads: Option<usize>,
    /// ONNX Runtime; `None` is the one already loaded, else the one that [`Locate::find`] finds.
    pub library: Option<Library>,
}

/// How the model was loaded.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// Path of ONNX Runtime's library.
    pub library: PathBuf,
    /// ONNX Runtime's description of its own build.
    pub library_build: &'static str,
    /// Names of the execution providers that the session was given, in order.
    pub providers: Vec<&'static str>,
    /// Time to read the tokenizer, compile the template and build the session.
    pub load: Duration,
    /// Time for the canary, which is also what warms the session up.
    pub canary: Duration,
    /// Largest difference between the canary's logits and the manifest's.
    pub canary_error: f32,
}

impl Engine {
    /// Loads the bundle's graph and decodes the canary: a model that does not answer as its exporter saw it
    /// answer never serves.
    ///
    /// # Errors
    /// [`ErrorKind::Library`] if ONNX Runtime is missing; [`ErrorKind::Bundle`] if the graph, tokenizer or template
    /// is not what the manifest says; [`ErrorKind::Inference`] if the graph does not run or the canary differs.
    pub fn load(bundle: &Bundle, options: DeviceOptions) -> Result<Self> {
        let started = Instant::now();
        let library = match options.library.or_else(Library::loaded) {
            Some(library) => library,
            None => Locate::from_environment().find()?,
        };
        let environment = library.environment()?;
        let manifest = bundle.manifest().clone();
        let threads = match options.threads {
            Some(0) => return Err(Error::new(ErrorKind::InvalidRequest, "a model cannot run on 0 threads")),
            Some(threads) => threads,
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let prompt = PromptFormat::load(&bundle.tokenizer(), &manifest.prompt, manifest.model.vocabulary_size)?;
        let mut decoder = Decoder::load(&environment, &bundle.graph(), &manifest.model, threads)?;
        let load = started.elapsed();
        let started = Instant::now();
        let canary_error = check_canary(&mut decoder, &manifest.canary)?;
        let report = Report {
            library: library.path().to_owned(),
            library_build: ort::info(),
            providers: vec!["CPUExecutionProvider"],
            load,
            canary: started.elapsed(),
            canary_error,
        };
        tracing::info!(name = manifest.name, ?report.load, ?report.canary, report.canary_error, "loaded a model");
        Ok(Self {
            digest: *bundle.model_digest(),
            manifest,
            prompt,
            decoder: Mutex::new(Some(decoder)),
            turn: Condvar::new(),
            report,
        })
    }

    /// How the model was loaded, and on what.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The manifest of the bundle that was loaded.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Digest of the model that was loaded.
    #[must_use]
    pub fn model_digest(&self) -> &ModelDigest {
        &self.digest
    }

    /// The ids that the model is given for `messages`: the chat template's text, tokenized.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] if the template refuses the conversation.
    pub fn encode_prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.prompt.encode(messages)
    }

    /// Logits after the last of `ids`, computed in one call, `[vocabulary]`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] if `ids` is empty or has an id outside the vocabulary;
    /// [`ErrorKind::ContextOverflow`]; [`ErrorKind::Inference`].
    pub fn logits(&self, ids: &[u32]) -> Result<Vec<f32>> {
        self.check_ids(ids)?;
        let mut turn = self.turn(None)?;
        let decoder = turn.decoder()?;
        decoder.start(ids.len())?;
        Ok(decoder.append(ids)?.to_vec())
    }

    /// Logits after each of `ids`, fed one by one through the key-value cache, `[ids][vocabulary]`.
    ///
    /// # Errors
    /// As [`Engine::logits`].
    pub fn decode_logits(&self, ids: &[u32]) -> Result<Vec<Vec<f32>>> {
        self.check_ids(ids)?;
        let mut turn = self.turn(None)?;
        let decoder = turn.decoder()?;
        decoder.start(ids.len())?;
        ids.iter().map(|id| Ok(decoder.append(&[*id])?.to_vec())).collect()
    }

    fn check_ids(&self, ids: &[u32]) -> Result<()> {
        if ids.is_empty() {
            return Err(Error::new(ErrorKind::InvalidRequest, "there are no ids to compute logits for"));
        }
        self.check_fits(ids.len())
    }

    fn check_fits(&self, tokens: usize) -> Result<()> {
        let context = self.manifest.model.context_length;
        if tokens > context {
            let message = format!("{tokens} tokens do not fit the model's context of {context}");
            return Err(Error::new(ErrorKind::ContextOverflow, message));
        }
        Ok(())
    }

    /// Waits for the decoder, for as long as `request` may.
    fn turn(&self, request: Option<&Request>) -> Result<Turn<'_>> {
        let mut slot = self.decoder.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            request.map_or(Ok(()), Request::check)?;
            if let Some(decoder) = slot.take() {
                return Ok(Turn { engine: self, decoder: Some(decoder) });
            }
            let patience = request
                .and_then(|request| request.deadline.remaining())
                .map_or(CANCEL_POLL, |remaining| remaining.min(CANCEL_POLL));
            slot = self.turn.wait_timeout(slot, patience).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("name", &self.manifest.name)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

/// The right to use the decoder; gives it back however the request ends, even when a callback panics.
struct Turn<'a> {
    engine: &'a Engine,
    decoder: Option<Decoder>,
}

impl Turn<'_> {
    fn decoder(&mut self) -> Result<&mut Decoder> {
        self.decoder.as_mut().ok_or_else(|| Error::new(ErrorKind::Inference, "the decoder was given back already"))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.engine.decoder.lock().unwrap_or_else(PoisonError::into_inner) = self.decoder.take();
        self.engine.turn.notify_one();
    }
}

/// Decodes the canary greedily and returns the largest difference from its logits.
fn check_canary(decoder: &mut Decoder, canary: &Canary) -> Result<f32> {
    decoder.start(canary.prompt.len() + canary.continuation.len())?;
    let mut logits = decoder.append(&canary.prompt)?;
    let error = largest_difference(logits, &canary.logits);
    if error.is_nan() || error > canary.tolerance {
        let message = format!("the canary's logits differ by {error}, more than {}", canary.tolerance);
        return Err(Error::new(ErrorKind::Inference, message));
    }
    for (position, expected) in canary.continuation.iter().enumerate() {
        let id = generation::argmax(logits)?;
        if id != *expected {
            let message = format!("the canary's token {position} is {id} instead of {expected}");
            return Err(Error::new(ErrorKind::Inference, message));
        }
        logits = decoder.append(&[id])?;
    }
    Ok(error)
}

/// Largest absolute difference between the common beginnings; NaN if any is NaN.
fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |most: f32, next| if most.is_nan() || next <= most { most } else { next })
}
