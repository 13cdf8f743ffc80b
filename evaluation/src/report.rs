//! One self-contained HTML page about a run: words, table, figures, examples, and the numbers behind them.
//!
//! The page loads nothing and runs no script. It is a pure function of a [`Summary`] and some examples; a [`ChainReport`] is
//! one of an evaluation.

mod chain;
mod details;
mod figures;
mod markup;
mod plot;
mod tables;
mod words;

use std::io::Write as _;
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::file::write_atomically;
use crate::summary::Summary;

use markup::{attribute, escape};

pub use chain::ChainReport;
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
    /// [`ErrorKind::Report`] if a figure cannot be drawn.
    pub fn render(&self) -> Result<String> {
        let Self { title, lead, summary, .. } = self;
        let figures = figures::all(summary)?;
        let examples = self.examples();
        let json = serde_json::to_string_pretty(summary)
            .map_err(|source| Error::new(ErrorKind::Report, "cannot write the summary as JSON").with_source(source))?;
        Ok(format!(
            r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="lead">{lead}</p>
</header>
<main>
<div class="pair">
<section aria-labelledby="short">
<h2 id="short">In short</h2>
{words}</section>
<section aria-labelledby="cascade">
<h2 id="cascade">The cascade</h2>
{table}</section>
</div>
<section aria-labelledby="figures">
<h2 id="figures">Figures</h2>
<div class="figures">
{figures}</div>
</section>
{examples}<div class="pair">
<section aria-labelledby="measures">
<h2 id="measures">Measures</h2>
{measures}</section>
<section aria-labelledby="numbers">
<h2 id="numbers">How it was measured</h2>
{facts}<details><summary>All numbers as JSON</summary><pre tabindex="0">{json}</pre></details>
</section>
</div>
</main>
</body>
</html>
"#,
            title = escape(title),
            lead = escape(lead),
            style = include_str!("report/style.css"),
            words = words::in_short(summary),
            table = tables::cascade(summary),
            measures = tables::measures(summary),
            facts = words::how_measured(summary),
            json = escape(&json),
        ))
    }

    /// Writes the page; the file is wholly there or not at all.
    ///
    /// # Errors
    /// As [`Report::render`], and [`ErrorKind::Io`] with the path.
    pub fn write(&self, path: &Path) -> Result<()> {
        let page = self.render()?;
        write_atomically(path, |file| {
            file.write_all(page.as_bytes())
                .map_err(|source| Error::new(ErrorKind::Io, "cannot write").with_source(source))
        })
    }

    fn examples(&self) -> String {
        if self.examples.is_empty() {
            return String::new();
        }
        let cards: String = self.examples.iter().map(Example::card).collect();
        format!(
            "<section aria-labelledby=\"examples\">\n<h2 id=\"examples\">Queries as they were answered</h2>\n<div class=\"cards\">\n{cards}</div>\n</section>\n"
        )
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
