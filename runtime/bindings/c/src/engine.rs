//! Engines: a bundle's model, loaded, and what it writes.

use std::ffi::{c_char, c_void};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use margay::bundle::CalibratedPolicy;
use margay::device::library::Library;
use margay::device::{EpPolicy, Provider};
use margay::policy::Verdict;
use margay::{DeviceOptions, Engine, Generation};

use crate::bundle::{CBundle, OpenBundle};
use crate::handle::{self, kind};
use crate::input::{self, Versioned};
use crate::request::{CRequest, Question};
use crate::status::{Status, Text, calling, guard, guard_asking};
use crate::words::{nanoseconds, word};

/// A loaded model. It answers one request at a time, from any thread; others wait for their turn.
pub struct CEngine;

pub(crate) struct Loaded {
    pub(crate) engine: Arc<Engine>,
    pub(crate) policy: Option<CalibratedPolicy>,
}
kind!(CEngine, Loaded, "engine");

/// What an engine wrote.
pub struct CGeneration;

struct Written {
    generation: Generation,
    text: Text,
}
kind!(CGeneration, Written, "generation");

/// What the model may use of the device. All zero but `size` is the CPU with a thread for each core.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CDeviceOptions {
    /// `sizeof(margay_device_options)`.
    pub size: usize,
    /// ONNX Runtime's shared library; NULL is the one loaded already, else `ORT_DYLIB_PATH`, else the one in the cache folder.
    pub library: *const c_char,
    /// Threads that compute one step; 0 is one for each core.
    pub threads: usize,
    /// Most bytes for weights, key-values and what is kept of earlier prompts; 0 is no cap.
    pub memory_cap: u64,
    /// Requests that may wait for their turn; 0 is 64.
    pub queue: usize,
    /// Execution providers, the most wanted first, e.g. `"coreml"`; those that were compiled in. The CPU need not be named.
    pub providers: *const *const c_char,
    /// How many.
    pub provider_count: usize,
    /// `"require"`, `"prefer"` or `"auto"`: what happens with a provider that is missing, fails or is slow; NULL is `"prefer"`.
    pub provider_policy: *const c_char,
    /// Where providers keep compiled models; NULL compiles at every start.
    pub cache_dir: *const c_char,
    /// Compute every prompt from its first token, so that the same request gives the same bits whatever was asked before.
    pub no_prefix_cache: bool,
}

// SAFETY: pointers, numbers and a bool.
unsafe impl Versioned for CDeviceOptions {
    const NAME: &'static str = "margay_device_options";
    const SIZES: &'static [usize] = &[size_of::<Self>()];
}

/// One token as it is written. Its texts together are the answer's.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CToken {
    /// Size of this struct: newer libraries may have more behind.
    pub size: usize,
    /// The text that is certain with it, perhaps empty; valid during the callback.
    pub text: *const c_char,
    /// Its bytes.
    pub text_length: usize,
    /// The token.
    pub id: u32,
    /// Its log-probability, in nats.
    pub log_probability: f32,
    /// Log-probability of the likeliest token less that of the second.
    pub margin: f32,
    /// Entropy of the distribution, in nats.
    pub entropy: f32,
    /// Whether it is the stop token that ends the answer, which is no part of it.
    pub is_stop: bool,
}

/// Takes a token; anything but 0 ends the answer there. It may not ask a model.
pub type COnToken = Option<unsafe extern "C" fn(user_data: *mut c_void, token: *const CToken) -> i32>;

/// What becomes of the small model's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum CVerdict {
    /// The bundle has no policy.
    None = 0,
    /// It is good enough.
    Keep = 1,
    /// The large model should answer.
    Defer = 2,
    /// There is no answer that could be trusted.
    Abstain = 3,
}

/// What the model wrote, and how sure it was. Texts are valid until the generation is destroyed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CGenerationInfo {
    /// `sizeof(margay_generation_info)`, set by the caller.
    pub size: usize,
    /// The answer.
    pub text: *const c_char,
    /// Its bytes.
    pub text_length: usize,
    /// What the policy says of it.
    pub verdict: CVerdict,
    /// Whether there is a score.
    pub has_score: bool,
    /// What the policy's rule says; higher means keep.
    pub score: f32,
    /// What the score is held against.
    pub threshold: f32,
    /// Why it is not kept, e.g. `low-confidence`; NULL if it is.
    pub reason: *const c_char,
    /// Why it ends: `stop`, `stop-string`, `length`, `early-deferral`, `caller` ...
    pub finish: *const c_char,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// How many of them were known from earlier prompts.
    pub cached_tokens: usize,
    /// Tokens of the answer.
    pub answer_tokens: usize,
    /// Where the random numbers began, if `has_seed`.
    pub seed: u64,
    /// Whether random numbers were drawn.
    pub has_seed: bool,
    /// Nanoseconds that reading the prompt took.
    pub prefill_ns: u64,
    /// Nanoseconds that writing took.
    pub decode_ns: u64,
}

// SAFETY: pointers, numbers, bools and an enum that has zero.
unsafe impl Versioned for CGenerationInfo {
    const NAME: &'static str = "margay_generation_info";
    const SIZES: &'static [usize] = &[size_of::<Self>()];
}

