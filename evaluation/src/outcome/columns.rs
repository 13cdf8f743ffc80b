//! Which columns a table has, and what a field of each becomes: the same rules for every format.

use super::{MAX_COLUMNS, OPTIONAL_COLUMNS, Outcome, REQUIRED_COLUMNS, SIGNAL_PREFIX};
use crate::error::{Error, ErrorKind, Result};

/// A field as its format has it; an empty one is nothing.
pub(super) trait Field {
    fn text(&self) -> Result<Option<&str>>;
    fn number(&self) -> Result<Option<f64>>;
    /// A whole number of at least 0.
    fn count(&self) -> Result<Option<u64>>;
}

/// Whether a table may have these columns, in any order.
///
/// # Errors
/// [`ErrorKind::Columns`] for one that is unknown, missing or there twice, [`ErrorKind::TooLarge`] past [`MAX_COLUMNS`].
pub(super) fn check<'a>(names: impl ExactSizeIterator<Item = &'a str> + Clone) -> Result<()> {
    if names.len() > MAX_COLUMNS {
        let message = format!("{} columns are over the cap of {MAX_COLUMNS}", names.len());
        return Err(Error::new(ErrorKind::TooLarge, message));
    }
    for (at, name) in names.clone().enumerate() {
        if names.clone().take(at).any(|earlier| earlier == name) {
            return Err(Error::new(ErrorKind::Columns, "is there twice").at_column(name));
        }
        let known = REQUIRED_COLUMNS.iter().chain(&OPTIONAL_COLUMNS).any(|known| *known == name);
        if !known && signal(name).is_none() {
            return Err(unknown().at_column(name));
        }
    }
    match REQUIRED_COLUMNS.iter().find(|required| !names.clone().any(|name| name == **required)) {
        Some(missing) => Err(Error::new(ErrorKind::Columns, "is required and missing").at_column(*missing)),
        None => Ok(()),
    }
}

/// Puts a field of the column `name` into a row, over what is there.
pub(super) fn store(name: &str, field: &impl Field, outcome: &mut Outcome) -> Result<()> {
    match name {
        "query" => field.text()?.ok_or_else(empty)?.clone_into(&mut outcome.query),
        "model" => field.text()?.ok_or_else(empty)?.clone_into(&mut outcome.model),
        "quality" => outcome.quality = field.number()?.ok_or_else(empty)?,
        "task" => put_text(&mut outcome.task, field.text()?),
        "split" => put_text(&mut outcome.split, field.text()?),
        "score" => outcome.score = field.number()?,
        "tokens_in" => outcome.tokens_in = field.count()?,
        "tokens_out" => outcome.tokens_out = field.count()?,
        "cost" => outcome.cost = field.number()?,
        "latency_ms" => outcome.latency_ms = field.number()?,
        "flops" => outcome.flops = field.number()?,
        "answer_digest" => put_text(&mut outcome.answer_digest, field.text()?),
        _ => put_signal(outcome, signal(name).ok_or_else(unknown)?, field.number()?),
    }
    Ok(())
}

fn signal(name: &str) -> Option<&str> {
    name.strip_prefix(SIGNAL_PREFIX).filter(|signal| !signal.is_empty())
}

/// Writes over the text of the row before.
fn put_text(place: &mut Option<String>, text: Option<&str>) {
    match text {
        Some(text) => text.clone_into(place.get_or_insert_default()),
        None => *place = None,
    }
}

/// Writes over the signal of the row before, whose name is there already.
fn put_signal(outcome: &mut Outcome, name: &str, signal: Option<f64>) {
    match (outcome.signals.get_mut(name), signal) {
        (Some(place), Some(signal)) => *place = signal,
        (Some(_), None) => _ = outcome.signals.remove(name),
        (None, Some(signal)) => _ = outcome.signals.insert(name.to_owned(), signal),
        (None, None) => {}
    }
}

fn empty() -> Error {
    Error::new(ErrorKind::Value, "is empty")
}

fn unknown() -> Error {
    let known = [&REQUIRED_COLUMNS[..], &OPTIONAL_COLUMNS[..]].concat().join(", ");
    Error::new(ErrorKind::Columns, format!("is not one of {known}, {SIGNAL_PREFIX}<name>"))
}
