//! A cloud that misbehaves on purpose, and a clock that stands still: for tests of whatever is built on this crate.
//!
//! ```
//! # async fn test() -> margay::Result<()> {
//! use margay::cloud::{CloudClient, LargeModel, Roots};
//! use margay::testing::{FaultyServer, Reply};
//! use margay::{ErrorKind, Request};
//!
//! let server = FaultyServer::start([Reply::says("hello").cut_after(40)]).await;
//! let client = CloudClient::openai(server.endpoint(), "large").roots(Roots::Pem(server.authority())).build()?;
//! let error = client.answer(&Request::user("hi")).await.unwrap_err();
//! assert_eq!(error.kind(), ErrorKind::Connect);
//! # Ok(()) }
//! ```
#![expect(clippy::expect_used, reason = "a failed preparation fails the test")]

mod clock;
mod reply;
mod server;

pub use self::clock::ManualClock;
pub use self::reply::Reply;
pub use self::server::{Asked, FaultyServer, Greeting, refusing};