/// Loads the bundle's model and lets it decode the bundle's canary. `options` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn margay_engine_load(
    bundle: *const CBundle,
    options: *const CDeviceOptions,
    out: *mut *mut CEngine,
) -> Status {
    guard_asking(|| {
        let open = handle::take::<OpenBundle>(bundle)?;
        // SAFETY: as the header says of every pointer.
        let options = unsafe { input::versioned(options) }?;
        // SAFETY: as above.
        let (library, names, policy, cache) = unsafe {
            (
                input::optional_text(options.library, "library")?,
                input::texts(options.providers, options.provider_count, "providers")?,
                input::optional_text(options.provider_policy, "provider_policy")?,
                input::optional_text(options.cache_dir, "cache_dir")?,
            )
        };
        let unless_said = DeviceOptions::default();
        let device = DeviceOptions {
            library: library.map(Library::at).transpose()?,
            providers: names.into_iter().map(str::parse::<Provider>).collect::<Result<_, _>>()?,
            policy: policy.map(str::parse::<EpPolicy>).transpose()?.unwrap_or_default(),
            threads: (options.threads != 0).then_some(options.threads),
            memory_cap: (options.memory_cap != 0).then_some(options.memory_cap),
            cache_dir: cache.map(PathBuf::from),
            queue: if options.queue == 0 { unless_said.queue } else { options.queue },
            prefix_cache: unless_said.prefix_cache.filter(|_| !options.no_prefix_cache),
            ..unless_said
        };
        let engine = Arc::new(Engine::load(&open.bundle, device)?);
        let policy = open.bundle.policy().cloned();
        // SAFETY: as above.
        unsafe { handle::give(out, Loaded { engine, policy }) }
    })
}

/// Answers `request` on the device, whatever the policy says of it. `on_token` may be NULL; what it breaks off is a generation
/// all the same.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn margay_engine_generate(
    engine: *const CEngine,
    request: *const CRequest,
    on_token: COnToken,
    user_data: *mut c_void,
    out: *mut *mut CGeneration,
) -> Status {
    guard_asking(|| {
        let loaded = handle::take::<Loaded>(engine)?;
        let request = handle::take::<Question>(request)?.ask();
        let policy = loaded.policy.as_ref().map(|calibrated| &calibrated.policy);
        let generation = loaded.engine.generate(&request, policy, &mut |token| {
            let Some(on_token) = on_token else { return ControlFlow::Continue(()) };
            let text = Text::new(token.text);
            let token = CToken {
                size: size_of::<CToken>(),
                text: text.as_ptr(),
                text_length: text.len(),
                id: token.id,
                log_probability: token.signals.log_probability,
                margin: token.signals.margin,
                entropy: token.signals.entropy,
                is_stop: token.is_stop,
            };
            // SAFETY: the caller gave the function for this data.
            match calling(|| unsafe { on_token(user_data, &raw const token) }) {
                0 => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        })?;
        let text = Text::new(&generation.text);
        // SAFETY: as the header says of every pointer.
        unsafe { handle::give(out, Written { generation, text }) }
    })
}

/// What the model wrote.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn margay_generation_read(generation: *const CGeneration, out: *mut CGenerationInfo) -> Status {
    guard(|| {
        let written = handle::take::<Written>(generation)?;
        let generation = &written.generation;
        let decision = generation.decision;
        let info = CGenerationInfo {
            size: size_of::<CGenerationInfo>(),
            text: written.text.as_ptr(),
            text_length: written.text.len(),
            verdict: match decision.map(|decision| decision.verdict) {
                None => CVerdict::None,
                Some(Verdict::Keep) => CVerdict::Keep,
                Some(Verdict::Defer(_)) => CVerdict::Defer,
                Some(Verdict::Abstain(_)) => CVerdict::Abstain,
            },
            has_score: decision.is_some_and(|decision| decision.score.is_some()),
            score: decision.and_then(|decision| decision.score).map_or(0.0, |score| score.value()),
            threshold: decision.map_or(0.0, |decision| decision.threshold.value()),
            reason: word(decision.and_then(|decision| decision.verdict.reason()).map(|reason| reason.as_str())),
            finish: word(Some(generation.finish.name())),
            prompt_tokens: generation.prompt_tokens,
            cached_tokens: generation.cached_tokens,
            answer_tokens: generation.token_ids.len(),
            seed: generation.seed.unwrap_or(0),
            has_seed: generation.seed.is_some(),
            prefill_ns: nanoseconds(generation.timings.prefill),
            decode_ns: nanoseconds(generation.timings.decode),
        };
        // SAFETY: as the header says of every pointer.
        unsafe { input::fill(out, &info) }
    })
}

/// Ends the handle. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn margay_generation_destroy(generation: *mut CGeneration) -> Status {
    guard(|| handle::destroy::<Written>(generation))
}

/// Ends the handle; cascades that were made of the engine live on. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn margay_engine_destroy(engine: *mut CEngine) -> Status {
    guard(|| handle::destroy::<Loaded>(engine))
}
