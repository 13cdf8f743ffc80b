//! `margay generate`: one answer of a bundle, as text or as JSON with everything known about it.

use std::fs;
use std::io::Read as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::Args;
use margay::policy::{Decision, TokenSignals};
use margay::{
    Choice, ChooseOptions, Constraint, GenerateOptions, Generation, Message, Normalise, Overflow, Request, Sampling,
    ScoredAnswer, Timings,
};
use serde_json::{Value, json};

use crate::console::Console;
use crate::device::DeviceArgs;
use crate::error::{Error, Result};
use crate::library;

/// Longest prompt, conversation or schema read from a file or standard input, in bytes.
const MAX_INPUT_BYTES: u64 = 16 << 20;

/// How answers are drawn.
#[derive(Debug, Clone, Args)]
pub struct SamplingArgs {
    /// Longest answer, in tokens
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_tokens: usize,
    /// 0 takes the likeliest token each time
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub temperature: f32,
    /// Draw among the K likeliest tokens
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Draw among the likeliest tokens that together have this probability
    #[arg(long, value_name = "P")]
    pub top_p: Option<f32>,
    /// Draw among tokens at least this many times as likely as the likeliest
    #[arg(long, value_name = "P")]
    pub min_p: Option<f32>,
    /// Make tokens that were there already less likely; 1 does not
    #[arg(long, value_name = "F", default_value_t = 1.0)]
    pub repetition_penalty: f32,
    /// Where random numbers begin [default: a new one each time]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Text that ends the answer; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// When the context is full, keep this many tokens of its beginning and forget the oldest half of the rest
    #[arg(long, value_name = "KEEP")]
    pub slide: Option<usize>,
}

/// What `margay generate` is asked.
#[derive(Debug, Clone, Args)]
pub struct GenerateArgs {
    /// Folder of the bundle
    #[arg(long, value_name = "DIR")]
    pub bundle: PathBuf,
    /// What to answer; - reads it from standard input
    #[arg(long, value_name = "TEXT", required_unless_present = "chat", conflicts_with = "chat")]
    pub prompt: Option<String>,
    /// A conversation to answer: JSON, a list of objects with role and content
    #[arg(long, value_name = "FILE")]
    pub chat: Option<PathBuf>,
    /// Take the prompt as it is, without the chat template
    #[arg(long)]
    pub raw: bool,
    /// Which threshold applies
    #[arg(long, value_name = "NAME")]
    pub task: Option<String>,
    /// Answers to choose from, separated by commas, instead of writing one
    #[arg(long, value_name = "A,B,..", value_delimiter = ',', conflicts_with_all = ["schema", "regex"])]
    pub options: Vec<String>,
    /// Divide an option's log-likelihood by its number of tokens
    #[arg(long, requires = "options")]
    pub normalise: bool,
    /// JSON schema that the answer must follow
    #[arg(long, value_name = "FILE", conflicts_with = "regex")]
    pub schema: Option<PathBuf>,
    /// Regular expression that the answer must match
    #[arg(long, value_name = "REGEX")]
    pub regex: Option<String>,
    /// Print one JSON object: text, ids, log-probabilities, decision, timings
    #[arg(long)]
    pub json: bool,
    /// How the answer is drawn
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// What the model may use
    #[command(flatten)]
    pub device: DeviceArgs,
}

impl SamplingArgs {
    /// The same as the runtime takes it.
    #[must_use]
    pub fn options(&self) -> GenerateOptions {
        GenerateOptions {
            sampling: Sampling {
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                min_p: self.min_p,
                repetition_penalty: self.repetition_penalty,
                seed: self.seed,
            },
            stop: self.stop.clone(),
            overflow: self.slide.map_or(Overflow::Error, |keep| Overflow::Slide { keep }),
            ..GenerateOptions::default()
        }
    }
}

impl GenerateArgs {
    fn request(&self) -> Result<Request> {
        let mut options = self.sampling.options();
        options.raw_prompt = self.raw;
        options.constraint = match (&self.schema, &self.regex) {
            (Some(path), _) => Some(Constraint::JsonSchema(schema(path)?)),
            (None, Some(regex)) => Some(Constraint::Regex(regex.clone())),
            (None, None) => None,
        };
        let messages = match (&self.chat, &self.prompt) {
            (Some(path), _) => from_json(path, &read(path)?)?,
            (None, Some(prompt)) if prompt == "-" => vec![Message::user(standard_input()?)],
            (None, prompt) => vec![Message::user(prompt.clone().unwrap_or_default())],
        };
        let mut request = Request::messages(messages).max_tokens(self.sampling.max_tokens).options(options);
        request.task.clone_from(&self.task);
        Ok(request)
    }
}

fn read(path: &Path) -> Result<String> {
    let length = fs::metadata(path).map_err(|source| Error::io("read", path, source))?.len();
    if length > MAX_INPUT_BYTES {
        return Err(Error::Usage(format!("{} has {length} bytes, more than {MAX_INPUT_BYTES}", path.display())));
    }
    fs::read_to_string(path).map_err(|source| Error::io("read", path, source))
}

fn schema(path: &Path) -> Result<Value> {
    match from_json(path, &read(path)?)? {
        schema @ (Value::Object(_) | Value::Bool(_)) => Ok(schema),
        _ => Err(Error::Usage(format!("{}: a JSON schema is an object, or true or false", path.display()))),
    }
}

