//! Intent classifiers for microcontrollers: 8-bit weights as a Rust module whose constants stay in flash.
//!
//! Embedding: one scale for all of it, because its rows are added up. Output: a scale for each intent. Nearest rounding, no
//! zero points.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use margay_intents::{Classifier, Parts, ShapeError};
use margay_policy::Policy;
use margay_trainer::data::Example;
use margay_trainer::intents::IntentClassifier;
use serde::Serialize;
use tempfile::NamedTempFile;

use crate::error::{Error, ErrorKind, Result};

/// The module, and the weights beside it.
const MODULE: &str = "mod.rs";
const WEIGHTS: &str = "weights.bin";

/// Most of the accuracy that quantization may cost, as a share of the rows it is measured on.
pub const MAX_ACCURACY_LOSS: f64 = 0.01;

/// A classifier in 8 bits, as the device computes it.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedIntents<'a> {
    intents: Vec<&'a str>,
    hidden: usize,
    embedding: Vec<u8>,
    embedding_scale: f32,
    output: Vec<u8>,
    output_scales: Vec<f32>,
    biases: &'a [f32],
}

/// How often classifier and device are right on the same rows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct IntentAccuracy {
    /// How many rows there are.
    pub rows: usize,
    /// Rows that 32-bit weights get right.
    pub right_f32: usize,
    /// Rows that 8-bit weights get right.
    pub right_int8: usize,
    /// Rows on which both say the same, right or wrong.
    pub agree: usize,
}

/// What a quantized classifier says about an utterance.
#[derive(Debug, Clone, PartialEq)]
pub struct Classified {
    /// Which intent, by its place.
    pub intent: usize,
    /// `[intents]`.
    pub logits: Vec<f32>,
}

impl<'a> QuantizedIntents<'a> {
    /// Rounds a classifier's weights.
    #[must_use]
    pub fn of(classifier: &'a IntentClassifier) -> Self {
        let (embedding, output, biases) = classifier.weights();
        let hidden = classifier.hidden();
        let (embedding, embedding_scale) = rounded(embedding);
        let (rows, output_scales) = output.chunks(hidden).map(rounded).unzip::<_, _, Vec<_>, Vec<_>>();
        Self {
            intents: classifier.intents().iter().map(String::as_str).collect(),
            hidden,
            embedding,
            embedding_scale,
            output: rows.concat(),
            output_scales,
            biases,
        }
    }

    /// What the device runs, over these weights.
    ///
    /// # Errors
    /// [`ErrorKind::Checkpoint`] if the classifier is none that a device can run.
    pub fn classifier(&self) -> Result<Classifier<'_>> {
        let parts = Parts {
            intents: &self.intents,
            hidden: self.hidden,
            embedding: &self.embedding,
            embedding_scale: self.embedding_scale,
            output: &self.output,
            output_scales: &self.output_scales,
            biases: self.biases,
        };
        Classifier::new(parts).map_err(refused)
    }

    /// What the device says.
    ///
    /// # Errors
    /// As [`QuantizedIntents::classifier`].
    pub fn classify(&self, utterance: &str) -> Result<Classified> {
        let mut logits = vec![0.0; self.intents.len()];
        let intent = self.classifier()?.classify(utterance, &mut logits).map_err(refused)?;
        Ok(Classified { intent, logits })
    }

    /// Measures both on the same rows.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] without a row; as [`QuantizedIntents::classifier`].
    pub fn compare(&self, classifier: &IntentClassifier, rows: &[Example]) -> Result<IntentAccuracy> {
        if rows.is_empty() {
            return Err(Error::new(ErrorKind::Data, "there is no row to measure on"));
        }
        let mut accuracy = IntentAccuracy { rows: rows.len(), right_f32: 0, right_int8: 0, agree: 0 };
        for row in rows {
            let (f32, int8) = (classifier.classify(&row.input), self.classify(&row.input)?.intent);
            accuracy.right_f32 += usize::from(self.intents[f32] == row.target);
            accuracy.right_int8 += usize::from(self.intents[int8] == row.target);
            accuracy.agree += usize::from(f32 == int8);
        }
        Ok(accuracy)
    }
}

impl IntentAccuracy {
    /// Share of the rows that 32-bit weights get right.
    #[must_use]
    pub fn f32(&self) -> f64 {
        self.right_f32 as f64 / self.rows as f64
    }

    /// Share of the rows that 8-bit weights get right.
    #[must_use]
    pub fn int8(&self) -> f64 {
        self.right_int8 as f64 / self.rows as f64
    }

    /// # Errors
    /// [`ErrorKind::Quality`] if 8 bits cost more than [`MAX_ACCURACY_LOSS`].
    pub fn check(&self) -> Result<()> {
        // Of whole numbers: a difference of two shares would be a little off.
        let lost = (self.right_f32 as f64 - self.right_int8 as f64) / self.rows as f64;
        if lost <= MAX_ACCURACY_LOSS {
            return Ok(());
        }
        let (before, after) = (100.0 * self.f32(), 100.0 * self.int8());
        Err(Error::new(ErrorKind::Quality, format!("8 bits take the accuracy from {before:.1} to {after:.1} %")))
    }
}

