//! `margay config`: whether a `margay.toml` makes sense, and an example of one.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use margay::configuration::{Configuration, EXAMPLE, ServerSection};
use serde_json::json;

use crate::console::Console;
use crate::error::{Error, Result};

/// What variables of the environment that override a key begin with: `MARGAY__CLOUD__SERVER__MODEL`.
const PREFIX: &str = "MARGAY__";

/// What `margay config` is asked.
#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    /// What to do
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What can be done with a configuration.
#[derive(Debug, Clone, Subcommand)]
pub enum ConfigCommand {
    /// Say what is wrong with a file, by line and column, or what it describes
    Check {
        /// The file
        #[arg(value_name = "FILE", default_value = "margay.toml")]
        file: PathBuf,
        /// Print one JSON object; what is wrong with the file still goes to standard error
        #[arg(long)]
        json: bool,
    },
    /// Print an example with every key
    Example,
}

/// Reads a configuration, with the overrides of this process's environment.
///
/// # Errors
/// As [`Configuration::read_with`]; [`Error::Usage`] for an override that is not Unicode.
pub fn read(file: &Path) -> Result<Configuration> {
    Ok(Configuration::read_with(file, &overrides(std::env::vars_os())?)?)
}

/// Keys and values of the variables that override something, in the order of their names. Others may be anything.
fn overrides(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<Vec<(String, String)>> {
    let mut found = vec![];
    for (name, value) in variables {
        let Some(key) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        let value = value.into_string().map_err(|_| Error::Usage(format!("{PREFIX}{key}: is not Unicode")))?;
        found.push((key.to_lowercase().replace("__", "."), value));
    }
    found.sort();
    Ok(found)
}

/// Checks a file, or prints an example.
///
/// # Errors
/// [`crate::Error`] naming file, line and column.
pub fn config(args: &ConfigArgs, console: &mut Console) -> Result<()> {
    let ConfigCommand::Check { file, json } = &args.command else {
        return console.line(EXAMPLE.trim_end());
    };
    console.for_programs(*json);
    let configuration = read(file)?;
    let lines = lines(file, &configuration);
    // Each line is a thing and what the file says of it.
    let parts = lines.iter().skip(1).filter_map(|line| line.trim().split_once("  "));
    let parts: serde_json::Map<_, _> = parts.map(|(what, said)| (what.to_owned(), said.trim().into())).collect();
    console.result(&json!({"file": file.to_string_lossy(), "well_formed": true, "describes": parts}), &lines)
}

fn lines(file: &Path, configuration: &Configuration) -> Vec<String> {
    let Configuration { device, cascade, cloud, privacy, budget, outbox, cache, connectivity, telemetry, .. } =
        configuration;
    let mut lines = vec![format!("{}: well-formed", file.display())];
    if let Some(device) = device {
        let path = configuration.path(&device.bundle);
        let there = if path.join("manifest.json").exists() { "" } else { " (not there)" };
        lines.push(format!("  device        {}{there}", path.display()));
    }
    let deadline =
        cascade.deadline.map_or_else(|| "no deadline".to_owned(), |deadline| format!("{deadline:?} at most"));
    lines.push(format!("  cascade       {deadline}; without the cloud: {:?}", cascade.on_cloud_failure));
    lines.push(format!("  cloud         {}", server(&cloud.server)));
    lines.extend(cloud.fallback.iter().map(|fallback| format!("  fallback      {}", server(fallback))));
    if let Some(hedge) = &cloud.hedge {
        lines.push(format!("  hedge         after percentile {}, {:?} at first", hedge.percentile, hedge.initial));
    }
    let redact = if privacy.redact { "built-in forms" } else { "nothing built in" };
    lines.push(format!("  privacy       {redact} and {} of your own are taken out", privacy.patterns.len()));
    if let Some(audit) = &privacy.audit {
        lines.push(format!("  audit         {}", configuration.path(audit).display()));
    }
    if let Some(budget) = budget {
        let file = configuration.path(&budget.file);
        lines.push(format!("  budget        {} limits, kept in {}", budget.limit.len(), file.display()));
    }
    if let Some(outbox) = outbox {
        let file = configuration.path(&outbox.file);
        lines.push(format!("  outbox        {} entries, kept in {}", outbox.max_entries, file.display()));
    }
    if let Some(cache) = cache {
        lines.push(format!("  cache         {} bytes for {:?}", cache.max_bytes, cache.time_to_live));
    }
    if let Some(connectivity) = connectivity {
        lines.push(format!("  connectivity  a failed connection is believed for {:?}", connectivity.pause));
    }
    if let Some(telemetry) = telemetry {
        lines.push(format!("  telemetry     to {}, metrics every {:?}", telemetry.endpoint, telemetry.interval));
    }
    lines
}

fn server(server: &ServerSection) -> String {
    let token = if server.token.is_some() { "with a token" } else { "without a token" };
    format!("{} at {} ({:?}), {token}", server.model, server.endpoint, server.api)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_name_keys_by_two_underscores() {
        let variables =
            [("MARGAY__CLOUD__SERVER__ALLOW_STATIC_KEY", "true"), ("MARGAY_CACHE", "/tmp"), ("PATH", "/bin")];
        let found = overrides(variables.map(|(name, value)| (name.into(), value.into())).into_iter()).unwrap();
        assert_eq!(found, [("cloud.server.allow_static_key".to_owned(), "true".to_owned())]);
    }
}
