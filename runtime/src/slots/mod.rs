//! Two places for a bundle, of which one serves: an update is staged, tried and swapped in while the old model answers.
//!
//! What serves is decided by one small file, which is replaced atomically and names only what was written and verified
//! before. So a process that is killed at any point finds a working bundle when it starts again.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::bundle::{Bundle, BundleOptions, archive};
use crate::device::DeviceOptions;
use crate::durable;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};

mod pointer;

use pointer::{Pointer, Slot};

/// What keeps a second process from changing the slots.
const LOCK_FILE: &str = "slots.lock";

/// How the names of folders and files begin that a killed process may have left.
const STAGING_PREFIX: &str = ".stage-";

/// A bundle that serves, one that waits or was served before, and the way from one to the other.
///
/// ```no_run
/// use margay::bundle::{BundleOptions, PublicKey};
/// use margay::{Slots, SlotsOptions};
///
/// # fn update(key: PublicKey) -> margay::Result<()> {
/// let options = SlotsOptions { bundle: BundleOptions::signed_by([key]), ..SlotsOptions::default() };
/// let slots = Slots::open("models", options)?; // loads what served last
/// slots.stage("download/new.margay")?; // verified and copied: still the old model answers
/// let serving = slots.swap()?; // canary decoded, then the new model answers
/// println!("{} serves now", serving.bundle.manifest().name);
/// slots.roll_back()?; // and now the old one again
/// # Ok(()) }
/// ```
///
/// A request asks [`Slots::serving`] once and keeps what it gets until it ends: those in flight finish on the model that
/// they began with. A cascade that is built over slots does so for each query. While a swap tries the new model, both are in
/// memory.
pub struct Slots {
    root: PathBuf,
    options: SlotsOptions,
    /// Held by whoever changes something; `serving` and `pointer` are locked for moments only.
    change: Mutex<()>,
    pointer: RwLock<Pointer>,
    serving: RwLock<Option<Arc<Serving>>>,
    recovered: Option<Error>,
    /// Locked as long as it is open.
    _lock: File,
}

/// How bundles are verified and loaded.
#[derive(Debug, Clone, Default)]
pub struct SlotsOptions {
    /// Who must vouch for a bundle.
    pub bundle: BundleOptions,
    /// What its model may use of the device.
    pub device: DeviceOptions,
}

/// A bundle and its model, loaded. The policy that belongs to it is [`Bundle::policy`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Serving {
    /// The bundle, in its slot.
    pub bundle: Bundle,
    /// The model.
    pub engine: Arc<Engine>,
}

impl Slots {
    /// Opens the slots in a folder, which is made if it is not there, and loads the bundle that served last.
    ///
    /// If that one does not work any more, the one before it is loaded, and serves from now on. If there is none, or
    /// neither works, nothing serves until another is staged and swapped in. [`Slots::recovered`] says what was wrong.
    ///
    /// # Errors
    /// [`ErrorKind::Store`] if another process has the slots, or the file that says which one serves is damaged;
    /// [`ErrorKind::Io`] if the folder cannot be read or written.
    pub fn open(folder: impl AsRef<Path>, options: SlotsOptions) -> Result<Self> {
        let root = folder.as_ref().to_owned();
        fs::create_dir_all(&root).map_err(|error| unwritable(&root, error))?;
        let lock = lock(&root.join(LOCK_FILE))?;
        let mut pointer = Pointer::read(&root)?;
        sweep(&root, &pointer)?;
        let (mut serving, mut recovered) = (None, None);
        if let Some(active) = pointer.active {
            match load(&root, active, &options) {
                Ok(loaded) => serving = Some(loaded),
                Err(error) => {
                    tracing::error!(slot = %active, %error, "the bundle that served last does not work");
                    recovered = Some(error);
                }
            }
        }
        if serving.is_none()
            && let Some(previous) = pointer.previous
            && let Ok(loaded) = load(&root, previous, &options)
        {
            pointer = Pointer { active: Some(previous), previous: None, staged: None };
            pointer.write(&root)?;
            serving = Some(loaded);
        }
        Ok(Self {
            root,
            options,
            change: Mutex::new(()),
            pointer: RwLock::new(pointer),
            serving: RwLock::new(serving),
            recovered,
            _lock: lock,
        })
    }

