//! A report on made-up outcomes: `cargo run -p margay-evaluation --example report -- report.html`
//!
//! Two small models answer the same 4000 queries; the second knows better what it does not know.

use std::path::PathBuf;

use margay_evaluation::bootstrap::Bootstrap;
use margay_evaluation::outcome::{Outcome, Table};
use margay_evaluation::pairing::Pairing;
use margay_evaluation::report::{Example, Report};
use margay_evaluation::summary::{Comparison, Dataset, ObjectiveSummary, Options, ScoreKind, Summary};
use margay_evaluation::{Result, threshold};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

fn main() -> Result<()> {
    let path = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("report.html"), PathBuf::from);
    let table = made_up(4000)?;
    let bootstrap = Bootstrap { seed: 7, ..Bootstrap::default() };
    let dataset = Dataset { name: "made-up outcomes".into(), split: "test".into(), queries: 3000 };
    let mut summary = Summary::new(dataset, bootstrap);
    let mut pairings = Vec::new();
    for objective in ["cat-xent", "xent"] {
        let calibration = Pairing::join(table.split("calibration"), objective, "large")?;
        let test = Pairing::join(table.split("test"), objective, "large")?;
        let threshold = threshold::for_deferral_rate(calibration.scores(), 0.3)?.threshold;
        let options = Options { bootstrap, score: ScoreKind::LogProbability, threshold, served: None };
        summary.objectives.insert(objective.into(), ObjectiveSummary::from_pairing(&test, &options)?);
        pairings.push(test);
    }
    summary.comparisons.push(Comparison::new(("cat-xent", &pairings[0]), ("xent", &pairings[1]), &bootstrap)?);
    summary.facts.insert("outcomes".into(), "drawn at random, no model was run".into());
    let examples: Vec<Example> = (0..6).map(example).collect();
    let title = "Made-up cascade";
    let lead = "Two small models and a large one on the same made-up queries: how the report looks.";
    Report { title, lead, summary: &summary, examples: &examples }.write(&path)
}

/// Queries have a difficulty in [0, 1]; the harder, the less often each model is right.
fn made_up(queries: usize) -> Result<Table> {
    let mut random = StdRng::seed_from_u64(1);
    let mut table = Table::default();
    for query in 0..queries {
        let difficulty: f64 = random.random();
        let split = if query % 4 == 0 { "calibration" } else { "test" };
        let models = [
            ("large", 0.97 - 0.1 * difficulty, 0.0, 2.4e9),
            ("cat-xent", 0.99 - 0.4 * difficulty, 0.35, 1.9e8),
            ("xent", 0.99 - 0.38 * difficulty, 0.7, 1.9e8),
        ];
        for (model, chance, noise, flops) in models {
            let quality = f64::from(u8::from(random.random::<f64>() < chance));
            let mut outcome = Outcome::new(format!("query {query}"), model, quality);
            outcome.split = Some(split.into());
            outcome.flops = Some(flops * (0.8 + 0.4 * random.random::<f64>()));
            outcome.latency_ms = Some(flops / 1e8 * (1.0 + random.random::<f64>()));
            if model != "large" {
                let doubt = difficulty * (1.0 - noise)
                    + noise * random.random::<f64>()
                    + 0.3 * (1.0 - quality) * random.random::<f64>();
                outcome.score = Some(-doubt);
            }
            table.push(outcome)?;
        }
    }
    Ok(table)
}

fn example(number: usize) -> Example {
    let deferred = number % 3 == 1;
    Example {
        objective: if number < 3 { "cat-xent" } else { "xent" }.into(),
        prompt: format!("made-up question {number}: is a < b & \"b\" > a?"),
        expected: "comparison".into(),
        device_answer: if deferred { "greeting" } else { "comparison" }.into(),
        score: -0.1 - 0.2 * number as f64,
        cloud_answer: deferred.then(|| "comparison".into()),
        right: number != 5,
    }
}
