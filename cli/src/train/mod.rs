//! `margay train`: a recipe, run to its end, stopped and gone on with, or run once for each objective and compared.

mod compare;
mod intents;
mod screen;

use std::path::PathBuf;

use clap::Args;
use margay_trainer::intents::IntentRecipe;
use margay_trainer::training::{Resume, run};
use margay_trainer::{Objective, Recipe};

use crate::console::Console;
use crate::error::Result;
use crate::interrupt;
use screen::Screen;

/// What `margay train` is told.
#[derive(Debug, Clone, Args)]
pub struct TrainArgs {
    /// The recipe, a TOML file; trainer/recipes has some
    #[arg(value_name = "RECIPE")]
    pub recipe: PathBuf,
    /// Replaces a value of the recipe, e.g. training.steps=100; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Go on with the run that is in the recipe's folder
    #[arg(long, conflicts_with = "compare")]
    pub resume: bool,
    /// Run once with each of these objectives and compare them on data.test, e.g. xent,cat-xent,cat-dist
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub compare: Vec<Objective>,
    /// How many seeds each objective is run with, from the recipe's on
    #[arg(long, value_name = "N", default_value_t = 1, requires = "compare")]
    pub seeds: u64,
    /// Print one JSON object: the steps taken, the models left, the test's quality; with --compare what comparison.json has
    #[arg(long)]
    pub json: bool,
}

/// Trains what the recipe says. The first Ctrl-C saves and stops, the second one stops at once.
///
/// # Errors
/// [`Error`](crate::Error) naming the file, key, or step and rows.
pub fn train(args: &TrainArgs, console: &mut Console) -> Result<()> {
    console.for_programs(args.json);
    if IntentRecipe::is_one(&args.recipe)? {
        return intents::train(args, console).map(drop);
    }
    let recipe = Recipe::read(&args.recipe, &args.set)?;
    if !args.compare.is_empty() {
        return compare::compare(&recipe, &args.compare, args.seeds, &*interrupt::flag()?, console).map(drop);
    }
    let resume = if args.resume { Resume::Continue } else { Resume::Refuse };
    let stop = interrupt::flag()?;
    let finished = {
        let mut screen = Screen::new(console, &recipe);
        let finished = run(&recipe, resume, &stop, &mut |event| screen.show(&event));
        screen.result()?;
        finished?
    };
    console.result(&screen::facts(&recipe, &finished), screen::summary(&recipe, &finished, &args.recipe))
}
