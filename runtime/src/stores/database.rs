//! One redb file: opened with its integrity checked, every failure a typed error with the path.

use std::fmt;
use std::path::{Path, PathBuf};

use redb::{Database, ReadTransaction, ReadableDatabase as _, ReadableTable as _, TableDefinition, WriteTransaction};

use crate::durable::sync_folder;
use crate::error::{Error, ErrorKind, Result};

/// Memory for pages, in bytes. The stores are small; redb's own default is a gigabyte.
const CACHE_BYTES: usize = 1 << 20;

/// What the file is for, and in which layout.
const ABOUT: TableDefinition<'_, &str, &str> = TableDefinition::new("about");

pub(super) struct Store {
    path: PathBuf,
    database: Database,
}

impl Store {
    /// Opens or creates the file. Reads all of it: a store that was damaged is an error here rather than a surprise later.
    pub(super) fn open(path: &Path, layout: &'static str) -> Result<Self> {
        let failed = |error| failed(path, error);
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(true)
            .create(path)
            .map_err(|error| failed(error.into()))?;
        sync_folder(path).map_err(|error| failed(error.into()))?;
        let store = Self { path: path.to_owned(), database };
        store.write(|transaction| {
            let mut about = transaction.open_table(ABOUT)?;
            let found = about.get("layout")?.map(|layout| layout.value().to_owned());
            match found {
                None => {
                    about.insert("layout", layout)?;
                    Ok(Ok(()))
                }
                Some(found) if found == layout => Ok(Ok(())),
                Some(_) => Ok(Err(store.damaged(format!("its layout is not `{layout}`")))),
            }
        })??;
        Ok(store)
    }

    /// All of `work`, on the disk when this returns, or nothing of it.
    pub(super) fn write<T>(&self, work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>) -> Result<T> {
        let write = || {
            let transaction = self.database.begin_write()?;
            let outcome = work(&transaction)?;
            transaction.commit()?;
            Ok(outcome)
        };
        write().map_err(|error| failed(&self.path, error))
    }

    pub(super) fn read<T>(&self, work: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>) -> Result<T> {
        let read = || work(&self.database.begin_read()?);
        read().map_err(|error| failed(&self.path, error))
    }

    /// A store whose content is not what it should be.
    pub(super) fn damaged(&self, why: impl fmt::Display) -> Error {
        Error::new(ErrorKind::Store, format!("{}: {why}", self.path.display()))
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.path.display())
    }
}

/// `work` off the asynchronous threads: a commit waits for the disk.
pub(super) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::new(ErrorKind::Store, "work on a store broke off").with_source(error))?
}

fn failed(path: &Path, error: redb::Error) -> Error {
    let (kind, what) = match error {
        redb::Error::Io(ref io) if io.kind() != std::io::ErrorKind::InvalidData => (ErrorKind::Io, "cannot be used"),
        redb::Error::DatabaseAlreadyOpen => (ErrorKind::Store, "is open already, here or in another process"),
        _ => (ErrorKind::Store, "is no store, or a damaged one"),
    };
    Error::new(kind, format!("{} {what}", path.display())).with_source(error)
}
