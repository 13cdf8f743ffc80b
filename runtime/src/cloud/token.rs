//! Provider keys: asked for when needed, never stored, never printed.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;

use super::BoxFuture;
use crate::error::{Error, ErrorKind, Result};

/// A token or key on its way into one request. It has no `Display`, and `Debug` hides it.
pub struct Token(String);

impl Token {
    /// Takes the token as the header will carry it, without `Bearer`.
    #[must_use]
    pub fn new(token: impl Into<String>) -> Self {
        Self(token.into())
    }

    /// The same token once more; not `Clone`, so that copies are made on purpose only.
    pub(super) fn again(&self) -> Self {
        Self(self.0.clone())
    }

    pub(super) fn header(&self, before: &str) -> Result<reqwest::header::HeaderValue> {
        let mut value = reqwest::header::HeaderValue::try_from(format!("{before}{}", self.0)).map_err(|_| {
            Error::new(ErrorKind::InvalidRequest, "the token holds characters that a header cannot carry")
        })?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// `text` without the token: servers do echo keys in their error messages.
    pub(crate) fn redact(&self, text: &str) -> String {
        if self.0.is_empty() { text.to_owned() } else { text.replace(&self.0, "[redacted]") }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token([redacted])")
    }
}

/// Which token a client wants from its provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The present one, from the provider's cache if it has any.
    Current,
    /// A new one: the server has just refused the present one.
    Renewed,
}

/// Where tokens come from: the app's own back end, a key store, a metadata service.
///
/// Asked for every request, so that a short-lived token is enough. An async closure will do:
///
/// ```
/// # use margay::cloud::{Token, TokenProvider, Wanted};
/// fn provider() -> impl TokenProvider {
///     |wanted: Wanted| async move {
///         let token = fetch_from_our_back_end(wanted == Wanted::Renewed).await?;
///         Ok(Token::new(token))
///     }
/// }
/// # async fn fetch_from_our_back_end(_: bool) -> Result<String, std::io::Error> { Ok(String::new()) }
/// ```
pub trait TokenProvider: Send + Sync {
    /// The token for one exchange.
    ///
    /// # Errors
    /// Whatever keeps the provider from giving one; the request then fails with
    /// [`ErrorKind::Unauthorized`] and this error as its source.
    fn token(&self, wanted: Wanted) -> BoxFuture<'_, Result<Token, Box<dyn StdError + Send + Sync>>>;
}

impl<F, Answer> TokenProvider for F
where
    F: Fn(Wanted) -> Answer + Send + Sync,
    Answer: Future<Output = Result<Token, Box<dyn StdError + Send + Sync>>> + Send + 'static,
{
    fn token(&self, wanted: Wanted) -> BoxFuture<'_, Result<Token, Box<dyn StdError + Send + Sync>>> {
        Box::pin(self(wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_shows_in_no_rendering() {
        let token = Token::new("sk-planted-secret");
        assert_eq!(format!("{token:?}"), "Token([redacted])");
        assert!(!format!("{:?}", token.header("Bearer ").unwrap()).contains("planted"));
        assert_eq!(token.redact("bad key sk-planted-secret."), "bad key [redacted].");

        let error = Token::new("sk-planted\nsecret").header("").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
        assert!(!format!("{error} {error:?}").contains("planted"));
    }
}
