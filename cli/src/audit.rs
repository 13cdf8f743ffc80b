//! `margay audit`: what an audit file says left the device.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use clap::Args;
use margay::privacy::{AuditEntry, AuditFile, Departure};

use serde::Serialize;
use serde_json::json;

use crate::console::Console;
use crate::error::Result;

/// What `margay audit` is asked.
#[derive(Debug, Clone, Args)]
pub struct AuditArgs {
    /// The audit file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Only departures under this idempotency key
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Only the sums
    #[arg(long)]
    pub summary: bool,
    /// Print one JSON object a line: departures as the file has them, then the sums
    #[arg(long)]
    pub json: bool,
}

#[derive(Default, Serialize)]
struct Sum {
    departures: u64,
    bytes: u64,
    redactions: u64,
}

/// Prints a line for each departure, oldest first, and the sums for each address.
///
/// # Errors
/// [`crate::Error`] naming the file, and the line that is none; what was read before it has been printed.
pub fn audit(args: &AuditArgs, console: &mut Console) -> Result<()> {
    console.for_programs(args.json);
    let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
    for entry in AuditFile::entries(&args.file)? {
        match entry? {
            AuditEntry::Departure(departure) => {
                if args.key.as_ref().is_some_and(|key| *key != departure.key) {
                    continue;
                }
                let sum = sums.entry(departure.endpoint.clone()).or_default();
                sum.departures += 1;
                sum.bytes += departure.bytes;
                sum.redactions += departure.redactions.values().sum::<u64>();
                if !args.summary {
                    console.result(&departure, [line(&departure)])?;
                }
            }
            AuditEntry::Cut { line } if args.json || !args.summary => {
                let words = format!("line {line} was cut by a crash; what it would have recorded did not leave");
                console.result(&json!({"cut": line}), [words])?;
            }
            _ => {}
        }
    }
    let lines = sums.iter().map(|(endpoint, Sum { departures, bytes, redactions })| {
        format!("{endpoint}: {departures} departures, {bytes} bytes, {redactions} redactions")
    });
    console.result(&json!({"sums": sums}), lines)
}

fn line(departure: &Departure) -> String {
    let Departure { unix_ms, endpoint, key, bytes, sha256, redactions, .. } = departure;
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(*unix_ms)).unwrap_or(UNIX_EPOCH);
    // A time past the year 9999 has no such form.
    let at = if *unix_ms < 253_402_300_800_000 {
        humantime::format_rfc3339_millis(at).to_string()
    } else {
        unix_ms.to_string()
    };
    let redactions: Vec<String> = redactions.iter().map(|(label, count)| format!("{count} {label}")).collect();
    let redactions = if redactions.is_empty() { "nothing".to_owned() } else { redactions.join(", ") };
    format!("{at}  {endpoint}  {bytes} bytes  sha256 {sha256}  key {key}  taken out: {redactions}")
}
