//! Bundles: opened, verified, and what they say of themselves.

use std::path::PathBuf;
use std::sync::Arc;

use margay::bundle::PublicKey;

use crate::error::MargayError;

/// A verified bundle.
#[derive(Debug, uniffi::Object)]
pub struct Bundle(pub(crate) margay::Bundle);

/// Who must vouch for a bundle.
#[derive(Debug, Clone, Default, uniffi::Record)]
pub struct BundleOptions {
    /// Keys whose signatures count.
    #[uniffi(default = [])]
    pub trusted_keys: Vec<String>,
    /// Whether one of them must have signed.
    #[uniffi(default = false)]
    pub require_signature: bool,
    /// Where an archive is extracted; the cache folder unless said.
    #[uniffi(default = None)]
    pub cache: Option<String>,
}

#[uniffi::export]
impl Bundle {
    /// Opens the bundle at `path`, a folder or an archive, and verifies every file.
    #[uniffi::constructor(default(options = None))]
    pub fn open(path: &str, options: Option<BundleOptions>) -> Result<Arc<Self>, MargayError> {
        let options = options.unwrap_or_default();
        let keys = options.trusted_keys.iter().map(|key| key.parse::<PublicKey>());
        let options = margay::BundleOptions {
            trusted_keys: keys.collect::<Result<_, _>>()?,
            require_signature: options.require_signature,
            cache: options.cache.map(PathBuf::from),
        };
        Ok(Arc::new(Self(margay::Bundle::open_with(path, &options)?)))
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.0.manifest().name.clone()
    }

    /// Digest of its model, to which thresholds are bound.
    pub fn model_digest(&self) -> String {
        self.0.model_digest().to_string()
    }

    /// Longest prompt and answer together, in tokens.
    pub fn context_length(&self) -> u64 {
        self.0.manifest().model.context_length as u64
    }

    /// Whether it has a calibrated policy, without which no cascade can be made of it.
    pub fn has_policy(&self) -> bool {
        self.0.policy().is_some()
    }

    /// The trusted keys that have signed it.
    pub fn signers(&self) -> Vec<String> {
        self.0.signers().iter().map(ToString::to_string).collect()
    }
}
