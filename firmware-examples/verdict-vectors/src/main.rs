//! Twelve thousand answers are judged here, on a microcontroller, and each verdict must have the bits it has on
//! the host.
#![no_std]
#![no_main]

use board::{instructions, println};
use margay_policy::{EXACT_TOKENS, Monitor, Policy, Rule, Threshold, TokenSignals};

// The very file that the test on the host uses: it makes a stream from its number and judges it.
#[path = "../../../runtime/policy/tests/golden/streams.rs"]
mod streams;

/// The host's verdicts, in flash.
static VERDICTS: &[u8] = include_bytes!("../../../runtime/policy/tests/golden/verdicts.bin");

/// More than these are not printed: the first few tell what is wrong.
const SHOWN: u32 = 5;

/// The most that the policy may take for a token whose signals are given.
const MOST_INSTRUCTIONS: u32 = 400;

board::main!(run);

fn run() -> bool {
    let (records, rest) = VERDICTS.as_chunks::<{ streams::RECORD }>();
    assert!(records.len() == streams::STREAMS as usize && rest.is_empty(), "the file does not belong to these streams");

    let mut differ = 0;
    for (index, host) in (0..).zip(records) {
        let here = streams::record(index);
        if here != *host {
            differ += 1;
            if differ <= SHOWN {
                println!("stream {}: {:02x?} here, {:02x?} on the host", index, here, host);
            }
        }
    }
    println!("{} of {} verdicts agree bit for bit", streams::STREAMS - differ, streams::STREAMS);

    let success = differ == 0 && cost_is_small();
    println!("{}", if success { "PASS" } else { "FAIL" });
    success
}

/// Prints how many instructions the policy takes for each token of an answer, and the memory it keeps meanwhile.
///
/// The answer is as long as answers are whose log-probabilities are all kept in order, which costs most; they come mixed.
fn cost_is_small() -> bool {
    const TOKENS: u32 = EXACT_TOKENS as u32;
    #[cfg(target_arch = "arm")]
    if board::Clock::start().is_none() {
        return false;
    }
    let logits = [0.5_f32, 3.25, -1.0, 0.0, 1.75, -2.5, 0.25, 1.0];
    let token = instructions(|| TokenSignals::from_logits(&logits, 1));
    let (taken, Ok(signals)) = token else { return false };
    println!("signals from {} logits: {} instructions", logits.len(), taken);
    // 37 and 64 have no common divisor: every multiple of 1/16 up to 4 nats once.
    let answer: [_; TOKENS as usize] =
        core::array::from_fn(|at| TokenSignals { log_probability: -((at * 37 % 64) as f32) / 16.0, ..signals });
    let mut small = true;
    for rule in [Rule::ChowAverage, Rule::ChowSum, Rule::Minimum] {
        let policy: Policy<1> = Policy::new(rule, Threshold::KEEP_ALL);
        let mut monitor = Monitor::new(&policy, None, 2 * TOKENS);
        let (taken, ()) = instructions(|| {
            for &signals in &answer {
                let _ = monitor.observe(signals);
            }
        });
        println!("{}: {} instructions per token", rule, taken / TOKENS);
        // The bound is for a processor that computes single precision itself.
        small &= cfg!(not(target_arch = "arm")) || taken / TOKENS <= MOST_INSTRUCTIONS;
    }
    println!("a monitor takes {} bytes", size_of::<Monitor>());
    small
}
