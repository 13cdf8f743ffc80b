//! `margay completions` and `margay man`: what shells and `man` know of the command line, made from it.

use std::path::PathBuf;

use clap::Args;
use clap_complete::Shell;
use serde_json::json;

use crate::console::Console;
use crate::error::{Error, Result};

/// What `margay completions` is asked.
#[derive(Debug, Clone, Args)]
pub struct CompletionsArgs {
    /// For which shell; source what is printed, or put it where the shell looks
    #[arg(value_name = "SHELL", value_enum)]
    pub shell: Shell,
}

/// What `margay man` is asked.
#[derive(Debug, Clone, Args)]
pub struct ManArgs {
    /// Folder for the pages, one for each command; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Prints the shell's script.
///
/// # Errors
/// As [`Console::line`].
pub fn completions(args: &CompletionsArgs, console: &mut Console) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::command(), "margay", &mut script);
    console.piece(&String::from_utf8_lossy(&script))
}

/// Writes the pages.
///
/// # Errors
/// [`Error::Io`] naming the folder or file that cannot be written.
pub fn man(args: &ManArgs, console: &mut Console) -> Result<()> {
    console.for_programs(args.json);
    std::fs::create_dir_all(&args.out).map_err(|source| Error::io("make", &args.out, source))?;
    let failed = |source| Error::io("write to", &args.out, source);
    clap_mangen::generate_to(crate::command().disable_help_subcommand(true), &args.out).map_err(failed)?;
    let mut written = Vec::new();
    for entry in std::fs::read_dir(&args.out).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        written.extend((name.starts_with("margay") && name.ends_with(".1")).then_some(name));
    }
    written.sort();
    let line = format!("{} pages in {}", written.len(), args.out.display());
    console.result(&json!({"folder": args.out.to_string_lossy(), "pages": written}), [line])
}
