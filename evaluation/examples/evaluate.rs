//! Everything about a two-model table, as JSON: outcomes, both models, the JSON to write, then goals.
//!
//! `cargo run -p margay-evaluation --example evaluate -- outcomes.csv small large out.json 'risk<=0.05@0.95'`
//!
//! Thresholds are chosen on the split `calibration` and scored on `test`.

use std::path::Path;

use margay_evaluation::evaluation::{Evaluation, Options};
use margay_evaluation::goal::Goal;
use margay_evaluation::outcome::Table;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [outcomes, small, large, json, goals @ ..] = &arguments[..] else {
        return Err("usage: evaluate OUTCOMES SMALL LARGE JSON [GOAL...]".into());
    };
    let goals = goals.iter().map(|goal| goal.parse()).collect::<Result<Vec<Goal>, _>>()?;
    let table = Table::read(Path::new(outcomes))?;
    let calibration = (!goals.is_empty()).then_some("calibration");
    let options = Options { split: Some("test"), calibration, goals: &goals, ..Options::default() };
    Evaluation::from_table(&table, &[small, large], &options)?.write(Path::new(json))?;
    Ok(())
}
