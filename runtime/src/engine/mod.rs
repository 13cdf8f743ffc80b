//! The device's half: a bundle loaded on ONNX Runtime, what it answers, and how sure it is.

use std::fmt;
use std::path::Path;
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Instant;

use crate::bundle::digest::ModelDigest;
use crate::bundle::manifest::{Manifest, Operators};
use crate::bundle::{Bundle, BundleOptions, POLICY_FILE, Unverified};
use crate::device::library::{Library, Locate};
use crate::device::{
    DeviceOptions, MAX_BATCH, Provider, Report, Running, Settings, choose_provider, count_nodes, peak_rss,
    profile_prefix, session,
};
use crate::error::{Error, ErrorKind, Result};
use crate::request::{Message, Request};

mod alternatives;
mod batch;
mod canary;
mod choose;
mod decoding;
mod dimensions;
mod gate;
mod generation;
mod golden;
#[cfg_attr(not(feature = "constrained"), path = "no_guide.rs")]
mod guide;
mod interrupt;
mod operators;
mod options;
mod prefix;
mod prompt;
mod queue;
mod sampling;
mod scoring;
mod sequence;
mod session;
mod stop;
mod tokenizer;

pub use alternatives::Alternative;
pub use choose::{Choice, ChooseOptions, MAX_CHOICES, Normalise, ScoredAnswer};
pub use generation::{Finish, Generation, Timings, Token};
pub use golden::GoldenReport;
pub use options::{
    Constraint, GenerateOptions, MAX_ALTERNATIVES, MAX_CONSTRAINT_BYTES, MAX_STOP_STRING_BYTES, MAX_STOP_STRINGS,
    Overflow, Sampling,
};

use batch::{Batch, PIECE};
use guide::Guides;
use interrupt::Interrupt;
use prefix::PrefixCache;
use prompt::PromptFormat;
use queue::Queue;
use sequence::Sequence;
use session::Decoder;

/// A loaded model that answers requests from any thread: one at a time, or several side by side where [`DeviceOptions::batch`]
/// says so.
///
/// The crate's front page shows it at work.
pub struct Engine {
    manifest: Manifest,
    digest: ModelDigest,
    prompt: PromptFormat,
    guides: Guides,
    queue: Queue,
    /// Where several requests decode side by side.
    batch: Option<Batch>,
    report: Report,
}

impl Engine {
    /// Opens the bundle at `path` and loads it, as [`Bundle::open_with`] and [`Engine::load`] do one after the other, but faster:
    /// the weights are verified while the graph is loaded. Nothing is answered before they are what the manifest says.
    ///
    /// # Errors
    /// As these two; that of a file which is not what the manifest says comes first.
    pub fn open(path: impl AsRef<Path>, bundle: &BundleOptions, device: DeviceOptions) -> Result<(Bundle, Self)> {
        thread::scope(|scope| {
            // All that needs no other beside each other: loading ONNX Runtime, whose error comes again when it is needed,
            // verifying the weights, and what is small.
            let chosen = device.library.clone();
            let _ = beside(scope, move || library(chosen.as_ref())?.initialise());
            let mut weights = None;
            let begin = |unverified: Unverified| weights = Some(beside(scope, move || unverified.verify()));
            let bundle = Bundle::open_before_weights(path.as_ref(), bundle, begin)?;
            let engine = Self::load_beside(&bundle, device, weights.transpose()?)?;
            Ok((bundle, engine))
        })
    }

    /// Loads the bundle's graph and decodes the canary: a model that does not answer as its exporter saw it
    /// answer never serves. With [`DeviceOptions::cache_dir`] that is done once, see [`Report::canary_noted`].
    ///
    /// # Errors
    /// [`ErrorKind::Library`] if ONNX Runtime is missing; [`ErrorKind::Bundle`] if the graph, tokenizer or template
    /// is not what the manifest says; [`ErrorKind::Inference`] if the graph does not run or the canary differs;
    /// [`ErrorKind::Provider`] if a required execution provider does not run it; [`ErrorKind::Memory`] if the model is larger
    /// than may be.
    pub fn load(bundle: &Bundle, options: DeviceOptions) -> Result<Self> {
        Self::load_beside(bundle, options, None)
    }

