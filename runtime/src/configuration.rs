//! `margay.toml`: a cascade and everything around it, written down.
//!
//! Every key is in `margay.example.toml`, which is a test. A file holds no secret: tokens are named by where they come from.

mod assemble;
mod parse;
mod schema;
mod token;

use std::path::{Path, PathBuf};

pub use self::assemble::Assembly;
use self::parse::{located, parse};
use self::schema::Schema;
pub use self::schema::{
    Api, BreakerSection, BudgetSection, CacheSection, CascadeSection, CloudSection, ConnectivitySection, DeviceSection,
    HedgeSection, IdentitySection, LimitSection, OutboxSection, PrivacySection, ProxySection, RetrySection,
    RootsSection, ServerSection, TelemetrySection, TokenSection,
};
use crate::error::{Error, ErrorKind, Result};

/// Largest file that is read, in bytes: the example with every key is a hundredth of it.
pub const MAX_CONFIGURATION_BYTES: u64 = 1 << 20;

/// The version of the file's form that this crate reads.
pub const SCHEMA_VERSION: u32 = 1;

/// The example with every key, each explained.
pub const EXAMPLE: &str = include_str!("../margay.example.toml");

/// A file that was read and makes sense; nothing was opened or connected yet.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Configuration {
    /// The small model.
    pub device: Option<DeviceSection>,
    /// When the device's answer stands, and what happens without the cloud.
    pub cascade: CascadeSection,
    /// The large model, or several.
    pub cloud: CloudSection,
    /// What may leave.
    pub privacy: PrivacySection,
    /// What it may cost.
    pub budget: Option<BudgetSection>,
    /// What waits.
    pub outbox: Option<OutboxSection>,
    /// What is kept.
    pub cache: Option<CacheSection>,
    /// Whether there is a way to the cloud.
    pub connectivity: Option<ConnectivitySection>,
    /// Who is told how it goes. The command line's to heed: an app has a subscriber and a recorder of its own.
    pub telemetry: Option<TelemetrySection>,
    /// What relative paths in it are relative to.
    folder: PathBuf,
}

impl Configuration {
    /// Reads a file. Relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]; [`ErrorKind::Configuration`] naming path, line and column.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        Self::read_with(path, &[])
    }

    /// Reads a file in which these keys (`cloud.endpoint`) have other values, written as in the file or as bare text. For
    /// command lines that let the environment override a file; this crate never looks at the environment for it.
    ///
    /// # Errors
    /// As [`Configuration::read`]; what an override spoils is named by its key.
    pub fn read_with(path: impl AsRef<Path>, overrides: &[(String, String)]) -> Result<Self> {
        let path = path.as_ref();
        let unreadable =
            |error| Error::new(ErrorKind::Io, format!("cannot read {}", path.display())).with_source(error);
        let size = std::fs::metadata(path).map_err(unreadable)?.len();
        if size > MAX_CONFIGURATION_BYTES {
            let message = format!("{} is over {MAX_CONFIGURATION_BYTES} bytes", path.display());
            return Err(Error::new(ErrorKind::Configuration, message));
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let folder = path.parent().map_or_else(PathBuf::new, Path::to_path_buf);
        Self::parse(&text, &path.display().to_string(), folder, overrides)
    }

    /// Reads a text that is called `name` in errors, with relative paths relative to `folder`.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] naming `name`, line and column.
    pub fn parse(text: &str, name: &str, folder: impl Into<PathBuf>, overrides: &[(String, String)]) -> Result<Self> {
        let schema: Schema = parse(text, name, overrides)?;
        // With overrides in it, the text has other lines than the file.
        let wrong = |span, why: String| match overrides {
            [] => located(text, name, span, &why),
            _ => Error::new(ErrorKind::Configuration, format!("{name}: {why}")),
        };
        if *schema.version.get_ref() != SCHEMA_VERSION {
            let found = schema.version.get_ref();
            let why = format!("version {found} is not read here; this program reads version {SCHEMA_VERSION}");
            return Err(wrong(schema.version.span(), why));
        }
        for server in std::iter::once(schema.cloud.get_ref().first()).chain(schema.cloud.get_ref().fallback.iter()) {
            if let Some(token) = server.token.as_ref().filter(|_| !server.allow_static_key)
                && let TokenSection::Environment(_) = token.get_ref()
            {
                let why = "a key in the environment never changes: say `allow_static_key = true` if that is meant";
                return Err(wrong(token.span(), why.into()));
            }
        }
        if schema.cloud.get_ref().hedge.is_some() && schema.cloud.get_ref().fallback.is_empty() {
            let why = "`hedge` needs a `fallback` to ask as well";
            return Err(wrong(schema.cloud.span(), why.into()));
        }
        let Schema { device, cascade, cloud, privacy, budget, outbox, cache, connectivity, telemetry, .. } = schema;
        let cloud = cloud.into_inner();
        let folder = folder.into();
        Ok(Self { device, cascade, cloud, privacy, budget, outbox, cache, connectivity, telemetry, folder })
    }

    /// A path of the file, from where this process stands.
    #[must_use]
    pub fn path(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }
}

#[cfg(test)]
mod tests;
