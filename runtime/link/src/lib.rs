//! Questions from a microcontroller to a gateway, over a serial line that may lose, damage and repeat what it carries.
//!
//! ```
//! use margay_link::{Device, Gateway, MAX_FRAME, Origin, Timing};
//!
//! let (mut device, mut gateway) = (Device::<4>::new(0x5eed, Timing::default()), Gateway::<16>::new(Timing::default()));
//! let mut buffer = [0; MAX_FRAME];
//! let asked = device.ask("dim the lights a little", None, 0)?;
//!
//! let frame = device.transmit(0, &mut buffer).expect("a question waits").to_vec();
//! let mut question = None;
//! for byte in frame {
//!     if let Some(query) = gateway.receive(byte) {
//!         question = Some((query.id, query.text.to_owned()));
//!     }
//! }
//! let (id, text) = question.expect("it arrived whole");
//! assert_eq!(text, "dim the lights a little");
//! gateway.answer(id, Origin::Cloud, "light set", 0);
//!
//! while let Some(frame) = gateway.transmit(0, &mut buffer) {
//!     for &byte in frame {
//!         if let Some(answer) = device.receive(byte, 0) {
//!             assert_eq!((answer.number, answer.text), (asked.number, "light set"));
//!         }
//!     }
//! }
//! assert_eq!(device.waiting(), 0);
//! # Ok::<(), margay_link::AskError>(())
//! ```
//!
//! ```text
//!  Device                                        Gateway
//!  ask -> outbox --- Query, again and again ---> receive -> whoever answers
//!            |  <--------- Accepted -----------                  |
//!            |  <--- Answer, again and again --- answer <--------+
//!     receive -> caller ----- Received --------> forgotten
//! ```
//!
//! # What holds
//! A question stays in the device's outbox until its *answer* is there, so a gateway that restarts loses none: it is asked
//! again. The gateway knows what it was asked by session and number, so a repeated question is answered once. An answer is
//! repeated until it is received, and handed to the caller once. A device that restarts has a new session and an empty outbox;
//! answers to its former self are received and dropped. What a gateway that restarted is asked again may reach the
//! large model twice, under the same [`QueryId`], which is why that id makes an idempotency key.
//!
//! # On the wire
//! A frame is a version byte, a [`Message`] in postcard's form and a CRC-32 (ISO-HDLC) over both, little-endian, stuffed by
//! COBS and ended by a zero byte. Whatever does not decode is dropped and counted; the next zero byte begins anew.
//!
//! Neither side holds a clock: `now` is a monotonic tick in milliseconds from any origin.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod device;
mod frame;
mod gateway;
mod message;
mod timing;

pub use device::{Answer, AskError, Asked, Device, DeviceCounts, WhenFull};
pub use frame::{FrameError, MAX_FRAME, Receiver, VERSION, encode};
pub use gateway::{Gateway, GatewayCounts, Query};
pub use message::{MAX_TASK, MAX_TEXT, Message, Origin, QueryId};
pub use timing::Timing;
