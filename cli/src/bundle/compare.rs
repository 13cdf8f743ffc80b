//! `margay bundle diff`: in what two bundles differ, field by field and file by file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use margay::Bundle;
use serde_json::{Value, json};

use crate::console::Console;
use crate::error::{Error, Result};

/// What `margay bundle diff` is told.
#[derive(Debug, Clone, Args)]
pub struct DiffArgs {
    /// Folder or file of one bundle
    #[arg(value_name = "A")]
    pub a: PathBuf,
    /// Folder or file of the other
    #[arg(value_name = "B")]
    pub b: PathBuf,
    /// Exit with 1 if they differ
    #[arg(long)]
    pub exit_code: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// A field's path, e.g. `model.layers`, and its value in each, if it is there.
type Differences = Vec<(String, Option<Value>, Option<Value>)>;

pub(super) fn diff(args: &DiffArgs, console: &mut Console) -> Result<()> {
    console.for_programs(args.json);
    let (a, b) = (Bundle::open(&args.a)?, Bundle::open(&args.b)?);
    let (facts_a, facts_b) = (facts(&a)?, facts(&b)?);
    let mut paths: Vec<&String> = facts_a.keys().chain(facts_b.keys()).collect();
    paths.sort();
    paths.dedup();
    let values = |path: &String| (path.clone(), facts_a.get(path).cloned(), facts_b.get(path).cloned());
    let differences: Differences = paths.into_iter().map(values).filter(|(_, a, b)| a != b).collect();
    let list: Vec<Value> = differences.iter().map(|(path, a, b)| json!({"field": path, "a": a, "b": b})).collect();
    let same_model = a.model_digest() == b.model_digest();
    console.result(
        &json!({"same": list.is_empty(), "same_model": same_model, "differences": list}),
        lines(&differences, same_model),
    )?;
    match args.exit_code && !differences.is_empty() {
        true => Err(Error::Usage("the bundles differ".into())),
        false => Ok(()),
    }
}

fn lines(differences: &Differences, same_model: bool) -> Vec<String> {
    if differences.is_empty() {
        return vec!["the same bundle".into()];
    }
    let shown = |value: &Option<Value>| value.as_ref().map_or("-".into(), short);
    let mut lines = vec![if same_model {
        "the same model: thresholds of one hold for the other".into()
    } else {
        "two models: thresholds of one mean nothing for the other".into()
    }];
    lines.extend(differences.iter().map(|(path, a, b)| format!("  {path}: {} -> {}", shown(a), shown(b))));
    lines
}

/// A value in one short line.
fn short(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Everything two bundles can differ in, by path. Lists are values as they are, but files go by their own paths.
fn facts(bundle: &Bundle) -> Result<BTreeMap<String, Value>> {
    let to_json = |error: serde_json::Error| Error::Usage(error.to_string());
    let mut manifest = serde_json::to_value(bundle.manifest()).map_err(to_json)?;
    let mut facts = BTreeMap::new();
    if let Some(fields) = manifest.as_object_mut() {
        fields.remove("files");
    }
    flatten(String::new(), manifest, &mut facts);
    flatten("policy".into(), serde_json::to_value(bundle.policy()).map_err(to_json)?, &mut facts);
    for file in &bundle.manifest().files {
        facts.insert(format!("files.{}", file.path), json!({"size": file.size, "sha256": file.sha256}));
    }
    facts.insert("signers".into(), json!(bundle.signers()));
    Ok(facts)
}

fn flatten(path: String, value: Value, facts: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name } else { format!("{path}.{name}") };
                flatten(path, value, facts);
            }
        }
        value => {
            facts.insert(path, value);
        }
    }
}
