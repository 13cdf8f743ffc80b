//! The canary: the answer that a model must give before it serves, and the note that it gave it on this device before.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::generation;
use super::interrupt::Interrupt;
use super::session::Decoder;
use crate::bundle::Bundle;
use crate::bundle::digest::sha256_hexadecimal;
use crate::bundle::manifest::Canary;
use crate::device::library::Library;
use crate::error::{Error, ErrorKind, Result};

/// Decodes the canary greedily and returns the largest difference from its logits.
pub(super) fn check(decoder: &mut Decoder, canary: &Canary) -> Result<f32> {
    let never = Interrupt::never()?;
    decoder.truncate(0)?;
    decoder.reserve(canary.prompt.len() + canary.continuation.len())?;
    let mut logits = decoder.append(&canary.prompt, never.run())?;
    let error = largest_difference(logits, &canary.logits);
    if error.is_nan() || error > canary.tolerance {
        let message = format!("the canary's logits differ by {error}, more than {}", canary.tolerance);
        return Err(Error::new(ErrorKind::Inference, message));
    }
    for (position, expected) in canary.continuation.iter().enumerate() {
        let id = generation::argmax(logits)?;
        if id != *expected {
            let message = format!("the canary's token {position} is {id} instead of {expected}");
            return Err(Error::new(ErrorKind::Inference, message));
        }
        logits = decoder.append(&[id], never.run())?;
    }
    Ok(error)
}

/// Largest absolute difference between the common beginnings; NaN if any is NaN.
fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |most: f32, next| if most.is_nan() || next <= most { most } else { next })
}

/// A file that says that this very model gave its canary's answer here, with this very library, on this processor: with all of
/// them as they were it would give it again.
///
/// Its name is a digest of what it says, its content that and the error of the logits. What cannot be read counts as not there.
pub(super) struct Note {
    path: PathBuf,
    facts: String,
}

/// Longest note, in bytes: the description of a processor is some hundreds.
const MAX_NOTE_BYTES: u64 = 1 << 16;

impl Note {
    /// The note's place in `folder`; `None` where the system does not describe its processor.
    pub(super) fn new(folder: &Path, bundle: &Bundle, graph: &Path, threads: usize, library: &Library) -> Option<Self> {
        let of_library = library.path().metadata().ok()?;
        let canary = serde_json::to_vec(&bundle.manifest().canary).ok()?;
        let facts = format!(
            "margay canary 1\nmargay {}\nmodel {}\ncanary {}\ngraph {}\nthreads {threads}\nlibrary {} {} {:?}\n{}\n{}",
            env!("CARGO_PKG_VERSION"),
            bundle.model_digest(),
            sha256_hexadecimal(&canary),
            graph.file_name()?.display(),
            library.path().display(),
            of_library.len(),
            of_library.modified().ok()?,
            ort::info(),
            processor()?,
        );
        let name = format!("canary-{}", sha256_hexadecimal(facts.as_bytes()));
        Some(Self { path: folder.join(name), facts })
    }

    /// The error of the canary's logits when it was decoded, if it was.
    pub(super) fn read(&self) -> Option<f32> {
        if self.path.metadata().ok()?.len() > MAX_NOTE_BYTES {
            return None;
        }
        let text = fs::read_to_string(&self.path).ok()?;
        text.strip_prefix(&self.facts)?.strip_prefix("error ")?.trim_end().parse().ok()
    }

    /// Without it the next start decodes the canary again, so a failure is only worth a line.
    pub(super) fn write(&self, error: f32) {
        let folder = crate::durable::folder_of(&self.path);
        let written = tempfile::NamedTempFile::new_in(folder).and_then(|mut file| {
            writeln!(file, "{}error {error}", self.facts)?;
            file.as_file().sync_all()?;
            file.persist(&self.path).map_err(|failed| failed.error)
        });
        if let Err(error) = written {
            tracing::warn!(path = %self.path.display(), %error, "the canary cannot be noted");
        }
    }
}

/// What the system says of its first processor, less what changes from moment to moment. Only Linux says it in a file.
fn processor() -> Option<String> {
    let all = fs::read_to_string("/proc/cpuinfo").ok()?;
    let first = all.split("\n\n").next()?;
    let lasting = |line: &&str| !["cpu MHz", "bogomips", "BogoMIPS"].iter().any(|name| line.starts_with(name));
    Some(first.lines().filter(lasting).flat_map(|line| [line, "\n"]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs ONNX Runtime, whose build a note names; only the feature `fetch` is certain to find it.
    #[test]
    #[cfg(all(target_os = "linux", feature = "fetch"))]
    fn a_note_is_of_one_graph_on_one_library() {
        let found = crate::device::library::Locate::from_environment().find_or_fetch(&mut |_| ()).unwrap();
        found.initialise().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let bundle = Bundle::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/toy")).unwrap();
        let library = |bytes: &[u8]| {
            let path = folder.path().join("library.so");
            fs::write(&path, bytes).unwrap();
            Library::at(path).unwrap()
        };
        let first = library(b"one");
        let note = |graph: &str, threads| Note::new(folder.path(), &bundle, Path::new(graph), threads, &first).unwrap();
        assert_eq!(note("own.onnx", 2).read(), None);
        note("own.onnx", 2).write(0.25);
        assert_eq!(note("own.onnx", 2).read(), Some(0.25));
        assert_eq!((note("model.onnx", 2).read(), note("own.onnx", 1).read()), (None, None));
        let replaced = library(b"another");
        assert_eq!(Note::new(folder.path(), &bundle, Path::new("own.onnx"), 2, &replaced).unwrap().read(), None);
    }

    #[test]
    fn a_difference_that_is_not_a_number_is_never_the_smaller_one() {
        assert!(largest_difference(&[1.0, f32::NAN, 2.0], &[1.0, 1.0, 0.0]).is_nan());
        assert_eq!(largest_difference(&[1.0, 2.0], &[0.5, 4.0, 9.0]), 2.0);
    }
}
