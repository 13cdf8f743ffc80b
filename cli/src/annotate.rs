//! `margay annotate`: what a large model thinks of every training target, from a checkpoint here or a server elsewhere.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use margay_trainer::annotate::endpoint::{Asked, Endpoint, EndpointOptions, Price, Retry, ServerKind};
use margay_trainer::data::{Corpus, Fold, PromptFormat, PromptStyle, Source};
use margay_trainer::recipe::BadRows;
use margay_trainer::training::annotate_with;
use margay_trainer::{Annotations, Backend, Checkpoint, Journal, LocalTeacher, Spent};
use serde::Serialize;
use serde_json::json;

use crate::console::Console;
use crate::error::{Error, Result};
use crate::interrupt;

/// What `margay annotate` is told.
#[derive(Debug, Clone, Args)]
pub struct AnnotateArgs {
    /// Data files, as trainer/DATA.md describes them
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// The annotation cache to make
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Checkpoint folder of the small model: its tokenizer and template are what the cache is for
    #[arg(long, value_name = "DIR")]
    pub small: PathBuf,
    /// Checkpoint folder of the large model, run here
    #[arg(long, value_name = "DIR", conflicts_with = "endpoint", required_unless_present_any = ["endpoint", "cross_fit"])]
    pub checkpoint: Option<PathBuf>,
    /// Checkpoint folders of large models, the i-th trained with data.leave_out fold i: each reads the rows it never saw
    #[arg(long, value_name = "DIR", num_args = 2.., conflicts_with_all = ["checkpoint", "endpoint"])]
    pub cross_fit: Vec<PathBuf>,
    /// Base address of an OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1
    #[arg(long, value_name = "URL", requires = "model")]
    pub endpoint: Option<String>,
    /// The large model's name at the server
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// What the server is: vllm, llama-cpp or text [default: found out]
    #[arg(long, value_name = "KIND", value_parser = server_kind)]
    pub server: Option<ServerKind>,
    /// Checkpoint folder whose template puts rows to the large model [default: that of the small one]
    #[arg(long, value_name = "DIR")]
    pub large_format: Option<PathBuf>,
    /// Environment variable with the server's key
    #[arg(long, value_name = "NAME")]
    pub key_env: Option<String>,
    /// Rows in flight
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub in_flight: usize,
    /// Likeliest tokens kept per target token
    #[arg(long, value_name = "K", default_value_t = 8)]
    pub top_k: usize,
    /// What computes, for --checkpoint: cpu, or a GPU whose feature this program was built with
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    pub backend: Backend,
    /// Ask a server for the large model's own answers too, which seq-kd needs
    #[arg(long)]
    pub answers: bool,
    /// Price of a million tokens that the server reads
    #[arg(long, value_name = "MONEY", default_value_t = 0.0)]
    pub price_in: f64,
    /// Price of a million tokens that the server writes
    #[arg(long, value_name = "MONEY", default_value_t = 0.0)]
    pub price_out: f64,
    /// Most that may be spent
    #[arg(long, value_name = "MONEY")]
    pub max_cost: Option<f64>,
    /// Only say what it would take
    #[arg(long)]
    pub estimate: bool,
    /// Longest sequence of the small model, in tokens
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub context: usize,
    /// The system message before every row
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Put rows as plain text instead of through the chat template
    #[arg(long)]
    pub plain: bool,
    /// Leave malformed rows out instead of refusing the file
    #[arg(long)]
    pub skip_bad_rows: bool,
    /// Print one JSON object: what was annotated, how often the large model hits, what a server was asked and is owed
    #[arg(long)]
    pub json: bool,
}

