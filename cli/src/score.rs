//! `margay score`: a task file through a bundle, row by row, into an outcome table. A run that was broken off goes on where it
//! ended.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read as _, Seek as _, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use margay::policy::{Aggregate, Rule, TokenSignals};
use margay::{ChooseOptions, Engine, GenerateOptions, Normalise, Request};
use margay_evaluation::outcome::{Outcome, Table, Writer};
use margay_trainer::quality::Metric;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::console::Console;
use crate::device::DeviceArgs;
use crate::error::{Error, Result};
use crate::library;

/// Longest line of a task file, in bytes.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// Largest outcome table that a run goes on with, in bytes.
const MAX_TABLE_BYTES: u64 = 1 << 30;

/// The signals written, each the score of the deferral rule of that name.
const SIGNALS: [&str; 9] = [
    "chow-average",
    "chow-sum",
    "first-token",
    "mean-entropy",
    "mean-margin",
    "minimum",
    "quantile-10",
    "quantile-50",
    "quantile-90",
];

/// What `margay score` is told.
#[derive(Debug, Clone, Args)]
pub struct ScoreArgs {
    /// Folder of the bundle
    #[arg(long, value_name = "DIR")]
    pub bundle: PathBuf,
    /// Task file: JSON Lines with id, task, input, target and, if they are given, options, metric, references and answer (of a
    /// worked solution: the number that it gives behind ####)
    #[arg(long, value_name = "FILE.jsonl")]
    pub data: PathBuf,
    /// Outcome table; rows that it has already are not asked again
    #[arg(long, value_name = "FILE.csv")]
    pub out: PathBuf,
    /// Only the first N rows of the task file
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Name of the model in the table [default: the bundle's]
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Name of the split in the table [default: the second part of a row's id, task/split/n]
    #[arg(long, value_name = "NAME")]
    pub split: Option<String>,
    /// What `score` holds, and what a threshold on it will mean
    #[arg(long, value_name = "RULE", default_value = "chow-average")]
    pub rule: Rule,
    /// Take inputs as they are, without the chat template, with a blank before the answer
    #[arg(long)]
    pub raw: bool,
    /// Write an answer even where there are options to choose from
    #[arg(long)]
    pub free: bool,
    /// Choose by mean log-probability per token rather than by that of the whole option
    #[arg(long)]
    pub normalise: bool,
    /// Longest written answer, in tokens
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub max_tokens: usize,
    /// Print one JSON object: rows asked now and known before, and their mean quality
    #[arg(long)]
    pub json: bool,
    /// What the model may use
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// One row of a task file. What is not named here is not read.
#[derive(Debug, Deserialize)]
struct Row {
    id: String,
    task: String,
    input: String,
    target: String,
    #[serde(default)]
    options: Vec<String>,
    #[serde(default)]
    metric: Metric,
    #[serde(default)]
    references: Vec<String>,
    /// What a worked solution comes to, where only that counts.
    answer: Option<String>,
}

/// What came of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Scored {
    /// Rows that were asked now.
    pub asked: usize,
    /// Rows that the table had already.
    pub known: usize,
    /// Mean quality of all of them.
    pub quality: f64,
}

/// Runs a task file through a bundle and writes one row of the outcome table for each of its rows.
///
/// # Errors
/// [`Error`] naming the file and line; what was written so far stays and is gone on with.
pub fn score(args: &ScoreArgs, console: &mut Console) -> Result<Scored> {
    console.for_programs(args.json);
    let scored = run(args, console)?;
    let Scored { asked, known, quality } = scored;
    let line = format!("{}: {asked} rows asked, {known} known, mean quality {quality:.4}", args.out.display());
    console.result(&scored, [line])?;
    Ok(scored)
}

/// The same without a word about it.
pub(crate) fn run(args: &ScoreArgs, console: &mut Console) -> Result<Scored> {
    let rows: Vec<(usize, Row)> = read_rows(&args.data, args.limit)?;
    let (bundle, engine) = library::open(&args.bundle, args.device.options(), console)?;
    let model = args.model.clone().unwrap_or_else(|| bundle.manifest().name.clone());
    let (mut file, known) = open_table(&args.out, &model)?;
    let bar = console.bar("scoring", rows.len() as u64);
    let (mut asked, mut total) = (0, known.iter().map(|(_, quality)| quality).sum::<f64>());
    let known: HashSet<&str> = known.iter().map(|(query, _)| query.as_str()).collect();
    for (line, row) in &rows {
        if !known.contains(row.id.as_str()) {
            let outcome = ask(&engine, row, args, &model)
                .map_err(|error| Error::Usage(format!("{} line {line} ({}): {error}", args.data.display(), row.id)))?;
            total += outcome.quality;
            asked += 1;
            append(&mut file, &args.out, &outcome)?;
        }
        bar.advance(1);
    }
    drop(bar);
    file.sync_all().map_err(|source| Error::io("write", &args.out, source))?;
    Ok(Scored { asked, known: known.len(), quality: total / (asked + known.len()).max(1) as f64 })
}

/// The rows of a task file with their line numbers.
pub(crate) fn read_rows<T: DeserializeOwned>(path: &Path, limit: Option<usize>) -> Result<Vec<(usize, T)>> {
    let mut reader = BufReader::new(File::open(path).map_err(|source| Error::io("open", path, source))?);
    let (mut rows, mut line, mut number) = (Vec::new(), String::new(), 0);
    while limit.is_none_or(|limit| rows.len() < limit) {
        line.clear();
        number += 1;
        let length = (&mut reader).take(MAX_LINE_BYTES + 1).read_line(&mut line);
        let length = length.map_err(|source| Error::io("read", path, source))? as u64;
        let refuse = |why: String| Err(Error::Usage(format!("{} line {number}: {why}", path.display())));
        if length > MAX_LINE_BYTES {
            return refuse(format!("longer than {MAX_LINE_BYTES} bytes"));
        }
        if length == 0 {
            break;
        }
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str(&line) {
            Ok(row) => rows.push((number, row)),
            Err(error) => return refuse(error.to_string()),
        }
    }
    Ok(rows)
}

/// The table, open at its end, and the queries that it has of this model with their quality. A last line that was not written
/// whole is removed.
fn open_table(path: &Path, model: &str) -> Result<(File, Vec<(String, f64)>)> {
    let failed = |action| move |source| Error::io(action, path, source);
    let open = OpenOptions::new().read(true).append(true).create(true).open(path);
    let mut file = open.map_err(failed("open"))?;
    let length = file.metadata().map_err(failed("read"))?.len();
    if length > MAX_TABLE_BYTES {
        return Err(Error::Usage(format!("{} has {length} bytes, more than {MAX_TABLE_BYTES}", path.display())));
    }
    let mut content = Vec::new();
    file.read_to_end(&mut content).map_err(failed("read"))?;
    let whole = content.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    file.set_len(whole as u64).map_err(failed("shorten"))?;
    file.seek(std::io::SeekFrom::End(0)).map_err(failed("read"))?;
    if whole == 0 {
        file.write_all(&header()?).map_err(failed("write"))?;
        return Ok((file, Vec::new()));
    }
    if !content.starts_with(&header()?) {
        let message = format!("{} has other columns than this command writes: name another file", path.display());
        return Err(Error::Usage(message));
    }
    let table = Table::from_csv(&content[..whole])?;
    let ours = table.rows().filter(|row| row.model() == model);
    Ok((file, ours.map(|row| (row.query().to_owned(), row.quality())).collect()))
}

fn header() -> Result<Vec<u8>> {
    let mut header = Vec::new();
    Writer::new(&mut header, SIGNALS)?.finish()?;
    Ok(header)
}

/// Appends one row in one write, so that a crash leaves at most a part of it.
fn append(file: &mut File, path: &Path, outcome: &Outcome) -> Result<()> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, SIGNALS)?;
    writer.write(outcome)?;
    writer.finish()?;
    let row = bytes.split_off(header()?.len());
    file.write_all(&row).map_err(|source| Error::io("write", path, source))
}

