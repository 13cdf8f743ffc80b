//! Whoever wants each token as it is written.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::error::{CallbackError, MargayError, invalid};

/// One token as it is written. Its texts together are the answer's.
#[derive(Debug, Clone, uniffi::Record)]
pub struct Token {
    /// The token.
    pub id: u32,
    /// The text that is certain with it, perhaps empty.
    pub text: String,
    /// Its log-probability, in nats.
    pub log_probability: f32,
    /// Log-probability of the likeliest token less that of the second.
    pub margin: f32,
    /// Entropy of the distribution, in nats.
    pub entropy: f32,
    /// Whether it is the stop token that ends the answer, which is no part of it.
    pub is_stop: bool,
}

/// Takes tokens as they are written. It must not ask a model.
#[uniffi::export(with_foreign)]
pub trait TokenListener: Send + Sync {
    /// One more; whether to go on. A failure ends the answer too.
    fn on_token(&self, token: Token) -> Result<bool, CallbackError>;
}

thread_local! {
    static LISTENING: Cell<bool> = const { Cell::new(false) };
}

/// Hands a token to whoever listens.
pub(crate) fn tell(listener: Option<&Arc<dyn TokenListener>>, token: &margay::Token<'_>) -> ControlFlow<()> {
    let Some(listener) = listener else { return ControlFlow::Continue(()) };
    let token = Token {
        id: token.id,
        text: token.text.to_owned(),
        log_probability: token.signals.log_probability,
        margin: token.signals.margin,
        entropy: token.signals.entropy,
        is_stop: token.is_stop,
    };
    LISTENING.set(true);
    let go_on = listener.on_token(token);
    LISTENING.set(false);
    match go_on {
        Ok(true) => ControlFlow::Continue(()),
        Ok(false) | Err(CallbackError::Failed { .. }) => ControlFlow::Break(()),
    }
}

/// Fails inside a listener: whoever asks there would wait for itself.
pub(crate) fn check() -> Result<(), MargayError> {
    if LISTENING.get() { Err(invalid("a listener must not ask a model: it would wait for itself")) } else { Ok(()) }
}
