//! How good a cascade is, and how sure of that we are: outcome tables, deferral curves, measures, intervals, reports.
//!
//! ```
//! use margay_evaluation::{bootstrap::Bootstrap, measures, outcome::Table, pairing::Pairing, threshold};
//!
//! let csv = "query,model,quality,score,flops\n\
//!            a,small,1,-0.1,10\na,large,1,,200\n\
//!            b,small,0,-0.9,10\nb,large,1,,200\n";
//! let table = Table::from_csv(csv.as_bytes())?;
//! let pairing = Pairing::join(table.rows(), "small", "large")?;
//! let curve = pairing.curve();
//! assert_eq!(curve.at(0.5).quality, 1.0); // the right half is deferred
//! assert_eq!(measures::audc(&curve), 0.875);
//! let interval = Bootstrap::default().interval(&pairing, |sample| Some(sample.small_quality()))?;
//! let threshold = threshold::for_deferral_rate(pairing.scores(), 0.5)?.threshold;
//! assert_eq!((threshold, interval.is_some()), (-0.1, true));
//! # Ok::<(), margay_evaluation::Error>(())
//! ```
//!
//! ```text
//! outcomes.csv  -> Table -> Pairing -> Sample -> Curve -> measures    what it is worth
//! (or .jsonl,        |         |          ^                   |
//!  .parquet)         |         |      Bootstrap  <------------+       how sure we are
//!                    |         +-> Goal: threshold, guarantee         what to ship, with its Certificate
//!                    |         +-> Summary (summary.json) -> Report   what to show (report.html)
//!                    +-> fit: learned rules, calibrators              what to score by
//!                    +-> Chain: two and more models -> Tuning: their thresholds by a joint model
//!                    +-> Evaluation (one JSON of all of it), Contrast (of two cascades)
//! ```
//!
//! Everything works on outcome tables ([`outcome`]), so other people's logs can be read too. Definitions that differ
//! between authors are named where they are made: ties go together ([`curve`]), a share of a tie is deferred at random,
//! the small model is always paid.

#![forbid(unsafe_code)]

pub mod bootstrap;
pub mod certificate;
pub mod chain;
pub mod contrast;
pub mod cost;
pub mod curve;
pub mod drift;
mod error;
pub mod evaluation;
mod extended;
mod file;
pub mod fit;
pub mod goal;
pub mod guarantee;
mod joined;
pub mod measures;
pub mod outcome;
pub mod pairing;
mod quantile;
pub mod report;
pub mod sample;
pub mod summary;
pub mod threshold;
pub mod tuning;
pub mod wilcoxon;

pub use error::{Error, ErrorKind, Result};
