//! `margay bench`: how fast a bundle runs here, alone or beside llama.cpp on the same model.

mod device;
mod llama_cpp;
mod process;
mod table;

use std::path::PathBuf;

use clap::Args;

pub use device::Measured;
pub use table::Comparison;

use crate::console::Console;
use crate::error::{Error, Result};

/// What `margay bench` is told.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// Folder of the bundle
    #[arg(long, value_name = "BUNDLE")]
    pub bundle: PathBuf,
    /// Threads that compute one step [default: one for each core]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Length of the prompt that is read at once; 0 leaves prefill out
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub prompt_tokens: usize,
    /// Length of the answer that is decoded; 0 leaves decode out
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub decode_tokens: usize,
    /// How often everything is measured; figures are medians
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub rounds: usize,
    /// Leave the graph for Margay's own operators aside
    #[arg(long)]
    pub portable: bool,
    /// Print one JSON object: every measurement, or with llama.cpp the medians side by side
    #[arg(long)]
    pub json: bool,
    /// Measure llama.cpp beside it, turn about: folder with llama-bench
    #[arg(long, value_name = "DIR", requires = "gguf")]
    pub against_llama_cpp: Option<PathBuf>,
    /// The same model for llama.cpp
    #[arg(long, value_name = "FILE", requires = "against_llama_cpp")]
    pub gguf: Option<PathBuf>,
}

impl BenchArgs {
    fn threads(&self) -> usize {
        self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }
}

/// Measures.
///
/// # Errors
/// [`crate::Error`] when the bundle does not load or a program that is measured fails.
pub fn bench(args: &BenchArgs, console: &mut Console) -> Result<()> {
    console.for_programs(args.json);
    if args.rounds == 0 {
        return Err(Error::Usage("0 rounds measure nothing".into()));
    }
    let (Some(folder), Some(gguf)) = (&args.against_llama_cpp, &args.gguf) else {
        let measured = device::measure(args, console)?;
        return console.result(&measured, measured.lines());
    };
    let comparison = table::compare(args, folder, gguf, console)?;
    console.result(&comparison, comparison.lines())
}

/// The middle of `values`; of an even number, the mean of the two in the middle.
fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
    Some((low + high) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median([]), None);
    }
}
