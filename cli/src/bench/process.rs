//! A program that is measured from outside: how long it ran, what it computed, how much memory it took.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use wait4::Wait4 as _;

use crate::error::{Error, Result};

/// What one run of a program took.
#[derive(Debug, Clone)]
pub(super) struct Run {
    /// What it wrote to standard output.
    pub(super) output: String,
    /// From its start to its end.
    pub(super) wall_seconds: f64,
    /// Of all its threads, in user and system mode.
    pub(super) cpu_seconds: f64,
    /// Most memory that it had, in bytes.
    pub(super) peak_rss: u64,
}

/// Runs a program to its end.
pub(super) fn run(program: &Path, arguments: &[String]) -> Result<Run> {
    let failed = |source| Error::io("run", program, source);
    let started = Instant::now();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let mut output = String::new();
    let read = child.stdout.take().map_or(Ok(0), |mut stdout| stdout.read_to_string(&mut output));
    let used = child.wait4().map_err(failed)?;
    let wall_seconds = started.elapsed().as_secs_f64();
    read.map_err(failed)?;
    if !used.status.success() {
        let shown = format!("{} {}", program.display(), arguments.join(" "));
        return Err(Error::Usage(format!("`{shown}` failed: {}", used.status)));
    }
    Ok(Run {
        output,
        wall_seconds,
        cpu_seconds: (used.rusage.utime + used.rusage.stime).as_secs_f64(),
        peak_rss: used.rusage.maxrss,
    })
}
