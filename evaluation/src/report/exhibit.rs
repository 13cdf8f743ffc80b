//! A figure or a table with the numbers behind it: in the page, and beside it as CSV and JSON.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::markup::escape;
use super::page;
use super::plot::Plot;
use crate::error::{Error, ErrorKind, Result};
use crate::file::write_json;

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
        let heads: String = columns
            .iter()
            .map(|column| format!("<th scope=\"col\">{}</th>", escape(&column.replace('_', " "))))
            .collect();
        let line = |row: &Vec<Value>| {
            let cells = row.iter().enumerate().map(|(at, value)| match (at, value) {
                (0, value) => format!("<th scope=\"row\">{}</th>", escape(&shown(value))),
                (_, Value::String(text)) => format!("<td class=\"text\">{}</td>", escape(text)),
                (_, value) => format!("<td>{}</td>", escape(&shown(value))),
            });
            format!("<tr>{}</tr>\n", cells.collect::<String>())
        };
        let lines: String = rows.iter().map(line).collect();
        let body = format!(
            "<div class=\"scroll\" tabindex=\"0\"><table class=\"numbers\">\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{lines}</tbody>\n</table></div>\n"
        );
        Self { name, title: title.to_owned(), caption: caption.to_owned(), body, columns, rows }
    }

    pub(super) fn html(&self) -> String {
        let wide = if self.body.starts_with("<div") && self.columns.len() > 4 { " class=\"wide\"" } else { "" };
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

/// A number to four digits behind the point, and nothing for what is undefined.
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

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => {
            let number = number.as_f64().unwrap_or_default();
            if number != 0.0 && (number.abs() >= 1e5 || number.abs() < 1e-4) {
                format!("{number:.3e}")
            } else {
                format!("{number:.4}")
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
