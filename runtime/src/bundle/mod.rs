//! A model and its calibrated policy as one folder, or one file, in which every byte is accounted for.
//!
//! [`Bundle::open`] reads `manifest.json`, checks it and who signed it, and verifies the size and SHA-256 of every file
//! it lists. Loading the graph is the engine's work; making bundles is the exporter's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::device::library::Locate;
use crate::error::{Error, ErrorKind, Result};

pub mod archive;
mod calibrated;
mod check;
pub mod digest;
mod folder;
pub mod manifest;
mod router;
pub mod signature;
mod unique;

pub use calibrated::{CalibratedPolicy, Calibration, Certificate, Certified, Target, Threshold64};
use check::malformed;
use digest::ModelDigest;
use folder::{read_capped, unreadable};
use manifest::{FileEntry, Manifest};
pub use router::CalibratedRouter;
pub use signature::PublicKey;
use signature::{MAX_SIGNATURE_BYTES, SIGNATURE_FILE, Signatures};

/// Name of the manifest inside a bundle.
pub const MANIFEST_FILE: &str = "manifest.json";

/// Name of the calibrated policy inside a bundle. The model's digest leaves it out.
pub const POLICY_FILE: &str = "policy.json";

/// Name of the numbers behind the policy's thresholds, as whoever calibrated wrote them. The model's digest leaves it out.
pub const REPORT_FILE: &str = "calibration.json";

/// Where variants of the model have their folders.
pub const VARIANTS_FOLDER: &str = "variants/";

/// Longest manifest, in bytes: a hundred times what a chat template and a full file list need.
pub const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// Longest policy, in bytes.
pub const MAX_POLICY_BYTES: u64 = 1 << 20;

/// Longest tokenizer, in bytes: the largest in use (a vocabulary of 262144) takes 33 MB.
pub const MAX_TOKENIZER_BYTES: u64 = 128 << 20;

/// Longest ONNX graph, in bytes: a protocol buffer cannot hold more.
pub const MAX_GRAPH_BYTES: u64 = (2 << 30) - 1;

/// Longest bundle, in bytes, all files together: four times a model of 8 billion parameters in half precision.
pub const MAX_TOTAL_BYTES: u64 = 64 << 30;

/// Most files and folders in a bundle: a graph with its weights in shards, and room.
pub const MAX_FILES: usize = 256;

/// A verified bundle.
///
/// The files were as the manifest says when the bundle was opened. Whoever can write to the folder
/// afterwards can change what the engine loads: keep it where only the app can write.
#[derive(Debug, Clone)]
pub struct Bundle {
    root: PathBuf,
    head: Head,
    manifest: Manifest,
    digest: ModelDigest,
    signers: Vec<PublicKey>,
    policy: Option<Arc<CalibratedPolicy>>,
    /// Policies of variants by the variant's name.
    variant_policies: BTreeMap<String, Arc<CalibratedPolicy>>,
}

/// Who must vouch for a bundle, and where an archive is extracted.
#[derive(Debug, Clone, Default)]
pub struct BundleOptions {
    /// The keys of those whose bundles are wanted.
    pub trusted_keys: Vec<PublicKey>,
    /// Whether a bundle must be signed by one of them. A signature that is there is always verified.
    pub require_signature: bool,
    /// The folder for extracted archives; `None` is `bundles` in [`Locate::cache`]. What lies there may be deleted
    /// whenever no bundle in it is loaded; it is verified again each time it is used.
    pub cache: Option<PathBuf>,
}

impl BundleOptions {
    /// A bundle must be signed by one of these keys.
    #[must_use]
    pub fn signed_by(keys: impl IntoIterator<Item = PublicKey>) -> Self {
        Self { trusted_keys: keys.into_iter().collect(), require_signature: true, cache: None }
    }

    fn cache(&self) -> Result<PathBuf> {
        let chosen = self.cache.clone().or_else(|| Locate::from_environment().cache.map(|cache| cache.join("bundles")));
        chosen.ok_or_else(|| {
            let message = "there is no folder to extract an archive into: set MARGAY_CACHE, or say which";
            Error::new(ErrorKind::InvalidRequest, message)
        })
    }
}

