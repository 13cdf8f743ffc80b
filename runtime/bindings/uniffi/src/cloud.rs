//! The large model behind HTTPS, with the app's tokens and redactor.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use margay::cloud::{BoxFuture, CloudClient, Retry, Roots, SpkiPin, Wanted};
use margay::privacy::{Patterns, Vault};

use crate::error::{CallbackError, MargayError};

/// A large model behind HTTPS.
#[derive(Debug, uniffi::Object)]
pub struct Cloud(pub(crate) Arc<CloudClient>);

/// The large model and the way to it.
#[derive(Debug, Clone, uniffi::Record)]
pub struct CloudOptions {
    /// Base address, e.g. `https://api.example.com/v1`; HTTPS only.
    pub endpoint: String,
    /// The model's name there.
    pub model: String,
    /// Whose API the server speaks; OpenAI's unless said.
    #[uniffi(default = None)]
    pub dialect: Option<Dialect>,
    /// Take out e-mail addresses, card numbers, IBANs, IP addresses and phone numbers.
    #[uniffi(default = false)]
    pub redact_patterns: bool,
    /// Believe only the authorities in this PEM text; Mozilla's list unless said.
    #[uniffi(default = None)]
    pub roots_pem: Option<String>,
    /// Believe the operating system's authorities instead.
    #[uniffi(default = false)]
    pub platform_roots: bool,
    /// Pins of the server's public key, `sha256/...`.
    #[uniffi(default = [])]
    pub pins: Vec<String>,
    /// Exchanges for one question at most.
    #[uniffi(default = 3)]
    pub attempts: u32,
    /// Longest wait for a connection; 10 seconds unless said.
    #[uniffi(default = None)]
    pub connect_timeout: Option<Duration>,
    /// Longest wait for one exchange; 120 seconds unless said.
    #[uniffi(default = None)]
    pub attempt_timeout: Option<Duration>,
}

/// Whose API a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum Dialect {
    /// OpenAI's chat completions, which most servers speak.
    OpenAi,
    /// Anthropic's Messages.
    Anthropic,
    /// Google's Gemini.
    Gemini,
}

/// Where tokens come from: the app's own back end, a key store.
#[uniffi::export(with_foreign)]
pub trait TokenProvider: Send + Sync {
    /// The token for one exchange: the present one, or a new one if `renewed`, because the server has just refused the present
    /// one. It may take its time, on a thread of its own; the request's deadline holds all the same.
    fn token(&self, renewed: bool) -> Result<String, CallbackError>;
}

/// A part of a text that must not leave.
#[derive(Debug, Clone, uniffi::Record)]
pub struct Redaction {
    /// What it is, e.g. `NAME`: the large model reads `[NAME_1]` in its place, and its answer gets it back.
    pub label: String,
    /// The part itself, wherever it stands in the text.
    pub part: String,
}

/// What must not leave the device, beside what the built-in patterns find.
#[uniffi::export(with_foreign)]
pub trait Redactor: Send + Sync {
    /// The parts of `text` that must not leave. If it fails, all of the text is taken out.
    fn redact(&self, text: String) -> Result<Vec<Redaction>, CallbackError>;
}

#[uniffi::export]
impl Cloud {
    /// A client of the large model. Nothing is sent yet.
    #[uniffi::constructor(default(token_provider = None, redactor = None))]
    pub fn new(
        options: CloudOptions,
        token_provider: Option<Arc<dyn TokenProvider>>,
        redactor: Option<Arc<dyn Redactor>>,
    ) -> Result<Arc<Self>, MargayError> {
        let (endpoint, model) = (options.endpoint, options.model);
        let mut builder = match options.dialect {
            None | Some(Dialect::OpenAi) => CloudClient::openai(endpoint, model),
            Some(Dialect::Anthropic) => CloudClient::anthropic(endpoint, model),
            Some(Dialect::Gemini) => CloudClient::gemini(endpoint, model),
        };
        let pins = options.pins.iter().map(|pin| pin.parse::<SpkiPin>());
        builder = builder
            .pins(pins.collect::<Result<Vec<_>, _>>()?)
            .retry(Retry { attempts: options.attempts, ..Retry::default() });
        builder = match (options.roots_pem, options.platform_roots) {
            (Some(pem), _) => builder.roots(Roots::Pem(pem.into())),
            (None, true) => builder.roots(Roots::Platform),
            (None, false) => builder,
        };
        if let Some(timeout) = options.connect_timeout {
            builder = builder.connect_timeout(timeout);
        }
        if let Some(timeout) = options.attempt_timeout {
            builder = builder.attempt_timeout(timeout);
        }
        if let Some(provider) = token_provider {
            builder = builder.token(AppTokens(provider));
        }
        if options.redact_patterns || redactor.is_some() {
            let patterns = options.redact_patterns.then(Patterns::built_in);
            builder = builder.redactor(AppRedactor { patterns, redactor });
        }
        Ok(Arc::new(Self(Arc::new(builder.build()?))))
    }
}

struct AppTokens(Arc<dyn TokenProvider>);

impl margay::cloud::TokenProvider for AppTokens {
    fn token(&self, wanted: Wanted) -> BoxFuture<'_, Result<margay::cloud::Token, Box<dyn StdError + Send + Sync>>> {
        let provider = Arc::clone(&self.0);
        Box::pin(async move {
            // An app may fetch it from afar: whoever waits for other answers is not held up by that.
            let token = tokio::task::spawn_blocking(move || provider.token(wanted == Wanted::Renewed)).await??;
            Ok(margay::cloud::Token::new(token))
        })
    }
}

struct AppRedactor {
    patterns: Option<Patterns>,
    redactor: Option<Arc<dyn Redactor>>,
}

impl margay::privacy::Redactor for AppRedactor {
    fn redact(&self, text: &str, vault: &mut Vault) -> String {
        let parts = match &self.redactor {
            None => Vec::new(),
            Some(redactor) => match redactor.redact(text.to_owned()) {
                Ok(parts) => parts,
                Err(_) => return vault.placeholder("REDACTED", text),
            },
        };
        let keep = |kept: &str, vault: &mut Vault| match &self.patterns {
            Some(patterns) => margay::privacy::Redactor::redact(patterns, kept, vault),
            None => kept.to_owned(),
        };
        let mut redacted = String::with_capacity(text.len());
        let mut rest = text;
        // The leftmost part first, and of those that begin there the longest.
        while let Some((at, part)) = first(rest, &parts) {
            let (before, found) = rest.split_at(at);
            redacted.push_str(&keep(before, vault));
            redacted.push_str(&vault.placeholder(&part.label, &part.part));
            rest = found.get(part.part.len()..).unwrap_or_default();
        }
        redacted.push_str(&keep(rest, vault));
        redacted
    }
}

fn first<'a>(text: &str, parts: &'a [Redaction]) -> Option<(usize, &'a Redaction)> {
    let found = parts.iter().filter(|part| !part.part.is_empty());
    let found = found.filter_map(|part| text.find(&part.part).map(|at| (at, part)));
    found.min_by_key(|(at, part)| (*at, std::cmp::Reverse(part.part.len())))
}
