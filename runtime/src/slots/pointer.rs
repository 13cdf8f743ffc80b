//! `slots.json`: which slot serves, which one may be rolled back to, which one waits.

use std::fmt;
use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::durable::sync_folder;
use crate::error::{Error, ErrorKind, Result};

const POINTER_FILE: &str = "slots.json";

/// How its temporary file's name begins.
const STAGING_PREFIX: &str = super::STAGING_PREFIX;

/// Longest file, in bytes: ten times what it needs.
const MAX_POINTER_BYTES: u64 = 1 << 10;

/// The form of the file.
const SCHEMA: u32 = 1;

/// One of the two places for a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Slot {
    A,
    B,
}

impl Slot {
    /// Name of its folder.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    pub(super) fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The content of the file. No two of them are the same slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Pointer {
    pub(super) active: Option<Slot>,
    pub(super) previous: Option<Slot>,
    pub(super) staged: Option<Slot>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    schema: u32,
    active: Option<Slot>,
    previous: Option<Slot>,
    staged: Option<Slot>,
}

impl Pointer {
    /// What is written in the folder; nothing at all if there is no file yet.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let path = root.join(POINTER_FILE);
        let damaged = || Error::new(ErrorKind::Store, format!("{} is damaged", path.display()));
        let bytes = match std::fs::File::open(&path) {
            Ok(file) => {
                let mut bytes = Vec::new();
                std::io::Read::read_to_end(&mut std::io::Read::take(file, MAX_POINTER_BYTES), &mut bytes).map_err(
                    |error| Error::new(ErrorKind::Io, format!("cannot read {}", path.display())).with_source(error),
                )?;
                bytes
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => {
                return Err(Error::new(ErrorKind::Io, format!("cannot read {}", path.display())).with_source(error));
            }
        };
        let written: Written = serde_json::from_slice(&bytes).map_err(|error| damaged().with_source(error))?;
        let pointer = Self { active: written.active, previous: written.previous, staged: written.staged };
        let named: Vec<Slot> = [pointer.active, pointer.previous, pointer.staged].into_iter().flatten().collect();
        let twice = named.len() > 2 || named.len() == 2 && named[0] == named[1];
        if written.schema != SCHEMA || twice {
            return Err(damaged());
        }
        Ok(pointer)
    }

    /// Takes the file's place at once, or leaves it as it is.
    pub(super) fn write(&self, root: &Path) -> Result<()> {
        let path = root.join(POINTER_FILE);
        let Self { active, previous, staged } = *self;
        let json = serde_json::to_vec(&Written { schema: SCHEMA, active, previous, staged });
        let write = || {
            let mut file = tempfile::Builder::new().prefix(STAGING_PREFIX).tempfile_in(root)?;
            file.write_all(&json?)?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            sync_folder(&path)
        };
        write()
            .map_err(|error| Error::new(ErrorKind::Io, format!("cannot write {}", path.display())).with_source(error))
    }

    pub(super) fn names(&self, slot: Slot) -> bool {
        [self.active, self.previous, self.staged].contains(&Some(slot))
    }
}
