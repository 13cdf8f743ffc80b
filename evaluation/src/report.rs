//! One self-contained HTML page about a run: words, table, figures, examples, and the numbers behind them.
//!
//! The page loads nothing and runs no script. It is a pure function of a [`Summary`] and some examples; a [`ChainReport`] is
//! one of an evaluation, a [`ContrastReport`] one of two cascades.

mod chain;
mod contrast;
mod details;
mod exhibit;
mod figures;
mod markup;
mod page;
mod plot;
mod tables;
mod words;

use std::path::Path;

use crate::error::Result;
use crate::summary::Summary;

use markup::{attribute, escape};

pub use chain::ChainReport;
pub use contrast::ContrastReport;
pub use details::{Change, Changes, Details, OfModel, RiskPoint};

/// What a page shows.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    /// The page's title.
    pub title: &'a str,
    /// A sentence or two under the title: what was run on what.
    pub lead: &'a str,
    /// The numbers.
    pub summary: &'a Summary,
    /// A few queries as they were answered.
    pub examples: &'a [Example],
}

/// A query as a cascade answered it.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Name of the training objective.
    pub objective: String,
    /// What was asked.
    pub prompt: String,
    /// The right answer.
    pub expected: String,
    /// What the small model on the device said.
    pub device_answer: String,
    /// The deferral rule's score of that answer.
    pub score: f64,
    /// What the large model said, if the query was deferred: then this is the answer given.
    pub cloud_answer: Option<String>,
    /// Whether the answer given is right.
    pub right: bool,
}

impl Report<'_> {
    /// The page.
    ///
    /// # Errors
    /// [`ErrorKind::Report`](crate::ErrorKind::Report) if a figure cannot be drawn.
    pub fn render(&self) -> Result<String> {
        let summary = self.summary;
        let facts = words::how_measured(summary) + &page::all_numbers(summary)?;
        let figures = format!("<div class=\"figures\">\n{}</div>\n", figures::all(summary)?);
        let body = [
            page::pair(
                &page::section("short", "In short", &words::in_short(summary)),
                &page::section("cascade", "The cascade", &tables::cascade(summary)),
            ),
            page::section("figures", "Figures", &figures),
            self.examples(),
            page::pair(
                &page::section("measures", "Measures", &tables::measures(summary)),
                &page::section("numbers", "How it was measured", &facts),
            ),
        ];
        Ok(page::page(self.title, self.lead, &body.concat()))
    }

    /// Writes the page; the file is wholly there or not at all.
    ///
    /// # Errors
    /// As [`Report::render`], and [`ErrorKind::Io`](crate::ErrorKind::Io) with the path.
    pub fn write(&self, path: &Path) -> Result<()> {
        page::write_text(path, &self.render()?)
    }

    fn examples(&self) -> String {
        if self.examples.is_empty() {
            return String::new();
        }
        let cards: String = self.examples.iter().map(Example::card).collect();
        page::section("examples", "Queries as they were answered", &format!("<div class=\"cards\">\n{cards}</div>\n"))
    }
}

impl Example {
    fn card(&self) -> String {
        let verdict = if self.right { ("right", "right") } else { ("wrong", "wrong") };
        let given = match &self.cloud_answer {
            Some(answer) => format!("<dt>large model</dt><dd class=\"given\">{}</dd>\n", escape(answer)),
            None => String::new(),
        };
        let kept = if self.cloud_answer.is_some() { "" } else { " class=\"given\"" };
        let who =
            if self.cloud_answer.is_some() { "deferred: the cloud answered" } else { "kept: the device answered" };
        format!(
            "<article aria-label=\"{label}\">\n<p class=\"prompt\">{prompt}</p>\n<dl>\n<dt>device</dt><dd{kept}>{device} <small>score {score:.3}</small></dd>\n{given}<dt>expected</dt><dd>{expected}</dd>\n</dl>\n<p class=\"verdict\"><span class=\"badge {class}\">{word}</span> {who} <small>{objective}</small></p>\n</article>\n",
            label = attribute(&format!("Example: {}", self.prompt)),
            prompt = escape(&self.prompt),
            device = escape(&self.device_answer),
            score = self.score,
            expected = escape(&self.expected),
            class = verdict.0,
            word = verdict.1,
            objective = escape(&self.objective),
        )
    }
}

#[cfg(test)]
mod tests;
