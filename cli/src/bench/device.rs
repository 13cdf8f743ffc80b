//! Margay's half: prefill, decode and what they take, in this process.

use std::ops::ControlFlow;
use std::time::Instant;

use margay::policy::{Policy, Rule, Threshold};
use margay::{DeviceOptions, Engine, Request};
use serde::{Deserialize, Serialize};

use super::{BenchArgs, median};
use crate::console::Console;
use crate::error::Result;
use crate::library;

/// What was measured on one bundle.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Measured {
    /// Whether the products were Margay's own operators.
    pub own_operators: bool,
    /// Seconds to open, verify and load the bundle.
    pub load_seconds: f64,
    /// Whether the canary was noted from an earlier start, and not decoded.
    pub canary_noted: bool,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Seconds of every pass over the prompt.
    pub prefill_seconds: Vec<f64>,
    /// Seconds for each token of every answer, with signals and a policy's verdict on each.
    pub decode_seconds: Vec<f64>,
    /// Tokens decoded in all.
    pub decoded: usize,
}

/// Loads the bundle and measures every round once warm.
pub(super) fn measure(args: &BenchArgs, console: &mut Console) -> Result<Measured> {
    let started = Instant::now();
    let options = DeviceOptions {
        threads: Some(args.threads()),
        portable: args.portable,
        cache_dir: library::device_cache(),
        ..DeviceOptions::default()
    };
    let (_, engine) = library::open(&args.bundle, options, console)?;
    let mut measured = Measured {
        own_operators: engine.report().own_operators,
        load_seconds: started.elapsed().as_secs_f64(),
        canary_noted: engine.report().canary_noted,
        prompt_tokens: args.prompt_tokens,
        prefill_seconds: vec![],
        decode_seconds: vec![],
        decoded: 0,
    };
    let prompt: Vec<u32> = ids(&engine, args.prompt_tokens)?;
    for _ in 0..args.rounds {
        if !prompt.is_empty() {
            let started = Instant::now();
            engine.logits(&prompt)?;
            measured.prefill_seconds.push(started.elapsed().as_secs_f64());
        }
        if args.decode_tokens > 0 {
            decode(&engine, args.decode_tokens, &mut measured)?;
        }
    }
    // The process ends next, and the system takes everything back at once.
    std::mem::forget(engine);
    Ok(measured)
}

/// Answers until `wanted` tokens are decoded: the model may end an answer before that.
fn decode(engine: &Engine, wanted: usize, measured: &mut Measured) -> Result<()> {
    // Every token is scored, and none is ever deferred.
    let policy = Policy::new(Rule::ChowAverage, NEVER_DEFER);
    let (mut decoded, mut seconds) = (0, 0.0);
    while decoded < wanted {
        let request = Request::user(QUESTION).max_tokens(wanted - decoded + 1);
        let generation = engine.generate(&request, Some(&policy), &mut |_| ControlFlow::Continue(()))?;
        seconds += generation.timings.decode.as_secs_f64();
        // The first token's logits are the prompt's.
        decoded += generation.signals.len().saturating_sub(1).max(1);
    }
    measured.decode_seconds.push(seconds / decoded as f64);
    measured.decoded += decoded;
    Ok(())
}

/// The first `count` ids of a text that is repeated as often as it takes.
fn ids(engine: &Engine, count: usize) -> Result<Vec<u32>> {
    let text = engine.encode_prompt(&[margay::Message::user(TEXT)])?;
    Ok(text.iter().copied().cycle().take(if text.is_empty() { 0 } else { count }).collect())
}

impl Measured {
    pub(super) fn lines(&self) -> Vec<String> {
        let products = if self.own_operators { "Margay's own operators" } else { "ONNX Runtime's operators" };
        let canary = if self.canary_noted { "canary noted before" } else { "canary included" };
        let mut lines = vec![
            format!("products by {products}"),
            format!("verify and load   {:>8.0} ms, {canary}", 1e3 * self.load_seconds),
        ];
        if let Some(seconds) = median(self.prefill_seconds.iter().copied()) {
            let rate = self.prompt_tokens as f64 / seconds;
            lines.push(format!("prefill of {:<6} {rate:>8.0} tokens/s", self.prompt_tokens));
        }
        if let Some(seconds) = median(self.decode_seconds.iter().copied()) {
            lines.push(format!("decode            {:>8.0} tokens/s, signals and policy included", 1.0 / seconds));
        }
        lines
    }
}

const NEVER_DEFER: Threshold = match Threshold::new(f32::NEG_INFINITY) {
    Ok(threshold) => threshold,
    Err(_) => unreachable!(),
};

/// Something that a small model answers at length.
const QUESTION: &str = "Tell me a long story about a small wild cat that lives in the trees of a rain forest.";

/// What prefill reads.
const TEXT: &str = "A margay is a small wild cat. It lives in the forests of Central and South America, where it spends most of \
    its life in the trees. Its ankles turn by 180 degrees, so that it climbs down head first like a squirrel. It hunts at \
    night: rodents, birds, eggs, lizards and tree frogs. It needs undisturbed forest, and therefore it is rare.";
