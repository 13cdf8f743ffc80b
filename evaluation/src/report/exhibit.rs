//! A figure or a table with the numbers behind it: in the page, and beside it as CSV and JSON.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::markup::{escape, prefix};
use super::page;
use super::plot::Plot;
use crate::error::{Error, ErrorKind, Result};
use crate::file::write_json;

/// Rows of a table that are shown at once; more are folded away, because a phone shows each by itself.
const MAX_OPEN_ROWS: usize = 24;

/// A figure or a table: what is shown, and the numbers behind it.
pub(super) struct Exhibit {
    /// Name of its files.
    name: &'static str,
    title: String,
    caption: String,
    /// The drawing and its legend, or a table.
    body: String,
    columns: Vec<&'static str>,
    pub(super) rows: Vec<Vec<Value>>,
}

impl Exhibit {
    pub(super) fn figure(
        name: &'static str,
        title: &str,
        caption: &str,
        plot: &Plot,
        legend: &[(&str, &str)],
        (columns, rows): (Vec<&'static str>, Vec<Vec<Value>>),
    ) -> Result<Self> {
        let body = page::drawing(title, caption, plot, legend.iter().copied())?;
        Ok(Self { name, title: title.to_owned(), caption: caption.to_owned(), body, columns, rows })
    }

    pub(super) fn table(
        name: &'static str,
        title: &str,
        caption: &str,
        columns: Vec<&'static str>,
        rows: Vec<Vec<Value>>,
    ) -> Self {
        let table = table(&columns, &rows);
        let body = match rows.len() {
            ..=MAX_OPEN_ROWS => table,
            count => {
                format!("<div><details class=\"group\"><summary>{count} rows</summary>\n{table}</details></div>\n")
            }
        };
        Self { name, title: title.to_owned(), caption: caption.to_owned(), body, columns, rows }
    }

    /// A table that is long, its rows folded away by what their first cell says, with how many there are of each.
    pub(super) fn folded<'a>(
        name: &'static str,
        title: &str,
        caption: &str,
        (columns, rows): (Vec<&'static str>, Vec<Vec<Value>>),
        counts: impl Iterator<Item = (&'a str, usize)>,
    ) -> Self {
        let group = |(kind, count): (&str, usize)| {
            let of_kind = rows.iter().filter(|row| row.first() == Some(&Value::from(kind)));
            let of_kind: Vec<Vec<Value>> = of_kind.map(|row| row[1..].to_vec()).collect();
            let shown = if of_kind.len() < count { format!(", {} shown", of_kind.len()) } else { String::new() };
            let (kind, table) = (escape(kind), table(&columns[1..], &of_kind));
            format!(
                "<details class=\"group\"><summary>{kind} <small>{count}{shown}</small></summary>\n{table}</details>\n"
            )
        };
        let body = format!("<div>\n{}</div>\n", counts.filter(|(_, count)| *count > 0).map(group).collect::<String>());
        Self { name, title: title.to_owned(), caption: caption.to_owned(), body, columns, rows }
    }

    pub(super) fn html(&self) -> String {
        let wide = if self.body.starts_with("<div") { " class=\"wide\"" } else { "" };
        format!(
            "<figure{wide} id=\"{name}\">\n<h3>{title}</h3>\n{body}<figcaption>{caption}</figcaption>\n<details><summary>CSV</summary><pre tabindex=\"0\">{csv}</pre></details>\n<details><summary>JSON</summary><pre tabindex=\"0\">{json}</pre></details>\n</figure>\n",
            name = self.name,
            title = escape(&self.title),
            body = self.body,
            caption = escape(&self.caption),
            csv = escape(&self.csv()),
            json = escape(&self.json().to_string()),
        )
    }

    /// Writes the numbers into a folder, as `.csv` and `.json`.
    fn write(&self, folder: &Path) -> Result<()> {
        page::write_text(&folder.join(format!("{}.csv", self.name)), &self.csv())?;
        write_json(&folder.join(format!("{}.json", self.name)), &self.json())
    }

    fn csv(&self) -> String {
        let mut csv = self.columns.join(",");
        csv.push('\n');
        for row in &self.rows {
            let cells: Vec<String> = row.iter().map(csv_cell).collect();
            csv += &cells.join(",");
            csv.push('\n');
        }
        csv
    }

    fn json(&self) -> Value {
        let object = |row: &Vec<Value>| -> Value {
            self.columns
                .iter()
                .map(|column| (*column).to_owned())
                .zip(row.iter().cloned())
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        self.rows.iter().map(object).collect()
    }
}

/// Writes a page as `index.html` into a folder, which is made if it is not there, each exhibit's numbers beside it, and all
/// numbers as the JSON file `name`.
///
/// # Errors
/// [`ErrorKind::Io`] with the path.
pub(super) fn write_folder(
    folder: &Path,
    exhibits: &[Exhibit],
    name: &str,
    numbers: &impl Serialize,
    page: &str,
) -> Result<()> {
    let io = |source| Error::new(ErrorKind::Io, "cannot make").at_path(folder).with_source(source);
    std::fs::create_dir_all(folder).map_err(io)?;
    exhibits.iter().try_for_each(|exhibit| exhibit.write(folder))?;
    write_json(&folder.join(name), numbers)?;
    page::write_text(&folder.join("index.html"), page)
}

/// Rows under their columns. An interval, the columns `low` and `high` at the end, stands under the number before it. Names
/// with one number go into two columns where there is room; on a phone, rows of more are each by themselves.
fn table(columns: &[&str], rows: &[Vec<Value>]) -> String {
    let shown_columns = columns.strip_suffix(&["low", "high"]).unwrap_or(columns);
    let is_text = |at: usize| rows.iter().any(|row| row[at].is_string());
    let class = |at: usize| if is_text(at) { " class=\"text\"" } else { "" };
    let head =
        |(at, column): (usize, &&str)| format!("<th scope=\"col\"{}>{}</th>", class(at), escape(&heading(column)));
    let heads: String = shown_columns.iter().enumerate().map(head).collect();
    let cell = |row: &[Value], at: usize| {
        let text = escape(&shown(&row[at]));
        if at == 0 {
            let meaning = row[at].as_str().and_then(meaning).map(|meaning| format!(" <small>{meaning}</small>"));
            return format!("<th scope=\"row\">{text}{}</th>", meaning.unwrap_or_default());
        }
        let interval = match &row[shown_columns.len()..] {
            [low, high] if at + 1 == shown_columns.len() && !low.is_null() => {
                format!("<small>{} to {}</small>", shown(low), shown(high))
            }
            _ => String::new(),
        };
        format!("<td{} data-label=\"{}\">{text}{interval}</td>", class(at), escape(&heading(columns[at])))
    };
    let line = |row: &Vec<Value>| {
        format!("<tr>{}</tr>\n", (0..shown_columns.len()).map(|at| cell(row, at)).collect::<String>())
    };
    let lines: String = rows.iter().map(line).collect();
    let form = match shown_columns.len() {
        ..=2 => " pairs",
        3..=4 if !(1..shown_columns.len()).any(is_text) => " stack few",
        _ => " stack",
    };
    format!(
        "<div class=\"scroll\" tabindex=\"0\"><table class=\"numbers{form}\">\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{lines}</tbody>\n</table></div>\n"
    )
}

/// A column as people write it.
fn heading(column: &str) -> String {
    const ACRONYMS: [&str; 8] = ["audc", "auroc", "aurc", "augrc", "fpr95", "ece", "mce", "nll"];
    match column {
        "s_d" => column.to_owned(),
        "e_aurc" => "E-AURC".to_owned(),
        "brier" => "Brier".to_owned(),
        _ => {
            let word = |word: &str| if ACRONYMS.contains(&word) { word.to_uppercase() } else { word.to_owned() };
            column.split('_').map(word).collect::<Vec<_>>().join(" ")
        }
    }
}

/// What a measure is, in a few words, by its name.
fn meaning(measure: &str) -> Option<String> {
    let (name, share) = match measure.rsplit_once('_') {
        Some((name, share)) if share.parse::<u32>().is_ok() => (name, share),
        _ => (measure, ""),
    };
    Some(match name {
        "audc" => "area under the deferral curve".to_owned(),
        "audc_random" => "the same, deferring at random".to_owned(),
        "audc_ideal" => "the same, by an oracle".to_owned(),
        "apgr" => "average performance gap recovered".to_owned(),
        "s_d" => "0 is random, 1 an oracle".to_owned(),
        "auroc" => "how well the score finds right answers".to_owned(),
        "benefit_auroc" => "how well it finds what only the large model knows".to_owned(),
        "error_cost_area" => "mean error over the interval of cost".to_owned(),
        "aiq" => "mean quality on the hull over the interval of cost".to_owned(),
        "cpt" => format!("least deferral that closes {share}\u{a0}% of the gap"),
        "cost_at" => format!("least cost with {share}\u{a0}% of the large model’s quality"),
        "ibc_lift" => format!("lift of benefit per cost at {share}\u{a0}% deferred"),
        "small_quality" | "small_cost" => "small model alone".to_owned(),
        "large_quality" => "large model alone".to_owned(),
        "quality" | "cost" | "deferral_rate" => "at the threshold".to_owned(),
        "quality_at" => format!("{share}\u{a0}% deferred"),
        _ => return None,
    })
}

/// A number to four digits behind the point, a large one with its prefix, and a dash for what is undefined.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => {
            let number = number.as_f64().unwrap_or_default();
            match number.abs() {
                size if size >= 1e5 && size < 1e18 => {
                    let (scale, letter) = prefix(size);
                    format!("{:.3}\u{a0}{letter}", number / scale)
                }
                size if size != 0.0 && !(1e-4..1e5).contains(&size) => format!("{number:.3e}"),
                _ => format!("{number:.4}"),
            }
        }
        other => other.to_string(),
    }
}

fn csv_cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) if text.contains([',', '"', '\n', '\r']) => format!("\"{}\"", text.replace('"', "\"\"")),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
