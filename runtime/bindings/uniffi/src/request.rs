//! Requests: a conversation, its limits, and the way to stop it from anywhere.

use std::sync::Arc;
use std::time::Duration;

use margay::{Constraint, Deadline, GenerateOptions, Overflow, Privacy};

use crate::error::{MargayError, invalid};

/// One turn of a conversation.
#[derive(Debug, Clone, uniffi::Record)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The text of the turn.
    pub content: String,
}

/// How a token is drawn. The default is the likeliest each time.
#[derive(Debug, Clone, uniffi::Record)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the likeliest token.
    #[uniffi(default = 0.0)]
    pub temperature: f32,
    /// Only so many of the likeliest tokens.
    #[uniffi(default = None)]
    pub top_k: Option<u32>,
    /// Only the likeliest tokens that together have this probability.
    #[uniffi(default = None)]
    pub top_p: Option<f32>,
    /// Only tokens at least this many times as likely as the likeliest.
    #[uniffi(default = None)]
    pub min_p: Option<f32>,
    /// How much less likely tokens become that were there before; 1 is not at all.
    #[uniffi(default = 1.0)]
    pub repetition_penalty: f32,
    /// Where random numbers begin; a new one each time unless said.
    #[uniffi(default = None)]
    pub seed: Option<u64>,
}

/// One question to a model or a cascade.
#[derive(Debug, Clone, uniffi::Record)]
pub struct Request {
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// Which threshold applies; the policy's default task unless said.
    #[uniffi(default = None)]
    pub task: Option<String>,
    /// Longest answer, in tokens.
    #[uniffi(default = 256)]
    pub max_tokens: u32,
    /// How long the whole query may take, cloud included, from when it is asked.
    #[uniffi(default = None)]
    pub deadline: Option<Duration>,
    /// How the device draws its answer.
    #[uniffi(default = None)]
    pub sampling: Option<Sampling>,
    /// Texts that end the answer.
    #[uniffi(default = [])]
    pub stop: Vec<String>,
    /// Forget the middle of a conversation that outgrows the context, but for so many tokens at its beginning; it is refused
    /// unless said.
    #[uniffi(default = None)]
    pub slide_keep: Option<u32>,
    /// The messages' contents are the prompt as they are: no chat template.
    #[uniffi(default = false)]
    pub raw_prompt: bool,
    /// May go to the cloud, but is never written down.
    #[uniffi(default = false)]
    pub transient: bool,
    /// Which budget limits apply beside the total ones.
    #[uniffi(default = None)]
    pub budget_class: Option<String>,
    /// What lets the cloud recognise a repeated question; a new key for every one unless said.
    #[uniffi(default = None)]
    pub idempotency_key: Option<String>,
    /// A JSON schema that the device's answer obeys.
    #[uniffi(default = None)]
    pub json_schema: Option<String>,
    /// A regular expression that the device's answer matches from beginning to end.
    #[uniffi(default = None)]
    pub regex: Option<String>,
    /// Stops it.
    #[uniffi(default = None)]
    pub cancel: Option<Arc<Cancel>>,
}

/// Stops every request that has it, from any thread, for ever.
#[derive(Debug, Default, uniffi::Object)]
pub struct Cancel(margay::Cancel);

#[uniffi::export]
impl Cancel {
    /// One that stops nothing yet.
    #[uniffi::constructor]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Stops them: within one decode step, or at once if they wait for their turn or the cloud.
    pub fn cancel(&self) {
        self.0.cancel();
    }

    /// Whether they were stopped.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}

impl Request {
    /// The request as the runtime has it, with its deadline beginning now.
    pub(crate) fn ask(self) -> Result<margay::Request, MargayError> {
        let sampling = match self.sampling {
            None => margay::Sampling::default(),
            Some(sampling) => margay::Sampling {
                temperature: sampling.temperature,
                top_k: sampling.top_k.map(|k| k as usize),
                top_p: sampling.top_p,
                min_p: sampling.min_p,
                repetition_penalty: sampling.repetition_penalty,
                seed: sampling.seed,
            },
        };
        let constraint = match (self.json_schema, self.regex) {
            (None, None) => None,
            (Some(schema), None) => {
                let schema = serde_json::from_str(&schema);
                Some(Constraint::JsonSchema(schema.map_err(|_| invalid("json_schema is not JSON"))?))
            }
            (None, Some(regex)) => Some(Constraint::Regex(regex)),
            (Some(_), Some(_)) => return Err(invalid("json_schema and regex cannot hold at once")),
        };
        let options = GenerateOptions {
            constraint,
            sampling,
            stop: self.stop,
            overflow: match self.slide_keep {
                None => Overflow::Error,
                Some(keep) => Overflow::Slide { keep: keep as usize },
            },
            raw_prompt: self.raw_prompt,
            ..GenerateOptions::default()
        };
        options.check()?;
        let messages = self.messages.into_iter().map(|message| margay::Message::new(message.role, message.content));
        let mut request = margay::Request::messages(messages.collect())
            .max_tokens(self.max_tokens as usize)
            .options(options)
            .deadline(self.deadline.map_or(Deadline::NEVER, Deadline::after));
        (request.task, request.class, request.idempotency_key) = (self.task, self.budget_class, self.idempotency_key);
        if self.transient {
            request.privacy = Privacy::Transient;
        }
        if let Some(cancel) = self.cancel {
            request.cancel = cancel.0.clone();
        }
        Ok(request)
    }
}
