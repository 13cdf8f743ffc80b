//! `margay compare`: two bundles, or two outcome tables, on the same queries.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use clap::Args;
use margay::Bundle;
use margay::bundle::CalibratedPolicy;
use margay::policy::{Policy, Rule};
use margay_evaluation::contrast::{Contrast, Options, Side};
use margay_evaluation::outcome::Table;
use margay_evaluation::report::ContrastReport;

use crate::console::Console;
use crate::device::DeviceArgs;
use crate::error::{Error, Result};
use crate::evaluate::{Asked, CostArgs, OutputArgs};
use crate::score::{self, ScoreArgs, Scored, read_rows};

/// What `margay compare` is asked.
#[derive(Debug, Clone, Args)]
pub struct CompareArgs {
    /// Bundle (folder or file), or outcome table
    #[arg(value_name = "A")]
    pub first: PathBuf,
    /// The other; differences are B less A
    #[arg(value_name = "B")]
    pub second: PathBuf,
    /// Task file that two bundles are run on; JSON Lines as for `margay score`
    #[arg(long, value_name = "FILE.jsonl")]
    pub data: Option<PathBuf>,
    /// Only the first N rows of the task file
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Name of the large model behind both; without it the small models are compared alone
    #[arg(long, value_name = "NAME")]
    pub large: Option<String>,
    /// Outcome tables whose rows belong to both sides, such as the large model's
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub outcomes: Vec<PathBuf>,
    /// Names of the two small models, if a table has rows of several [default: the one that has scores]
    #[arg(long, value_name = "A,B", value_delimiter = ',', num_args = 1..=2)]
    pub small: Vec<String>,
    /// Only rows of this split
    #[arg(long, value_name = "NAME")]
    pub split: Option<String>,
    /// Share of queries deferred, for what brings no threshold; a bundle's policy does
    #[arg(long, value_name = "SHARE", default_value_t = 0.3)]
    pub deferral_rate: f64,
    /// What a query costs
    #[command(flatten)]
    pub cost: CostArgs,
    /// What is written, and how sure it is
    #[command(flatten)]
    pub output: OutputArgs,
    /// What bundles may use
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// Compares, prints what matters and writes the rest.
///
/// # Errors
/// [`Error`] naming the file, row, model or query.
pub fn compare(args: &CompareArgs, console: &mut Console) -> Result<Contrast> {
    console.for_programs(args.output.for_programs());
    let scratch = tempfile::tempdir().map_err(|source| Error::io("make", Path::new("a temporary folder"), source))?;
    let names = [&args.first, &args.second].map(|path| path.display().to_string());
    let small = [args.small.first(), args.small.last()];
    let [first, second] = [
        Measured::of(&args.first, small[0], scratch.path().join("first.csv"), args, console)?,
        Measured::of(&args.second, small[1], scratch.path().join("second.csv"), args, console)?,
    ];
    let options = Options {
        cost: args.cost.model(),
        split: args.split.as_deref(),
        large: args.large.as_deref(),
        deferral_rate: args.deferral_rate,
        cost_interval: args.output.cost_interval(),
        bootstrap: args.output.bootstrap(),
    };
    let contrast = Contrast::of(&first.side(&names[0]), &second.side(&names[1]), &options)?;
    if let Some(path) = args.output.json_file() {
        contrast.write(path)?;
    }
    if let Some(folder) = &args.output.report {
        let title = format!("{} and {}", names[0], names[1]);
        ContrastReport { title: &title, contrast: &contrast }.write(folder)?;
    }
    console.result(&contrast, lines(&contrast).into_iter().chain(args.output.where_the_page_is()))?;
    Ok(contrast)
}

/// One side's outcomes, read or made now.
struct Measured {
    table: Table,
    small: String,
    threshold: Option<f64>,
    /// What a bundle's policy keeps, each query by its task and behind its router.
    kept: Option<HashSet<String>>,
}

impl Measured {
    fn of(
        path: &Path,
        small: Option<&String>,
        scratch: PathBuf,
        args: &CompareArgs,
        console: &mut Console,
    ) -> Result<Self> {
        // A table is a file of another ending than a bundle's archive; a folder is a bundle.
        let bundle = path.is_dir() || path.extension().is_some_and(|ending| ending == "margay");
        if !bundle {
            let table = Table::read_all([path].into_iter().chain(args.outcomes.iter().map(PathBuf::as_path)))?;
            let small = match small {
                Some(small) => small.clone(),
                None => only_scored(&table, args.large.as_deref(), path)?,
            };
            return Ok(Self { table, small, threshold: None, kept: None });
        }
        let Some(data) = &args.data else {
            return Err(Error::Usage(format!("{} is a bundle: name a task file with --data", path.display())));
        };
        let bundle = Bundle::open(path)?;
        let policy = bundle.policy();
        let small = bundle.manifest().name.clone();
        let scored = ScoreArgs {
            bundle: path.to_owned(),
            data: data.clone(),
            out: scratch.clone(),
            limit: args.limit,
            model: Some(small.clone()),
            split: None,
            rule: policy.map_or(Rule::ChowAverage, |calibrated| calibrated.policy.rule()),
            raw: false,
            free: false,
            normalise: false,
            max_tokens: 64,
            json: false,
            device: args.device.clone(),
        };
        let Scored { asked, quality, .. } = score::run(&scored, console)?;
        console.line(format!("{}: {asked} rows asked, mean quality {quality:.4}", path.display()))?;
        let table = Table::read_all([scratch.as_path()].into_iter().chain(args.outcomes.iter().map(PathBuf::as_path)))?;
        let Some(policy) = policy else { return Ok(Self { table, small, threshold: None, kept: None }) };
        let (table, kept) = decided(table, &small, policy, data)?;
        Ok(Self { table, small, threshold: Some(policy.policy.default_threshold().value().into()), kept: Some(kept) })
    }

