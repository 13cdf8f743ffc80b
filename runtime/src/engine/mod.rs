//! The device's half: a bundle loaded on ONNX Runtime, what it answers, and how sure it is.

use std::fmt;
use std::time::Instant;

use crate::bundle::digest::ModelDigest;
use crate::bundle::manifest::{Canary, Manifest};
use crate::bundle::{Bundle, POLICY_FILE};
use crate::device::library::{Library, Locate};
use crate::device::{
    DeviceOptions, Provider, Report, Running, Settings, choose_provider, count_nodes, peak_rss, profile_prefix, session,
};
use crate::error::{Error, ErrorKind, Result};
use crate::request::{Message, Request};

mod alternatives;
mod choose;
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

pub use alternatives::Alternative;
pub use choose::{Choice, ChooseOptions, MAX_CHOICES, Normalise, ScoredAnswer};
pub use generation::{Finish, Generation, Timings, Token};
pub use golden::GoldenReport;
pub use options::{
    Constraint, GenerateOptions, MAX_ALTERNATIVES, MAX_CONSTRAINT_BYTES, MAX_STOP_STRING_BYTES, MAX_STOP_STRINGS,
    Overflow, Sampling,
};

use guide::Guides;
use interrupt::Interrupt;
use prefix::PrefixCache;
use prompt::PromptFormat;
use queue::Queue;
use sequence::Sequence;
use session::Decoder;

/// A loaded model that answers requests, one at a time, from any thread.
///
/// The crate's front page shows it at work.
pub struct Engine {
    manifest: Manifest,
    digest: ModelDigest,
    prompt: PromptFormat,
    guides: Guides,
    queue: Queue,
    report: Report,
}

impl Engine {
    /// Loads the bundle's graph and decodes the canary: a model that does not answer as its exporter saw it
    /// answer never serves.
    ///
    /// # Errors
    /// [`ErrorKind::Library`] if ONNX Runtime is missing; [`ErrorKind::Bundle`] if the graph, tokenizer or template
    /// is not what the manifest says; [`ErrorKind::Inference`] if the graph does not run or the canary differs;
    /// [`ErrorKind::Provider`] if a required execution provider does not run it; [`ErrorKind::Memory`] if the model is larger
    /// than may be.
    pub fn load(bundle: &Bundle, options: DeviceOptions) -> Result<Self> {
        let started = Instant::now();
        let library = match options.library.clone().or_else(Library::loaded) {
            Some(library) => library,
            None => Locate::from_environment().find()?,
        };
        let environment = library.environment()?;
        let settings = Settings::of(&options)?;
        let manifest = bundle.manifest().clone();
        let memory = Memory::share(&manifest, &options)?;
        let prompt = PromptFormat::load(&bundle.tokenizer(), &manifest.prompt, manifest.model.vocabulary_size)?;
        let prepared = started.elapsed();

        let own_graph = |provider| {
            let usable = provider == Provider::Cpu && !options.portable && operators::available();
            usable.then(|| bundle.own_graph()).flatten()
        };
        let (provider, running, attempts) = choose_provider(&options, |provider, measure| {
            let started = Instant::now();
            let counted = options.count_nodes || provider != Provider::Cpu;
            let profile = counted.then(profile_prefix);
            let own = own_graph(provider);
            let operators = own.as_ref().map(|_| operators::domain(settings.threads)).transpose()?.flatten();
            let graph = own.unwrap_or_else(|| bundle.graph());
            let session = session(&environment, &graph, provider, &settings, profile.as_deref(), operators)?;
            let mut decoder = Decoder::new(session, &manifest.model, provider.shares_buffers(), memory.key_values)?;
            let load = prepared + started.elapsed();
            let started = Instant::now();
            let checked = check_canary(&mut decoder, &manifest.canary);
            let warm_up = started.elapsed();
            // Before the canary's own error is looked at: the profile's file must not stay behind.
            let nodes = counted.then(|| count_nodes(decoder.session())).transpose();
            let (canary_error, nodes) = (checked?, nodes?);
            let started = Instant::now();
            let canary = measure.then(|| check_canary(&mut decoder, &manifest.canary)).transpose()?;
            let canary = canary.map(|_| started.elapsed());
            Ok(Running { model: decoder, load, warm_up, canary, canary_error, nodes })
        })?;
        let Running { model: decoder, load, warm_up, canary, canary_error, nodes } = running;
        let report = Report {
            library: library.path().to_owned(),
            library_build: ort::info(),
            provider,
            own_operators: own_graph(provider).is_some(),
            nodes,
            attempts,
            threads: settings.threads,
            load,
            warm_up,
            canary,
            canary_error,
            model_bytes: memory.model,
            peak_rss: peak_rss(),
        };
        tracing::info!(name = manifest.name, %provider, ?load, ?warm_up, canary_error, "loaded a model");
        let guides = Guides::new(&bundle.tokenizer(), manifest.model.vocabulary_size, &manifest.prompt.stop_tokens);
        let sequence = Sequence::new(decoder, PrefixCache::new(memory.prefixes), manifest.model.context_length);
        let digest = *bundle.model_digest();
        Ok(Self { manifest, digest, prompt, guides, queue: Queue::new(sequence, options.queue), report })
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

/// How the memory that the engine may use is shared out, in bytes.
struct Memory {
    /// Graph and weights.
    model: u64,
    /// The sequence's keys and values, at most.
    key_values: u64,
    /// Those of earlier prompts, at most.
    prefixes: Option<usize>,
}

impl Memory {
    fn share(manifest: &Manifest, options: &DeviceOptions) -> Result<Self> {
        let not_mapped = [manifest.model.tokenizer.as_str(), POLICY_FILE];
        let files = manifest.files.iter().filter(|file| !not_mapped.contains(&file.path.as_str()));
        let model: u64 = files.map(|file| file.size).sum();
        let Some(cap) = options.memory_cap else {
            return Ok(Self { model, key_values: u64::MAX, prefixes: options.prefix_cache });
        };
        let left = cap.checked_sub(model).ok_or_else(|| {
            Error::new(ErrorKind::Memory, format!("a model of {model} bytes does not fit the cap of {cap} bytes"))
        })?;
        // Half for what is asked now, at least.
        let half = usize::try_from(left / 2).unwrap_or(usize::MAX);
        let prefixes = options.prefix_cache.map(|bytes| bytes.min(half));
        Ok(Self { model, key_values: left - prefixes.unwrap_or(0) as u64, prefixes })
    }
}

/// Decodes the canary greedily and returns the largest difference from its logits.
fn check_canary(decoder: &mut Decoder, canary: &Canary) -> Result<f32> {
    let never = Interrupt::never()?;
    decoder.truncate(0)?;
    decoder.reserve(canary.prompt.len() + canary.continuation.len())?;
    let mut logits = decoder.append(&canary.prompt, never.run())?;
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
        logits = decoder.append(&[id], never.run())?;
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