    /// Loads while one thread reads the tokenizer and another perhaps still verifies the weights, whose error comes first.
    fn load_beside(
        bundle: &Bundle,
        options: DeviceOptions,
        weights: Option<ScopedJoinHandle<'_, Result<()>>>,
    ) -> Result<Self> {
        let (prompt, vocabulary_size) = (&bundle.manifest().prompt, bundle.manifest().model.vocabulary_size);
        let (running, prompt) = thread::scope(|scope| {
            let prompt = beside(scope, || PromptFormat::load(&bundle.tokenizer(), prompt, vocabulary_size));
            let running = Loaded::load(bundle, &options).and_then(|mut loaded| {
                // While the weights are still being read a first step has the time to make their pages known.
                if loaded.report.canary_noted && weights.as_ref().is_some_and(|thread| !thread.is_finished()) {
                    loaded.sequence.warm_up(&bundle.manifest().canary.prompt)?;
                }
                Ok(loaded)
            });
            (running, prompt.and_then(joined))
        });
        weights.map_or(Ok(()), joined)?;
        let (Loaded { sequence, batch, report }, prompt) = (running?, prompt?);
        let manifest = bundle.manifest().clone();
        let guides = Guides::new(&bundle.tokenizer(), vocabulary_size, &manifest.prompt.stop_tokens);
        let digest = *bundle.model_digest();
        let queue = Queue::new(sequence, options.batch, options.queue);
        Ok(Self { manifest, digest, prompt, guides, queue, batch, report })
    }

    /// How the model was loaded, on what it runs, and how much memory the process has taken so far.
    #[must_use]
    pub fn report(&self) -> Report {
        Report { peak_rss: peak_rss(), ..self.report.clone() }
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

    /// How many requests decode side by side, see [`DeviceOptions::batch`].
    #[must_use]
    pub fn batch(&self) -> usize {
        self.report.batch
    }

    /// How many requests are waiting for their turn.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    /// The ids that the model is given for `messages`: the chat template's text, tokenized.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] if the template refuses the conversation.
    pub fn encode_prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.prompt.encode_text(&self.prompt.render(messages)?)
    }

    /// The ids of `text` as it is: no template, no special tokens but those that it spells.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] if the tokenizer refuses it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.prompt.encode_text(text)
    }

    /// Logits after the last of `ids`, computed in one call, `[vocabulary]`. Nothing of earlier prompts is used.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] if `ids` is empty or has an id outside the vocabulary;
    /// [`ErrorKind::ContextOverflow`]; [`ErrorKind::Inference`].
    pub fn logits(&self, ids: &[u32]) -> Result<Vec<f32>> {
        self.check_not_empty(ids)?;
        self.check_fits(ids.len())?;
        let mut turn = self.queue.turn(None)?;
        Ok(turn.sequence()?.read(ids, 0, Interrupt::never()?.run())?.to_vec())
    }

    /// Logits after each of `ids`, fed one by one through the key-value cache, `[ids][vocabulary]`.
    ///
    /// # Errors
    /// As [`Engine::logits`].
    pub fn decode_logits(&self, ids: &[u32]) -> Result<Vec<Vec<f32>>> {
        self.check_not_empty(ids)?;
        self.check_fits(ids.len())?;
        let mut turn = self.queue.turn(None)?;
        let sequence = turn.sequence()?;
        let interrupt = Interrupt::never()?;
        let mut all = vec![sequence.read(&ids[..1], ids.len() - 1, interrupt.run())?.to_vec()];
        for id in &ids[1..] {
            all.push(sequence.append(*id, Overflow::Error, &mut 0, interrupt.run())?.to_vec());
        }
        Ok(all)
    }

    /// The prompt's text: through the template, or as the messages have it.
    fn prompt_text(&self, request: &Request) -> Result<String> {
        if request.options.raw_prompt {
            return Ok(request.messages.iter().map(|message| message.content.as_str()).collect());
        }
        self.prompt.render(&request.messages)
    }

    fn check_not_empty(&self, ids: &[u32]) -> Result<()> {
        if ids.is_empty() {
            return Err(Error::new(ErrorKind::InvalidRequest, "there are no ids to compute logits for"));
        }
        Ok(())
    }

    fn check_fits(&self, tokens: usize) -> Result<()> {
        let context = self.manifest.model.context_length;
        if tokens > context {
            let message = format!("{tokens} tokens do not fit the model's context of {context}");
            return Err(Error::new(ErrorKind::ContextOverflow, message));
        }
        Ok(())
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

/// Starts `work` on a thread of its own.
fn beside<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> Result<T> + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, Result<T>>> {
    thread::Builder::new().name("margay-load".into()).spawn_scoped(scope, work).map_err(|error| {
        Error::new(ErrorKind::Inference, "no thread can be started to load the model").with_source(error)
    })
}

fn joined<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| Err(Error::new(ErrorKind::Inference, "loading the model panicked")))
}

