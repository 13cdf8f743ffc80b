//! A large model behind HTTP: many rows in flight, each asked for once, counted and paid for.
//!
//! vLLM scores a prompt in one request; llama.cpp is stepped token by token and keeps the prompt; of any other
//! OpenAI-compatible server only the answer is known.

mod http;
mod llama;
mod text;
mod vllm;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::journal::{Journal, Spent};
use super::record::{CacheInfo, Record};
use crate::data::{Corpus, Encoded, Example, PromptFormat};
use crate::error::{Error, ErrorKind, Result};

pub use http::Retry;

/// What a server is able to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerKind {
    /// `prompt_logprobs` of vLLM.
    Vllm,
    /// `/completion` of llama.cpp's server.
    LlamaCpp,
    /// Answers only.
    Text,
}

/// Where the large model is and how it is asked.
#[derive(Debug, Clone)]
pub struct EndpointOptions {
    /// Base address, e.g. `https://llm.example.com/v1`.
    pub url: String,
    /// The model's name there.
    pub model: String,
    /// What the server is; found out unless given.
    pub kind: Option<ServerKind>,
    /// Bearer token.
    pub key: Option<String>,
    /// Rows in flight.
    pub in_flight: usize,
    /// Likeliest tokens kept per target token, where the vocabulary is the small model's.
    pub top_k: usize,
    /// Whether answers are asked for too, which `seq-kd` needs.
    pub answers: bool,
    /// Money for a million tokens read and written.
    pub price: Price,
    /// Most that may be spent, in the unit of the price.
    pub most: Option<f64>,
    /// How often and how patiently a failed exchange is repeated.
    pub retry: Retry,
    /// Longest wait for one answer.
    pub timeout: Duration,
}

/// Money for a million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Price {
    /// Read by the server.
    pub tokens_in: f64,
    /// Written by the server.
    pub tokens_out: f64,
}

impl Price {
    /// What was spent, in money.
    #[must_use]
    pub fn of(&self, spent: Spent) -> f64 {
        (spent.tokens_in as f64 * self.tokens_in + spent.tokens_out as f64 * self.tokens_out) / 1e6
    }
}

/// A server that was found.
#[derive(Debug)]
pub struct Endpoint {
    http: Arc<http::Http>,
    options: EndpointOptions,
    kind: ServerKind,
    /// Whether its token ids are the small model's.
    same_vocabulary: bool,
    runtime: tokio::runtime::Runtime,
}

/// One row as it is asked for.
#[derive(Debug, Clone)]
struct Question {
    encoded: Encoded,
    example: Example,
    /// Prompt as the large model's template gives it.
    prompt: String,
    /// The target as it follows the prompt.
    target: String,
    /// Bytes of the target that each of its tokens covers, the end behind the last.
    spans: Vec<std::ops::Range<usize>>,
}

