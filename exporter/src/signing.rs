//! Secret keys, and bundles signed with them. Checking signatures is the runtime's; here they are made.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::Path;

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, KeypairBytes};
use ed25519_dalek::{Signer as _, SigningKey};
use margay::bundle::signature::{SIGNATURE_FILE, Signatures, message};
use margay::bundle::{Bundle, MANIFEST_FILE, PublicKey};
use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind, Result};

/// Longest key file, in bytes: ten times a key.
const MAX_KEY_BYTES: u64 = 4 << 10;

/// An ed25519 secret key. It is wiped from memory when it goes, and printed nowhere.
///
/// Its file is PKCS#8 in PEM, as `openssl genpkey -algorithm ed25519` writes it, readable by its owner alone.
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// A new key from the system's random source.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the system gives no randomness.
    pub fn generate() -> Result<Self> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut())
            .map_err(|error| Error::new(ErrorKind::Io, "the system gives no randomness").with_source(error))?;
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if it cannot be read; [`ErrorKind::Key`] if it is no ed25519 key, or others may read it.
    pub fn read(path: &Path) -> Result<Self> {
        let refused = |why: &str| Error::new(ErrorKind::Key, format!("{} {why}", path.display()));
        let file = File::open(path).map_err(|error| Error::io("read", path, error))?;
        if is_shared(&file).map_err(|error| Error::io("read", path, error))? {
            return Err(refused("can be read by others than its owner: `chmod 600` it, or make a new key"));
        }
        let mut pem = Zeroizing::new(String::new());
        // What cannot be parsed is not shown: it may be a secret of another kind.
        let no_key = || refused("is not an ed25519 key in PKCS#8 PEM (BEGIN PRIVATE KEY)");
        file.take(MAX_KEY_BYTES).read_to_string(&mut pem).map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidData => no_key(),
            _ => Error::io("read", path, error),
        })?;
        SigningKey::from_pkcs8_pem(&pem).map(Self).map_err(|_| no_key())
    }

    /// Writes the key to a new file that only its owner may read.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if it cannot be written, or something is there already: a key is never overwritten.
    pub fn write_new(&self, path: &Path) -> Result<()> {
        // Without the public half: older programs refuse PKCS#8's second version, which has it.
        let bytes = KeypairBytes { secret_key: self.0.to_bytes(), public_key: None };
        let pem =
            bytes.to_pkcs8_pem(LineEnding::LF).map_err(|_| Error::new(ErrorKind::Key, "the key cannot be encoded"))?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let written =
            options.open(path).and_then(|mut file| file.write_all(pem.as_bytes()).and_then(|()| file.sync_all()));
        written.map_err(|error| Error::io("write", path, error))
    }

    /// The key that others need to check what this one signs.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        // Of a secret key it is always a good one.
        PublicKey::of(&self.0.verifying_key())
    }

    /// The content of a signature file: `others`, and this key's signature of `manifest`.
    pub(crate) fn signed(&self, manifest: &[u8], others: Signatures) -> Vec<u8> {
        let signature = self.0.sign(&message(manifest)).to_bytes();
        let mut content = others.with(self.public_key(), signature).to_json();
        content.push(b'\n');
        content
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey of {}", self.public_key())
    }
}

/// Whether anybody but its owner may read a file. Only Unix says so in the file itself.
fn is_shared(file: &File) -> std::io::Result<bool> {
    #[cfg(unix)]
    return Ok(std::os::unix::fs::PermissionsExt::mode(&file.metadata()?.permissions()) & 0o077 != 0);
    #[cfg(not(unix))]
    return file.metadata().map(|_| false);
}

/// Signs a bundle's manifest beside those who signed it before, and opens the bundle again.
///
/// # Errors
/// [`ErrorKind::Io`] if the signature cannot be written; the bundle is then as it was before.
pub fn sign(bundle: &Bundle, key: &SecretKey) -> Result<Bundle> {
    let root = bundle.root();
    let path = root.join(MANIFEST_FILE);
    let manifest = fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
    let others = match fs::read(root.join(SIGNATURE_FILE)) {
        Ok(content) => Signatures::parse(&content)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Signatures::none(),
        Err(error) => return Err(Error::io("read", &root.join(SIGNATURE_FILE), error)),
    };
    put_signatures(root, &key.signed(&manifest, others))?;
    Ok(Bundle::open(root)?)
}

/// Takes every signature from a bundle, and opens it again.
///
/// # Errors
/// [`ErrorKind::Io`] if the file cannot be removed.
pub fn remove_signatures(bundle: &Bundle) -> Result<Bundle> {
    let path = bundle.root().join(SIGNATURE_FILE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &path, error)),
        _ => Ok(Bundle::open(bundle.root())?),
    }
}

/// Written beside the bundle and moved into it: a file in the folder that is not listed would spoil it.
fn put_signatures(root: &Path, content: &[u8]) -> Result<()> {
    let path = root.join(SIGNATURE_FILE);
    let unwritable = |error| Error::io("write", &path, error);
    let parent = root.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut staged = tempfile::NamedTempFile::new_in(parent).map_err(unwritable)?;
    staged.write_all(content).and_then(|()| staged.as_file().sync_all()).map_err(unwritable)?;
    #[cfg(unix)]
    {
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        staged.as_file().set_permissions(readable).map_err(unwritable)?;
    }
    staged.persist(&path).map_err(|error| unwritable(error.error))?;
    #[cfg(unix)]
    File::open(root).and_then(|folder| folder.sync_all()).map_err(unwritable)?;
    Ok(())
}