/// ONNX Runtime: the one that was chosen, or that is loaded already, or that is found.
fn library(chosen: Option<&Library>) -> Result<Library> {
    match chosen.cloned().or_else(Library::loaded) {
        Some(library) => Ok(library),
        None => Locate::from_environment().find(),
    }
}

/// A graph on a provider that has answered the canary.
struct Loaded {
    sequence: Sequence,
    batch: Option<Batch>,
    report: Report,
}

impl Loaded {
    fn load(bundle: &Bundle, options: &DeviceOptions) -> Result<Self> {
        let started = Instant::now();
        let library = library(options.library.as_ref())?;
        let environment = library.environment()?;
        let settings = Settings::of(options)?;
        let manifest = bundle.manifest();
        check_batch(options.batch, manifest)?;
        let memory = Memory::share(manifest, options)?;
        let prepared = started.elapsed();

        let own_graph = |provider| {
            let usable = provider == Provider::Cpu && !options.portable && operators::available();
            usable.then(|| bundle.own_graph()).flatten()
        };
        let (provider, running, attempts) = choose_provider(options, |provider, measure| {
            let started = Instant::now();
            let counted = options.count_nodes || provider != Provider::Cpu;
            let profile = counted.then(profile_prefix);
            let own = own_graph(provider);
            let operators = own.as_ref().map(|_| operators::domain(settings.threads)).transpose()?.flatten();
            let graph = own.unwrap_or_else(|| bundle.graph());
            let session = session(&environment, &graph, provider, &settings, profile.as_deref(), operators)?;
            let mut decoder = Decoder::new(session, &manifest.model, provider.shares_buffers(), memory.sequence)?;
            let load = prepared + started.elapsed();
            let started = Instant::now();
            // Who counts or measures wants it to run.
            let note = options
                .cache_dir
                .as_deref()
                .filter(|_| !counted && !measure)
                .and_then(|folder| canary::Note::new(folder, bundle, &graph, settings.threads, &library));
            let noted = note.as_ref().and_then(canary::Note::read);
            let checked = noted.map_or_else(|| canary::check(&mut decoder, &manifest.canary), Ok);
            let warm_up = noted.is_none().then(|| started.elapsed());
            // Before the canary's own error is looked at: the profile's file must not stay behind.
            let nodes = counted.then(|| decoder.session().run(count_nodes)).transpose();
            let (canary_error, nodes) = (checked?, nodes?);
            if let Some(note) = note.filter(|_| noted.is_none()) {
                note.write(canary_error);
            }
            let started = Instant::now();
            let canary = measure.then(|| canary::check(&mut decoder, &manifest.canary)).transpose()?;
            let canary = canary.map(|_| started.elapsed());
            Ok(Running { model: decoder, load, warm_up, canary, canary_error, nodes })
        })?;
        let Running { model: decoder, load, warm_up, canary, canary_error, nodes } = running;
        tracing::info!(name = manifest.name, %provider, ?load, ?warm_up, canary_error, "loaded a model");
        let report = Report {
            library: library.path().to_owned(),
            library_build: ort::info(),
            provider,
            own_operators: own_graph(provider).is_some(),
            nodes,
            attempts,
            threads: settings.threads,
            batch: options.batch,
            load,
            warm_up: warm_up.unwrap_or_default(),
            canary_noted: warm_up.is_none(),
            canary,
            canary_error,
            model_bytes: memory.model,
            peak_rss: peak_rss(),
        };
        let batch = if options.batch > 1 {
            if decoder.shared().is_none() {
                let message = format!("on {provider} one sequence decodes at a time, not {}", options.batch);
                return Err(Error::new(ErrorKind::InvalidRequest, message));
            }
            Some(Batch::new(&decoder, options.batch, memory.sequence)?)
        } else {
            None
        };
        let piece = if batch.is_some() { PIECE } else { usize::MAX };
        let prefixes = PrefixCache::new(memory.prefixes);
        let sequence = Sequence::new(decoder, prefixes, manifest.model.context_length, piece);
        Ok(Self { sequence, batch, report })
    }
}

