//! `margay train` of a recipe with a table `[intents]`: a classifier for microcontrollers.

use margay_trainer::data::read_jsonl;
use margay_trainer::intents::{IntentClassifier, IntentRecipe};
use serde_json::json;

use super::TrainArgs;
use crate::console::{Bar, Console};
use crate::error::{Error, Result};

pub(super) fn train(args: &TrainArgs, console: &mut Console) -> Result<IntentClassifier> {
    if !args.set.is_empty() || args.resume || !args.compare.is_empty() {
        let why = "a recipe with [intents] is trained in seconds: --set, --resume and --compare are not for it";
        return Err(Error::Usage(why.into()));
    }
    let recipe = IntentRecipe::read(&args.recipe)?;
    let (rows, test) = (read_jsonl(&recipe.data.train)?, read_jsonl(&recipe.data.test)?);
    let trained = {
        let bar: Bar = console.bar("training", recipe.intents.epochs as u64);
        let mut report = |_, loss| {
            bar.advance(1);
            bar.say(format!("loss {loss:.4}"));
        };
        IntentClassifier::train(&rows, &recipe.intents, &recipe.data.repeat, recipe.seed, &mut report)?
    };
    let file = trained.save(&recipe.out)?;
    let mut tasks: Vec<&str> = test.iter().map(|row| row.task.as_str()).collect();
    tasks.sort_unstable();
    tasks.dedup();
    let (mut lines, mut accuracies) = (vec![], serde_json::Map::new());
    for task in tasks {
        let rows: Vec<_> = test.iter().filter(|row| row.task == task).cloned().collect();
        let accuracy = trained.accuracy(&rows)?;
        lines.push(format!("{task}: {:.1} % of {} utterances right", 100.0 * accuracy, rows.len()));
        accuracies.insert(task.to_owned(), json!({"rows": rows.len(), "accuracy": accuracy}));
    }
    let intents = trained.intents();
    lines.push(format!("{}: {} intents, from {} utterances", file.display(), intents.len(), rows.len()));
    let value =
        json!({"file": file.to_string_lossy(), "intents": intents, "utterances": rows.len(), "test": accuracies});
    console.result(&value, lines)?;
    Ok(trained)
}