    fn side<'a>(&'a self, name: &'a str) -> Side<'a> {
        Side { name, table: &self.table, small: &self.small, threshold: self.threshold, kept: self.kept.as_ref() }
    }
}

/// The queries that a policy keeps, and the table in which what its router sends on has cost the device nothing.
fn decided(table: Table, small: &str, calibrated: &CalibratedPolicy, data: &Path) -> Result<(Table, HashSet<String>)> {
    let asked = read_rows::<Asked>(data, None)?;
    let prompts: HashMap<&str, &str> = asked.iter().map(|(_, asked)| (&*asked.id, &*asked.input)).collect();
    let keeps = |policy: &Policy, task: Option<&str>, score: Option<f64>| {
        score.is_some_and(|score| f64::from(policy.threshold_for(task).value()) <= score)
    };
    let (mut decided, mut kept) = (Table::default(), HashSet::new());
    for row in table.rows() {
        let mut outcome = row.to_outcome();
        if outcome.model == small {
            let prompt = prompts.get(row.query()).copied().unwrap_or_default();
            let sent_on = calibrated.router.as_ref().is_some_and(|router| router.sends_away(prompt).is_some());
            if sent_on {
                (outcome.flops, outcome.latency_ms) = (Some(0.0), Some(0.0));
            } else if keeps(&calibrated.policy, row.task(), row.score()) {
                kept.insert(row.query().to_owned());
            }
        }
        decided.push(outcome)?;
    }
    Ok((decided, kept))
}

/// The model that is not the large one and has scores.
fn only_scored(table: &Table, large: Option<&str>, path: &Path) -> Result<String> {
    let scored = |model: &&str| table.rows().any(|row| row.model() == *model && row.score().is_some());
    let models: Vec<&str> = table.models().into_iter().filter(|model| Some(*model) != large).filter(scored).collect();
    match models[..] {
        [model] => Ok(model.to_owned()),
        [] => Err(Error::Usage(format!("{}: no model has scores", path.display()))),
        _ => Err(Error::Usage(format!("{}: {} have scores; choose with --small", path.display(), models.join(", ")))),
    }
}

fn lines(contrast: &Contrast) -> Vec<String> {
    let mut lines = vec![format!("{} queries answered by both", contrast.queries)];
    lines.extend(contrast.sentences().into_iter().map(|sentence| format!("  {sentence}")));
    lines.extend(contrast.counts.iter().map(|(kind, count)| format!("  {count} {kind}")));
    lines
}
