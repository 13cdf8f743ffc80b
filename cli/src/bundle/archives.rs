//! `margay bundle pack` and `unpack`: from a folder to one file, and back.

use std::path::PathBuf;

use clap::Args;
use margay::Bundle;
use margay::bundle::archive;
use serde_json::json;

use super::TrustArgs;
use crate::console::Console;
use crate::error::{Error, Result};

/// What `margay bundle pack` is told.
#[derive(Debug, Clone, Args)]
pub struct PackArgs {
    /// Folder of the bundle
    #[arg(value_name = "BUNDLE")]
    pub bundle: PathBuf,
    /// The file; one that is there is replaced [default: the folder's name with the ending .margay]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What `margay bundle unpack` is told.
#[derive(Debug, Clone, Args)]
pub struct UnpackArgs {
    /// The file
    #[arg(value_name = "FILE")]
    pub archive: PathBuf,
    /// The folder, which must not be there yet, or be empty [default: the file's name without its ending]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Whose bundles are wanted
    #[command(flatten)]
    pub trust: TrustArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

pub(super) fn pack(args: &PackArgs, console: &mut Console) -> Result<()> {
    console.for_programs(args.json);
    if args.bundle.is_file() {
        return Err(Error::Usage(format!("{} is one file already", args.bundle.display())));
    }
    let bundle = Bundle::open(&args.bundle)?;
    let out = args.out.clone().unwrap_or_else(|| args.bundle.with_extension(archive::ARCHIVE_EXTENSION));
    archive::pack(&bundle, &out)?;
    let bytes = out.metadata().map_err(|error| Error::io("read", &out, error))?.len();
    console.result(
        &json!({"archive": out.to_string_lossy(), "bytes": bytes, "model_digest": bundle.model_digest()}),
        [format!("{}: {:.1} MB, one file", out.display(), bytes as f64 / 1e6)],
    )
}

pub(super) fn unpack(args: &UnpackArgs, console: &mut Console) -> Result<()> {
    console.for_programs(args.json);
    let out = args.out.clone().unwrap_or_else(|| args.archive.with_extension(""));
    let bundle = archive::unpack(&args.archive, &out, &args.trust.options())?;
    console.result(
        &json!({"folder": out.to_string_lossy(), "model_digest": bundle.model_digest(), "signers": bundle.signers()}),
        [format!("{}: {}, every byte verified", out.display(), bundle.manifest().name)],
    )
}
