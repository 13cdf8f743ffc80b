//! What may leave the device: text without personal data, and a record of every departure.
//!
//! Both stand in the client, after everything else: they see exactly what is serialised, retries and the outbox's
//! drains included.

mod audit;
mod patterns;
mod recognise;
mod vault;

pub use self::audit::{AuditEntries, AuditEntry, AuditFile, AuditLog, Departure, MAX_AUDIT_LINE};
pub use self::patterns::Patterns;
pub use self::vault::Vault;
pub(crate) use self::vault::{Redacted, Restorer};

/// Takes out of a text what must not leave the device.
///
/// [`Patterns`] is one; another may ask a model for names, and keep to the same rule: whatever it takes out goes
/// through [`Vault::placeholder`], which is how the cloud's answer gets it back.
pub trait Redactor: Send + Sync {
    /// `text` with placeholders of `vault` in place of what it held.
    fn redact(&self, text: &str, vault: &mut Vault) -> String;
}
