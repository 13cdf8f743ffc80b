//! `.margay`: a bundle as one file. An uncompressed tar archive that has one form only: `manifest.json`, `manifest.sig` if
//! there is one, the files in the manifest's order, every header fixed to the byte.
//!
//! So reading is comparing: after the manifest nothing is taken from the archive's own headers. ONNX Runtime reads
//! weights by path, hence an archive is extracted, verified, before it is loaded; see [`Bundle::open`].

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::digest::{hexadecimal, sha256_hexadecimal};
use super::manifest::FileEntry;
use super::{
    Bundle, BundleOptions, Head, MANIFEST_FILE, MAX_MANIFEST_BYTES, MAX_SIGNATURE_BYTES, SIGNATURE_FILE, malformed,
    unreadable,
};
use crate::durable;
use crate::error::{Error, ErrorKind, Result};

/// Ending of an archive's name.
pub const ARCHIVE_EXTENSION: &str = "margay";

/// Unit of a tar archive, in bytes: headers have this length, and contents are padded to a multiple of it.
const BLOCK: u64 = 512;

/// What ends a tar archive.
const END: [u8; 2 * BLOCK as usize] = [0; 2 * BLOCK as usize];

/// Bytes moved at a time.
const BUFFER: usize = 1 << 18;

/// Writes an open bundle as one file, which appears whole or not at all. A file that is there is replaced.
///
/// The same bundle gives the same bytes, everywhere and always.
///
/// # Errors
/// [`ErrorKind::Io`] if a file cannot be read or written; [`ErrorKind::Digest`] if one is no longer what was verified;
/// [`ErrorKind::Bundle`] if a path is longer than a tar header holds.
pub fn pack(bundle: &Bundle, archive: &Path) -> Result<()> {
    let unwritable =
        |error| Error::new(ErrorKind::Io, format!("cannot write {}", archive.display())).with_source(error);
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less what the caller's mask takes away
    let mut staged = builder.tempfile_in(durable::folder_of(archive)).map_err(unwritable)?;
    let mut out = BufWriter::with_capacity(BUFFER, staged.as_file_mut());
    let small =
        [Some((MANIFEST_FILE, &bundle.head.manifest)), bundle.head.signatures.as_ref().map(|s| (SIGNATURE_FILE, s))];
    for (path, content) in small.into_iter().flatten() {
        let size = content.len() as u64;
        out.write_all(&header(path, size)?).map_err(unwritable)?;
        out.write_all(content).map_err(unwritable)?;
        out.write_all(padding(size)).map_err(unwritable)?;
    }
    for entry in &bundle.head.manifest()?.files {
        out.write_all(&header(&entry.path, entry.size)?).map_err(unwritable)?;
        let path = bundle.root.join(&entry.path);
        let file = File::open(&path).map_err(|error| unreadable(&path, error))?;
        copy(file, entry, |error| unreadable(&path, error), &mut out, unwritable)?;
        out.write_all(padding(entry.size)).map_err(unwritable)?;
    }
    out.write_all(&END).and_then(|()| out.flush()).map_err(unwritable)?;
    drop(out);
    staged.as_file().sync_all().map_err(unwritable)?;
    staged.persist(archive).map_err(|error| unwritable(error.error))?;
    durable::sync_folder(archive).map_err(unwritable)
}

/// Extracts an archive into the folder `folder`, which appears whole and verified or not at all, and opens it.
///
/// # Errors
/// As [`Bundle::open_with`]; [`ErrorKind::Io`] if `folder` is there already and is not empty, or cannot be written.
pub fn unpack(archive: &Path, folder: &Path, options: &BundleOptions) -> Result<Bundle> {
    Reader::open(archive, options)?.extract_beside(folder)?.put(folder)?;
    Bundle::open_with(folder, options)
}

/// Reads an archive to its end and verifies every byte, without extracting anything.
///
/// # Errors
/// As [`Bundle::open_with`], but for a policy, which is looked at when the bundle is opened.
pub fn verify(archive: &Path, options: &BundleOptions) -> Result<()> {
    Reader::open(archive, options)?.verify()
}

/// The same for one that is coming in, e.g. while it is downloaded.
///
/// # Errors
/// As [`verify`].
pub fn verify_stream(source: impl Read, options: &BundleOptions) -> Result<()> {
    Reader::new(Path::new("the archive"), source, options)?.verify()
}

