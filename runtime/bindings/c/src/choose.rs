//! Choosing among given answers.

use std::ffi::c_char;

use margay::{Choice, ChooseOptions, Normalise};

use crate::engine::{CEngine, Loaded};
use crate::handle;
use crate::input::{self, Versioned};
use crate::request::{CRequest, Question};
use crate::status::{Failure, Status, guard_asking};

/// How likelihoods of answers are compared. All zero but `size` is: as they are.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CChooseOptions {
    /// `sizeof(margay_choose_options)`.
    pub size: usize,
    /// One of `margay_normalise`.
    pub normalise: i32,
    /// Whether the answer must also end there.
    pub with_stop_token: bool,
}

// SAFETY: numbers and a bool.
unsafe impl Versioned for CChooseOptions {
    const NAME: &'static str = "margay_choose_options";
    const SIZES: &'static [usize] = &[size_of::<Self>()];
}

/// What an answer's log-likelihood is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum CNormalise {
    /// Nothing.
    Not = 0,
    /// Its number of tokens.
    Tokens = 1,
    /// Its length in bytes.
    Bytes = 2,
}

/// How likely the model is to give one answer.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CScoredAnswer {
    /// In nats.
    pub log_likelihood: f64,
    /// What answers are compared by.
    pub score: f64,
    /// Its share among the answers given.
    pub probability: f64,
}

/// Which of `answers` the model is likeliest to give: its index goes to `best`, and what is said of each to `scores`, an array
/// of `answer_count`. `options` and `scores` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn margay_engine_choose(
    engine: *const CEngine,
    request: *const CRequest,
    answers: *const *const c_char,
    answer_count: usize,
    options: *const CChooseOptions,
    scores: *mut CScoredAnswer,
    best: *mut usize,
) -> Status {
    guard_asking(|| {
        let loaded = handle::take::<Loaded>(engine)?;
        let request = handle::take::<Question>(request)?.ask();
        // SAFETY: as the header says of every pointer.
        let answers = unsafe { input::texts(answers, answer_count, "answers") }?;
        // SAFETY: as above.
        let options = unsafe { input::versioned(options) }?;
        if best.is_null() {
            return Err(Failure::new(Status::NullArgument, "best is NULL"));
        }
        let normalise = match options.normalise {
            0 => Normalise::Not,
            1 => Normalise::Tokens,
            2 => Normalise::Bytes,
            other => return Err(Failure::new(Status::InvalidRequest, format!("normalise is {other}, not 0 to 2"))),
        };
        let options = ChooseOptions { normalise, with_stop_token: options.with_stop_token };
        let choice: Choice = loaded.engine.choose(&request, &answers, &options, None)?;
        if !scores.is_null() {
            for (index, answer) in choice.answers.iter().enumerate() {
                let scored = CScoredAnswer {
                    log_likelihood: answer.log_likelihood,
                    score: answer.score,
                    probability: answer.probability,
                };
                // SAFETY: there are as many places as answers, by the function's contract.
                unsafe { scores.add(index).write(scored) };
            }
        }
        // SAFETY: not NULL, and the caller's.
        unsafe { best.write(choice.best) };
        Ok(())
    })
}
