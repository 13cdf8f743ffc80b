//! What lies in a bundle's folder, held against what its manifest lists.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use super::digest::sha256_file;
use super::manifest::FileEntry;
use super::{MANIFEST_FILE, MAX_FILES, SIGNATURE_FILE, malformed};
use crate::error::{Error, ErrorKind, Result};

/// Compares names, kinds and sizes with the list.
pub(super) fn check_listing(root: &Path, entries: &[FileEntry]) -> Result<()> {
    let mut found = listing(root)?;
    found.remove(MANIFEST_FILE);
    found.remove(SIGNATURE_FILE);
    for entry in entries {
        let size = found
            .remove(&entry.path)
            .ok_or_else(|| malformed(format!("{} is missing from {}", entry.path, root.display())))?;
        entry.check_size(size)?;
    }
    if let Some(path) = found.keys().next() {
        return Err(malformed(format!("{path} is in {} but not in its manifest", root.display())));
    }
    Ok(())
}

/// Compares every byte of a file with its entry.
pub(super) fn verify(root: &Path, entry: &FileEntry) -> Result<()> {
    let actual = sha256_file(&root.join(&entry.path))?;
    entry.check(actual.size, &actual.sha256)
}

/// Files by their path inside `root`, with their sizes.
fn listing(root: &Path) -> Result<BTreeMap<String, u64>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![(root.to_owned(), String::new())];
    let mut seen = 0;
    while let Some((folder, prefix)) = folders.pop() {
        for item in fs::read_dir(&folder).map_err(|error| unreadable(&folder, error))? {
            let item = item.map_err(|error| unreadable(&folder, error))?;
            seen += 1;
            // The manifest and its signatures are two more.
            if seen > MAX_FILES + 2 {
                return Err(malformed(format!("{} holds more than {MAX_FILES} files", root.display())));
            }
            let name = item.file_name();
            let name = name
                .to_str()
                .ok_or_else(|| malformed(format!("a file's name is not Unicode: {}", item.path().display())))?;
            let path = format!("{prefix}{name}");
            let metadata = fs::symlink_metadata(item.path()).map_err(|error| unreadable(&item.path(), error))?;
            if metadata.is_dir() {
                folders.push((item.path(), format!("{path}/")));
            } else if metadata.is_file() {
                found.insert(path, metadata.len());
            } else {
                return Err(malformed(format!("{} is neither a file nor a folder", item.path().display())));
            }
        }
    }
    Ok(found)
}

impl FileEntry {
    pub(super) fn check(&self, size: u64, sha256: &str) -> Result<()> {
        self.check_size(size)?;
        if sha256 != self.sha256 {
            let message = format!("{} has SHA-256 {sha256}, the manifest says {}", self.path, self.sha256);
            return Err(Error::new(ErrorKind::Digest, message));
        }
        Ok(())
    }

    fn check_size(&self, size: u64) -> Result<()> {
        if size != self.size {
            let message = format!("{} has {size} bytes, the manifest says {}", self.path, self.size);
            return Err(Error::new(ErrorKind::Digest, message));
        }
        Ok(())
    }
}

/// Reads a small file whole, refusing to read more than `cap` bytes of it.
pub(super) fn read_capped(path: &Path, cap: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|error| unreadable(path, error))?;
    let mut bytes = Vec::new();
    file.take(cap + 1).read_to_end(&mut bytes).map_err(|error| unreadable(path, error))?;
    if bytes.len() as u64 > cap {
        return Err(malformed(format!("{} is longer than {cap} bytes", path.display())));
    }
    Ok(bytes)
}

pub(super) fn unreadable(path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("cannot read {}", path.display())).with_source(error)
}