/// Writes the classifier and its policy as a Rust module into `folder`, which is made if it is not there: `mod.rs` and
/// `weights.bin`. `provenance` is lines for the module's head: data, licence, the command.
///
/// # Errors
/// [`ErrorKind::Io`]; [`ErrorKind::Checkpoint`] for a classifier that a device cannot run.
pub fn write_firmware(
    quantized: &QuantizedIntents<'_>,
    policy: &Policy,
    provenance: &[String],
    folder: &Path,
) -> Result<u64> {
    quantized.classifier()?;
    let mut buffer = [0; 1024];
    let policy = policy.to_postcard(&mut buffer);
    let policy =
        policy.map_err(|e| Error::new(ErrorKind::Checkpoint, "the policy cannot be written").with_source(e))?;
    fs::create_dir_all(folder).map_err(|e| Error::io("make the folder", folder, e))?;
    let weights = [quantized.embedding.as_slice(), &quantized.output].concat();
    // The module last: with it the new weights are in use.
    replace(&folder.join(WEIGHTS), &weights)?;
    replace(&folder.join(MODULE), module(quantized, policy, provenance).as_bytes())?;
    Ok(weights.len() as u64)
}

fn module(quantized: &QuantizedIntents<'_>, policy: &[u8], provenance: &[String]) -> String {
    let mut text = String::from("//! Made by `margay export --target firmware`. Not to be edited.\n//!\n");
    let list = |numbers: &[f32]| numbers.iter().map(|x| format!("    {x:?},\n")).collect::<String>();
    for line in provenance {
        // Writing to a string does not fail.
        let _ = writeln!(text, "//! {line}");
    }
    let intents: String = quantized.intents.iter().map(|intent| format!("    {intent:?},\n")).collect();
    let QuantizedIntents { hidden, embedding_scale, output_scales, biases, .. } = quantized;
    let split = quantized.embedding.len();
    let _ = write!(
        text,
        "
use margay_intents::{{Classifier, Parts}};

/// Names of the intents, in the order of the logits.
pub const INTENTS: [&str; {count}] = [
{intents}];

static WEIGHTS: &[u8] = include_bytes!(\"{WEIGHTS}\");

static OUTPUT_SCALES: [f32; {count}] = [
{scales}];

static BIASES: [f32; {count}] = [
{biases}];

/// Weights that do not fit together are found by the compiler.
pub static CLASSIFIER: Classifier<'static> = match Classifier::new(Parts {{
    intents: &INTENTS,
    hidden: {hidden},
    embedding: WEIGHTS.split_at({split}).0,
    embedding_scale: {embedding_scale:?},
    output: WEIGHTS.split_at({split}).1,
    output_scales: &OUTPUT_SCALES,
    biases: &BIASES,
}}) {{
    Ok(classifier) => classifier,
    Err(_) => panic!(\"weights.bin does not belong to this module\"),
}};

/// The policy in its compact form, for `Policy::from_postcard`.
pub static POLICY: &[u8] = &{policy:?};
",
        count = quantized.intents.len(),
        scales = list(output_scales),
        biases = list(biases),
    );
    text
}

/// The nearest multiples of a scale, as the bytes of `i8`, and the scale: the largest weight is 127.
fn rounded(weights: &[f32]) -> (Vec<u8>, f32) {
    let largest = weights.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
    let scale = if largest > 0.0 { largest / 127.0 } else { 1.0 };
    (weights.iter().map(|weight| (weight / scale).round().clamp(-127.0, 127.0) as i8 as u8).collect(), scale)
}

fn refused(error: ShapeError) -> Error {
    Error::new(ErrorKind::Checkpoint, "the classifier is none that a device can run").with_source(error)
}

/// Temporary file, fsync, rename.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = NamedTempFile::new_in(folder).map_err(|e| Error::io("create a file in", folder, e))?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(|e| Error::io("write", path, e))?;
    file.persist(path).map_err(|e| Error::io("replace", path, e.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_rounded_to_the_nearest() {
        let (bytes, scale) = rounded(&[-1.27, 0.0, 0.004, 0.006, 1.0]);
        assert_eq!(bytes.iter().map(|byte| *byte as i8).collect::<Vec<_>>(), [-127, 0, 0, 1, 100]);
        assert!((scale - 0.01).abs() < 1e-9);
        assert_eq!(rounded(&[0.0; 3]), (vec![0; 3], 1.0));
    }

    #[test]
    fn a_point_is_the_most_that_8_bits_may_cost() {
        let accuracy = |right_int8| IntentAccuracy { rows: 200, right_f32: 190, right_int8, agree: 0 };
        assert!(accuracy(188).check().is_ok() && accuracy(200).check().is_ok());
        assert_eq!(accuracy(187).check().unwrap_err().kind(), ErrorKind::Quality);
    }
}