/// Makes an annotation cache, going on where an earlier process stopped.
///
/// # Errors
/// [`Error`] naming the file, row or address; what was annotated until then is kept.
pub fn annotate(args: &AnnotateArgs, console: &mut Console) -> Result<Option<Annotations>> {
    console.for_programs(args.json);
    if args.out.exists() {
        return Err(Error::Usage(format!("{} is there already", args.out.display())));
    }
    let style = if args.plain { PromptStyle::Plain } else { PromptStyle::Chat };
    let format = |folder: &PathBuf| {
        let checkpoint = Checkpoint::open(folder)?;
        PromptFormat::of(&checkpoint, style, args.system.as_deref())
    };
    let small = format(&args.small)?;
    let sources: Vec<Source> = args.data.iter().map(Source::new).collect();
    let bad_rows = if args.skip_bad_rows { BadRows::Skip } else { BadRows::Refuse };
    let corpus = Corpus::index(&sources, 0.0, bad_rows)?.train;
    console.line(format!("{} rows in {} files", corpus.len(), sources.len()))?;
    for row in &corpus.bad_rows().first {
        console.line(format!("left out: {row}"))?;
    }
    let (annotations, bill) = match (&args.checkpoint, &args.endpoint) {
        _ if !args.cross_fit.is_empty() => (Some(here(args, &args.cross_fit, &small, &corpus, console)?), None),
        (Some(folder), _) => (Some(here(args, std::slice::from_ref(folder), &small, &corpus, console)?), None),
        (None, Some(url)) => {
            let large = args.large_format.as_ref().map(format).transpose()?;
            let asked = Asked {
                corpora: vec![&corpus],
                small: &small,
                large: large.as_ref().unwrap_or(&small),
                context: args.context,
                skip: args.skip_bad_rows,
            };
            let (annotations, bill) = elsewhere(args, url, &asked, console)?;
            (annotations, Some(bill))
        }
        (None, None) => return Err(Error::Usage("name --checkpoint or --endpoint".into())),
    };
    let value = json!({
        "rows": corpus.len(),
        "annotations": annotations.as_ref().map(|annotations| json!({
            "file": args.out.to_string_lossy(),
            "rows": annotations.rows(),
            "tokens": annotations.tokens(),
            "hit_rate": annotations.hit_rate(),
            "exact_match": annotations.exact_match(),
        })),
        "server": bill,
    });
    let line = annotations.as_ref().map(|annotations| {
        format!(
            "{}: {} rows, {} target tokens, of which the large model predicts {:.1} %; it answers {:.1} % of the rows word for word",
            args.out.display(),
            annotations.rows(),
            annotations.tokens(),
            100.0 * annotations.hit_rate(),
            100.0 * annotations.exact_match(),
        )
    });
    console.result(&value, line)?;
    Ok(annotations)
}

/// Reads every row by the large model of its fold.
fn here(
    args: &AnnotateArgs,
    folders: &[PathBuf],
    small: &PromptFormat,
    corpus: &Corpus,
    console: &mut Console,
) -> Result<Annotations> {
    let device = args.backend.device()?;
    let mut journal: Option<Journal> = None;
    let source: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    let bar = console.bar("annotating", corpus.len() as u64);
    let of = folders.len() as u32;
    for (fold, folder) in (0..of).zip(folders) {
        let checkpoint = Checkpoint::open(folder)?;
        if checkpoint.tokenizer()?.fingerprint()? != small.tokenizer().fingerprint()? {
            return Err(Error::Usage(format!(
                "{}: has another tokenizer than {}; serve it and use --endpoint",
                folder.display(),
                args.small.display()
            )));
        }
        let teacher = LocalTeacher::new(&checkpoint.model(&device)?, args.top_k, &device)?;
        let flops = checkpoint.architecture().flops_per_token() as f64;
        let info = teacher.info(small.tokenizer().fingerprint()?, small.fingerprint(), flops);
        let journal = match &mut journal {
            Some(journal) => journal,
            None => journal.insert(Journal::open(&args.out, &info, &source.join(" "))?),
        };
        let rows = corpus.fold(Fold { fold, of });
        annotate_with(&teacher, &rows, small, args.context, args.skip_bad_rows, journal, &mut |rows| {
            bar.advance(rows as u64);
        })?;
    }
    let journal = journal.ok_or_else(|| Error::Usage("name a checkpoint".into()))?;
    Ok(journal.finish()?)
}

