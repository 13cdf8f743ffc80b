//! Bundles: opened, verified, and what they say of themselves.

use std::ffi::c_char;
use std::path::PathBuf;

#[cfg(feature = "cloud")]
use margay::bundle::CalibratedPolicy;
use margay::bundle::PublicKey;
use margay::{Bundle, BundleOptions};

use crate::handle::{self, kind};
use crate::input::{self, Versioned};
#[cfg(feature = "cloud")]
use crate::status::Failure;
use crate::status::{Status, Text, guard};

/// A verified bundle.
pub struct CBundle;

pub(crate) struct OpenBundle {
    pub(crate) bundle: Bundle,
    name: Text,
    digest: Text,
}
kind!(CBundle, OpenBundle, "bundle");

/// Who must vouch for a bundle. All zero but `size` is anybody.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CBundleOptions {
    /// `sizeof(margay_bundle_options)`.
    pub size: usize,
    /// Keys whose signatures count, each as `margay bundle` prints it.
    pub trusted_keys: *const *const c_char,
    /// How many.
    pub trusted_key_count: usize,
    /// Whether one of them must have signed.
    pub require_signature: bool,
    /// Where an archive is extracted; NULL is the cache folder.
    pub cache: *const c_char,
}

// SAFETY: pointers, numbers and a bool.
unsafe impl Versioned for CBundleOptions {
    const NAME: &'static str = "margay_bundle_options";
    const SIZES: &'static [usize] = &[size_of::<Self>()];
}

/// What a bundle says of itself. Texts are valid until the bundle is destroyed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CBundleInfo {
    /// `sizeof(margay_bundle_info)`, set by the caller.
    pub size: usize,
    /// Its name.
    pub name: *const c_char,
    /// Digest of its model, to which thresholds are bound.
    pub model_digest: *const c_char,
    /// Longest prompt and answer together, in tokens.
    pub context_length: usize,
    /// Entries of the vocabulary.
    pub vocabulary_size: usize,
    /// Trained parameters.
    pub parameters: u64,
    /// Whether it has a calibrated policy, without which no cascade can be made of it.
    pub has_policy: bool,
    /// How many trusted keys have signed it.
    pub signer_count: usize,
}

// SAFETY: pointers, numbers and a bool.
unsafe impl Versioned for CBundleInfo {
    const NAME: &'static str = "margay_bundle_info";
    const SIZES: &'static [usize] = &[size_of::<Self>()];
}

/// Opens the bundle at `path`, a folder or an archive, and verifies every file. `options` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn margay_bundle_open(
    path: *const c_char,
    options: *const CBundleOptions,
    out: *mut *mut CBundle,
) -> Status {
    guard(|| {
        // SAFETY: as the header says of every pointer.
        let (path, options) = unsafe { (input::text(path, "path")?, input::versioned(options)?) };
        // SAFETY: as above.
        let cache = unsafe { input::optional_text(options.cache, "cache") }?;
        // SAFETY: as above.
        let keys = unsafe { input::texts(options.trusted_keys, options.trusted_key_count, "trusted_keys") }?;
        let trusted_keys = keys.into_iter().map(str::parse::<PublicKey>).collect::<Result<_, _>>()?;
        let options = BundleOptions {
            trusted_keys,
            require_signature: options.require_signature,
            cache: cache.map(PathBuf::from),
        };
        let bundle = Bundle::open_with(path, &options)?;
        let (name, digest) = (Text::new(&bundle.manifest().name), Text::new(&bundle.model_digest().to_string()));
        // SAFETY: as above.
        unsafe { handle::give(out, OpenBundle { bundle, name, digest }) }
    })
}

/// What the bundle says of itself.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn margay_bundle_read(bundle: *const CBundle, out: *mut CBundleInfo) -> Status {
    guard(|| {
        let open = handle::take::<OpenBundle>(bundle)?;
        let model = &open.bundle.manifest().model;
        let info = CBundleInfo {
            size: size_of::<CBundleInfo>(),
            name: open.name.as_ptr(),
            model_digest: open.digest.as_ptr(),
            context_length: model.context_length,
            vocabulary_size: model.vocabulary_size,
            parameters: model.parameters,
            has_policy: open.bundle.policy().is_some(),
            signer_count: open.bundle.signers().len(),
        };
        // SAFETY: as the header says of every pointer.
        unsafe { input::fill(out, &info) }
    })
}

/// Ends the handle; engines that were loaded from it live on. NULL is ignored.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn margay_bundle_destroy(bundle: *mut CBundle) -> Status {
    guard(|| handle::destroy::<OpenBundle>(bundle))
}

/// The policy that a cascade needs.
#[cfg(feature = "cloud")]
pub(crate) fn policy(policy: Option<&CalibratedPolicy>) -> Result<CalibratedPolicy, Failure> {
    policy.cloned().ok_or_else(|| {
        Failure::new(Status::InvalidRequest, "the bundle has no policy: calibrate it first (`margay calibrate`)")
    })
}