impl Bundle {
    /// Opens the bundle at `path`, a folder or an archive, whoever signed it, and verifies every file.
    ///
    /// # Errors
    /// As [`Bundle::open_with`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, &BundleOptions::default())
    }

    /// Opens the bundle at `path`, a folder or an archive, and verifies every file.
    ///
    /// A file that the manifest does not list is refused too, and so is a symbolic link: what is in the folder
    /// is what was verified. `path` itself may be a link. An archive is extracted into the cache folder once; the next
    /// time only its manifest is read, and what was extracted is verified as any folder.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if a file cannot be read or an archive not extracted; [`ErrorKind::Bundle`] if the manifest is
    /// malformed, a file is missing, unlisted or over a size cap, an archive cut short; [`ErrorKind::Digest`] if a file's
    /// size or SHA-256 is not the manifest's, or the policy was calibrated on another model; [`ErrorKind::Signature`] if
    /// a signature is wrong, or none is there of a trusted key and one is required.
    pub fn open_with(path: impl AsRef<Path>, options: &BundleOptions) -> Result<Self> {
        let mut weights = Unverified::default();
        let bundle = Self::open_before_weights(path.as_ref(), options, |unverified| weights = unverified)?;
        weights.verify()?;
        Ok(bundle)
    }

    /// The same, with every file verified that is read here and now. The others, if there are any, are `begin`'s to verify, which
    /// has them first.
    pub(crate) fn open_before_weights(
        root: &Path,
        options: &BundleOptions,
        begin: impl FnOnce(Unverified),
    ) -> Result<Self> {
        if root.is_file() {
            return archive::open_cached(root, options);
        }
        let head = Head::read(root)?;
        let (manifest, signers) = head.verify(options)?;
        folder::check_listing(root, &manifest.files)?;
        let (read, weights) = manifest.files.iter().cloned().partition(|entry| manifest.reads(&entry.path));
        begin(Unverified { root: root.to_owned(), files: weights });
        Unverified { root: root.to_owned(), files: read }.verify()?;
        let digest = ModelDigest::compute(&manifest);
        let policy_of = |folder: &str, digest: &ModelDigest| {
            let path = format!("{folder}{POLICY_FILE}");
            let listed = manifest.files.iter().any(|entry| entry.path == path);
            listed.then(|| CalibratedPolicy::open(&root.join(path), digest).map(Arc::new)).transpose()
        };
        let policy = policy_of("", &digest)?;
        let mut variant_policies = BTreeMap::new();
        for variant in &manifest.variants {
            let digest = manifest.variant(&variant.name).as_ref().map_or(digest, ModelDigest::compute);
            if let Some(policy) = policy_of(&variant.folder(), &digest)? {
                variant_policies.insert(variant.name.clone(), policy);
            }
        }
        tracing::debug!(bundle = %root.display(), name = manifest.name, %digest, ?signers, "opened a bundle");
        Ok(Self { root: root.to_owned(), head, manifest, digest, signers, policy, variant_policies })
    }

    /// The bundle as if `name` were the only form of its model: graph, canary, digest and policy are the variant's.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] if there is no variant of that name.
    pub fn variant(&self, name: &str) -> Result<Self> {
        let manifest = self.manifest.variant(name).ok_or_else(|| {
            Error::new(ErrorKind::InvalidRequest, format!("{} has no variant `{name}`", self.root.display()))
        })?;
        let digest = ModelDigest::compute(&manifest);
        let policy = self.variant_policies.get(name).cloned();
        Ok(Self { manifest, digest, policy, variant_policies: BTreeMap::new(), ..self.clone() })
    }

    /// What the bundle says about itself.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Digest of everything that decides what the model answers; thresholds are bound to it.
    #[must_use]
    pub fn model_digest(&self) -> &ModelDigest {
        &self.digest
    }

    /// The keys that signed the manifest, whether they are trusted or not; every signature was verified.
    #[must_use]
    pub fn signers(&self) -> &[PublicKey] {
        &self.signers
    }

    /// The calibrated policy, if the bundle has one; it belongs to this very model.
    #[must_use]
    pub fn policy(&self) -> Option<&CalibratedPolicy> {
        self.policy.as_deref()
    }

    /// The same, to be kept.
    #[cfg(feature = "cloud")]
    pub(crate) fn shared_policy(&self) -> Option<Arc<CalibratedPolicy>> {
        self.policy.clone()
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Path of the ONNX graph on this machine.
    #[must_use]
    pub fn graph(&self) -> PathBuf {
        self.root.join(&self.manifest.model.graph)
    }

    /// Path on this machine of the graph with Margay's own operators, if there is one.
    #[must_use]
    pub fn own_graph(&self) -> Option<PathBuf> {
        self.manifest.model.own_graph.as_ref().map(|path| self.root.join(path))
    }

    /// Path of the tokenizer on this machine.
    #[must_use]
    pub fn tokenizer(&self) -> PathBuf {
        self.root.join(&self.manifest.model.tokenizer)
    }
}

/// Files of a bundle whose bytes were not looked at yet; names and sizes were.
#[derive(Debug, Default)]
pub(crate) struct Unverified {
    root: PathBuf,
    files: Vec<FileEntry>,
}

impl Unverified {
    /// Compares every byte with the manifest.
    pub(crate) fn verify(&self) -> Result<()> {
        self.files.iter().try_for_each(|entry| folder::verify(&self.root, entry))
    }
}

/// The two files that come before all others: the manifest, and the signatures of its exact bytes.
#[derive(Debug, Clone, Default)]
struct Head {
    manifest: Vec<u8>,
    signatures: Option<Vec<u8>>,
}

impl Head {
    fn read(root: &Path) -> Result<Self> {
        let manifest = read_capped(&root.join(MANIFEST_FILE), MAX_MANIFEST_BYTES)?;
        let path = root.join(SIGNATURE_FILE);
        let there = path.symlink_metadata().is_ok();
        let signatures = there.then(|| read_capped(&path, MAX_SIGNATURE_BYTES)).transpose()?;
        Ok(Self { manifest, signatures })
    }

    /// Verifies the signatures, then reads the manifest and checks what it says.
    fn verify(&self, options: &BundleOptions) -> Result<(Manifest, Vec<PublicKey>)> {
        let signers = match &self.signatures {
            Some(signatures) => Signatures::parse(signatures)?.verify(&self.manifest)?,
            None => vec![],
        };
        if options.require_signature {
            signature::require(&options.trusted_keys, &signers)?;
        }
        Ok((self.manifest()?, signers))
    }

    /// The whole manifest, also of a bundle that is seen as one of its variants.
    fn manifest(&self) -> Result<Manifest> {
        Manifest::parse(&self.manifest)
    }
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| malformed(format!("{} is not what it should be: {error}", path.display())).with_source(error))
}