/// Whether so many sequences may decode side by side, as far as the bundle goes.
fn check_batch(batch: usize, manifest: &Manifest) -> Result<()> {
    let refuse = |message: String| Err(Error::new(ErrorKind::InvalidRequest, message));
    if !(1..=MAX_BATCH).contains(&batch) {
        return refuse(format!("{batch} sequences are to decode side by side, not 1 to {MAX_BATCH}"));
    }
    // Its positions are counted once for all sequences of a batch.
    if batch > 1 && manifest.model.operators == Operators::Standard {
        return refuse(format!(
            "the bundle's graph is of standard operators, which decode one sequence at a time, not {batch}"
        ));
    }
    Ok(())
}

/// How the memory that the engine may use is shared out, in bytes.
struct Memory {
    /// Graph and weights.
    model: u64,
    /// The keys and values of one sequence, at most: that of the turn, or one of the batch.
    sequence: u64,
    /// Those of earlier prompts, at most.
    prefixes: Option<usize>,
}

impl Memory {
    fn share(manifest: &Manifest, options: &DeviceOptions) -> Result<Self> {
        let not_mapped = [manifest.model.tokenizer.as_str(), POLICY_FILE];
        let files = manifest.files.iter().filter(|file| !not_mapped.contains(&file.path.as_str()));
        let model: u64 = files.map(|file| file.size).sum();
        let Some(cap) = options.memory_cap else {
            return Ok(Self { model, sequence: u64::MAX, prefixes: options.prefix_cache });
        };
        let left = cap.checked_sub(model).ok_or_else(|| {
            Error::new(ErrorKind::Memory, format!("a model of {model} bytes does not fit the cap of {cap} bytes"))
        })?;
        // Half for what is asked now, at least.
        let half = usize::try_from(left / 2).unwrap_or(usize::MAX);
        let prefixes = options.prefix_cache.map(|bytes| bytes.min(half));
        let sequences = if options.batch > 1 { 1 + options.batch as u64 } else { 1 };
        Ok(Self { model, sequence: (left - prefixes.unwrap_or(0) as u64) / sequences, prefixes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs ONNX Runtime; only the feature `fetch` is certain to find it.
    #[test]
    #[cfg(feature = "fetch")]
    fn a_step_that_only_warms_up_leaves_nothing_behind() {
        let library = Locate::from_environment().find_or_fetch(&mut |_| ()).unwrap();
        let bundle = Bundle::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/toy")).unwrap();
        let options = DeviceOptions { threads: Some(1), library: Some(library), ..DeviceOptions::default() };
        let mut sequence = Loaded::load(&bundle, &options).unwrap().sequence;
        let (prompt, never) = (&bundle.manifest().canary.prompt, Interrupt::never().unwrap());
        let before = sequence.read(prompt, 0, never.run()).unwrap().to_vec();
        sequence.warm_up(prompt).unwrap();
        assert!(sequence.decoder().tokens().is_empty());
        assert_eq!(sequence.read(prompt, 0, never.run()).unwrap(), before);
    }

    #[test]
    fn standard_operators_decode_one_sequence_at_a_time() {
        let bundle = Bundle::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/toy")).unwrap();
        let mut manifest = bundle.manifest().clone();
        assert!(check_batch(8, &manifest).is_ok());
        manifest.model.operators = Operators::Standard;
        assert!(check_batch(1, &manifest).is_ok());
        let error = check_batch(2, &manifest).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        assert!(error.to_string().contains("standard operators"), "{error}");
    }
}