/// What a server was asked, and what that costs by the prices given.
#[derive(Serialize)]
struct Bill {
    /// What all that is not annotated yet would take.
    estimate: Paid,
    /// What was paid for, by earlier processes too; with --estimate, by those alone.
    spent: Paid,
}

#[derive(Serialize)]
struct Paid {
    #[serde(flatten)]
    usage: Spent,
    cost: f64,
}

fn elsewhere(
    args: &AnnotateArgs,
    url: &str,
    asked: &Asked<'_>,
    console: &mut Console,
) -> Result<(Option<Annotations>, Bill)> {
    let key = args.key_env.as_ref().map(|name| {
        std::env::var(name).map_err(|_| Error::Usage(format!("--key-env: the variable {name} is not set")))
    });
    let model = args.model.clone().unwrap_or_default();
    let options = EndpointOptions {
        url: url.into(),
        model: model.clone(),
        kind: args.server,
        key: key.transpose()?,
        in_flight: args.in_flight.max(1),
        top_k: args.top_k.max(1),
        answers: args.answers,
        price: Price { tokens_in: args.price_in, tokens_out: args.price_out },
        most: args.max_cost,
        retry: Retry::default(),
        timeout: Duration::from_secs(300),
    };
    let price = options.price;
    let endpoint = Endpoint::find(options, asked.small)?;
    let kind = match endpoint.kind() {
        ServerKind::Vllm => "vLLM: a prompt is scored in one request",
        ServerKind::LlamaCpp => "llama.cpp: it is asked token by token",
        ServerKind::Text => "a server that gives only answers: hits up to where an answer differs from its target",
    };
    let vocabulary = if endpoint.shares_vocabulary() {
        "its vocabulary is the small model's"
    } else {
        "its vocabulary is another: hits by the bytes that tokens share, no distribution to distil from"
    };
    console.line(format!("{url} is {kind}; {vocabulary}"))?;
    let mut journal = Journal::open(&args.out, &endpoint.info(asked.small)?, &format!("{url} {model}"))?;
    if journal.rows() > 0 {
        console.line(format!("{} rows were annotated before", journal.rows()))?;
    }
    let estimate = endpoint.estimate(asked, &journal)?;
    console.line(format!(
        "about {} requests, {} tokens to read and {} to write: {:.4}",
        estimate.requests,
        estimate.tokens_in,
        estimate.tokens_out,
        price.of(estimate)
    ))?;
    let paid = |usage: Spent| Paid { usage, cost: price.of(usage) };
    if args.estimate {
        return Ok((None, Bill { estimate: paid(estimate), spent: paid(journal.spent()) }));
    }
    let stop = interrupt::flag()?;
    let rows: usize = asked.corpora.iter().map(|corpus| corpus.len()).sum();
    let annotated = {
        let bar = console.bar("annotating", rows as u64);
        endpoint.annotate(asked, &mut journal, &stop, &mut |rows, spent| {
            bar.at(rows as u64);
            bar.say(format!("{} requests, {:.4}", spent.requests, price.of(spent)));
        })
    };
    let spent = journal.spent();
    console.line(format!(
        "{} requests, {} tokens read and {} written: {:.4}",
        spent.requests,
        spent.tokens_in,
        spent.tokens_out,
        price.of(spent)
    ))?;
    annotated?;
    let bill = Bill { estimate: paid(estimate), spent: paid(spent) };
    Ok((Some(journal.finish()?), bill))
}

fn server_kind(name: &str) -> Result<ServerKind, String> {
    match name {
        "vllm" => Ok(ServerKind::Vllm),
        "llama-cpp" => Ok(ServerKind::LlamaCpp),
        "text" => Ok(ServerKind::Text),
        _ => Err("is none of vllm, llama-cpp, text".into()),
    }
}
