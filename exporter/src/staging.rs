//! A folder in the making: everything is written beside the target and moved into its place at the end.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use margay::bundle::MANIFEST_FILE;
use margay::bundle::manifest::Manifest;
use margay::bundle::signature::{SIGNATURE_FILE, Signatures};
use serde::Serialize;
use tempfile::TempDir;

use crate::error::{Error, Result};
use crate::signing::SecretKey;

/// A folder beside the target that becomes it, or disappears.
pub(crate) struct Staging {
    folder: TempDir,
}

impl Staging {
    pub(crate) fn beside(target: &Path) -> Result<Self> {
        let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(|e| Error::io("make the folder", parent, e))?;
        let folder = tempfile::Builder::new().prefix(".export-").tempdir_in(parent);
        Ok(Self { folder: folder.map_err(|e| Error::io("make a folder in", parent, e))? })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path().join(name);
        let written = File::create(&path).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
        written.map_err(|e| Error::io("write", &path, e))
    }

    pub(crate) fn write_json(&self, name: &str, value: &impl Serialize) -> Result<()> {
        self.write(name, &to_json(&self.path().join(name), value)?)
    }

    /// Written last of all files, and signed.
    pub(crate) fn write_manifest(&self, manifest: &Manifest, key: Option<&SecretKey>) -> Result<()> {
        let json = to_json(&self.path().join(MANIFEST_FILE), manifest)?;
        self.write(MANIFEST_FILE, &json)?;
        key.map_or(Ok(()), |key| self.write(SIGNATURE_FILE, &key.signed(&json, Signatures::none())))
    }

    /// Takes a file over from another bundle, without copying it where the file system allows.
    pub(crate) fn link(&self, from: &Path, name: &str) -> Result<()> {
        let (from, to) = (from.join(name), self.path().join(name));
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(|e| Error::io("make the folder", parent, e))?;
        }
        fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop)).map_err(|e| Error::io("copy", &from, e))
    }

    /// Takes the target's place. The folder that was there is moved aside first and deleted last: whatever
    /// happens in between, one of the two is whole.
    pub(crate) fn replace(self, target: &Path) -> Result<()> {
        let staged = self.folder.keep();
        let aside = with_suffix(&staged, ".old");
        let replaced = target.exists();
        if replaced {
            fs::rename(target, &aside).map_err(|e| Error::io("move aside", target, e))?;
        }
        if let Err(error) = fs::rename(&staged, target) {
            if replaced {
                fs::rename(&aside, target).map_err(|e| Error::io("move back", target, e))?;
            }
            fs::remove_dir_all(&staged).map_err(|e| Error::io("remove", &staged, e))?;
            return Err(Error::io("replace", target, error));
        }
        if replaced {
            fs::remove_dir_all(&aside).map_err(|e| Error::io("remove", &aside, e))?;
        }
        Ok(())
    }
}

fn to_json(path: &Path, value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(|error| Error::io("write", path, std::io::Error::other(error)))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
