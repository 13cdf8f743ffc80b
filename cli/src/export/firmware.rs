//! `margay export --target firmware`: an intent classifier as a Rust module, with a threshold calibrated on what the device
//! computes.

use std::fmt::Write as _;
use std::path::Path;

use margay::policy::{Policy, Rule, Score, Threshold, TokenSignals};
use margay_evaluation::certificate::{Guarantee, Risk};
use margay_evaluation::guarantee::RiskControl;
use margay_evaluation::pairing::{Pair, Pairing};
use margay_exporter::firmware::{Classified, IntentAccuracy, QuantizedIntents, write_firmware};
use margay_trainer::data::{Example, read_jsonl};
use margay_trainer::intents::IntentClassifier;
use serde::Serialize;

use super::ExportArgs;
use crate::console::Console;
use crate::error::{Error, Result};

/// Probability, over the draw of the calibration rows, with which the threshold keeps its promise.
const LEVEL: f64 = 0.95;

/// Log-probability of the likeliest intent: the one token that a classifier says.
const RULE: Rule = Rule::FirstToken;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FirmwareExport {
    /// Bytes of weights.
    pub bytes: u64,
    /// The policy that the device applies.
    pub policy: Policy,
    /// What its threshold promises, in words.
    pub promise: String,
    /// On the calibration rows.
    pub calibration: IntentAccuracy,
    /// On the test rows, if there were any.
    pub accuracy: Option<IntentAccuracy>,
}

/// Exports a classifier.
///
/// # Errors
/// [`Error`] naming the file; also if 8 bits cost more than a point of accuracy on the calibration rows.
pub(super) fn export(args: &ExportArgs, console: &mut Console) -> Result<FirmwareExport> {
    console.for_programs(args.json);
    let calibration = args.calibration_data.as_deref();
    let calibration = calibration.ok_or_else(|| {
        Error::Usage(
            "--target firmware chooses a threshold on --calibration-data: rows that were not trained on".into(),
        )
    })?;
    let classifier = IntentClassifier::open(&args.checkpoint)?;
    let quantized = QuantizedIntents::of(&classifier);
    let rows = read_jsonl(calibration)?;
    let measured = quantized.compare(&classifier, &rows)?;
    console.line(format!("{}: {}", name(calibration), in_words(&measured)))?;
    measured.check()?;
    let (threshold, promise) = calibrate(&quantized, classifier.intents(), &rows, args.max_risk)?;
    console.line(&promise)?;
    let policy = Policy::new(RULE, threshold);
    let provenance = [
        format!(
            "{} intents, {} buckets, {} hidden units.",
            classifier.intents().len(),
            classifier.buckets(),
            classifier.hidden()
        ),
        promise.clone(),
        format!("Licence of the weights: {}", args.licence),
    ];
    let bytes = write_firmware(&quantized, &policy, &provenance, &args.out)?;
    let mut lines = vec![format!("{}: {bytes} bytes of weights", args.out.display())];
    let accuracy = match &args.test_data {
        None => None,
        Some(path) => {
            let rows = read_jsonl(path)?;
            let accuracy = quantized.compare(&classifier, &rows)?;
            let kept = rows.iter().map(|row| Ok(threshold.keeps(score(&quantized.classify(&row.input)?)?)));
            let kept = kept.collect::<Result<Vec<bool>>>()?.into_iter().filter(|kept| *kept).count();
            lines.push(format!("{}: {}; {} deferred", name(path), in_words(&accuracy), rows.len() - kept));
            write_expected(&quantized, &rows, &args.out.join("expected.txt"))?;
            Some(accuracy)
        }
    };
    let exported = FirmwareExport { bytes, policy, promise, calibration: measured, accuracy };
    console.result(&exported, lines)?;
    Ok(exported)
}

/// The lowest threshold of which these rows can promise that few utterances are answered wrongly on the device. Whoever is
/// asked instead is taken to be right: that makes keeping look as bad as it can be.
fn calibrate(
    quantized: &QuantizedIntents<'_>,
    intents: &[String],
    rows: &[Example],
    at_most: f64,
) -> Result<(Threshold, String)> {
    let pairs = rows.iter().map(|row| {
        let said = quantized.classify(&row.input)?;
        Ok(Pair {
            query: row.id.clone(),
            score: score(&said)?.value().into(),
            small_quality: f64::from(u8::from(intents[said.intent] == row.target)),
            large_quality: 1.0,
            small_flops: 1.0,
            large_flops: 1.0,
            small_latency_ms: None,
            large_latency_ms: None,
        })
    });
    let pairing = Pairing::new(pairs.collect::<Result<_>>()?)?;
    let control = RiskControl { risk: Risk::WorseOverAll, at_most, level: LEVEL };
    let Guarantee::Certified(chosen) = control.choose(&pairing)? else {
        return Err(Error::Usage(format!(
            "{} rows cannot promise a risk of {at_most}: take more of them, or a larger --max-risk",
            rows.len()
        )));
    };
    // The table is in double precision, the device in single: the nearest number above still keeps the promise.
    let mut nearest = chosen.threshold as f32;
    if f64::from(nearest) < chosen.threshold {
        nearest = nearest.next_up();
    }
    let threshold = Threshold::new(nearest).unwrap_or(Threshold::DEFER_ALL);
    let promise = format!(
        "With probability {LEVEL} over the draw of {} calibration rows, at most {:.1} % of utterances like them are answered \
         wrongly on the device; threshold {threshold} nats.",
        rows.len(),
        100.0 * at_most
    );
    Ok((threshold, promise))
}

/// The score, by the very code of the device.
fn score(said: &Classified) -> Result<Score> {
    let signals = TokenSignals::from_logits(&said.logits, said.intent);
    let signals = signals.map_err(|error| Error::Usage(format!("the classifier's logits: {error}")))?;
    let score = RULE.score_of(|_| Some(signals.log_probability));
    score.ok_or_else(|| Error::Usage("the classifier's logits have no score".into()))
}

/// What the device must say to these rows: the intent, and the bits of its score.
fn write_expected(quantized: &QuantizedIntents<'_>, rows: &[Example], path: &Path) -> Result<()> {
    let mut text = String::new();
    for row in rows {
        let said = quantized.classify(&row.input)?;
        // Writing to a string does not fail.
        let _ = writeln!(text, "{} {:08x}", said.intent, score(&said)?.value().to_bits());
    }
    std::fs::write(path, text).map_err(|source| Error::io("write", path, source))
}

fn in_words(accuracy: &IntentAccuracy) -> String {
    format!(
        "{} of {} utterances right in 32 bits ({:.1} %), {} in 8 ({:.1} %), the same said on {}",
        accuracy.right_f32,
        accuracy.rows,
        100.0 * accuracy.f32(),
        accuracy.right_int8,
        100.0 * accuracy.int8(),
        accuracy.agree
    )
}

fn name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}
