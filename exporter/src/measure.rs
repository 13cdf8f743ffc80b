//! What a model makes of texts: perplexity over their tokens, and how often it gives an answer word for word.
//! The same for the trainer's model and for a bundle, so that both can be compared.

use margay::Engine;
use margay_trainer::{CausalLm, Tokenizer, argmax};

use crate::error::Result;
use crate::texts::Text;

/// Token ids, of which those from `from` on are targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scored {
    pub(crate) ids: Vec<u32>,
    pub(crate) from: usize,
    /// Whether the targets are an answer, which is right or wrong as a whole.
    pub(crate) answer: bool,
}

/// How well a model predicts some texts.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Quality {
    /// Tokens that were predicted.
    pub tokens: usize,
    /// Sum of their negative log-probabilities, nats.
    pub surprise: f64,
    /// Answers among the texts.
    pub answers: usize,
    /// Answers of which every token was the most likely one: greedy decoding gives these word for word.
    pub right: usize,
}

impl Quality {
    /// `exp` of the mean negative log-probability of a token.
    #[must_use]
    pub fn perplexity(&self) -> f64 {
        (self.surprise / self.tokens.max(1) as f64).exp()
    }

    /// Share of answers that are right word for word; none without answers.
    #[must_use]
    pub fn accuracy(&self) -> Option<f64> {
        (self.answers > 0).then(|| self.right as f64 / self.answers as f64)
    }

    fn add(&mut self, sequence: &Scored, log_probabilities: &[f32], all_first: bool) {
        self.tokens += log_probabilities.len();
        self.surprise -= log_probabilities.iter().map(|&value| f64::from(value)).sum::<f64>();
        self.answers += usize::from(sequence.answer);
        self.right += usize::from(sequence.answer && all_first);
    }
}

/// Measures the trainer's model.
pub(crate) fn of_model(model: &CausalLm, sequences: &[Scored]) -> Quality {
    let mut quality = Quality::default();
    for sequence in sequences {
        let targets = model.score(&sequence.ids, sequence.from);
        let log_probabilities: Vec<f32> = targets.iter().map(|target| target.log_probability).collect();
        quality.add(sequence, &log_probabilities, targets.iter().all(|target| target.first));
    }
    quality
}

/// Measures a bundle under ONNX Runtime, token by token as it is served.
pub(crate) fn of_engine(engine: &Engine, sequences: &[Scored]) -> Result<Quality> {
    let mut quality = Quality::default();
    for sequence in sequences {
        let Some((_, inputs)) = sequence.ids.split_last() else { continue };
        let logits = engine.decode_logits(inputs)?;
        let targets = sequence.ids.iter().zip(std::iter::once(None).chain(logits.iter().map(Some)));
        let targets = targets.skip(sequence.from).filter_map(|(&id, logits)| Some((id, logits?)));
        let (mut log_probabilities, mut all_first) = (vec![], true);
        for (id, logits) in targets {
            log_probabilities.push(log_probability(logits, id));
            all_first &= argmax(logits) == id;
        }
        quality.add(sequence, &log_probabilities, all_first);
    }
    Ok(quality)
}

fn log_probability(logits: &[f32], id: u32) -> f32 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|logit| (logit - largest).exp()).sum();
    logits.get(id as usize).map_or(f32::NEG_INFINITY, |logit| logit - largest - sum.ln())
}

