//! Texts that models are measured and calibrated on: JSON Lines with a text, or a question and its answer, on each.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result};

/// One row of a file of texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text {
    /// A text, every token of which counts but the first.
    Plain(String),
    /// A question in words and the answer that should follow: only the answer's tokens count.
    Answer {
        /// What the person says.
        input: String,
        /// What the model should answer.
        target: String,
    },
}

/// Reads texts: one JSON object a line, with `text`, or with `input` and `target`. Other fields are passed over.
///
/// # Errors
/// [`ErrorKind::Io`] when the file cannot be read, [`ErrorKind::Data`], naming file and line, when a row is malformed, too
/// long or empty, or when there is none.
pub fn read_texts(path: &Path) -> Result<Vec<Text>> {
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    read(BufReader::new(file), path)
}

/// The texts that 4-bit weights are calibrated on where nobody gives others: arithmetic in words (GSM8K), requests (CLINC150),
/// prose and code. `exporter/calibration/make_texts.py` makes them.
///
/// # Errors
/// None but as [`read_texts`].
pub fn calibration_texts() -> Result<Vec<Text>> {
    read(include_bytes!("../calibration/texts.jsonl").as_slice(), Path::new("calibration/texts.jsonl"))
}

/// Longest line, in bytes: far above any text that a model of this size reads at once.
const MAX_LINE: u64 = 4 << 20;

/// Most rows: a measurement over more takes hours.
const MAX_ROWS: usize = 100_000;

#[derive(Deserialize)]
struct Row {
    text: Option<String>,
    input: Option<String>,
    target: Option<String>,
}

fn read(mut reader: impl BufRead, path: &Path) -> Result<Vec<Text>> {
    let mut rows = Vec::new();
    let mut line = Vec::new();
    for number in 1_usize.. {
        let bad = |what: &str| Error::new(ErrorKind::Data, format!("{}:{number}: {what}", path.display()));
        line.clear();
        let read = reader.by_ref().take(MAX_LINE + 1).read_until(b'\n', &mut line);
        match read.map_err(|e| Error::io(&format!("read line {number} of"), path, e))? {
            0 => break,
            length if length as u64 > MAX_LINE => return Err(bad(&format!("the line is over {MAX_LINE} bytes"))),
            _ if line.trim_ascii().is_empty() => continue,
            _ if rows.len() == MAX_ROWS => return Err(bad(&format!("there are more than {MAX_ROWS} rows"))),
            _ => {}
        }
        let row: Row = serde_json::from_slice(&line).map_err(|e| bad(&e.to_string()))?;
        let full = |field: &str, text: String| match text.trim().is_empty() {
            true => Err(bad(&format!("`{field}` is empty"))),
            false => Ok(text),
        };
        rows.push(match row {
            Row { text: Some(text), input: None, target: None } => Text::Plain(full("text", text)?),
            Row { text: None, input: Some(input), target: Some(target) } => {
                Text::Answer { input: full("input", input)?, target: full("target", target)? }
            }
            _ => return Err(bad("a row has either `text`, or `input` and `target`")),
        });
    }
    if rows.is_empty() {
        return Err(Error::new(ErrorKind::Data, format!("{}: there is no row in it", path.display())));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Text>> {
        read(text.as_bytes(), Path::new("rows.jsonl"))
    }

    #[test]
    fn texts_and_answers_are_told_apart() {
        let rows = parse("{\"text\": \"a b\", \"id\": 3}\n\n{\"input\": \"q\", \"target\": \"t\", \"metric\": \"f1\"}")
            .unwrap();
        assert_eq!(rows, [Text::Plain("a b".into()), Text::Answer { input: "q".into(), target: "t".into() }]);
    }

    #[test]
    fn a_bad_row_is_named_by_file_and_line() {
        for (text, names) in [
            ("{\"text\": \"a\"}\n{\"text\": 3}", "rows.jsonl:2: invalid type"),
            ("{\"text\": \" \"}", "rows.jsonl:1: `text` is empty"),
            ("\n{\"input\": \"a\", \"target\": \"\"}", "rows.jsonl:2: `target` is empty"),
            ("{\"input\": \"a\"}", "rows.jsonl:1: a row has either"),
            ("{\"text\": \"a\", \"input\": \"a\", \"target\": \"b\"}", "rows.jsonl:1: a row has either"),
            ("", "rows.jsonl: there is no row in it"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Data);
            assert!(error.to_string().starts_with(names), "{error}");
        }
        let long = format!("{{\"text\": \"{}\"}}", "a".repeat(MAX_LINE as usize));
        assert!(parse(&long).unwrap_err().to_string().contains("over"));
    }
}
