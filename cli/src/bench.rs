//! `margay bench`: how fast a bundle reads and writes on this machine.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use margay::device::peak_rss;
use margay::{Bundle, DeviceOptions, Engine, GenerateOptions, Request};
use serde::Serialize;

use crate::console::Console;
use crate::device::{DeviceArgs, json};
use crate::error::{Error, Result};
use crate::library;

/// What `margay bench` is told.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// Folder of the bundle
    #[arg(long, value_name = "DIR")]
    pub bundle: PathBuf,
    /// Length of the prompt, in tokens
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub prompt_tokens: usize,
    /// Length of the answer, in tokens
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub decode_tokens: usize,
    /// How often prompt and answer are measured; the median is reported
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub repeats: usize,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// What the model may use
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// What was measured: medians of the repeats, but for the first token, which is the very first.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// The bundle's name.
    pub name: String,
    /// How its weights are stored.
    pub quantization: String,
    /// The execution provider in use.
    pub provider: String,
    /// Threads that compute one step.
    pub threads: usize,
    /// Length of the prompt, in tokens.
    pub prompt_tokens: usize,
    /// Length of the answer, in tokens.
    pub decode_tokens: usize,
    /// Tokens of the prompt per second, template and tokenizer included.
    pub prefill_tokens_per_second: f64,
    /// Tokens of the answer per second, after the first: signals and the callback included.
    pub decode_tokens_per_second: f64,
    /// Time from the question to the first token of a warm model, in milliseconds.
    pub first_token_ms: f64,
    /// Time to verify the bundle, in milliseconds.
    pub open_ms: f64,
    /// Time to load and warm up the model, in milliseconds.
    pub load_ms: f64,
    /// Time from nothing to the first token: verifying, loading, warming up, reading the prompt; in milliseconds.
    pub load_to_first_token_ms: f64,
    /// Most memory that the process has had, in bytes, if the system says.
    pub peak_rss: Option<u64>,
}

/// Measures a bundle with a prompt and an answer of given lengths.
///
/// # Errors
/// [`Error`] naming the bundle or the option.
pub fn bench(args: &BenchArgs, console: &mut Console) -> Result<Measured> {
    if args.prompt_tokens == 0 || args.decode_tokens < 2 || args.repeats == 0 {
        let message = "--prompt-tokens and --repeats are at least 1, --decode-tokens at least 2";
        return Err(Error::Usage(message.into()));
    }
    library::prepare(&mut console.aside(), "")?;
    let started = Instant::now();
    let bundle = Bundle::open(&args.bundle)?;
    let open = started.elapsed();
    // Every prompt is computed whole, however often it is asked.
    let options = DeviceOptions { prefix_cache: None, ..args.device.options() };
    let engine = Engine::load(&bundle, options)?;
    let load = started.elapsed() - open;
    let request = request(&engine, args)?;
    let mut runs = vec![run(&engine, &request)?];
    let cold = open + load + runs[0].first;
    for _ in 1..=args.repeats {
        runs.push(run(&engine, &request)?);
    }
    // The first one warmed up what the canary did not.
    runs.remove(0);
    let median = |of: fn(&Run) -> Duration| {
        let mut all: Vec<Duration> = runs.iter().map(of).collect();
        all.sort_unstable();
        all[all.len() / 2].as_secs_f64()
    };
    let (manifest, report) = (bundle.manifest(), engine.report());
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let measured = Measured {
        name: manifest.name.clone(),
        quantization: manifest.model.quantization.clone(),
        provider: report.provider.to_string(),
        threads: report.threads,
        prompt_tokens: runs[0].prompt_tokens,
        decode_tokens: args.decode_tokens,
        prefill_tokens_per_second: runs[0].prompt_tokens as f64 / median(|run| run.prefill),
        decode_tokens_per_second: (args.decode_tokens - 1) as f64 / median(|run| run.decode),
        first_token_ms: 1e3 * median(|run| run.first),
        open_ms: milliseconds(open),
        load_ms: milliseconds(load),
        load_to_first_token_ms: milliseconds(cold),
        peak_rss: peak_rss(),
    };
    if args.json {
        console.line(json(&measured)?)?;
    } else {
        for line in lines(&measured) {
            console.line(line)?;
        }
    }
    Ok(measured)
}

struct Run {
    prompt_tokens: usize,
    first: Duration,
    prefill: Duration,
    decode: Duration,
}

/// A prompt of exactly as many tokens as wanted: ids have no way in, so text is cut until it fits.
fn request(engine: &Engine, args: &BenchArgs) -> Result<Request> {
    const WORDS: [&str; 8] = [" the", " cat", " is", " a", " small", " animal", " of", " it"];
    let mut text = String::new();
    let mut words = WORDS.iter().cycle();
    loop {
        let length = engine.encode(&text)?.len();
        if length >= args.prompt_tokens {
            break;
        }
        for word in words.by_ref().take((args.prompt_tokens - length).div_ceil(8)) {
            text.push_str(word);
        }
    }
    while engine.encode(&text)?.len() > args.prompt_tokens && text.pop().is_some() {}
    let options = GenerateOptions { raw_prompt: true, ignore_stop_tokens: true, ..GenerateOptions::default() };
    Ok(Request::user(text).max_tokens(args.decode_tokens).options(options))
}

fn run(engine: &Engine, request: &Request) -> Result<Run> {
    let started = Instant::now();
    let mut first = None;
    let generation = engine.generate(request, None, &mut |_| {
        first.get_or_insert_with(|| started.elapsed());
        ControlFlow::Continue(())
    })?;
    let first = first.unwrap_or_else(|| started.elapsed());
    let timings = generation.timings;
    Ok(Run { prompt_tokens: generation.prompt_tokens, first, prefill: timings.prefill, decode: timings.decode })
}

fn lines(measured: &Measured) -> Vec<String> {
    let Measured { name, quantization, provider, threads, prompt_tokens, decode_tokens, .. } = measured;
    vec![
        format!("{name} ({quantization}) on {provider}, {threads} threads"),
        format!("prefill  {:9.1} tokens/s, prompt of {prompt_tokens}", measured.prefill_tokens_per_second),
        format!("decode   {:9.1} tokens/s, answer of {decode_tokens}", measured.decode_tokens_per_second),
        format!(
            "first token after {:.1} ms, from nothing after {:.1} ms (verify {:.1}, load {:.1})",
            measured.first_token_ms, measured.load_to_first_token_ms, measured.open_ms, measured.load_ms
        ),
        measured.peak_rss.map_or("peak RSS unknown".into(), |bytes| format!("peak RSS {:.1} MB", bytes as f64 / 1e6)),
    ]
}