impl Endpoint {
    /// Finds out what the server is and whether it shares the small model's vocabulary.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for an address that is none; [`ErrorKind::Endpoint`] when nobody answers.
    pub fn find(options: EndpointOptions, small: &PromptFormat) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| Error::new(ErrorKind::Io, format!("cannot start the client: {e}")))?;
        let http = Arc::new(http::Http::new(&options)?);
        let (kind, same_vocabulary) = runtime.block_on(async {
            let kind = match options.kind {
                Some(kind) => kind,
                None if llama::answers(&http).await => ServerKind::LlamaCpp,
                None if vllm::answers(&http).await => ServerKind::Vllm,
                None => ServerKind::Text,
            };
            let mut same = kind != ServerKind::Text;
            for text in PROBES {
                let own = small.tokenizer().encode(text)?;
                same = same
                    && match kind {
                        ServerKind::LlamaCpp => llama::tokenize(&http, text).await?.ids() == own,
                        ServerKind::Vllm => vllm::tokenize(&http, &options.model, text).await? == own,
                        ServerKind::Text => false,
                    };
            }
            Ok::<_, Error>((kind, same))
        })?;
        Ok(Self { http, options, kind, same_vocabulary, runtime })
    }

    /// What the server is.
    #[must_use]
    pub fn kind(&self) -> ServerKind {
        self.kind
    }

    /// Whether its token ids are the small model's, so that its distribution can be learned from.
    #[must_use]
    pub fn shares_vocabulary(&self) -> bool {
        self.same_vocabulary
    }

    /// What a cache of this server's records says about itself.
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`].
    pub fn info(&self, small: &PromptFormat) -> Result<CacheInfo> {
        let shared = self.same_vocabulary && self.kind != ServerKind::Text;
        Ok(CacheInfo {
            k: if shared { self.options.top_k } else { 0 },
            vocabulary: if shared { small.tokenizer().vocabulary_size() } else { 0 },
            tokenizer: small.tokenizer().fingerprint()?,
            template: small.fingerprint(),
            flops_per_token: 0.0,
        })
    }

    /// Tokens and requests that the rows will take, by the small model's count.
    ///
    /// # Errors
    /// Those of reading a row.
    pub fn estimate(&self, rows: &Asked<'_>, journal: &Journal) -> Result<Spent> {
        let mut estimate = Spent::default();
        rows.each(&mut |_, encoded, _| {
            if !journal.has(encoded.key()) {
                estimate += self.expected(encoded);
            }
            Ok(())
        })?;
        Ok(estimate)
    }

    fn expected(&self, row: &Encoded) -> Spent {
        let (prompt, target) = (row.prompt.len() as u64, row.target.len() as u64);
        let scored = match self.kind {
            ServerKind::Vllm => Spent { requests: 1, tokens_in: prompt + target, tokens_out: 1 },
            // The prompt is kept: of every further step only one token is new.
            ServerKind::LlamaCpp => Spent { requests: target, tokens_in: prompt + target, tokens_out: target },
            ServerKind::Text => Spent { requests: 1, tokens_in: prompt, tokens_out: target },
        };
        let mut expected = scored;
        if self.options.answers && self.kind != ServerKind::Text {
            expected += Spent { requests: 1, tokens_in: prompt, tokens_out: target };
        }
        expected
    }

    /// Asks for every row that the journal does not have, and keeps each answer as it comes.
    ///
    /// # Errors
    /// [`ErrorKind::Endpoint`] when a row fails for good or the most that may be spent is reached; what was answered is in
    /// the journal, and the next call goes on from there.
    pub fn annotate(
        &self,
        rows: &Asked<'_>,
        journal: &mut Journal,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(usize, Spent),
    ) -> Result<()> {
        let mut flight: JoinSet<Result<(Record, Spent)>> = JoinSet::new();
        let price = self.options.price;
        let mut land = |landed: Result<(Record, Spent)>, journal: &mut Journal| {
            let (record, spent) = landed?;
            journal.append(&record, spent)?;
            progress(journal.rows(), journal.spent());
            Ok::<_, Error>(())
        };
        let next = |flight: &mut JoinSet<_>| {
            let joined = self.runtime.block_on(flight.join_next());
            joined.map(|joined| joined.unwrap_or_else(|e| Err(Error::new(ErrorKind::Endpoint, format!("{e}")))))
        };
        let asked = rows.each(&mut |example, encoded, slot| {
            if journal.has(encoded.key()) {
                return Ok(());
            }
            if stop.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::Endpoint, "stopped; what was answered is kept"));
            }
            if let Some(most) = self.options.most {
                // What is in flight counts at what it is expected to cost.
                let soon = price.of(journal.spent()) + flight.len() as f64 * price.of(self.expected(encoded));
                if soon + price.of(self.expected(encoded)) > most {
                    let message = format!("the next row would pass the most that may be spent, {most}");
                    return Err(Error::new(ErrorKind::Endpoint, message));
                }
            }
            while flight.len() >= self.options.in_flight {
                if let Some(landed) = next(&mut flight) {
                    land(landed, journal)?;
                }
            }
            let question = rows.question(example, encoded)?;
            let _inside = self.runtime.enter();
            flight.spawn(ask(self.http.clone(), self.options.clone(), self.kind, self.same_vocabulary, question, slot));
            Ok(())
        });
        // What is in flight is paid for: it is kept even when something else failed.
        let mut failed = asked.err();
        while let Some(landed) = next(&mut flight) {
            if let Err(e) = land(landed, journal) {
                failed = failed.or(Some(e));
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Texts that two tokenizers of different vocabularies hardly encode alike.
const PROBES: [&str; 3] = [
    "The quick brown fox jumps over the lazy dog, 1234567 times.",
    "def f(x):\n    return x ** 2  # Gr\u{fc}\u{df}e, \u{441}\u{43F}\u{430}\u{441}\u{438}\u{431}\u{43E}",
    "\u{5C71}\u{732B}\u{306F}\u{6728}\u{306E}\u{4E0A}\u{3067}\u{7720}\u{308B} \u{1F408}\u{200D}\u{2B1B}",
];

/// The rows that are asked for.
#[derive(Debug)]
pub struct Asked<'a> {
    /// The rows.
    pub corpora: Vec<&'a Corpus>,
    /// How the small model encodes them, which is what the cache knows them by.
    pub small: &'a PromptFormat,
    /// How they are put to the large model.
    pub large: &'a PromptFormat,
    /// Longest sequence of the small model.
    pub context: usize,
    /// Whether rows that cannot be encoded are passed over.
    pub skip: bool,
}

impl Asked<'_> {
    fn each(&self, of: &mut dyn FnMut(&Example, &Encoded, usize) -> Result<()>) -> Result<()> {
        let mut number = 0;
        for corpus in &self.corpora {
            for row in 0..corpus.len() {
                let example = corpus.example(row)?;
                match self.small.encode(&example, self.context) {
                    Ok(encoded) => of(&example, &encoded, number)?,
                    Err(e) if self.skip && e.kind() == ErrorKind::Data => {}
                    Err(e) => return Err(Error::new(e.kind(), format!("{}: {e}", corpus.place(row)))),
                }
                number += 1;
            }
        }
        Ok(())
    }

    fn question(&self, example: &Example, encoded: &Encoded) -> Result<Question> {
        let target = self.large.target_text(&example.target);
        let own = self.small.target_text(&example.target);
        let mut spans = self.small.tokenizer().spans(&own)?;
        // The two formats may differ in what separates prompt and target.
        let shift = target.len() as isize - own.len() as isize;
        let moved = |at: usize| at.saturating_add_signed(shift);
        spans.iter_mut().for_each(|span| *span = moved(span.start)..moved(span.end));
        spans.push(target.len()..target.len());
        let prompt = self.large.prompt_text(example)?;
        Ok(Question { encoded: encoded.clone(), example: example.clone(), prompt, target, spans })
    }
}

async fn ask(
    http: Arc<http::Http>,
    options: EndpointOptions,
    kind: ServerKind,
    same_vocabulary: bool,
    question: Question,
    slot: usize,
) -> Result<(Record, Spent)> {
    let (mut record, mut spent) = match kind {
        ServerKind::Vllm => vllm::annotate(&http, &options, same_vocabulary, &question).await,
        ServerKind::LlamaCpp => llama::annotate(&http, &options, same_vocabulary, &question, slot).await,
        ServerKind::Text => text::annotate(&http, &options, &question).await,
    }?;
    if options.answers && record.answer.is_none() {
        let (answer, cost) = text::answer(&http, &options, &question).await?;
        record.answer = Some(answer);
        spent += cost;
    }
    Ok((record, spent))
}
