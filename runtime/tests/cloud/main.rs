//! Between the device and the cloud, over real TLS on loopback: each fault has one named outcome, and none hangs.

#![cfg(feature = "cloud")]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a failed preparation fails the test")]

#[cfg(feature = "stores")]
mod budget;
#[cfg(feature = "stores")]
mod calendar;
mod cascade;
mod client;
#[path = "../common/mod.rs"]
mod common;
mod faults;
#[cfg(feature = "stores")]
mod kill;
mod models;
#[cfg(feature = "stores")]
mod outbox;
mod privacy;
mod router;
mod slots;
mod soak;
mod stream;
mod trace;
mod trust;
