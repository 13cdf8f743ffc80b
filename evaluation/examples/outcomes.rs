//! Outcome tables of any size, made up, read and evaluated, with the time and the most memory that it took:
//!
//! ```sh
//! cargo run --release -p margay-evaluation --features parquet --example outcomes -- write made-up.parquet 10000000
//! cargo run --release -p margay-evaluation --features parquet --example outcomes -- read made-up.parquet
//! cargo run --release -p margay-evaluation --features parquet --example outcomes -- evaluate made-up.parquet
//! ```
//!
//! The format is that of the file's ending. Two models answer each query; a row has every column but the digest, and two signals.

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::time::Instant;

use margay_evaluation::bootstrap::Bootstrap;
use margay_evaluation::evaluation::{Evaluation, Options};
use margay_evaluation::outcome::{Format, JsonLinesWriter, Outcome, ParquetWriter, Table, Writer};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

const SIGNALS: [&str; 2] = ["mean-entropy", "quantile-10"];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let started = Instant::now();
    let said = match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["write", path, rows] => write(Path::new(path), rows.parse()?)?,
        ["read", path] => format!("{} rows", Table::read(Path::new(path))?.len()),
        ["evaluate", path] => {
            let table = Table::read(Path::new(path))?;
            let bootstrap = Bootstrap { resamples: 100, ..Bootstrap::default() };
            let evaluation =
                Evaluation::from_table(&table, &["small", "large"], &Options { bootstrap, ..Options::default() })?;
            format!("{} queries, area {:?}", evaluation.queries, evaluation.audc)
        }
        _ => return Err("usage: outcomes write FILE ROWS | read FILE | evaluate FILE".into()),
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{said} in {:.1} s", started.elapsed().as_secs_f64())?;
    // Linux says the most memory that was ever resident.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(peak) = status.lines().find_map(|line| line.strip_prefix("VmHWM:")) {
        writeln!(out, "peak {}", peak.trim())?;
    }
    Ok(())
}

fn write(path: &Path, rows: u32) -> Result<String, Box<dyn Error>> {
    let file = BufWriter::new(File::create(path)?);
    match Format::of(path) {
        Format::Csv => {
            let mut writer = Writer::new(file, SIGNALS)?;
            made_up(rows).try_for_each(|row| writer.write(&row))?;
            writer.finish()?;
        }
        Format::JsonLines => {
            let mut writer = JsonLinesWriter::new(file);
            made_up(rows).try_for_each(|row| writer.write(&row))?;
            writer.finish()?;
        }
        Format::Parquet => {
            let mut writer = ParquetWriter::new(file, SIGNALS)?;
            made_up(rows).try_for_each(|row| writer.write(&row))?;
            writer.finish()?;
        }
    }
    Ok(format!("{rows} rows, {} MB", std::fs::metadata(path)?.len() / 1_000_000))
}

/// Queries have a difficulty; the harder, the less often each model is right.
fn made_up(rows: u32) -> impl Iterator<Item = Outcome> {
    let mut random = StdRng::seed_from_u64(1);
    let mut hard = 0.0;
    (0..rows).map(move |row| {
        let small = row % 2 == 0;
        if small {
            hard = random.random::<f64>();
        }
        let right = random.random::<f64>() < if small { 1.0 - 0.6 * hard } else { 0.97 - 0.1 * hard };
        let model = if small { "small" } else { "large" };
        let mut outcome = Outcome::new(format!("request-{:09}", row / 2), model, f64::from(u8::from(right)));
        outcome.task = Some(["alarms", "lights", "music", "weather"][row as usize / 2 % 4].into());
        outcome.split = Some("test".into());
        outcome.score = small.then(|| -hard - random.random::<f64>());
        for signal in SIGNALS {
            outcome.signals.insert(signal.into(), -hard - random.random::<f64>());
        }
        outcome.tokens_in = Some(random.random_range(5..200));
        outcome.tokens_out = Some(random.random_range(1..50));
        outcome.cost = Some(if small { 0.0 } else { 2e-5 * random.random::<f64>() });
        outcome.latency_ms = Some(1000.0 * random.random::<f64>());
        outcome.flops = Some(if small { 2e8 } else { 2e10 } * random.random::<f64>());
        outcome
    })
}
