//! Training: one step after the other ([`Session`]), and a whole run from its recipe ([`run`]).
//!
//! AdamW under a schedule, clipped by the global gradient norm, over batches whose order follows from seed and step
//! alone, so that a run that was stopped goes on as if it had not been.

mod averages;
mod dropout;
mod gradients;
mod log;
mod measure;
mod options;
mod prepare;
mod run;
mod session;
mod state;
mod tensorboard;

use std::ops::ControlFlow;

use burn::tensor::Device;

use crate::annotate::Annotations;
use crate::data::{Encoded, Mixture};
use crate::error::Result;
use crate::model::CausalLm;

pub use log::Line;
pub use measure::{Answered, Examiner, Measure, Measured};
pub use options::{Schedule, TrainOptions, Training};
pub use prepare::{RunData, Start, annotate_with};
pub use run::{Event, Finished, Resume, run};
pub use session::{Session, StepReport, Work};

/// Trains `model` on rows in memory and returns it.
///
/// `on_step` sees every step and may stop the training early; the model as it is then is returned. The same
/// model, data and options give the same weights on one device.
///
/// # Errors
/// [`ErrorKind::Config`](crate::ErrorKind::Config) when an option is out of range or annotations are missing or belong to
/// other data, [`ErrorKind::Diverged`](crate::ErrorKind::Diverged) when loss or gradient stop being finite numbers.
pub fn train(
    model: CausalLm,
    data: &[Encoded],
    annotations: Option<&Annotations>,
    options: &TrainOptions,
    device: &Device,
    on_step: &mut dyn FnMut(&StepReport) -> ControlFlow<()>,
) -> Result<CausalLm> {
    let rows = data.to_vec();
    let work = Work { mixture: Mixture::whole(rows.len()), ..Work::new(&rows, annotations, options, device) };
    let mut session = Session::new(model, work)?;
    while let Some(report) = session.step()? {
        if on_step(&report).is_break() {
            break;
        }
    }
    Ok(session.finished_model())
}
