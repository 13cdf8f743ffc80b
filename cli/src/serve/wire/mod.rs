//! The JSON of OpenAI's API, as a server reads and writes it.
//!
//! A parameter that would change the answer and is not supported is refused rather than ignored; what is not known is ignored,
//! as clients send ever more.

pub(super) mod answer;
pub(super) mod chat;
mod refusal;
pub(super) mod text;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use margay::GenerateOptions;
use serde::Deserialize;
use serde_json::{Value, json};

pub(super) use self::refusal::Refusal;

/// What both kinds of question may say about how an answer is drawn and comes.
#[derive(Deserialize)]
pub(super) struct Manner {
    #[serde(default)]
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    n: Option<u32>,
    stop: Option<Stop>,
    seed: Option<Value>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<usize>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    frequency_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    logit_bias: Option<Value>,
    margay: Option<Wish>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Several(Vec<String>),
}

/// The `margay` object of a question.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    /// Which threshold applies.
    task: Option<String>,
    /// Which budget applies.
    class: Option<String>,
    /// Whether the device's text is shown before it is known to stand.
    #[serde(default)]
    stream: Mode,
    /// Whether nothing may leave the device.
    #[serde(default)]
    local_only: bool,
    /// Longest wait for the whole answer, in milliseconds.
    deadline_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    #[default]
    Hold,
    Optimistic,
}

/// How an answer is to be written down.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    pub(super) streamed: bool,
    pub(super) include_usage: bool,
    pub(super) log_probabilities: bool,
}

impl Manner {
    /// # Errors
    /// [`Refusal`] naming the parameter that is not supported or out of its range.
    fn check(&self) -> Result<(), Refusal> {
        let asked = |value: Option<f64>| value.is_some_and(|value| value != 0.0);
        let biased = self.logit_bias.as_ref().is_some_and(|bias| !bias.is_null() && *bias != json!({}));
        for (unsupported, parameter) in [
            (self.n.is_some_and(|n| n != 1), "n"),
            (asked(self.frequency_penalty), "frequency_penalty"),
            (asked(self.presence_penalty), "presence_penalty"),
            (biased, "logit_bias"),
        ] {
            if unsupported {
                return Err(Refusal::unsupported(parameter));
            }
        }
        if self.stream_options.is_some() && !self.streamed() {
            return Err(Refusal::parameter("stream_options", "is only for answers that are streamed"));
        }
        Ok(())
    }

    fn streamed(&self) -> bool {
        self.stream.unwrap_or(false)
    }

    fn form(&self, log_probabilities: bool) -> Form {
        let include_usage = self.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or(false);
        Form { streamed: self.streamed(), include_usage, log_probabilities }
    }

    /// Options and wishes, put into a request.
    fn apply(self, mut request: margay::Request) -> Result<super::model::Question, Refusal> {
        let Wish { task, class, stream, local_only, deadline_ms } = self.margay.unwrap_or_default();
        let options: &mut GenerateOptions = &mut request.options;
        let sampling = &mut options.sampling;
        sampling.temperature = self.temperature.unwrap_or(sampling.temperature);
        (sampling.top_p, sampling.top_k, sampling.min_p) = (self.top_p, self.top_k, self.min_p);
        sampling.repetition_penalty = self.repetition_penalty.unwrap_or(sampling.repetition_penalty);
        sampling.seed = match self.seed {
            None | Some(Value::Null) => None,
            // Any whole number will do: a negative one by its bits.
            Some(seed) => match (seed.as_u64(), seed.as_i64()) {
                (Some(seed), _) => Some(seed),
                (None, Some(seed)) => Some(u64::from_ne_bytes(seed.to_ne_bytes())),
                (None, None) => return Err(Refusal::parameter("seed", "is not a whole number of 64 bits")),
            },
        };
        options.stop = match self.stop {
            None => Vec::new(),
            Some(Stop::One(stop)) => vec![stop],
            Some(Stop::Several(stops)) => stops,
        };
        options.check()?;
        (request.task, request.class) = (task, class);
        if let Some(after) = deadline_ms {
            request.deadline = margay::Deadline::after(Duration::from_millis(after));
        }
        let mode = match stream {
            Mode::Hold => margay::Stream::Hold,
            Mode::Optimistic => margay::Stream::Optimistic,
        };
        Ok(super::model::Question { request, mode, local_only, log_probabilities: false })
    }
}

/// One model, as `GET /v1/models/NAME` shows it.
pub(super) fn model(name: &str, since: u64) -> Value {
    json!({"id": name, "object": "model", "created": since, "owned_by": "margay"})
}

/// The list of the one model that is served.
pub(super) fn models(name: &str, since: u64) -> Value {
    json!({"object": "list", "data": [model(name, since)]})
}

/// Unix time, in seconds; zero on a clock that stands before 1970.
pub(super) fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).as_ref().map_or(0, Duration::as_secs)
}

/// Reads a body as the JSON of a question.
fn read<T: for<'de> Deserialize<'de>>(body: &[u8], what: &str) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal::invalid(format!("the body is not a {what} request: {error}")))
}
