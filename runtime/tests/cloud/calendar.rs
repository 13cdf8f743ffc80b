//! The other half of a clock: a date that only the test changes.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use margay::cloud::{BoxFuture, Clock};

/// A calendar that stands where it is put.
pub(crate) struct Calendar(Mutex<SystemTime>);

impl Calendar {
    /// Midnight UTC so many days after 1 January 1970.
    pub(crate) fn at(days: u64) -> Arc<Self> {
        let calendar = Self(Mutex::new(SystemTime::UNIX_EPOCH));
        calendar.set(days);
        Arc::new(calendar)
    }

    pub(crate) fn set(&self, days: u64) {
        *self.0.lock().unwrap() = SystemTime::UNIX_EPOCH + Duration::from_secs(days * 24 * 60 * 60);
    }
}

impl Clock for Calendar {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn calendar(&self) -> SystemTime {
        *self.0.lock().unwrap()
    }

    fn sleep_until(&self, _: Instant) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}