/// The bundle in an archive, extracted into the cache folder, or found there from the last time.
pub(super) fn open_cached(archive: &Path, options: &BundleOptions) -> Result<Bundle> {
    let reader = Reader::open(archive, options)?;
    let folder = options.cache()?.join(reader.head.key());
    match Bundle::open_with(&folder, options) {
        Ok(bundle) => return Ok(bundle),
        Err(error) if !folder.exists() => drop(error),
        // What was extracted once was damaged since. The archive is still there.
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "extracting a bundle again");
            let aside = Staged::beside(&folder)?;
            fs::rename(&folder, aside.0.path().join("damaged")).map_err(|error| unwritable(&folder, error))?;
        }
    }
    let staged = reader.extract_beside(&folder)?;
    // Another process may have been faster: then its folder is as good as this one.
    if let Err(error) = staged.put(&folder)
        && !folder.exists()
    {
        return Err(error);
    }
    Bundle::open_with(&folder, options)
}

impl Bundle {
    /// Copies the bundle into the new folder `folder`, verified on the way and on the disk afterwards.
    pub(crate) fn copy_to(&self, folder: &Path) -> Result<()> {
        let staged = Staged::beside(folder)?;
        staged.write_head(&self.head)?;
        for entry in &self.head.manifest()?.files {
            let path = self.root.join(&entry.path);
            let file = File::open(&path).map_err(|error| unreadable(&path, error))?;
            staged.write(entry, file, |error| unreadable(&path, error))?;
        }
        staged.put(folder)
    }
}

/// An archive whose manifest was read, and its signature and fields checked.
struct Reader<R> {
    archive: PathBuf,
    source: R,
    head: Head,
    files: Vec<FileEntry>,
    /// The block after the manifest, if it was read to see that it is no signature's header.
    next: Option<[u8; BLOCK as usize]>,
}

impl Reader<BufReader<File>> {
    fn open(archive: &Path, options: &BundleOptions) -> Result<Self> {
        let file = File::open(archive).map_err(|error| unreadable(archive, error))?;
        Self::new(archive, BufReader::with_capacity(BUFFER, file), options)
    }
}

impl<R: Read> Reader<R> {
    fn new(archive: &Path, source: R, options: &BundleOptions) -> Result<Self> {
        let mut reader = Self { archive: archive.to_owned(), source, head: Head::default(), files: vec![], next: None };
        let block = reader.block()?;
        reader.head.manifest = reader.small(&block, MANIFEST_FILE, MAX_MANIFEST_BYTES)?;
        let block = reader.block()?;
        match block.starts_with(SIGNATURE_FILE.as_bytes()) {
            true => reader.head.signatures = Some(reader.small(&block, SIGNATURE_FILE, MAX_SIGNATURE_BYTES)?),
            false => reader.next = Some(block),
        }
        reader.files = reader.head.verify(options)?.0.files;
        Ok(reader)
    }

    /// Writes everything into a new folder beside `target`, verified.
    fn extract_beside(self, target: &Path) -> Result<Staged> {
        let staged = Staged::beside(target)?;
        staged.write_head(&self.head)?;
        self.each(|entry, content, unreadable| staged.write(entry, content, unreadable))?;
        Ok(staged)
    }

    fn verify(self) -> Result<()> {
        let never = |error| Error::new(ErrorKind::Io, "cannot write nowhere").with_source(error);
        self.each(|entry, content, unreadable| copy(content, entry, unreadable, io::sink(), never))
    }

    /// Reads to the end, and hands the content of one file after the other to `take`, which verifies it.
    fn each(
        mut self,
        mut take: impl FnMut(&FileEntry, &mut dyn Read, &dyn Fn(io::Error) -> Error) -> Result<()>,
    ) -> Result<()> {
        for entry in std::mem::take(&mut self.files) {
            let block = self.next.take().map_or_else(|| self.block(), Ok)?;
            if block != header(&entry.path, entry.size)? {
                return Err(self.not_canonical(&format!("where {} should begin", entry.path)));
            }
            let archive = &self.archive;
            take(&entry, &mut (&mut self.source).take(entry.size), &|error| unreadable(archive, error))?;
            self.padding(entry.size)?;
        }
        self.end()
    }

    /// The content of one of the two files that come before the manifest is known.
    fn small(&mut self, block: &[u8; BLOCK as usize], path: &str, most: u64) -> Result<Vec<u8>> {
        let size = tar::Header::from_byte_slice(block).entry_size().unwrap_or(u64::MAX);
        if size > most {
            return Err(malformed(format!("{}: {path} has {size} bytes, more than {most}", self.archive.display())));
        }
        if *block != header(path, size)? {
            return Err(self.not_canonical(&format!("where {path} should begin")));
        }
        let mut content = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        self.exactly(&mut content)?;
        self.padding(size)?;
        Ok(content)
    }

    fn block(&mut self) -> Result<[u8; BLOCK as usize]> {
        let mut block = [0; BLOCK as usize];
        self.exactly(&mut block)?;
        Ok(block)
    }

