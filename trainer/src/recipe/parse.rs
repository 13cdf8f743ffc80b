//! TOML to recipe, with settings from the command line, and errors that say where and what was probably meant.

use std::path::Path;

use toml::{Table, Value};

use super::Recipe;
use crate::error::{Error, ErrorKind, Result};

/// Reads `text`, which stands in the file `path`, under `settings` of the form `a.b=value`.
pub(super) fn recipe(text: &str, path: &Path, settings: &[String]) -> Result<Recipe> {
    let alone = toml::from_str::<Recipe>(text);
    if settings.is_empty() {
        return alone.map_err(|e| in_file(&e, text, path));
    }
    let mut table: Table = text.parse().map_err(|e| in_file(&e, text, path))?;
    // The recipe so far, or the first of the settings since which it is none: some need others that follow.
    let mut read = Err(None);
    for setting in settings {
        apply(&mut table, setting)?;
        read = match (table.clone().try_into::<Recipe>(), read) {
            (Ok(recipe), _) => Ok(recipe),
            (Err(e), Ok(_) | Err(None)) => Err(Some((setting, e))),
            (Err(_), since) => since,
        };
    }
    match (read, alone) {
        (Ok(recipe), _) | (Err(None), Ok(recipe)) => Ok(recipe),
        // The file is right by itself: what is wrong is this setting.
        (Err(Some((setting, e))), Ok(_)) => Err(refused(&format!("--set {setting}"), e.message()).with_source(e)),
        (Err(_), Err(e)) => Err(in_file(&e, text, path)),
    }
}

/// Puts one setting into the table. Tables on the way are made; a number goes into an array.
fn apply(table: &mut Table, setting: &str) -> Result<()> {
    let bad = |why: &str| Error::new(ErrorKind::Config, format!("--set {setting}: {why}"));
    let (key, text) = setting.split_once('=').ok_or_else(|| bad("is not of the form key=value"))?;
    let value = match format!("value = {text}").parse::<Table>() {
        Ok(mut parsed) if parsed.len() == 1 => parsed.remove("value").unwrap_or_else(|| text.into()),
        _ => Value::String(text.into()),
    };
    let steps: Vec<&str> = key.trim().split('.').collect();
    let Some((last, way)) = steps.split_last() else { return Err(bad("names no key")) };
    if steps.iter().any(|step| step.is_empty()) {
        return Err(bad("names no key"));
    }
    let Some((first, way)) = way.split_first() else {
        table.insert((*last).to_owned(), value);
        return Ok(());
    };
    let mut place = table.entry(*first).or_insert_with(|| Value::Table(Table::new()));
    for step in way {
        place = match place {
            Value::Table(table) => table.entry(*step).or_insert_with(|| Value::Table(Table::new())),
            Value::Array(items) => entry(items, step).ok_or_else(|| bad(&format!("there is no entry `{step}`")))?,
            _ => return Err(bad(&format!("`{step}` would be inside a value"))),
        };
    }
    match place {
        Value::Table(table) => {
            table.insert((*last).to_owned(), value);
        }
        Value::Array(items) => {
            *entry(items, last).ok_or_else(|| bad(&format!("there is no entry `{last}`")))? = value;
        }
        _ => return Err(bad(&format!("`{last}` would be inside a value"))),
    }
    Ok(())
}

fn entry<'a>(items: &'a mut [Value], index: &str) -> Option<&'a mut Value> {
    items.get_mut(index.parse::<usize>().ok()?)
}

fn in_file(error: &toml::de::Error, text: &str, path: &Path) -> Error {
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let section = before.lines().rev().find(|line| line.trim_start().starts_with('['));
    let place = match section {
        Some(section) => format!("{}:{line}: {}", path.display(), section.trim()),
        None => format!("{}:{line}", path.display()),
    };
    refused(&place, error.message()).with_source(error.clone())
}