/// Token ids of texts. A plain text is cut into pieces; a question is put the way the tokenizer's own models are asked, or as
/// a text of its own, and loses its beginning where both do not fit.
pub(crate) fn encode(texts: &[Text], tokenizer: &Tokenizer, context: usize) -> Result<Vec<Scored>> {
    let most = MAX_TOKENS.min(context);
    let opening = tokenizer.opening_ids()?;
    let mut sequences = Vec::with_capacity(texts.len());
    for text in texts {
        match text {
            Text::Plain(text) => {
                let ids = tokenizer.encode(text)?;
                for piece in ids.chunks(most.saturating_sub(opening.len()).max(1)) {
                    let ids = [&opening[..], piece].concat();
                    sequences.push(Scored { ids, from: opening.len().max(1), answer: false });
                }
            }
            Text::Answer { input, target } => {
                let (mut ids, mut target) = match tokenizer.has_marks() {
                    true => (tokenizer.prompt(input)?, tokenizer.answer(target)?),
                    false => {
                        let question = tokenizer.encode(input)?;
                        ([&opening[..], &question].concat(), tokenizer.encode(&format!(" {}", target.trim_start()))?)
                    }
                };
                target.truncate(most - 1);
                ids.drain(..(ids.len() + target.len()).saturating_sub(most));
                let from = ids.len();
                ids.append(&mut target);
                sequences.push(Scored { ids, from, answer: true });
            }
        }
    }
    Ok(sequences)
}

/// Token ids of texts as 4-bit weights are calibrated on them, in pieces of one length, so that they can be read side by side.
pub(crate) fn calibration(texts: &[Text], tokenizer: &Tokenizer, context: usize) -> Result<Vec<Vec<u32>>> {
    let mut ids = Vec::new();
    for scored in encode(texts, tokenizer, context)? {
        ids.extend(scored.ids);
    }
    ids.truncate(MAX_CALIBRATION_TOKENS);
    let length = CALIBRATION_LENGTH.min(context).min(ids.len().max(1));
    Ok(ids.chunks_exact(length).map(<[u32]>::to_vec).collect())
}

/// More tokens take longer than they are worth.
const MAX_CALIBRATION_TOKENS: usize = 8192;

const CALIBRATION_LENGTH: usize = 256;

/// Longest piece that is read at once: attention and logits over more take memory that an export has not got.
const MAX_TOKENS: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use margay_trainer::{Architecture, Device};

    #[test]
    fn perplexity_is_that_of_the_logits() {
        let architecture = Architecture::llama(300, 32, 48, 2, 2, 1);
        let model = CausalLm::random(&architecture, 7, &Device::flex()).unwrap();
        let ids = vec![3, 5, 7, 11, 13, 17];
        let logits = model.logits(&ids);
        let expected: f64 = (2..6).map(|index| -f64::from(log_probability(&logits[index - 1], ids[index]))).sum();
        let quality = of_model(&model, &[Scored { ids: ids.clone(), from: 2, answer: true }]);
        assert_eq!((quality.tokens, quality.answers, quality.right), (4, 1, 0));
        assert!((quality.surprise - expected).abs() < 1e-4, "{} {expected}", quality.surprise);
        assert!((quality.perplexity() - (expected / 4.0).exp()).abs() < 1e-2);
        let likely = vec![3, argmax(&logits[0])];
        let quality = of_model(&model, &[Scored { ids: likely, from: 1, answer: true }]);
        assert_eq!(quality.accuracy(), Some(1.0));
        assert_eq!(of_model(&model, &[Scored { ids: vec![3], from: 1, answer: false }]).accuracy(), None);
    }

    #[test]
    fn long_texts_are_cut_and_long_questions_lose_their_beginning() {
        let tokenizer = Tokenizer::train(["what is my balance"].into_iter(), 300).unwrap();
        let plain = encode(&[Text::Plain("x ".repeat(40))], &tokenizer, 16).unwrap();
        assert!(plain.len() > 2 && plain.iter().all(|piece| piece.ids.len() <= 16 && piece.from == 1));
        let row = Text::Answer { input: "y ".repeat(40), target: "balance".into() };
        let [answer] = &encode(&[row], &tokenizer, 16).unwrap()[..] else { panic!("one row") };
        assert_eq!(answer.ids.len(), 16);
        assert_eq!(answer.ids[answer.from..], tokenizer.answer("balance").unwrap());
    }
}