    fn padding(&mut self, size: u64) -> Result<()> {
        let mut read = padding(size).to_vec();
        self.exactly(&mut read)?;
        if read.iter().all(|byte| *byte == 0) { Ok(()) } else { Err(self.not_canonical("between two files")) }
    }

    fn end(&mut self) -> Result<()> {
        let mut end = END;
        self.exactly(&mut end)?;
        let mut more = [0];
        let more = self.source.read(&mut more).map_err(|error| unreadable(&self.archive, error))?;
        if end == END && more == 0 { Ok(()) } else { Err(self.not_canonical("at its end")) }
    }

    fn exactly(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.source.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => malformed(format!("{} is cut short", self.archive.display())),
            _ => unreadable(&self.archive, error),
        })
    }

    fn not_canonical(&self, place: &str) -> Error {
        malformed(format!("{} is not as a bundle is packed {place}", self.archive.display()))
    }
}

/// The one header that a file of this path and size has: ustar, owned by nobody, from the beginning of time.
fn header(path: &str, size: u64) -> Result<[u8; BLOCK as usize]> {
    let mut header = tar::Header::new_ustar();
    let long = |error| malformed(format!("{path} cannot be packed: its path is too long")).with_source(error);
    header.set_path(path).map_err(long)?;
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    Ok(*header.as_bytes())
}

fn padding(size: u64) -> &'static [u8] {
    &END[..(size.next_multiple_of(BLOCK) - size) as usize]
}

/// Copies exactly the content that `entry` describes.
fn copy(
    from: impl Read,
    entry: &FileEntry,
    unreadable: impl Fn(io::Error) -> Error,
    mut to: impl Write,
    unwritable: impl Fn(io::Error) -> Error,
) -> Result<()> {
    let (mut from, mut buffer) = (from.take(entry.size.saturating_add(1)), vec![0; BUFFER]);
    let (mut hasher, mut size) = (Sha256::new(), 0);
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(unreadable(error)),
        };
        hasher.update(&buffer[..count]);
        to.write_all(&buffer[..count]).map_err(&unwritable)?;
        size += count as u64;
    }
    let sha256 = hexadecimal(&hasher.finalize());
    entry.check(size, &sha256)
}

/// A folder beside its target that becomes it, whole and on the disk, or disappears.
struct Staged(tempfile::TempDir);

impl Staged {
    fn beside(target: &Path) -> Result<Self> {
        let parent = durable::folder_of(target);
        fs::create_dir_all(parent).map_err(|error| unwritable(parent, error))?;
        let folder = tempfile::Builder::new().prefix(".unpack-").tempdir_in(parent);
        folder.map(Self).map_err(|error| unwritable(parent, error))
    }

    fn write_head(&self, head: &Head) -> Result<()> {
        let write = |name: &str, content: &[u8]| {
            let path = self.0.path().join(name);
            let written =
                File::create_new(&path).and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()));
            written.map_err(|error| unwritable(&path, error))
        };
        write(MANIFEST_FILE, &head.manifest)?;
        head.signatures.as_ref().map_or(Ok(()), |signatures| write(SIGNATURE_FILE, signatures))
    }

    fn write(&self, entry: &FileEntry, content: impl Read, unreadable: impl Fn(io::Error) -> Error) -> Result<()> {
        let path = self.0.path().join(&entry.path);
        let folder = durable::folder_of(&path);
        fs::create_dir_all(folder).map_err(|error| unwritable(folder, error))?;
        let file = File::create_new(&path).map_err(|error| unwritable(&path, error))?;
        copy(content, entry, unreadable, &file, |error| unwritable(&path, error))?;
        file.sync_all().map_err(|error| unwritable(&path, error))
    }

    fn put(self, folder: &Path) -> Result<()> {
        let synced = durable::sync_tree(self.0.path());
        synced.and_then(|()| fs::rename(self.0.path(), folder)).map_err(|error| unwritable(folder, error))?;
        let _moved = self.0.keep();
        durable::sync_folder(folder).map_err(|error| unwritable(folder, error))
    }
}

fn unwritable(path: &Path, error: io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("cannot write {}", path.display())).with_source(error)
}

impl Head {
    /// Name of an extracted bundle in the cache folder: it changes with any byte of any file, and with the signatures.
    fn key(&self) -> String {
        let digest = |bytes: &[u8]| sha256_hexadecimal(bytes);
        let signatures = self.signatures.as_deref().unwrap_or_default();
        sha256_hexadecimal(format!("{} {}", digest(&self.manifest), digest(signatures)).as_bytes())
    }
}
