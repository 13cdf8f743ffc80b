//! A reply, and the account of it that every answer carries.

use margay::cloud::CloudAnswer;
use margay::policy::TokenSignals;
use margay::{Alternative, Answer, AnswerToken, Engine, Error, Finish, Origin, Result, Tokens, ToolCall};
use serde::Serialize;

/// An answer as the protocol needs it.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) text: String,
    pub(crate) tool_calls: Vec<ToolCall>,
    /// The tokens of a device's answer, if they were asked for.
    pub(crate) tokens: Option<Vec<TokenText>>,
    /// `stop`, `length`, `tool_calls` or `content_filter`.
    pub(crate) finish: &'static str,
    /// What whoever answered read and wrote, if that is known.
    pub(crate) used: Option<Tokens>,
    pub(crate) account: Account,
}

/// A token in words, with its log-probability in nats and the likeliest ones in its place.
#[derive(Debug, Clone)]
pub(crate) struct TokenText {
    pub(crate) text: String,
    pub(crate) log_probability: f32,
    pub(crate) alternatives: Vec<(String, f32)>,
}

/// Who answered and why: the `margay` object of every answer.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Account {
    /// `local`, `cloud` or `abstained`.
    pub(crate) origin: &'static str,
    /// The device's confidence.
    pub(crate) score: Option<f32>,
    /// What the score was held against; nothing if that is infinite.
    pub(crate) threshold: Option<f32>,
    /// The rule behind both.
    pub(crate) rule: Option<String>,
    /// Why the device's answer did not simply stand.
    pub(crate) reason: Option<&'static str>,
    /// What the cloud failed with, if it was asked and did.
    pub(crate) cloud_error: Option<String>,
    /// Digest of the model on the device.
    pub(crate) model_digest: Option<String>,
    /// What it took, in tokens.
    pub(crate) usage: BothTokens,
    /// What the cloud cost, in units of the price table's currency, if a budget stands before it.
    pub(crate) cost: Option<String>,
    /// Tokens that the device was spared, at most.
    pub(crate) saved_tokens: u64,
    /// Exchanges with the cloud.
    pub(crate) attempts: u32,
    /// What it took, in seconds.
    pub(crate) seconds: Seconds,
}

/// Tokens on both sides.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct BothTokens {
    /// On the device.
    pub(crate) local: Option<Tokens>,
    /// In the cloud.
    pub(crate) cloud: Option<Tokens>,
}

/// Where the time went.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Seconds {
    /// On the device, waiting for its turn included.
    pub(crate) local: Option<f64>,
    /// Waiting for the cloud.
    pub(crate) cloud: Option<f64>,
    /// From the question to the answer.
    pub(crate) total: f64,
}

impl Reply {
    /// Nothing at all, of the device.
    pub(crate) fn empty() -> Self {
        let account = Account { origin: Origin::Local.name(), ..Account::default() };
        Self { text: String::new(), tool_calls: Vec::new(), tokens: None, finish: "length", used: None, account }
    }

    /// A cascade's answer; its tokens in words if `named`.
    pub(super) fn of_answer(answer: Answer, engine: &Engine, named: bool) -> Result<Self> {
        let local = answer.origin == Origin::Local;
        let tokens = (named && local).then(|| TokenText::all(engine, &answer.tokens)).transpose()?;
        let finish = match answer.finish {
            Some(finish) => of_device(finish),
            None => of_cloud(answer.finish_reason.as_deref(), &answer.tool_calls),
        };
        let threshold = answer.threshold.value();
        let account = Account {
            origin: answer.origin.name(),
            score: answer.score.map(|score| score.value()),
            threshold: threshold.is_finite().then_some(threshold),
            rule: Some(answer.rule.to_string()),
            reason: answer.reason.map(|reason| reason.as_str()),
            cloud_error: answer.cloud_error.as_ref().map(in_a_word),
            model_digest: Some(answer.model_digest.to_string()),
            usage: BothTokens { local: Some(answer.usage.local), cloud: answer.usage.cloud },
            cost: answer.cost.map(|cost| cost.to_string()),
            saved_tokens: answer.saved_tokens,
            attempts: answer.attempts,
            seconds: Seconds {
                local: Some(answer.timings.local.as_secs_f64()),
                cloud: answer.timings.cloud.map(|cloud| cloud.as_secs_f64()),
                total: answer.timings.total.as_secs_f64(),
            },
        };
        let used = if answer.origin == Origin::Cloud { answer.usage.cloud } else { Some(answer.usage.local) };
        Ok(Self { text: answer.text, tool_calls: answer.tool_calls, tokens, finish, used, account })
    }

    /// The answer of a large model that was asked directly.
    pub(super) fn of_cloud(answer: CloudAnswer, seconds: f64, reason: Option<&'static str>) -> Self {
        let account = Account {
            origin: Origin::Cloud.name(),
            reason,
            usage: BothTokens { local: None, cloud: answer.usage },
            cost: answer.cost.map(|cost| cost.to_string()),
            attempts: answer.attempts,
            seconds: Seconds { local: None, cloud: Some(seconds), total: seconds },
            ..Account::default()
        };
        let finish = of_cloud(answer.finish_reason.as_deref(), &answer.tool_calls);
        let CloudAnswer { text, tool_calls, usage, .. } = answer;
        Self { text, tool_calls, tokens: None, finish, used: usage, account }
    }
}

impl TokenText {
    fn all(engine: &Engine, tokens: &[AnswerToken]) -> Result<Vec<Self>> {
        tokens.iter().map(|token| Self::of(engine, token.id, &token.signals, &token.alternatives)).collect()
    }

    /// One token, and the likeliest in its place.
    pub(super) fn of(engine: &Engine, id: u32, signals: &TokenSignals, alternatives: &[Alternative]) -> Result<Self> {
        let named = alternatives.iter().map(|other| Ok((engine.token_text(other.id)?, other.log_probability)));
        Ok(Self {
            text: engine.token_text(id)?,
            log_probability: signals.log_probability,
            alternatives: named.collect::<Result<_>>()?,
        })
    }
}

/// OpenAI's word for the end of a device's answer.
pub(super) fn of_device(finish: Finish) -> &'static str {
    if finish == Finish::Length { "length" } else { "stop" }
}

/// OpenAI's word for what a server of any API gave as the reason.
fn of_cloud(reason: Option<&str>, calls: &[ToolCall]) -> &'static str {
    match reason.map(str::to_ascii_lowercase).as_deref() {
        _ if !calls.is_empty() => "tool_calls",
        Some("length" | "max_tokens" | "model_context_window_exceeded") => "length",
        Some("content_filter" | "refusal" | "safety" | "recitation" | "blocklist" | "prohibited_content" | "spii") => {
            "content_filter"
        }
        _ => "stop",
    }
}

/// An error's kind, as the words of its name: `rate-limited`. Its message may name what a client of this server need not know.
fn in_a_word(error: &Error) -> String {
    let mut word = String::new();
    for letter in format!("{:?}", error.kind()).chars() {
        if letter.is_ascii_uppercase() && !word.is_empty() {
            word.push('-');
        }
        word.push(letter.to_ascii_lowercase());
    }
    word
}
