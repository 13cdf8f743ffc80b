//! What decoding side by side is worth: tokens per second of one, two, four and eight requests at once, prompts included.
//!
//! `MARGAY_BENCH_BUNDLE=DIR cargo bench -p margay --bench batch`; without a bundle there is nothing to measure.
//! `MARGAY_BENCH_THREADS` is how many threads compute a step (one for each core). Processor time tells more than the clock where
//! something else is running, but only with one thread: several wait for each other by spinning.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed preparation fails the bench, which prints what it found"
)]

use std::ops::ControlFlow;
use std::thread;
use std::time::Instant;

use margay::device::library::Locate;
use margay::{BundleOptions, DeviceOptions, Engine, GenerateOptions, Request};

/// How many requests at once.
const AT_ONCE: [usize; 4] = [1, 2, 4, 8];

/// Requests of a round, however many of them at once.
const REQUESTS: usize = 8;

/// Tokens of an answer.
const TOKENS: usize = 64;

/// Rounds of each, turn about; the fastest counts, because whatever else runs only makes them slower.
const ROUNDS: usize = 3;

fn main() {
    let Some(folder) = std::env::var_os("MARGAY_BENCH_BUNDLE") else {
        return println!("MARGAY_BENCH_BUNDLE names no bundle");
    };
    let threads = std::env::var("MARGAY_BENCH_THREADS").ok().map(|count| count.parse().unwrap());
    let library = Some(Locate::from_environment().find().unwrap());
    let engines = AT_ONCE.map(|batch| {
        let library = library.clone();
        let options = DeviceOptions { batch, threads, prefix_cache: None, library, ..DeviceOptions::default() };
        Engine::open(&folder, &BundleOptions::default(), options).unwrap().1
    });
    let mut least = [[f64::INFINITY; 2]; AT_ONCE.len()];
    for _ in 0..ROUNDS {
        for (engine, least) in engines.iter().zip(&mut least) {
            for (least, took) in least.iter_mut().zip(round(engine)) {
                *least = took.min(*least);
            }
        }
    }
    let tokens = (REQUESTS * TOKENS) as f64;
    for (at_once, [took, used]) in AT_ONCE.into_iter().zip(least) {
        println!(
            "{at_once} at once: {:6.1} tokens/s, {:.2} of one at a time; {:5.2} ms of processor for a token, {:.2} of one at a time",
            tokens / took,
            least[0][0] / took,
            1e3 * used / tokens,
            used / least[0][1],
        );
    }
}

/// Seconds by the clock and of processor time that [`REQUESTS`] answers take, asked for by as many threads as the engine decodes
/// side by side.
fn round(engine: &Engine) -> [f64; 2] {
    let threads = engine.batch();
    let (started, used) = (Instant::now(), processor());
    thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for number in (thread..REQUESTS).step_by(threads) {
                    let options = GenerateOptions { ignore_stop_tokens: true, ..GenerateOptions::default() };
                    let text = format!("Question {number}: why do wild cats hunt at night, and which of them do not?");
                    let request = Request::user(text).options(options).max_tokens(TOKENS);
                    let generation = engine.generate(&request, None, &mut |_| ControlFlow::Continue(())).unwrap();
                    assert_eq!(generation.token_ids.len(), TOKENS);
                }
            });
        }
    });
    [started.elapsed().as_secs_f64(), processor() - used]
}

/// Seconds of processor time of this process so far; not a number where the system does not say.
fn processor() -> f64 {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return f64::NAN };
    // proc(5): user and system time are the 12th and 13th field behind the name, in hundredths of a second.
    let behind = stat.rsplit_once(')').unwrap().1;
    behind.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
}
