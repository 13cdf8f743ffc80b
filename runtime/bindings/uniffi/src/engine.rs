//! Engines: a bundle's model, loaded, and what it writes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use margay::bundle::CalibratedPolicy;
use margay::device::library::Library;
use margay::device::{EpPolicy, Provider};

use crate::bundle::Bundle;
use crate::error::{MargayError, invalid};
use crate::listener::{self, TokenListener};
use crate::request::Request;

/// A loaded model. It answers one request at a time, from any thread; others wait for their turn.
#[derive(Debug, uniffi::Object)]
pub struct Engine(pub(crate) Arc<Loaded>);

#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) engine: Arc<margay::Engine>,
    pub(crate) policy: Option<CalibratedPolicy>,
}

/// What the model may use of the device. The default is the CPU with a thread for each core.
#[derive(Debug, Clone, uniffi::Record)]
pub struct DeviceOptions {
    /// ONNX Runtime's shared library; unless said the one loaded already, else `ORT_DYLIB_PATH`, else that in the cache folder.
    #[uniffi(default = None)]
    pub library: Option<String>,
    /// Threads that compute one step; one for each core unless said.
    #[uniffi(default = None)]
    pub threads: Option<u32>,
    /// Most bytes for weights, key-values and what is kept of earlier prompts.
    #[uniffi(default = None)]
    pub memory_cap: Option<u64>,
    /// Requests that may wait for their turn.
    #[uniffi(default = 64)]
    pub queue: u32,
    /// Execution providers, the most wanted first, e.g. `coreml`; those that were compiled in. The CPU need not be named.
    #[uniffi(default = [])]
    pub providers: Vec<String>,
    /// What happens with a provider that is missing, fails or is slow.
    #[uniffi(default = None)]
    pub provider_policy: Option<ProviderPolicy>,
    /// Where providers keep compiled models; they compile at every start unless said.
    #[uniffi(default = None)]
    pub cache_dir: Option<String>,
    /// Whether key-values of earlier prompts are used again.
    #[uniffi(default = true)]
    pub prefix_cache: bool,
}

/// What happens with a provider that is missing, fails or is slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum ProviderPolicy {
    /// Loading fails unless the first one named runs the model.
    Require,
    /// The first that does; the CPU if none does. This is the default.
    Prefer,
    /// The fastest of them and the CPU.
    Auto,
}

/// What becomes of the small model's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum Verdict {
    /// It is good enough.
    Keep,
    /// The large model should answer.
    Defer,
    /// There is no answer that could be trusted.
    Abstain,
}

/// What the model wrote, and how sure it was.
#[derive(Debug, Clone, uniffi::Record)]
pub struct Generation {
    /// The answer.
    pub text: String,
    /// Its tokens.
    pub token_ids: Vec<u32>,
    /// What the policy says of it, if the bundle has one.
    pub verdict: Option<Verdict>,
    /// What the policy's rule says; higher means keep.
    pub score: Option<f32>,
    /// What the score is held against.
    pub threshold: Option<f32>,
    /// Why it is not kept, e.g. `low-confidence`.
    pub reason: Option<String>,
    /// Why it ends: `stop`, `stop-string`, `length`, `early-deferral`, `caller` ...
    pub finish: String,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// How many of them were known from earlier prompts.
    pub cached_tokens: u64,
    /// Where the random numbers began, if any were drawn.
    pub seed: Option<u64>,
    /// How long reading the prompt took.
    pub prefill: Duration,
    /// How long writing took.
    pub decode: Duration,
}

/// What an answer's log-likelihood is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum Normalise {
    /// Nothing.
    Not,
    /// Its number of tokens.
    Tokens,
    /// Its length in bytes.
    Bytes,
}

/// The likeliest of given answers, and how likely each is.
#[derive(Debug, Clone, uniffi::Record)]
pub struct Choice {
    /// Index of the likeliest.
    pub best: u32,
    /// What the model says of each, in the order given.
    pub answers: Vec<ScoredAnswer>,
    /// What the policy says of the best one, if the bundle has one.
    pub verdict: Option<Verdict>,
}

/// How likely the model is to give one answer.
#[derive(Debug, Clone, uniffi::Record)]
pub struct ScoredAnswer {
    /// In nats.
    pub log_likelihood: f64,
    /// What answers are compared by.
    pub score: f64,
    /// Its share among the answers given.
    pub probability: f64,
}

#[uniffi::export(async_runtime = "tokio")]
impl Engine {
    /// Loads the bundle's model and lets it decode the bundle's canary. It takes a while: not on an app's main thread.
    #[uniffi::constructor(default(options = None))]
    pub fn load(bundle: &Bundle, options: Option<DeviceOptions>) -> Result<Arc<Self>, MargayError> {
        let device = options.map_or_else(|| Ok(margay::DeviceOptions::default()), DeviceOptions::read)?;
        let engine = Arc::new(margay::Engine::load(&bundle.0, device)?);
        Ok(Arc::new(Self(Arc::new(Loaded { engine, policy: bundle.0.policy().cloned() }))))
    }

    /// Answers on the device, whatever the policy says of it. Given up, it stops.
    #[uniffi::method(default(listener = None))]
    pub async fn generate(
        &self,
        request: Request,
        listener: Option<Arc<dyn TokenListener>>,
    ) -> Result<Generation, MargayError> {
        let request = request.ask()?;
        let given_up = request.cancel.drop_guard();
        let loaded = Arc::clone(&self.0);
        let generation = on_another_thread(move || loaded.generate(&request, listener.as_ref())).await;
        given_up.disarm();
        generation
    }

