//! Which matrices are worth 8 bits: those whose 4 bits cost the most, measured one by one, until a perplexity is low enough.

use std::collections::BTreeSet;

use margay_trainer::{CausalLm, Checkpoint, Matrix};

use super::{Quantized, Scheme, StoredMatrices};
use crate::error::{Error, ErrorKind, Result};
use crate::measure::{Scored, of_model};
use crate::verify::divergence;

/// Puts as many matrices into 8 bits as it takes for the perplexity over `texts` to be at most `most`. Returns their names.
///
/// `likely` are logits of the checkpoint's own model over the first of the texts, [`probe`].
///
/// # Errors
/// [`ErrorKind::Quality`] when not even all of them are enough.
pub(crate) fn promote(
    model: &mut CausalLm,
    stored: &mut StoredMatrices,
    checkpoint: &Checkpoint,
    texts: &[Scored],
    likely: &[Vec<Vec<f32>>],
    most: f64,
) -> Result<BTreeSet<String>> {
    let mut perplexity = of_model(model, texts).perplexity();
    if perplexity <= most {
        return Ok(BTreeSet::new());
    }
    let weights = checkpoint.weights()?;
    let mut candidates = Vec::new();
    let worst = distance(model, texts, likely);
    let names: Vec<String> =
        stored.iter().filter(|(_, matrix)| matrix.scheme == Scheme::INT4).map(|(name, _)| name.clone()).collect();
    for name in names {
        let Some(in_4_bits) = model.matrix(&name) else { continue };
        let Matrix { columns, values, .. } = &in_4_bits;
        let own = weights.tensor(&name, &[values.len() / columns, *columns])?;
        let in_8_bits = Quantized::nearest(&own, *columns, Scheme::INT8);
        let values = in_8_bits.dequantize();
        let weight = values.len() as f64;
        model.set_matrix(&Matrix { name: name.clone(), columns: *columns, values });
        let gain = (worst - distance(model, texts, likely)) / weight;
        model.set_matrix(&in_4_bits);
        candidates.push((gain, name, in_4_bits, in_8_bits));
    }
    candidates.sort_by(|(a, ..), (b, ..)| b.total_cmp(a));

    // The fewest of the best, by halving: more of them are hardly ever worse.
    let (mut short, mut enough) = (0, candidates.len() + 1);
    let mut inside = 0;
    while short + 1 < enough {
        let count = if enough > candidates.len() { candidates.len() } else { (short + enough) / 2 };
        for (index, (_, name, in_4_bits, in_8_bits)) in candidates.iter().enumerate() {
            match (index < inside, index < count) {
                (false, true) => {
                    let columns = in_4_bits.columns;
                    model.set_matrix(&Matrix { name: name.clone(), columns, values: in_8_bits.dequantize() });
                }
                (true, false) => model.set_matrix(in_4_bits),
                _ => {}
            }
        }
        inside = count;
        perplexity = of_model(model, texts).perplexity();
        match perplexity <= most {
            true => enough = count,
            false if count == candidates.len() => {
                let message =
                    format!("a perplexity of {most:.3} is out of reach: all matrices in 8 bits give {perplexity:.3}");
                return Err(Error::new(ErrorKind::Quality, message));
            }
            false => short = count,
        }
    }
    let mut promoted = BTreeSet::new();
    for (index, (_, name, in_4_bits, in_8_bits)) in candidates.into_iter().enumerate() {
        match (index < inside, index < enough) {
            (_, true) => {
                let columns = in_4_bits.columns;
                model.set_matrix(&Matrix { name: name.clone(), columns, values: in_8_bits.dequantize() });
                stored.insert(name.clone(), in_8_bits);
                promoted.insert(name);
            }
            (true, false) => model.set_matrix(&in_4_bits),
            (false, false) => {}
        }
    }
    Ok(promoted)
}

/// Logits of a model over the first of some texts, on which single matrices are compared.
pub(crate) fn probe(model: &CausalLm, texts: &[Scored]) -> Vec<Vec<Vec<f32>>> {
    first(texts).map(|text| model.logits(&text.ids)).collect()
}

/// Mean `KL(likely || model)` over the first of some texts, nats.
fn distance(model: &CausalLm, texts: &[Scored], likely: &[Vec<Vec<f32>>]) -> f64 {
    let (mut sum, mut count) = (0.0, 0_u32);
    for (text, likely) in first(texts).zip(likely) {
        for (p, q) in likely.iter().zip(model.logits(&text.ids)) {
            sum += divergence(p, &q);
            count += 1;
        }
    }
    sum / f64::from(count.max(1))
}

/// The first texts, until they have enough tokens.
fn first(texts: &[Scored]) -> impl Iterator<Item = &Scored> {
    let mut tokens = 0;
    texts.iter().take_while(move |text| {
        let wanted = tokens < PROBE_TOKENS;
        tokens += text.ids.len();
        wanted
    })
}

/// Tokens on which single matrices are compared: enough to tell the costly ones from the others.
const PROBE_TOKENS: usize = 192;
