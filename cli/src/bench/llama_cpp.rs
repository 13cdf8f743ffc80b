//! The peer: llama.cpp's own `llama-bench` on the same model.

use std::path::Path;

use serde::Deserialize;

use super::process::{self, Run};
use crate::error::{Error, Result};

/// One of `llama-bench`'s tests, as its JSON has it.
#[derive(Debug, Deserialize)]
struct Test {
    n_prompt: usize,
    n_gen: usize,
    /// Nanoseconds of every repetition.
    samples_ns: Vec<u64>,
}

/// Runs `llama-bench` for a prompt or an answer of so many tokens, `repetitions` times, and returns the seconds of each.
pub(super) fn run(
    folder: &Path,
    gguf: &Path,
    threads: usize,
    [prompt, answer]: [usize; 2],
    repetitions: usize,
) -> Result<(Run, Vec<f64>)> {
    let program = folder.join(format!("llama-bench{}", std::env::consts::EXE_SUFFIX));
    let number = |value: usize| value.to_string();
    let arguments: Vec<String> = ["-m".into(), gguf.display().to_string(), "-t".into(), number(threads)]
        .into_iter()
        .chain(["-p".into(), number(prompt), "-n".into(), number(answer), "-r".into(), number(repetitions)])
        // Without its warm-up, so that a run that only loads does not compute everything twice.
        .chain(["--no-warmup", "-ngl", "0", "-o", "json"].map(str::to_owned))
        .collect();
    let run = process::run(&program, &arguments)?;
    let tests: Vec<Test> = serde_json::from_str(&run.output)
        .map_err(|e| Error::Usage(format!("the output of {} is not what it should be: {e}", program.display())))?;
    let seconds = tests
        .iter()
        .find(|test| [test.n_prompt, test.n_gen] == [prompt, answer])
        .map(|test| test.samples_ns.iter().map(|ns| *ns as f64 / 1e9).collect())
        .ok_or_else(|| Error::Usage(format!("{} left the test out", program.display())))?;
    Ok((run, seconds))
}
