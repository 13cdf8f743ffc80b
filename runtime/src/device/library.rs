//! Finds ONNX Runtime's shared library and loads it, once per process.
//!
//! The library is looked for in `ORT_DYLIB_PATH`, then in the cache folder; with the feature `fetch` a
//! caller may ask for it to be fetched into the cache folder when it is in neither.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ort::environment::Environment;
use ort::logging::LogLevel;

use crate::error::{Error, ErrorKind, Result};

#[cfg(feature = "fetch")]
mod fetch;
mod release;

pub use release::VERSION;
use release::{RELEASE, Release};

/// ONNX Runtime's shared library, found but not yet loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    path: PathBuf,
}

/// Where to look for the library. [`Locate::find`] looks, `Locate::find_or_fetch` also fetches.
#[derive(Debug, Clone)]
pub struct Locate {
    /// The person's own choice, `ORT_DYLIB_PATH`. When set, nothing else is looked at.
    pub chosen: Option<PathBuf>,
    /// Margay's cache folder: `MARGAY_CACHE`, else `margay` in the platform's cache folder.
    pub cache: Option<PathBuf>,
}

/// What happens while the library is being fetched, for a line on the screen. Its `Display` is that line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// Another process is fetching; this one waits for it.
    Waiting,
    /// The wheel is being downloaded by this program.
    Downloading {
        /// The package installer that downloads, e.g. `python3 -m pip`.
        with: &'a str,
    },
    /// The wheel has come and its digest is right; the library is being unpacked.
    Unpacking,
    /// The library is in place.
    Ready(&'a Path),
}

impl std::fmt::Display for Progress<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Waiting => f.write_str("waiting for another process that is fetching ONNX Runtime"),
            Self::Downloading { with } => write!(f, "downloading ONNX Runtime {VERSION} with `{with}`"),
            Self::Unpacking => write!(f, "unpacking ONNX Runtime {VERSION}"),
            Self::Ready(path) => write!(f, "ONNX Runtime {VERSION} is at {}", path.display()),
        }
    }
}

impl Locate {
    /// The places that this process's environment names.
    #[must_use]
    pub fn from_environment() -> Self {
        Self::from_variables(|name| std::env::var_os(name))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        // The XDG base directory specification asks that a relative path be ignored.
        let platform = if cfg!(windows) {
            set("LOCALAPPDATA")
        } else if cfg!(target_vendor = "apple") {
            set("HOME").map(|home| home.join("Library/Caches"))
        } else {
            set("XDG_CACHE_HOME")
                .filter(|path| path.is_absolute())
                .or_else(|| set("HOME").map(|home| home.join(".cache")))
        };
        let cache = set("MARGAY_CACHE").or_else(|| platform.map(|folder| folder.join("margay")));
        Self { chosen: set("ORT_DYLIB_PATH"), cache }
    }

    /// Finds the library without touching the network.
    ///
    /// A library in the cache folder counts only if it has the size of the pinned release: a part of one is
    /// never loaded. Its digest was checked when it was unpacked, and it was moved there whole.
    ///
    /// # Errors
    /// [`ErrorKind::Library`] if it is in none of the places.
    pub fn find(&self) -> Result<Library> {
        if let Some(path) = &self.chosen {
            return Library::at(path);
        }
        let (release, path) = self.cached()?;
        match path.metadata() {
            Ok(metadata) if metadata.len() == release.library_size => Library::at(&path),
            Ok(metadata) => Err(missing(format!(
                "{} has {} bytes instead of {}: it is not the library of ONNX Runtime {VERSION}",
                path.display(),
                metadata.len(),
                release.library_size,
            ))),
            Err(error) => {
                Err(missing(format!("ONNX Runtime is not at {} and ORT_DYLIB_PATH is not set", path.display()))
                    .with_source(error))
            }
        }
    }

    /// Finds the library, and fetches it into the cache folder when it is in none of the places.
    ///
    /// The wheel is downloaded by the person's own Python package installer, so that its index, proxy and
    /// certificate settings hold. Several processes may call this at once.
    ///
    /// # Errors
    /// [`ErrorKind::Library`] if there is no installer, no wheel for this platform, no network, or the wheel's
    /// digest is not the pinned one; [`ErrorKind::Io`] if the cache folder cannot be written.
    #[cfg(feature = "fetch")]
    pub fn find_or_fetch(&self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Library> {
        match self.find() {
            Err(_) if self.chosen.is_none() => {}
            found => return found,
        }
        let (release, path) = self.cached()?;
        fetch::fetch(release, &path, fetch::INSTALLERS, progress)?;
        let library = self.find()?;
        progress(Progress::Ready(library.path()));
        Ok(library)
    }

    /// The pinned release for this platform, and where it lies in the cache folder.
    fn cached(&self) -> Result<(&'static Release, PathBuf)> {
        let release = RELEASE.ok_or_else(|| {
            missing(format!(
                "no build of ONNX Runtime {VERSION} is known for {} on {}: set ORT_DYLIB_PATH",
                std::env::consts::OS,
                std::env::consts::ARCH,
            ))
        })?;
        let cache = self
            .cache
            .as_ref()
            .ok_or_else(|| missing("neither ORT_DYLIB_PATH, MARGAY_CACHE nor a home folder is set".to_owned()))?;
        let folder = format!("onnxruntime-{VERSION}-{}", release.platform);
        Ok((release, cache.join(folder).join(release.file_name())))
    }
}

impl Library {
    /// The library at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::Library`] if there is no such file.
    pub fn at(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let canonical = path.canonicalize().map_err(|error| {
            missing(format!("ONNX Runtime's library {} cannot be found", path.display())).with_source(error)
        })?;
        if !canonical.is_file() {
            return Err(missing(format!("ONNX Runtime's library {} is not a file", path.display())));
        }
        Ok(Self { path: canonical })
    }