fn from_json<T: serde::de::DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| Error::Usage(format!("{}: {error}", path.display())))
}

fn standard_input() -> Result<String> {
    let mut text = String::new();
    let read = std::io::stdin().take(MAX_INPUT_BYTES + 1).read_to_string(&mut text);
    let read = read.map_err(|source| Error::Io { action: "read standard input".into(), source })?;
    if read as u64 > MAX_INPUT_BYTES {
        return Err(Error::Usage(format!("standard input has more than {MAX_INPUT_BYTES} bytes")));
    }
    Ok(text)
}

/// Answers one prompt, or chooses among given answers.
///
/// # Errors
/// [`Error`] naming the bundle, file or option.
pub fn generate(args: &GenerateArgs, console: &mut Console) -> Result<()> {
    console.for_programs(args.json);
    let request = args.request()?;
    let (bundle, engine) = library::open(&args.bundle, args.device.options(), console)?;
    let policy = bundle.policy().map(|calibrated| &calibrated.policy);
    if !args.options.is_empty() {
        let normalise = if args.normalise { Normalise::Tokens } else { Normalise::Not };
        let options = ChooseOptions { normalise, ..Default::default() };
        let choice = engine.choose(&request, &args.options, &options, policy)?;
        return print_choice(args, &choice, console);
    }
    let mut broken = Ok(());
    let generation = engine.generate(&request, policy, &mut |token| {
        if !args.json {
            broken = console.piece(token.text);
        }
        if broken.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    broken?;
    console.result(&of_generation(&generation), [""])?;
    if args.json { Ok(()) } else { console.aside().line(in_words(&generation)) }
}

fn print_choice(args: &GenerateArgs, choice: &Choice, console: &mut Console) -> Result<()> {
    let answers = || args.options.iter().zip(&choice.answers);
    let of_answer = |(text, answer): (&String, &ScoredAnswer)| {
        json!({
            "text": text,
            "score": answer.score,
            "log_likelihood": answer.log_likelihood,
            "probability": answer.probability,
            "token_ids": answer.token_ids,
            "log_probabilities": log_probabilities(&answer.signals),
        })
    };
    let facts = json!({
        "text": args.options[choice.best],
        "answers": answers().map(of_answer).collect::<Vec<_>>(),
        "decision": decided(choice.decision.as_ref()),
        "prompt_tokens": choice.prompt_tokens,
        "cached_tokens": choice.cached_tokens,
        "computed_tokens": choice.computed_tokens,
        "timings": timed(&choice.timings),
    });
    console.result(&facts, [&args.options[choice.best]])?;
    if args.json {
        return Ok(());
    }
    let mut aside = console.aside();
    for (text, answer) in answers() {
        let share = 100.0 * answer.probability;
        aside.line(format!("{share:5.1} %  {:9.3} nats  {text}", answer.log_likelihood))?;
    }
    Ok(())
}

/// Everything that is known about a generation.
pub(crate) fn of_generation(generation: &Generation) -> Value {
    let of = |value: fn(&TokenSignals) -> f32| generation.signals.iter().map(value).collect::<Vec<_>>();
    json!({
        "text": generation.text,
        "token_ids": generation.token_ids,
        "log_probabilities": log_probabilities(&generation.signals),
        "margins": of(|signals| signals.margin),
        "entropies": of(|signals| signals.entropy),
        "finish": generation.finish.name(),
        "decision": decided(generation.decision.as_ref()),
        "prompt_tokens": generation.prompt_tokens,
        "cached_tokens": generation.cached_tokens,
        "forgotten_tokens": generation.forgotten_tokens,
        "saved_tokens": generation.saved_tokens,
        "seed": generation.seed,
        "timings": timed(&generation.timings),
    })
}

fn log_probabilities(signals: &[TokenSignals]) -> Vec<f32> {
    signals.iter().map(|signals| signals.log_probability).collect()
}

fn decided(decision: Option<&Decision>) -> Value {
    decision.map_or(Value::Null, |decision| {
        json!({
            "verdict": decision.verdict.to_string(),
            "score": decision.score.map(|score| score.value()),
            "threshold": decision.threshold.to_string(),
        })
    })
}

/// In seconds.
fn timed(timings: &Timings) -> Value {
    json!({
        "queue": timings.queue.as_secs_f64(),
        "prefill": timings.prefill.as_secs_f64(),
        "decode": timings.decode.as_secs_f64(),
    })
}

/// How sure the model was, and how fast, in one line.
pub(crate) fn in_words(generation: &Generation) -> String {
    let count = generation.signals.len().max(1);
    let mean = generation.signals.iter().map(|signals| f64::from(signals.log_probability)).sum::<f64>() / count as f64;
    let verdict = generation.decision.as_ref().map(|decision| format!(", {}", decision.verdict)).unwrap_or_default();
    let (written, took) = (generation.token_ids.len(), generation.timings.decode.as_secs_f64());
    format!(
        "[{written} tokens ({}), {:.0} % sure of each on average ({mean:.2} nats){verdict}; prompt {} tokens, {} known, in {:.0} ms; {:.1} tokens/s]",
        generation.finish.name(),
        100.0 * mean.exp(),
        generation.prompt_tokens,
        generation.cached_tokens,
        generation.timings.prefill.as_secs_f64() * 1e3,
        // The first token comes with the prompt.
        written.saturating_sub(1) as f64 / took.max(1e-9),
    )
}