/// The message of serde, with the known name that is nearest to the unknown one.
fn refused(place: &str, message: &str) -> Error {
    let message = message.trim();
    let hint = nearest(message).map_or_else(String::new, |name| format!("; did you mean `{name}`?"));
    Error::new(ErrorKind::Config, format!("{place}: {message}{hint}"))
}

/// Reads "unknown field `x`, expected one of `a`, `b`" and the like.
fn nearest(message: &str) -> Option<&str> {
    let (unknown, known) = message.split_once(", expected")?;
    let unknown = unknown.strip_prefix("unknown field").or_else(|| unknown.strip_prefix("unknown variant"))?;
    let unknown = unknown.trim().trim_matches('`');
    let distance = |name: &&str| strsim::damerau_levenshtein(name, unknown);
    let best = known.split('`').skip(1).step_by(2).min_by_key(distance)?;
    (distance(&best) <= 1 + unknown.chars().count() / 3).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"out = "run"

[model.scratch]
hidden = 16
intermediate = 32
layers = 1
heads = 1
key_value_heads = 1

[[data.train]]
path = "rows.jsonl"

[training]
steps = 10
learning_rate = 0.1
"#;

    fn parse(text: &str, settings: &[&str]) -> Result<Recipe> {
        let settings: Vec<String> = settings.iter().map(|&s| s.to_owned()).collect();
        recipe(text, Path::new("a.toml"), &settings)
    }

    fn message(text: &str, settings: &[&str]) -> String {
        parse(text, settings).unwrap_err().to_string()
    }

    #[test]
    fn a_key_that_is_not_known_is_named_with_its_line_and_a_suggestion() {
        let text = TEXT.replace("learning_rate", "lerning_rate");
        let said = message(&text, &[]);
        assert!(said.starts_with("a.toml:15: [training]"), "{said}");
        assert!(said.ends_with("did you mean `learning_rate`?"), "{said}");
        assert!(
            message(&format!("{TEXT}[objective]\nname = \"cat-exnt\"\n"), &[]).contains("did you mean `cat-xent`?")
        );
        assert!(!message(&TEXT.replace("steps", "quite_another_thing"), &[]).contains("did you mean"));
    }

    #[test]
    fn settings_replace_what_the_file_says() {
        let recipe = parse(TEXT, &["training.steps=20", "seed=3", "out=other", "data.train.0.cap=5"]).unwrap();
        assert_eq!((recipe.training.steps, recipe.seed, recipe.data.train[0].cap), (Some(20), 3, Some(5)));
        assert_eq!(recipe.out, Path::new("other"));
        // What the file lacks may come from a setting.
        let lacking = TEXT.replace("learning_rate = 0.1\n", "");
        assert!(message(&lacking, &[]).contains("learning_rate"));
        assert_eq!(parse(&lacking, &["seed=1", "training.learning_rate=0.5"]).unwrap().training.learning_rate, 0.5);
        // One setting may need another that follows.
        let fold = ["data.leave_out.fold=1", "data.leave_out.of=2"];
        assert_eq!(parse(TEXT, &fold).unwrap().data.leave_out.map(|fold| (fold.fold, fold.of)), Some((1, 2)));
        assert!(message(TEXT, &[fold[0], "seed=1"]).contains("--set data.leave_out.fold=1: missing field `of`"));
    }

    #[test]
    fn a_setting_that_makes_no_sense_is_named() {
        for (setting, said) in [
            ("training.stepz=3", "--set training.stepz=3: unknown field `stepz`"),
            ("training.steps=many", "--set training.steps=many: invalid type"),
            ("training", "is not of the form key=value"),
            ("data.train.7.cap=1", "there is no entry `7`"),
            ("out.x.y=1", "would be inside a value"),
            ("a..b=1", "names no key"),
        ] {
            let error = message(TEXT, &[setting]);
            assert!(error.contains(said), "{setting}: {error}");
        }
    }

    #[test]
    fn a_recipe_is_written_as_it_is_read() {
        let recipe = parse(TEXT, &[]).unwrap();
        assert_eq!(parse(&recipe.to_toml().unwrap(), &[]).unwrap(), recipe);
    }
}
