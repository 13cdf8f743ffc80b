//! One row of a data set, and the reader of small task files that fit into memory.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::quality::Metric;

/// A question and the answer it should get.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Example {
    /// Stable name of the row; unique within its file.
    pub id: String,
    /// Which task it belongs to.
    pub task: String,
    /// The prompt.
    pub input: String,
    /// The reference answer.
    pub target: String,
    /// How an answer is scored.
    #[serde(default, skip_serializing_if = "Metric::is_default")]
    pub metric: Metric,
    /// All reference answers, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<String>,
    /// What was said before the prompt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Message>,
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Example {
    /// Quality of an answer in [0, 1], by the row's own metric.
    #[must_use]
    pub fn quality(&self, answer: &str) -> f64 {
        let target = std::slice::from_ref(&self.target);
        self.metric.of(answer, if self.references.is_empty() { target } else { &self.references })
    }

    /// # Errors
    /// What is wrong with the row.
    pub(super) fn check(&self) -> Result<(), String> {
        for (field, value) in [("id", &self.id), ("input", &self.input), ("target", &self.target)] {
            if value.trim().is_empty() {
                return Err(format!("`{field}` is empty"));
            }
        }
        Ok(())
    }
}

/// Reads task rows, one JSON object a line; a name that ends in `.gz` is decompressed on the way.
///
/// Fields other than those of [`Example`] are passed over: the published form of a task file has more.
///
/// # Errors
/// [`ErrorKind::Io`] when the file cannot be read, [`ErrorKind::Data`] naming file and line when a row is
/// malformed, too long, empty, or repeats an id, or when there is no row at all.
pub fn read_jsonl(path: &Path) -> Result<Vec<Example>> {
    let file = BufReader::new(File::open(path).map_err(|e| Error::io("open", path, e))?);
    if path.extension().is_some_and(|extension| extension == "gz") {
        read(BufReader::new(MultiGzDecoder::new(file)), path)
    } else {
        read(file, path)
    }
}

/// Longest row of a data file, in bytes: far above any prompt, far below what would exhaust a small machine.
pub(super) const MAX_ROW: usize = 4 << 20;

fn read(mut reader: impl BufRead, path: &Path) -> Result<Vec<Example>> {
    let mut rows: Vec<Example> = Vec::new();
    let mut ids = std::collections::HashSet::new();
    let mut line = Vec::new();
    for number in 1_usize.. {
        let bad = |what: &str| Error::new(ErrorKind::Data, format!("{}:{number}: {what}", path.display()));
        line.clear();
        let read = reader.by_ref().take(MAX_ROW as u64 + 1).read_until(b'\n', &mut line);
        match read.map_err(|e| bad(&format!("cannot be read: {e}")).with_source(e))? {
            0 => break,
            length if length > MAX_ROW => return Err(bad(&format!("the line is over {MAX_ROW} bytes"))),
            _ if line.trim_ascii().is_empty() => continue,
            _ => {}
        }
        let row: Example = serde_json::from_slice(&line).map_err(|e| bad(&e.to_string()).with_source(e))?;
        row.check().map_err(|what| bad(&what))?;
        if !ids.insert(row.id.clone()) {
            return Err(bad(&format!("the id `{}` stands twice", row.id)));
        }
        rows.push(row);
    }
    if rows.is_empty() {
        return Err(Error::new(ErrorKind::Data, format!("{}: there is no row in it", path.display())));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: &str = r#"{"id":"t/1","task":"t","input":"hello","target":"greeting","metric":"accuracy"}"#;

    fn parse(text: &str) -> Result<Vec<Example>> {
        read(text.as_bytes(), Path::new("rows.jsonl"))
    }

    #[test]
    fn rows_are_read_and_other_fields_passed_over() {
        let rows = parse(&format!("{ROW}\n\n")).unwrap();
        assert_eq!((rows.len(), rows[0].target.as_str()), (1, "greeting"));
    }

    #[test]
    fn a_bad_row_is_named_by_file_and_line() {
        for (text, names) in [
            (format!("{ROW}\n{{\"id\": 3}}"), "rows.jsonl:2: invalid type"),
            (format!("{ROW}\n{ROW}"), "rows.jsonl:2: the id `t/1` stands twice"),
            (ROW.replace("hello", " "), "rows.jsonl:1: `input` is empty"),
            (ROW.replace("\"target\"", "\"goal\""), "rows.jsonl:1: missing field `target`"),
            (String::new(), "rows.jsonl: there is no row in it"),
        ] {
            let error = parse(&text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Data);
            assert!(error.to_string().starts_with(names), "{error}");
        }
    }

    #[test]
    fn a_cut_archive_is_an_error() {
        use std::io::Write;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl.gz");
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gz.write_all(ROW.as_bytes()).unwrap();
        let bytes = gz.finish().unwrap();
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read_jsonl(&path).unwrap().len(), 1);
        std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
        assert_eq!(read_jsonl(&path).unwrap_err().kind(), ErrorKind::Data);
    }
}
