//! A data file and its form: task rows or conversations as JSON Lines, or CSV with a mapping of its columns.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::example::{Example, Message};
use crate::quality::Metric;

/// A data set in a file; `.gz` is decompressed on the way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// Its form; by the name's ending unless given: `.csv` is CSV, everything else task rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Task of rows that name none; the file's stem unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Metric of rows that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<Metric>,
    /// Which columns of a CSV file are what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Columns>,
    /// Share of the mixture, in proportion to the other data sets' weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// Only the first so many good rows are taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap: Option<usize>,
}

/// The form of a data file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// One task row a line.
    Task,
    /// One conversation a line: `{"messages": [{"role", "content"}, ..]}`; the last assistant turn is the target.
    Chat,
    /// Comma-separated values with a header.
    Csv,
}

/// Names of CSV columns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Columns {
    /// The prompt.
    pub input: String,
    /// The answer.
    pub target: String,
    /// Stable name of the row; the file's stem and the line unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Which task the row belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
}

impl Default for Columns {
    fn default() -> Self {
        Self { input: "input".into(), target: "target".into(), id: None, task: None }
    }
}

impl Source {
    /// A file with nothing else said about it.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { path, format: None, task: None, metric: None, columns: None, weight: None, cap: None }
    }

    pub(super) fn is_compressed(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == "gz")
    }

    pub(super) fn format(&self) -> Format {
        let plain = if self.is_compressed() { self.path.with_extension("") } else { self.path.clone() };
        let csv = plain.extension().is_some_and(|extension| extension == "csv");
        self.format.unwrap_or(if csv { Format::Csv } else { Format::Task })
    }

    /// The file's name up to its first dot.
    fn stem(&self) -> &str {
        let name = self.path.file_name().and_then(|name| name.to_str()).unwrap_or("rows");
        name.split('.').next().unwrap_or(name)
    }

    pub(super) fn task(&self) -> &str {
        self.task.as_deref().unwrap_or_else(|| self.stem())
    }
}

/// How the rows of one file are read; for CSV it knows the header.
#[derive(Debug, Clone)]
pub(super) struct RowReader {
    stem: String,
    task: String,
    metric: Metric,
    form: Form,
}

#[derive(Debug, Clone)]
enum Form {
    Task,
    Chat,
    Csv { input: usize, target: usize, id: Option<usize>, task: Option<usize> },
}

#[derive(Deserialize)]
struct TaskRow {
    id: Option<String>,
    task: Option<String>,
    input: String,
    target: String,
    metric: Option<Metric>,
    #[serde(default)]
    references: Vec<String>,
    #[serde(default)]
    history: Vec<Message>,
}

#[derive(Deserialize)]
struct ChatRow {
    id: Option<String>,
    task: Option<String>,
    messages: Vec<Message>,
}

impl RowReader {
    /// For a file whose CSV header, if it is one, is `header`.
    ///
    /// # Errors
    /// The name of a column that is not there.
    pub(super) fn new(source: &Source, header: Option<&csv::StringRecord>) -> Result<Self, String> {
        let form = match (source.format(), header) {
            (Format::Task, _) => Form::Task,
            (Format::Chat, _) => Form::Chat,
            (Format::Csv, None) => return Err("there is no header".into()),
            (Format::Csv, Some(header)) => {
                let columns = source.columns.clone().unwrap_or_default();
                let find = |name: &str| {
                    let names = || header.iter().collect::<Vec<_>>().join("`, `");
                    let place = header.iter().position(|column| column.trim() == name);
                    place.ok_or_else(|| format!("there is no column `{name}`, only `{}`", names()))
                };
                Form::Csv {
                    input: find(&columns.input)?,
                    target: find(&columns.target)?,
                    id: columns.id.as_deref().map(find).transpose()?,
                    task: columns.task.as_deref().map(find).transpose()?,
                }
            }
        };
        let metric = source.metric.unwrap_or_default();
        Ok(Self { stem: source.stem().into(), task: source.task().into(), metric, form })
    }

    /// One row from its bytes; `line` names rows that have no name.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(&self, bytes: &[u8], line: usize) -> Result<Example, String> {
        let named = |id: Option<String>| id.unwrap_or_else(|| format!("{}/{line}", self.stem));
        let of_task = |task: Option<String>| task.unwrap_or_else(|| self.task.clone());
        let example = match &self.form {
            Form::Task => {
                let row: TaskRow = serde_json::from_slice(bytes).map_err(|e| json(&e))?;
                Example {
                    id: named(row.id),
                    task: of_task(row.task),
                    input: row.input,
                    target: row.target,
                    metric: row.metric.unwrap_or(self.metric),
                    references: row.references,
                    history: row.history,
                }
            }
            Form::Chat => {
                let ChatRow { id, task, mut messages } = serde_json::from_slice(bytes).map_err(|e| json(&e))?;
                let answer = messages.pop().filter(|last| last.role == "assistant");
                let target = answer.ok_or("the last message is not the assistant's")?.content;
                let asked = messages.pop().filter(|last| last.role == "user");
                let input = asked.ok_or("the message before the last one is not the user's")?.content;
                let (id, task, metric) = (named(id), of_task(task), self.metric);
                Example { id, task, input, target, metric, references: vec![], history: messages }
            }
            Form::Csv { input, target, id, task } => {
                let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes);
                let record = reader.records().next().ok_or("the row is empty")?.map_err(|e| e.to_string())?;
                let field = |at: usize| {
                    let missing = || format!("the row has {} fields, column {} is missing", record.len(), at + 1);
                    record.get(at).map(str::to_owned).ok_or_else(missing)
                };
                Example {
                    id: named(id.map(field).transpose()?),
                    task: of_task(task.map(field).transpose()?),
                    input: field(*input)?,
                    target: field(*target)?,
                    metric: self.metric,
                    ..Example::default()
                }
            }
        };
        example.check()?;
        Ok(example)
    }
}

/// serde_json's message without its own line, which is always the first.
fn json(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

/// `path:line`.
pub(super) fn place(path: &Path, line: usize) -> String {
    format!("{}:{line}", path.display())
}
