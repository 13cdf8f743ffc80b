//! A row as it is looked at, wherever it is kept.

use super::table::Table;
use super::{Outcome, SIGNAL_PREFIX};
use crate::error::{Error, ErrorKind, Result};

/// What one model made of one query: a view of a [`Table`]'s row or of an [`Outcome`]. The fields of an outcome say what
/// each method gives.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a>(Place<'a>);

#[derive(Debug, Clone, Copy)]
enum Place<'a> {
    Alone(&'a Outcome),
    Table(&'a Table, u32),
}

impl<'a> From<&'a Outcome> for Row<'a> {
    fn from(outcome: &'a Outcome) -> Self {
        Self(Place::Alone(outcome))
    }
}

macro_rules! fields {
    ($($name:ident: $type:ty = $of_outcome:expr, $of_table:expr;)*) => {$(
        #[doc = concat!("[`Outcome::", stringify!($name), "`].")]
        #[must_use]
        pub fn $name(&self) -> $type {
            match self.0 {
                Place::Alone(outcome) => $of_outcome(outcome),
                Place::Table(table, at) => $of_table(table, at as usize),
            }
        }
    )*};
}

impl<'a> Row<'a> {
    pub(super) fn of(table: &'a Table, at: usize) -> Self {
        Self(Place::Table(table, at as u32))
    }

    fields! {
        query: &'a str = |outcome: &'a Outcome| outcome.query.as_str(), Table::query;
        model: &'a str = |outcome: &'a Outcome| outcome.model.as_str(), Table::model;
        quality: f64 = |outcome: &Outcome| outcome.quality, Table::quality;
        task: Option<&'a str> = |outcome: &'a Outcome| outcome.task.as_deref(), Table::task;
        split: Option<&'a str> = |outcome: &'a Outcome| outcome.split.as_deref(), Table::split_of;
        score: Option<f64> = |outcome: &Outcome| outcome.score, |table: &Table, at| table.scores.value(at);
        tokens_in: Option<u64> = |outcome: &Outcome| outcome.tokens_in, |table: &Table, at| table.tokens_in.value(at);
        tokens_out: Option<u64> = |outcome: &Outcome| outcome.tokens_out, |table: &Table, at| table.tokens_out.value(at);
        cost: Option<f64> = |outcome: &Outcome| outcome.cost, |table: &Table, at| table.costs.value(at);
        latency_ms: Option<f64> = |outcome: &Outcome| outcome.latency_ms, |table: &Table, at| table.latencies_ms.value(at);
        flops: Option<f64> = |outcome: &Outcome| outcome.flops, |table: &Table, at| table.flops.value(at);
        answer_digest: Option<&'a str> = |outcome: &'a Outcome| outcome.answer_digest.as_deref(), Table::answer_digest;
    }

    /// One signal.
    #[must_use]
    pub fn signal(&self, name: &str) -> Option<f64> {
        match self.0 {
            Place::Alone(outcome) => outcome.signals.get(name).copied(),
            Place::Table(table, at) => table.signals.get(name)?.value(at as usize),
        }
    }

    /// Names and values of the signals that are recorded, by name.
    pub fn signals(&self) -> impl Iterator<Item = (&'a str, f64)> {
        let (alone, table) = match self.0 {
            Place::Alone(outcome) => (Some(outcome), None),
            Place::Table(table, at) => (None, Some((table, at as usize))),
        };
        let of_outcome = alone.into_iter().flat_map(|outcome| &outcome.signals);
        let of_table = table.into_iter().flat_map(|(table, at)| {
            table.signals.iter().filter_map(move |(name, column)| Some((name.as_str(), column.value(at)?)))
        });
        of_outcome.map(|(name, signal)| (name.as_str(), *signal)).chain(of_table)
    }

    /// A signal that the question asked needs.
    pub(crate) fn needed_signal(&self, name: &str) -> Result<f64> {
        self.signal(name).ok_or_else(|| self.lacks(&format!("{SIGNAL_PREFIX}{name}")))
    }

    /// The error of an empty field that the question asked needs.
    pub(crate) fn lacks(&self, column: &str) -> Error {
        self.lacks_and(column, "")
    }

    /// The same with what else can be done.
    pub(crate) fn lacks_and(&self, column: &str, instead: &str) -> Error {
        let message = format!("is empty for query `{}` and model `{}`{instead}", self.query(), self.model());
        Error::new(ErrorKind::MissingValue, message).at_column(column)
    }

    /// The row by itself.
    #[must_use]
    pub fn to_outcome(&self) -> Outcome {
        Outcome {
            task: self.task().map(str::to_owned),
            split: self.split().map(str::to_owned),
            score: self.score(),
            signals: self.signals().map(|(name, signal)| (name.to_owned(), signal)).collect(),
            tokens_in: self.tokens_in(),
            tokens_out: self.tokens_out(),
            cost: self.cost(),
            latency_ms: self.latency_ms(),
            flops: self.flops(),
            answer_digest: self.answer_digest().map(str::to_owned),
            ..Outcome::new(self.query(), self.model(), self.quality())
        }
    }
}

impl PartialEq for Row<'_> {
    fn eq(&self, other: &Self) -> bool {
        (self.query(), self.model(), self.quality()) == (other.query(), other.model(), other.quality())
            && (self.task(), self.split(), self.score()) == (other.task(), other.split(), other.score())
            && self.signals().eq(other.signals())
            && (self.tokens_in(), self.tokens_out()) == (other.tokens_in(), other.tokens_out())
            && (self.cost(), self.latency_ms(), self.flops()) == (other.cost(), other.latency_ms(), other.flops())
            && self.answer_digest() == other.answer_digest()
    }
}
