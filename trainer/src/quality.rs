//! How good an answer is, in [0, 1]: the metrics that task data name, with the normalisation their authors use.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// A metric of one answer against its references; the best reference counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Metric {
    /// 1 if the answer is a reference but for white space around it, else 0.
    #[default]
    #[serde(rename = "accuracy")]
    Accuracy,
    /// [`Metric::Accuracy`] after SQuAD's normalisation: lower case, no punctuation, no articles, single blanks
    /// (Rajpurkar et al., arXiv 1606.05250).
    #[serde(rename = "exact_match")]
    ExactMatch,
    /// Harmonic mean of precision and recall over the normalised words, as SQuAD's script counts them.
    #[serde(rename = "f1")]
    F1,
    /// F-measure of the longest common subsequence of words (Lin 2004, ROUGE-L), words as `rouge-score` splits them.
    #[serde(rename = "rougeL")]
    RougeL,
    /// BLEU of the one sentence (Papineni et al. 2002) as sacrebleu's `sentence_bleu` computes it: exponential smoothing,
    /// effective order, punctuation apart from words. For choosing, not for publishing: corpus BLEU is no mean of these.
    #[serde(rename = "bleu")]
    Bleu,
}

impl Metric {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Quality of `answer`, in [0, 1]; 0 without a reference.
    #[must_use]
    pub fn of(self, answer: &str, references: &[String]) -> f64 {
        let score = |reference: &String| match self {
            Self::Accuracy => f64::from(u8::from(answer.trim() == reference.trim())),
            Self::ExactMatch => f64::from(u8::from(normalised(answer) == normalised(reference))),
            Self::F1 => f1(&normalised(answer), &normalised(reference)),
            Self::RougeL => rouge_l(&words(answer), &words(reference)),
            Self::Bleu => bleu(&marks(answer), &marks(reference)),
        };
        references.iter().map(score).fold(0.0, f64::max)
    }
}

/// SQuAD's `normalize_answer`, as words.
fn normalised(text: &str) -> Vec<String> {
    let lower: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    lower.split_whitespace().filter(|word| !["a", "an", "the"].contains(word)).map(str::to_owned).collect()
}

/// Lower-case runs of letters and digits of ASCII, as `rouge-score` splits them.
fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

fn f1(answer: &[String], reference: &[String]) -> f64 {
    if answer.is_empty() || reference.is_empty() {
        return f64::from(u8::from(answer == reference));
    }
    f_score(common(answer, reference), answer.len(), reference.len(), 1.0)
}

/// Size of the intersection of two multisets.
fn common<T: std::hash::Hash + Eq>(a: &[T], b: &[T]) -> usize {
    let mut counts: HashMap<&T, usize> = HashMap::new();
    b.iter().for_each(|item| *counts.entry(item).or_default() += 1);
    let mut shared = 0;
    for item in a {
        if let Some(count) = counts.get_mut(item).filter(|count| **count > 0) {
            *count -= 1;
            shared += 1;
        }
    }
    shared
}

fn f_score(shared: usize, of_answer: usize, of_reference: usize, beta: f64) -> f64 {
    if shared == 0 {
        return 0.0;
    }
    let (precision, recall) = (shared as f64 / of_answer as f64, shared as f64 / of_reference as f64);
    (1.0 + beta * beta) * precision * recall / (beta * beta * precision + recall)
}

fn rouge_l(answer: &[String], reference: &[String]) -> f64 {
    let mut lengths = vec![0_usize; reference.len() + 1];
    for word in answer {
        let mut diagonal = 0;
        for (at, other) in reference.iter().enumerate() {
            let above = lengths[at + 1];
            lengths[at + 1] = if word == other { diagonal + 1 } else { above.max(lengths[at]) };
            diagonal = above;
        }
    }
    f_score(lengths.last().copied().unwrap_or(0), answer.len(), reference.len(), 1.0)
}

/// Words and single punctuation marks, as sacrebleu's tokenizer 13a splits plain text; marks inside numbers stay.
fn marks(text: &str) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    let mut apart = String::with_capacity(text.len() + 8);
    for (at, &c) in characters.iter().enumerate() {
        let digit = |at: Option<usize>| at.and_then(|at| characters.get(at)).is_some_and(char::is_ascii_digit);
        let in_number = (c == '.' || c == ',') && digit(at.checked_sub(1)) && digit(Some(at + 1));
        if c.is_ascii_punctuation() && !in_number && !matches!(c, '-' | '\'') {
            apart.extend([' ', c, ' ']);
        } else {
            apart.push(c);
        }
    }
    apart.split_whitespace().map(str::to_owned).collect()
}

fn bleu(answer: &[String], reference: &[String]) -> f64 {
    let (mut logs, mut orders, mut smoothing) = (0.0, 0.0, 1.0_f64);
    for order in 1..=4 {
        let (a, b): (Vec<_>, Vec<_>) = (answer.windows(order).collect(), reference.windows(order).collect());
        if a.is_empty() {
            break;
        }
        let shared = common(&a, &b);
        if shared == 0 {
            smoothing *= 2.0;
        }
        let shared = if shared == 0 { 1.0 / smoothing } else { shared as f64 };
        logs += (shared / a.len() as f64).ln();
        orders += 1.0;
    }
    if orders == 0.0 || common(answer, reference) == 0 {
        return 0.0;
    }
    let (length, wanted) = (answer.len() as f64, reference.len() as f64);
    let brevity = if length < wanted { (1.0 - wanted / length).exp() } else { 1.0 };
    brevity * (logs / orders).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(metric: Metric, answer: &str, references: &[&str]) -> f64 {
        metric.of(answer, &references.iter().map(|&r| r.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn right_is_right_up_to_what_the_metric_ignores() {
        assert_eq!(of(Metric::Accuracy, " play music\n", &["play music"]), 1.0);
        assert_eq!(of(Metric::Accuracy, "Play music", &["play music"]), 0.0);
        assert_eq!(of(Metric::ExactMatch, "The  Eiffel Tower.", &["eiffel tower"]), 1.0);
        assert_eq!(of(Metric::ExactMatch, "x", &["y", "x"]), 1.0);
        assert_eq!(of(Metric::Accuracy, "x", &[]), 0.0);
    }

    /// Figures of SQuAD's evaluate-v1.1.py, rouge-score 0.1.2 and sacrebleu 2.5.1 (`sentence_bleu`), computed with them.
    #[test]
    fn partial_answers_get_what_the_authors_scripts_give() {
        let near = |a: f64, b: f64| assert!((a - b).abs() < 5e-5, "{a} and {b}");
        near(of(Metric::F1, "in the old Eiffel tower", &["Eiffel Tower"]), 2.0 / 3.0);
        near(of(Metric::RougeL, "the cat sat on the mat", &["a cat was on a mat"]), 0.5);
        near(of(Metric::RougeL, "a brown fox quickly jumps high", &["The quick brown fox jumps"]), 0.545_454);
        near(of(Metric::Bleu, "The cat sat on the mat.", &["The cat is on the mat."]), 0.488_923);
        let reference = "It costs 1,200.50 dollars, he said loudly";
        near(of(Metric::Bleu, "It costs 1,200.50 dollars, she said", &[reference]), 0.557_800);
        near(of(Metric::Bleu, "play music", &["play some music"]), 0.428_882);
    }
}