    /// The same, waiting for it.
    #[uniffi::method(default(listener = None))]
    pub fn generate_blocking(
        &self,
        request: Request,
        listener: Option<Arc<dyn TokenListener>>,
    ) -> Result<Generation, MargayError> {
        listener::check()?;
        self.0.generate(&request.ask()?, listener.as_ref())
    }

    /// Which of `answers` the model is likeliest to give. Given up, it stops.
    #[uniffi::method(default(normalise = None, with_stop_token = false))]
    pub async fn choose(
        &self,
        request: Request,
        answers: Vec<String>,
        normalise: Option<Normalise>,
        with_stop_token: bool,
    ) -> Result<Choice, MargayError> {
        let request = request.ask()?;
        let given_up = request.cancel.drop_guard();
        let loaded = Arc::clone(&self.0);
        let choice = on_another_thread(move || loaded.choose(&request, &answers, normalise, with_stop_token)).await;
        given_up.disarm();
        choice
    }

    /// The same, waiting for it.
    #[uniffi::method(default(normalise = None, with_stop_token = false))]
    pub fn choose_blocking(
        &self,
        request: Request,
        answers: Vec<String>,
        normalise: Option<Normalise>,
        with_stop_token: bool,
    ) -> Result<Choice, MargayError> {
        listener::check()?;
        self.0.choose(&request.ask()?, &answers, normalise, with_stop_token)
    }
}

/// Runs what computes for a while where it holds nobody up.
async fn on_another_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MargayError> + Send + 'static,
) -> Result<T, MargayError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(margay::Error::new(margay::ErrorKind::Inference, "the thread that computed is gone").into()),
    }
}

impl Loaded {
    fn generate(
        &self,
        request: &margay::Request,
        listener: Option<&Arc<dyn TokenListener>>,
    ) -> Result<Generation, MargayError> {
        let policy = self.policy.as_ref().map(|calibrated| &calibrated.policy);
        let generation = self.engine.generate(request, policy, &mut |token| listener::tell(listener, &token))?;
        let decision = generation.decision;
        let reason = decision.and_then(|decision| decision.verdict.reason());
        Ok(Generation {
            verdict: decision.map(|decision| decision.verdict.into()),
            score: decision.and_then(|decision| decision.score).map(|score| score.value()),
            threshold: decision.map(|decision| decision.threshold.value()),
            reason: reason.map(|reason| reason.to_string()),
            finish: generation.finish.name().to_owned(),
            prompt_tokens: generation.prompt_tokens as u64,
            cached_tokens: generation.cached_tokens as u64,
            seed: generation.seed,
            prefill: generation.timings.prefill,
            decode: generation.timings.decode,
            text: generation.text,
            token_ids: generation.token_ids,
        })
    }

    fn choose(
        &self,
        request: &margay::Request,
        answers: &[String],
        normalise: Option<Normalise>,
        with_stop_token: bool,
    ) -> Result<Choice, MargayError> {
        let normalise = match normalise {
            None | Some(Normalise::Not) => margay::Normalise::Not,
            Some(Normalise::Tokens) => margay::Normalise::Tokens,
            Some(Normalise::Bytes) => margay::Normalise::Bytes,
        };
        let policy = self.policy.as_ref().map(|calibrated| &calibrated.policy);
        let options = margay::ChooseOptions { normalise, with_stop_token };
        let choice = self.engine.choose(request, answers, &options, policy)?;
        let scored = |answer: &margay::ScoredAnswer| ScoredAnswer {
            log_likelihood: answer.log_likelihood,
            score: answer.score,
            probability: answer.probability,
        };
        Ok(Choice {
            best: u32::try_from(choice.best).map_err(|_| invalid("there are too many answers"))?,
            answers: choice.answers.iter().map(scored).collect(),
            verdict: choice.decision.map(|decision| decision.verdict.into()),
        })
    }
}

impl From<margay::policy::Verdict> for Verdict {
    fn from(verdict: margay::policy::Verdict) -> Self {
        match verdict {
            margay::policy::Verdict::Keep => Self::Keep,
            margay::policy::Verdict::Defer(_) => Self::Defer,
            margay::policy::Verdict::Abstain(_) => Self::Abstain,
        }
    }
}

impl DeviceOptions {
    fn read(self) -> Result<margay::DeviceOptions, MargayError> {
        let unless_said = margay::DeviceOptions::default();
        Ok(margay::DeviceOptions {
            library: self.library.map(Library::at).transpose()?,
            providers: self.providers.iter().map(|name| name.parse::<Provider>()).collect::<Result<_, _>>()?,
            policy: match self.provider_policy {
                None | Some(ProviderPolicy::Prefer) => EpPolicy::Prefer,
                Some(ProviderPolicy::Require) => EpPolicy::Require,
                Some(ProviderPolicy::Auto) => EpPolicy::Auto,
            },
            threads: self.threads.map(|threads| threads as usize),
            memory_cap: self.memory_cap,
            cache_dir: self.cache_dir.map(PathBuf::from),
            queue: self.queue as usize,
            prefix_cache: unless_said.prefix_cache.filter(|_| self.prefix_cache),
            ..unless_said
        })
    }
}
