//! `margay bundle`: look into bundles, verify, sign, pack and compare them.

mod archives;
mod compare;
mod keys;
mod look;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use margay::bundle::{Bundle, BundleOptions, PublicKey};

use crate::console::Console;
use crate::error::Result;

pub use archives::{PackArgs, UnpackArgs};
pub use compare::DiffArgs;
pub use keys::{KeygenArgs, SignArgs};
pub use look::{InspectArgs, VerifyArgs};

/// What `margay bundle` is told to do.
#[derive(Debug, Clone, Subcommand)]
pub enum BundleCommand {
    /// Show what a bundle says about itself
    Inspect(InspectArgs),
    /// Check every byte of a bundle, who signed it and, with --run, that its model still computes what it should
    Verify(VerifyArgs),
    /// Sign a bundle, or take its signatures away
    Sign(SignArgs),
    /// Make a key pair to sign with
    Keygen(KeygenArgs),
    /// Make one file of a bundle's folder
    Pack(PackArgs),
    /// Make a folder of a bundle's one file
    Unpack(UnpackArgs),
    /// Show in what two bundles differ
    Diff(DiffArgs),
}

/// Runs one of the commands.
///
/// # Errors
/// [`crate::Error`] naming the bundle, file, field or key.
pub fn run(command: &BundleCommand, console: &mut Console) -> Result<()> {
    match command {
        BundleCommand::Inspect(args) => look::inspect(args, console),
        BundleCommand::Verify(args) => look::verify(args, console),
        BundleCommand::Sign(args) => keys::sign(args, console),
        BundleCommand::Keygen(args) => keys::keygen(args, console),
        BundleCommand::Pack(args) => archives::pack(args, console),
        BundleCommand::Unpack(args) => archives::unpack(args, console),
        BundleCommand::Diff(args) => compare::diff(args, console),
    }
}

/// Whose bundles are wanted.
#[derive(Debug, Clone, Args)]
pub struct TrustArgs {
    /// Fail unless the bundle is signed with this key: its text, `ed25519:...`, or its .pub file; may be repeated, one is enough
    #[arg(long, value_name = "KEY", value_parser = public_key)]
    pub trust: Vec<PublicKey>,
}

impl TrustArgs {
    fn options(&self) -> BundleOptions {
        match self.trust.as_slice() {
            [] => BundleOptions::default(),
            keys => BundleOptions::signed_by(keys.iter().copied()),
        }
    }
}

fn public_key(text: &str) -> Result<PublicKey, margay::Error> {
    if text.starts_with("ed25519:") { text.parse() } else { PublicKey::read(&PathBuf::from(text)) }
}

fn bytes_of(bundle: &Bundle) -> u64 {
    bundle.manifest().files.iter().map(|file| file.size).sum()
}