    /// The model that answers now, if there is one.
    #[must_use]
    pub fn serving(&self) -> Option<Arc<Serving>> {
        self.serving.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why the bundle that served last did not, when the slots were opened.
    #[must_use]
    pub fn recovered(&self) -> Option<&Error> {
        self.recovered.as_ref()
    }

    /// Whether a bundle is staged: [`Slots::swap`] would try it, also after a restart.
    #[must_use]
    pub fn is_staged(&self) -> bool {
        self.pointer().staged.is_some()
    }

    /// Whether there is a bundle to roll back to. Staging another gives its place away.
    #[must_use]
    pub fn can_roll_back(&self) -> bool {
        self.pointer().previous.is_some()
    }

    /// Verifies the bundle at `path`, a folder or an archive, and copies it into the slot that does not serve.
    ///
    /// # Errors
    /// As [`Bundle::open_with`]; [`ErrorKind::Io`] if it cannot be copied. The bundle that serves goes on doing so; what was
    /// in the other slot may be gone.
    pub fn stage(&self, path: impl AsRef<Path>) -> Result<()> {
        let _change = self.change();
        let path = path.as_ref();
        let bundle = &self.options.bundle;
        let incoming = tempfile::Builder::new().prefix(STAGING_PREFIX).tempdir_in(&self.root);
        let incoming = incoming.map_err(|error| unwritable(&self.root, error))?;
        let staged = incoming.path().join("bundle");
        if path.is_file() {
            archive::unpack(path, &staged, bundle)?;
        } else {
            Bundle::open_with(path, bundle)?.copy_to(&staged)?;
        }
        let pointer = self.pointer();
        let slot = pointer.active.map_or(Slot::A, Slot::other);
        // From here on the slot is nobody's, until it is whole again.
        self.point(Pointer { active: pointer.active, previous: None, staged: None })?;
        let place = self.root.join(slot.name());
        remove(&place)?;
        fs::rename(&staged, &place).map_err(|error| unwritable(&place, error))?;
        durable::sync_folder(&place).map_err(|error| unwritable(&place, error))?;
        self.point(Pointer { active: pointer.active, previous: None, staged: Some(slot) })
    }

    /// Loads the staged bundle, decodes its canary, and lets it serve. What served until now is kept to roll back to.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] if none is staged; as [`Bundle::open_with`] and [`Engine::load`]. The bundle that
    /// served goes on doing so.
    pub fn swap(&self) -> Result<Arc<Serving>> {
        let _change = self.change();
        let Pointer { active, staged, .. } = self.pointer();
        let staged = staged.ok_or_else(|| Error::new(ErrorKind::InvalidRequest, "no bundle is staged"))?;
        self.serve(staged, active)
    }

    /// Lets the bundle serve that did before the last swap. It is verified, loaded and tried like a new one.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] if there is none; as [`Bundle::open_with`] and [`Engine::load`]. The bundle that served
    /// goes on doing so.
    pub fn roll_back(&self) -> Result<Arc<Serving>> {
        let _change = self.change();
        let Pointer { active, previous, .. } = self.pointer();
        let previous =
            previous.ok_or_else(|| Error::new(ErrorKind::InvalidRequest, "there is no bundle to roll back to"))?;
        self.serve(previous, active)
    }

    /// [`Slots::stage`] and [`Slots::swap`].
    ///
    /// # Errors
    /// As these.
    pub fn update(&self, path: impl AsRef<Path>) -> Result<Arc<Serving>> {
        self.stage(path)?;
        self.swap()
    }

    fn serve(&self, slot: Slot, previous: Option<Slot>) -> Result<Arc<Serving>> {
        let loaded = load(&self.root, slot, &self.options)?;
        self.point(Pointer { active: Some(slot), previous, staged: None })?;
        let serving = &mut *self.serving.write().unwrap_or_else(PoisonError::into_inner);
        *serving = Some(Arc::clone(&loaded));
        tracing::info!(%slot, name = loaded.bundle.manifest().name, "a bundle serves");
        Ok(loaded)
    }

    fn change(&self) -> MutexGuard<'_, ()> {
        self.change.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pointer(&self) -> Pointer {
        *self.pointer.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// On the disk first: memory never says what a restart would not find.
    fn point(&self, pointer: Pointer) -> Result<()> {
        pointer.write(&self.root)?;
        *self.pointer.write().unwrap_or_else(PoisonError::into_inner) = pointer;
        Ok(())
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots").field("root", &self.root).field("pointer", &self.pointer()).finish_non_exhaustive()
    }
}

fn load(root: &Path, slot: Slot, options: &SlotsOptions) -> Result<Arc<Serving>> {
    let bundle = Bundle::open_with(root.join(slot.name()), &options.bundle)?;
    let engine = Engine::load(&bundle, options.device.clone())?;
    Ok(Arc::new(Serving { bundle, engine: Arc::new(engine) }))
}

fn lock(path: &Path) -> Result<File> {
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(|error| unwritable(path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            let message = format!("{} is held by another process: its slots are in use", path.display());
            Err(Error::new(ErrorKind::Store, message))
        }
        Err(fs::TryLockError::Error(error)) => Err(unwritable(path, error)),
    }
}

/// Removes what a killed process has left: half-written folders and files, and a slot that nothing points to.
fn sweep(root: &Path, pointer: &Pointer) -> Result<()> {
    for slot in [Slot::A, Slot::B].into_iter().filter(|slot| !pointer.names(*slot)) {
        remove(&root.join(slot.name()))?;
    }
    for entry in fs::read_dir(root).map_err(|error| unwritable(root, error))? {
        let entry = entry.map_err(|error| unwritable(root, error))?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(STAGING_PREFIX)) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(unwritable(path, error)),
        _ => Ok(()),
    }
}

fn unwritable(path: &Path, error: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("cannot write {}", path.display())).with_source(error)
}
