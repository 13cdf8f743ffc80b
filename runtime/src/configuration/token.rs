//! Where a configured token comes from: asked for every exchange, kept by nobody.

use std::error::Error as StdError;
use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::TokenSection;
use crate::cloud::{BoxFuture, Token, TokenProvider, Wanted};

/// Longest token that is read, in bytes: twice the largest header that servers take.
const MAX_TOKEN_BYTES: u64 = 16 << 10;

type Refusal = Box<dyn StdError + Send + Sync>;

/// A token's source, with its paths as this process sees them.
#[derive(Debug, Clone)]
pub(super) enum Source {
    File(PathBuf),
    Command(Vec<String>),
    Environment(OsString),
}

impl Source {
    pub(super) fn new(section: &TokenSection, path: impl Fn(&Path) -> PathBuf) -> Self {
        match section {
            TokenSection::File(file) => Self::File(path(file)),
            TokenSection::Command(words) => Self::Command(words.clone()),
            TokenSection::Environment(name) => Self::Environment(name.into()),
        }
    }

    fn read(&self, wanted: Wanted) -> Result<Token, Refusal> {
        let text = match self {
            Self::File(path) => {
                let file = std::fs::File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
                take(file)?
            }
            Self::Environment(name) => std::env::var(name)
                .map_err(|error| format!("the variable {} gives no token: {error}", name.display()))?,
            Self::Command(words) => run(words, wanted)?,
        };
        let token = text.trim();
        if token.is_empty() {
            return Err("the token is empty".into());
        }
        Ok(Token::new(token))
    }
}

/// What a program prints; what it complains about goes where ours do, and not into errors.
fn run(words: &[String], wanted: Wanted) -> Result<String, Refusal> {
    let (program, arguments) = words.split_first().ok_or("the token's command is empty")?;
    let mut child = Command::new(program)
        .args(arguments)
        .env("MARGAY_TOKEN_WANTED", if wanted == Wanted::Renewed { "renewed" } else { "current" })
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("`{program}` does not start: {error}"))?;
    let out = child.stdout.take().ok_or("the token's command has no output")?;
    let text = take(out);
    let status = child.wait().map_err(|error| format!("`{program}` got lost: {error}"))?;
    if status.success() { text } else { Err(format!("`{program}` ended with {status}").into()) }
}

fn take(from: impl std::io::Read) -> Result<String, Refusal> {
    let mut text = String::new();
    from.take(MAX_TOKEN_BYTES + 1).read_to_string(&mut text).map_err(|error| format!("no token: {error}"))?;
    if text.len() as u64 > MAX_TOKEN_BYTES {
        return Err(format!("the token is over {MAX_TOKEN_BYTES} bytes").into());
    }
    Ok(text)
}

impl TokenProvider for Source {
    fn token(&self, wanted: Wanted) -> BoxFuture<'_, Result<Token, Refusal>> {
        let source = self.clone();
        Box::pin(async move { tokio::task::spawn_blocking(move || source.read(wanted)).await? })
    }
}
