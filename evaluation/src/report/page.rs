//! The frame of every page: self-contained, without a script, for light and dark.

use std::io::Write as _;
use std::path::Path;

use serde::Serialize;

use super::markup::{attribute, escape};
use super::plot::Plot;
use crate::error::{Error, ErrorKind, Result};
use crate::file::write_atomically;

/// A page around a body of sections.
pub(super) fn page(title: &str, lead: &str, body: &str) -> String {
    format!(
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
{body}</main>
</body>
</html>
"#,
        title = escape(title),
        lead = escape(lead),
        style = include_str!("style.css"),
    )
}

/// A section under a heading of its own.
pub(super) fn section(id: &str, heading: &str, body: &str) -> String {
    format!("<section aria-labelledby=\"{id}\">\n<h2 id=\"{id}\">{heading}</h2>\n{body}</section>\n")
}

/// Two sections, side by side where there is room.
pub(super) fn pair(first: &str, second: &str) -> String {
    format!("<div class=\"pair\">\n{first}{second}</div>\n")
}

/// A drawing under its legend: pairs of a swatch's classes and a text.
///
/// # Errors
/// [`ErrorKind::Report`] if it cannot be drawn.
pub(super) fn drawing<C: AsRef<str>, T: AsRef<str>>(
    title: &str,
    caption: &str,
    plot: &Plot,
    legend: impl IntoIterator<Item = (C, T)>,
) -> Result<String> {
    let svg = plot.draw().map_err(|fault| Error::new(ErrorKind::Report, format!("cannot draw `{title}`: {fault}")))?;
    let opening = svg.find("viewBox").ok_or_else(|| Error::new(ErrorKind::Report, "the plot is not an SVG"))?;
    let label = attribute(&format!("{title}. {caption}"));
    let key = |(classes, text): (C, T)| {
        format!("<li><i class=\"key {}\"></i>{}</li>", classes.as_ref(), escape(text.as_ref()))
    };
    let keys: String = legend.into_iter().map(key).collect();
    Ok(format!("<ul class=\"legend\">{keys}</ul>\n<svg role=\"img\" aria-label=\"{label}\" {}\n", &svg[opening..]))
}

/// A document, folded away, as other programs read it.
///
/// # Errors
/// [`ErrorKind::Report`] if it is not one that JSON can hold.
pub(super) fn all_numbers(document: &impl Serialize) -> Result<String> {
    let json = serde_json::to_string_pretty(document)
        .map_err(|source| Error::new(ErrorKind::Report, "cannot write the numbers as JSON").with_source(source))?;
    let json = escape(&json);
    Ok(format!("<details><summary>All numbers as JSON</summary><pre tabindex=\"0\">{json}</pre></details>\n"))
}

/// Writes a page, or the numbers beside it; the file is wholly there or not at all.
///
/// # Errors
/// [`ErrorKind::Io`] with the path.
pub(super) fn write_text(path: &Path, text: &str) -> Result<()> {
    write_atomically(path, |file| {
        file.write_all(text.as_bytes()).map_err(|source| Error::new(ErrorKind::Io, "cannot write").with_source(source))
    })
}