fn ask(engine: &Engine, row: &Row, args: &ScoreArgs, model: &str) -> Result<Outcome> {
    let options = GenerateOptions { raw_prompt: args.raw, ..GenerateOptions::default() };
    let request = Request::user(&row.input).max_tokens(args.max_tokens).options(options).task(&row.task);
    let started = Instant::now();
    let answered = if row.options.is_empty() || args.free {
        let generation = engine.generate(&request, None, &mut |_| ControlFlow::Continue(()))?;
        let computed = generation.prompt_tokens + generation.token_ids.len();
        let written = generation.token_ids.len();
        Answered {
            text: generation.text,
            signals: generation.signals,
            read: generation.prompt_tokens,
            written,
            computed,
        }
    } else {
        let gap = if args.raw { " " } else { "" };
        let texts: Vec<String> = row.options.iter().map(|option| format!("{gap}{option}")).collect();
        let normalise = if args.normalise { Normalise::Tokens } else { Normalise::Not };
        let options = ChooseOptions { normalise, ..Default::default() };
        let mut choice = engine.choose(&request, &texts, &options, None)?;
        let best = choice.answers.swap_remove(choice.best);
        Answered {
            text: row.options[choice.best].clone(),
            written: best.token_ids.len(),
            signals: best.signals,
            read: choice.prompt_tokens,
            computed: choice.prompt_tokens + choice.computed_tokens,
        }
    };
    let latency = started.elapsed();
    let mut outcome = Outcome::new(&row.id, model, row.quality(&answered.text));
    outcome.task = Some(row.task.clone());
    outcome.split = args.split.clone().or_else(|| row.id.split('/').nth(1).map(str::to_owned));
    let seen = aggregate(&answered.signals);
    outcome.score = args.rule.score(&seen).map(|score| score.value().into());
    for name in SIGNALS {
        let score = name.parse::<Rule>().ok().and_then(|rule| rule.score(&seen));
        if let Some(score) = score {
            outcome.signals.insert(name.to_owned(), score.value().into());
        }
    }
    outcome.tokens_in = Some(answered.read as u64);
    outcome.tokens_out = Some(answered.written as u64);
    outcome.latency_ms = Some(latency.as_secs_f64() * 1e3);
    outcome.flops = Some(answered.computed as f64 * engine.manifest().model.flops_per_token as f64);
    outcome.answer_digest = Some(digest(&answered.text));
    Ok(outcome)
}

