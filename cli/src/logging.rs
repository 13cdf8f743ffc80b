//! What a command that runs for long writes down while it does: `tracing`'s events to standard error, and spans and metrics to
//! an OpenTelemetry collector, if there is one.

mod otlp;

use clap::{Args, ValueEnum};
use margay::configuration::Configuration;
use metrics_opentelemetry::OpenTelemetryRecorder;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, filter, fmt};

use self::otlp::Collector;
use crate::error::{Error, Result};

/// What is logged, and how.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// What is logged: off, error, warn, info or debug; never a text
    #[arg(long = "log", value_name = "LEVEL", default_value = "info")]
    pub level: LevelFilter,
    /// How
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
}

impl Default for LogArgs {
    fn default() -> Self {
        Self { level: LevelFilter::INFO, log_format: LogFormat::Text }
    }
}

/// The form of a line in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Ends what was started when it is dropped; a collector is then told the rest.
#[must_use = "logging ends when it is dropped"]
pub struct Logging {
    collector: Option<Collector>,
}

impl Logging {
    /// What takes metrics to the collector, if there is one that wants them.
    #[must_use]
    pub fn recorder(&self) -> Option<OpenTelemetryRecorder> {
        self.collector.as_ref().and_then(Collector::recorder)
    }
}

/// Begins to log, and to tell the collector that `configuration` or the environment names. Others' crates are heard only when
/// something is wrong.
///
/// # Errors
/// [`Error::Usage`] if somebody logs already, or naming the variable or file that does not describe a collector.
pub fn start(args: &LogArgs, configuration: Option<&Configuration>) -> Result<Logging> {
    let collector = Collector::find(configuration)?;
    let others = args.level.min(LevelFilter::WARN);
    let which = filter::Targets::new().with_default(others).with_target("margay", args.level);
    let which = which.with_target("margay_cli", args.level);
    let lines =
        fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    let lines = match args.log_format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let spans = collector.as_ref().and_then(Collector::layer);
    let started = tracing_subscriber::registry().with(lines.with_filter(which)).with(spans).try_init();
    started.map_err(|error| Error::Usage(format!("cannot log: {error}")))?;
    Ok(Logging { collector })
}
