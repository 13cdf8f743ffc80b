//! A calibrated policy on its way into a bundle.

use margay::bundle::manifest::FileEntry;
use margay::bundle::{Bundle, CalibratedPolicy, POLICY_FILE, REPORT_FILE};

use crate::error::{Error, ErrorKind, Result};
use crate::signing::SecretKey;
use crate::staging::Staging;

/// Puts a calibrated policy into a bundle with the numbers behind it, replacing what is there, and opens the bundle again.
///
/// The policy says itself which form of the model it was calibrated on, the bundle's own or a variant: it goes there, and
/// that form is returned. `bundle` may be any of them.
///
/// A bundle that is signed is signed again with `key`, and with no other: those who signed the old policy have not seen
/// the new one.
///
/// # Errors
/// [`ErrorKind::Bundle`] when the policy was calibrated on another model, [`ErrorKind::Key`] when the bundle is signed and
/// there is no key, [`ErrorKind::Io`] when a file cannot be written; the bundle is then as it was before.
pub fn write_policy(
    bundle: &Bundle,
    policy: &CalibratedPolicy,
    report: Option<&serde_json::Value>,
    key: Option<&SecretKey>,
) -> Result<Bundle> {
    // One that is seen as a variant does not know the others' files.
    let whole = Bundle::open(bundle.root())?;
    let variant = variant_of(&whole, policy)?;
    if let (Some(signer), None) = (whole.signers().first(), key) {
        let message =
            "a new policy would end what it vouches for. Sign again with a key, or remove the signatures first";
        let message = format!("{} is signed by {signer}, and {message}", whole.root().display());
        return Err(Error::new(ErrorKind::Key, message));
    }
    let folder = variant.as_ref().map_or_else(String::new, |(_, folder)| folder.clone());
    let at = |name: &str| format!("{folder}{name}");
    let staging = Staging::beside(whole.root())?;
    let mut manifest = whole.manifest().clone();
    manifest.files.retain(|entry| entry.path != at(POLICY_FILE) && entry.path != at(REPORT_FILE));
    for entry in &manifest.files {
        staging.link(whole.root(), &entry.path)?;
    }
    staging.write_json(&at(POLICY_FILE), policy)?;
    manifest.files.push(FileEntry::of(staging.path(), at(POLICY_FILE))?);
    if let Some(report) = report {
        staging.write_json(&at(REPORT_FILE), report)?;
        manifest.files.push(FileEntry::of(staging.path(), at(REPORT_FILE))?);
    }
    manifest.files.sort_by(|a, b| a.path.cmp(&b.path));
    staging.write_manifest(&manifest, key)?;
    Bundle::open(staging.path())?;
    staging.replace(whole.root())?;
    let written = Bundle::open(whole.root())?;
    Ok(match variant {
        Some((name, _)) => written.variant(&name)?,
        None => written,
    })
}

/// Name and folder of the variant that a policy was calibrated on; `None` is the bundle's own form.
fn variant_of(whole: &Bundle, policy: &CalibratedPolicy) -> Result<Option<(String, String)>> {
    if policy.model_digest == *whole.model_digest() {
        return Ok(None);
    }
    for variant in &whole.manifest().variants {
        if policy.model_digest == *whole.variant(&variant.name)?.model_digest() {
            return Ok(Some((variant.name.clone(), variant.folder())));
        }
    }
    policy.check(whole.model_digest())?;
    Ok(None)
}
