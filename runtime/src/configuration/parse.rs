//! From a text to a schema, with every error at its line and column.

use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::error::{Error, ErrorKind, Result};

/// Reads the text, then again with the overrides in it, so that what is wrong with the file is said with its place.
pub(super) fn parse<T: DeserializeOwned>(text: &str, name: &str, overrides: &[(String, String)]) -> Result<T> {
    let plain = toml::from_str(text);
    if overrides.is_empty() {
        return plain.map_err(|error| located(text, name, error.span().unwrap_or_default(), error.message()));
    }
    let mut table: Table =
        toml::from_str(text).map_err(|error| located(text, name, error.span().unwrap_or_default(), error.message()))?;
    for (key, value) in overrides {
        put(&mut table, key, value)?;
    }
    let overridden = toml::to_string(&table).map_err(|error| wrong(format!("{name} with overrides: {error}")))?;
    toml::from_str(&overridden).map_err(|error| match plain {
        Err(plain) => located(text, name, plain.span().unwrap_or_default(), plain.message()),
        Ok(_) => {
            let keys: Vec<&str> = overrides.iter().map(|(key, _)| key.as_str()).collect();
            wrong(format!("{name} with {} overridden: {}", keys.join(", "), error.message().trim()))
        }
    })
}

/// Puts a value in the place that a dotted key names.
fn put(table: &mut Table, key: &str, value: &str) -> Result<()> {
    // A value that is no TOML is a bare text: nobody quotes in an environment variable.
    let parsed = toml::from_str::<Table>(&format!("value = {value}")).ok();
    let value = parsed.and_then(|mut table| table.remove("value")).unwrap_or_else(|| Value::String(value.into()));
    let mut parts: Vec<&str> = key.split('.').collect();
    let last = parts.pop().unwrap_or_default();
    let mut place = table;
    for part in parts {
        let next = place.entry(part).or_insert_with(|| Value::Table(Table::new()));
        place = next.as_table_mut().ok_or_else(|| wrong(format!("override `{key}`: `{part}` is no table")))?;
    }
    place.insert(last.into(), value);
    Ok(())
}

fn wrong(message: String) -> Error {
    Error::new(ErrorKind::Configuration, message)
}

/// An error at a place of the text: `margay.toml:3:7: ...`, lines and columns (in characters) from one.
pub(super) fn located(text: &str, name: &str, span: Range<usize>, why: &str) -> Error {
    let before = text.get(..span.start).unwrap_or(text);
    let line = 1 + before.matches('\n').count();
    let column = 1 + before.rsplit('\n').next().unwrap_or_default().chars().count();
    wrong(format!("{name}:{line}:{column}: {}", why.trim().replace('\n', ", ")))
}