impl Row {
    /// Quality of `text`, in [0, 1].
    fn quality(&self, text: &str) -> f64 {
        if let Some(answer) = &self.answer {
            let number = result(text);
            return f64::from(u8::from(!number.is_empty() && number == without_commas(answer.trim())));
        }
        let references = if self.references.is_empty() { std::slice::from_ref(&self.target) } else { &self.references };
        self.metric.of(text, references)
    }
}

/// The number behind the last `####` of a worked solution, without thousands' commas, as the authors of GSM8K take it
/// (Cobbe et al., arXiv 2110.14168); empty if there is none.
fn result(solution: &str) -> String {
    let behind = solution.rsplit_once("####").map_or("", |(_, behind)| behind.trim_start());
    let end = behind.find(|c: char| !(c.is_ascii_digit() || "-.,".contains(c))).unwrap_or(behind.len());
    without_commas(&behind[..end]).trim_end_matches('.').to_owned()
}

fn without_commas(number: &str) -> String {
    number.replace(',', "")
}

struct Answered {
    text: String,
    signals: Vec<TokenSignals>,
    read: usize,
    written: usize,
    /// Tokens that passed through the model, as if nothing had been known before.
    computed: usize,
}

fn aggregate(signals: &[TokenSignals]) -> Aggregate {
    let mut seen = Aggregate::new();
    for signals in signals {
        seen.observe(*signals);
    }
    seen
}

fn digest(text: &str) -> String {
    let hex: String = Sha256::digest(text.as_bytes()).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_worked_solution_the_number_counts() {
        let row = r#"{"id": "1", "task": "gsm8k", "input": "", "target": "6 x 12 = 72\n#### 1,072", "answer": "1072"}"#;
        let row: Row = serde_json::from_str(row).unwrap();
        for (text, quality) in [
            ("so 2 + 2 = 4\n#### 1072", 1.0),
            ("#### 5, no: #### 1,072.", 1.0),
            ("#### 1072 clips", 1.0),
            ("#### 10720", 0.0),
            ("1072", 0.0),
            ("####", 0.0),
        ] {
            assert_eq!(row.quality(text), quality, "{text}");
        }
    }
}