    /// Absolute path of the library.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Loads the library into this process. Doing it again is free.
    ///
    /// Sets the environment variable `ORT_DISABLE_TELEMETRY` if it is not set, because Microsoft's builds would otherwise report to
    /// their makers. Where threads of C code may read the environment meanwhile, set it before they start.
    ///
    /// # Errors
    /// [`ErrorKind::Library`] if the file is not ONNX Runtime, is too old, or another library is loaded already:
    /// a process has one.
    pub fn initialise(&self) -> Result<()> {
        self.environment().map(drop)
    }

    pub(crate) fn environment(&self) -> Result<Environment> {
        let mut loaded = LOADED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(loaded) = &*loaded {
            if loaded.library == *self {
                return Ok(loaded.environment.clone());
            }
            return Err(missing(format!(
                "{} cannot be loaded: this process runs on {}, and only one ONNX Runtime fits in a process",
                self.path.display(),
                loaded.library.path.display(),
            )));
        }
        let unusable = |error: Box<dyn std::error::Error + Send + Sync>| {
            missing(format!("{} is not a usable ONNX Runtime", self.path.display())).with_source(error)
        };
        silence_telemetry();
        let environment = ort::init_from(&self.path)
            .map_err(|error| unusable(error.into()))?
            .with_name("margay")
            .with_telemetry(false)
            .with_logger(std::sync::Arc::new(log))
            .build()
            .map_err(|error| unusable(error.into()))?;
        tracing::debug!(path = %self.path.display(), build = ort::info(), "loaded ONNX Runtime");
        *loaded = Some(Loaded { library: self.clone(), environment: environment.clone() });
        Ok(environment)
    }

    /// The library this process runs on, if one was loaded.
    #[must_use]
    pub fn loaded() -> Option<Self> {
        let loaded = LOADED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        loaded.as_ref().map(|loaded| loaded.library.clone())
    }
}

/// Keeps ONNX Runtime from telling its makers about this program.
///
/// Microsoft's builds for the desktop keep a database in the cache folder and look up `mobile.events.data.microsoft.com` as soon as
/// they are initialised: before there is an environment whose telemetry [`Library::environment`] could switch off. Only this
/// variable is read early enough.
fn silence_telemetry() {
    const VARIABLE: &str = "ORT_DISABLE_TELEMETRY";
    if std::env::var_os(VARIABLE).is_none() {
        #[expect(unsafe_code, reason = "the only switch that ONNX Runtime reads in time is in the environment")]
        // SAFETY: Rust's own readers and writers of the environment take turns. C code that reads it on another thread in this very
        // moment is the danger that remains; a program that has such threads sets the variable before it starts them.
        unsafe {
            std::env::set_var(VARIABLE, "1");
        }
    }
}

/// The one library of this process, and the environment that every session lives in.
struct Loaded {
    library: Library,
    environment: Environment,
}

static LOADED: Mutex<Option<Loaded>> = Mutex::new(None);

fn missing(message: String) -> Error {
    Error::new(ErrorKind::Library, message)
}

/// Hands ONNX Runtime's own log lines to `tracing`.
fn log(level: LogLevel, category: &str, _id: &str, location: &str, message: &str) {
    match level {
        LogLevel::Verbose => tracing::trace!(target: "onnxruntime", category, location, "{message}"),
        LogLevel::Info => tracing::debug!(target: "onnxruntime", category, location, "{message}"),
        LogLevel::Warning => tracing::warn!(target: "onnxruntime", category, location, "{message}"),
        LogLevel::Error | LogLevel::Fatal => {
            tracing::error!(target: "onnxruntime", category, location, "{message}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locate(variables: &[(&str, &str)]) -> Locate {
        let variables: Vec<(String, String)> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Locate::from_variables(|name| variables.iter().find(|(known, _)| known == name).map(|(_, value)| value.into()))
    }

    #[test]
    #[cfg(all(unix, not(target_vendor = "apple")))]
    fn the_cache_folder_follows_the_xdg_specification() {
        let home = ("HOME", "/home/ada");
        assert_eq!(locate(&[home]).cache, Some("/home/ada/.cache/margay".into()));
        assert_eq!(locate(&[home, ("XDG_CACHE_HOME", "/c")]).cache, Some("/c/margay".into()));
        assert_eq!(locate(&[home, ("XDG_CACHE_HOME", "c")]).cache, Some("/home/ada/.cache/margay".into()));
        assert_eq!(locate(&[home, ("XDG_CACHE_HOME", "")]).cache, Some("/home/ada/.cache/margay".into()));
        assert_eq!(locate(&[home, ("MARGAY_CACHE", "/m")]).cache, Some("/m".into()));
        assert_eq!(locate(&[]).cache, None);
    }

    #[test]
    fn a_chosen_library_that_is_missing_is_not_replaced_by_the_cached_one() {
        let folder = tempfile::tempdir().unwrap();
        let locate = Locate { chosen: Some(folder.path().join("none.so")), cache: Locate::from_environment().cache };
        let error = locate.find().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Library);
        assert!(error.to_string().contains("none.so"), "{error}");
    }

    #[test]
    fn a_partial_library_in_the_cache_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let locate = Locate { chosen: None, cache: Some(folder.path().to_owned()) };
        let (_, path) = locate.cached().unwrap();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, b"half").unwrap();
        let error = locate.find().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Library);
        assert!(error.to_string().contains("has 4 bytes"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_library_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"not a shared object").unwrap();
        let error = Library::at(file.path()).unwrap().initialise().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Library);
        let error = Library::at(file.path().parent().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Library);
    }
}
