//! `margay bundle keygen` and `sign`.

use std::path::{Path, PathBuf};

use clap::Args;
use margay::Bundle;
use margay_exporter::{SecretKey, remove_signatures, sign as sign_bundle};
use serde_json::json;

use crate::console::Console;
use crate::error::{Error, Result};

/// What `margay bundle keygen` is told.
#[derive(Debug, Clone, Args)]
pub struct KeygenArgs {
    /// Writes NAME.key, which is secret, and NAME.pub, which is for everybody; neither may be there yet
    #[arg(long, value_name = "NAME")]
    pub out: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What `margay bundle sign` is told.
#[derive(Debug, Clone, Args)]
pub struct SignArgs {
    /// Folder of the bundle
    #[arg(value_name = "BUNDLE")]
    pub bundle: PathBuf,
    /// File of the secret key; its signature stands beside those of others
    #[arg(long, value_name = "FILE", required_unless_present = "remove", conflicts_with = "remove")]
    pub key: Option<PathBuf>,
    /// Take every signature away instead
    #[arg(long)]
    pub remove: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

pub(super) fn keygen(args: &KeygenArgs, console: &mut Console) -> Result<()> {
    console.for_programs(args.json);
    let (secret, public) = (with_ending(&args.out, "key"), with_ending(&args.out, "pub"));
    if public.exists() {
        let taken = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
        return Err(Error::io("write", &public, taken));
    }
    let key = SecretKey::generate()?;
    key.write_new(&secret)?;
    let line = format!("{}\n", key.public_key());
    std::fs::write(&public, line).map_err(|error| Error::io("write", &public, error))?;
    console.result(
        &json!({
            "public_key": key.public_key(),
            "secret": secret.to_string_lossy(),
            "public": public.to_string_lossy(),
        }),
        [
            key.public_key().to_string(),
            format!("{} is secret; {} is for everybody", secret.display(), public.display()),
        ],
    )
}

pub(super) fn sign(args: &SignArgs, console: &mut Console) -> Result<()> {
    console.for_programs(args.json);
    if args.bundle.is_file() {
        let what = args.bundle.display();
        return Err(Error::Usage(format!("{what} is one file: sign the folder, then `margay bundle pack` it")));
    }
    let key = args.key.as_deref().map(SecretKey::read).transpose()?;
    let bundle = Bundle::open(&args.bundle)?;
    let bundle = match &key {
        Some(key) => sign_bundle(&bundle, key)?,
        None => remove_signatures(&bundle)?,
    };
    let line = match &key {
        Some(key) => format!("{}: signed by {}", args.bundle.display(), key.public_key()),
        None => format!("{}: not signed", args.bundle.display()),
    };
    console.result(&json!({"model_digest": bundle.model_digest(), "signers": bundle.signers()}), [line])
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}
