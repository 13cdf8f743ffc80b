//! Both programs turn about, each run a process of its own, and the medians side by side.

use std::path::Path;

use serde::Serialize;

use super::process::Run;
use super::{BenchArgs, Measured, llama_cpp, median, process};
use crate::console::Console;
use crate::error::{Error, Result};

/// Medians of both programs.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Threads that computed one step.
    pub threads: usize,
    /// How often everything was measured.
    pub rounds: usize,
    /// Whether Margay's products were its own operators.
    pub own_operators: bool,
    /// The figures.
    pub rows: Vec<Row>,
}

/// One figure of both programs.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What it is, and its unit.
    pub name: String,
    /// Margay's.
    pub margay: f64,
    /// llama.cpp's.
    pub llama_cpp: f64,
    /// Margay's in parts of llama.cpp's.
    pub ratio: f64,
}

/// What one program showed in one round.
struct Round {
    /// Tokens of the prompt for each second.
    prefill: f64,
    /// The same for each second of a processor.
    prefill_cpu: f64,
    /// Tokens decoded for each second.
    decode: f64,
    /// The same for each second of a processor.
    decode_cpu: f64,
    /// Milliseconds from the program's start to its end with one token.
    first_token: f64,
    /// Milliseconds of a processor for it.
    first_token_cpu: f64,
    /// Megabytes.
    peak_rss: f64,
}

/// Prompt of the run that only loads and gives a first token.
const SHORT_PROMPT: usize = 16;

/// Repetitions inside one run, so that loading can be taken off its processor time.
const REPETITIONS: usize = 3;

/// Measures both programs, turn about.
pub(super) fn compare(args: &BenchArgs, folder: &Path, gguf: &Path, console: &mut Console) -> Result<Comparison> {
    let lengths = [args.prompt_tokens, args.decode_tokens];
    if lengths.contains(&0) {
        return Err(Error::Usage("a comparison needs a prompt and an answer".into()));
    }
    let bar = console.bar("measuring", args.rounds as u64);
    let (mut ours, mut theirs, mut own_operators) = (vec![], vec![], false);
    // A first start of either, after which both files are in memory and Margay's canary is noted.
    margay(args, [SHORT_PROMPT, 0], 1)?;
    llama_cpp::run(folder, gguf, args.threads(), [SHORT_PROMPT, 0], 1)?;
    for _ in 0..args.rounds {
        ours.push(round(lengths, &mut |lengths, repetitions| {
            let (run, measured) = margay(args, lengths, repetitions)?;
            own_operators = measured.own_operators;
            let (prefill, decode) = (measured.prefill_seconds, measured.decode_seconds);
            let tokens = measured.decoded;
            Ok(Outcome { run, prefill, decode, tokens })
        })?);
        theirs.push(round(lengths, &mut |[prompt, answer], repetitions| {
            let (run, seconds) = llama_cpp::run(folder, gguf, args.threads(), [prompt, answer], repetitions)?;
            let (prefill, decode) = if answer == 0 { (seconds, vec![]) } else { (vec![], seconds) };
            let decode = decode.into_iter().map(|seconds| seconds / answer as f64).collect();
            Ok(Outcome { run, prefill, decode, tokens: answer * repetitions })
        })?);
        bar.advance(1);
    }
    let rows = FIGURES.into_iter().filter_map(|(name, figure)| {
        let (margay, llama_cpp) = (median(ours.iter().map(figure))?, median(theirs.iter().map(figure))?);
        let name = name.replace("{prompt}", &args.prompt_tokens.to_string());
        Some(Row { name, margay, llama_cpp, ratio: margay / llama_cpp })
    });
    Ok(Comparison { threads: args.threads(), rounds: args.rounds, own_operators, rows: rows.collect() })
}

type Figure = fn(&Round) -> f64;

const FIGURES: [(&str, Figure); 7] = [
    ("prefill of {prompt}, tokens/s", |round| round.prefill),
    ("  per second of a processor", |round| round.prefill_cpu),
    ("decode, tokens/s", |round| round.decode),
    ("  per second of a processor", |round| round.decode_cpu),
    ("load to first token, ms", |round| round.first_token),
    ("  ms of a processor", |round| round.first_token_cpu),
    ("peak RSS, MB", |round| round.peak_rss),
];

/// One run of a program: how it went from outside, and the seconds it gives itself.
struct Outcome {
    run: Run,
    /// Of each pass over the prompt.
    prefill: Vec<f64>,
    /// Of each token, for each answer.
    decode: Vec<f64>,
    /// Tokens decoded in all.
    tokens: usize,
}

fn round([prompt, answer]: [usize; 2], run: &mut dyn FnMut([usize; 2], usize) -> Result<Outcome>) -> Result<Round> {
    let first = run([SHORT_PROMPT, 0], 1)?;
    let prefill = run([prompt, 0], REPETITIONS)?;
    let decode = run([0, answer], REPETITIONS)?;
    let nothing = || Error::Usage("a program that is measured gave no figures".into());
    let per_cpu = |tokens: usize, run: &Run| tokens as f64 / (run.cpu_seconds - first.run.cpu_seconds);
    Ok(Round {
        prefill: prompt as f64 / median(prefill.prefill).ok_or_else(nothing)?,
        prefill_cpu: per_cpu(prompt * REPETITIONS - SHORT_PROMPT, &prefill.run),
        decode: 1.0 / median(decode.decode).ok_or_else(nothing)?,
        decode_cpu: per_cpu(decode.tokens, &decode.run),
        first_token: 1e3 * first.run.wall_seconds,
        first_token_cpu: 1e3 * first.run.cpu_seconds,
        peak_rss: prefill.run.peak_rss.max(decode.run.peak_rss) as f64 / 1e6,
    })
}

/// Runs this program on the bundle.
fn margay(args: &BenchArgs, [prompt, answer]: [usize; 2], repetitions: usize) -> Result<(Run, Measured)> {
    let program = std::env::current_exe().map_err(|source| Error::Io { action: "find this program".into(), source })?;
    let mut arguments = vec!["bench".to_owned(), "--json".to_owned()];
    let bundle = args.bundle.display().to_string();
    for (name, value) in [
        ("--bundle", bundle),
        ("--threads", args.threads().to_string()),
        ("--prompt-tokens", prompt.to_string()),
        ("--decode-tokens", answer.to_string()),
        ("--rounds", repetitions.to_string()),
    ] {
        arguments.extend([name.to_owned(), value]);
    }
    if args.portable {
        arguments.push("--portable".to_owned());
    }
    let run = process::run(&program, &arguments)?;
    let measured = serde_json::from_str(&run.output)
        .map_err(|e| Error::Usage(format!("this program's own figures cannot be read: {e}")))?;
    Ok((run, measured))
}

impl Comparison {
    pub(super) fn lines(&self) -> Vec<String> {
        let products = if self.own_operators { "Margay's own operators" } else { "ONNX Runtime's operators" };
        let (rounds, threads) = (self.rounds, self.threads);
        let mut lines = vec![
            format!(
                "{rounds} rounds turn about after a first start of either, {threads} threads, medians; products by {products}"
            ),
            format!("{:<32}{:>10}{:>12}{:>9}", "", "margay", "llama.cpp", "ratio"),
        ];
        lines.extend(self.rows.iter().map(|Row { name, margay, llama_cpp, ratio }| {
            format!("{name:<32}{margay:>10.0}{llama_cpp:>12.0}{ratio:>8.2}x")
        }));
        lines
    }
}
