//! The products that a decoder is made of, over whatever instructions there are.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::activations::Scratch;
use crate::blocks::{Blocks, ShapeError, expect};

#[cfg(target_arch = "x86_64")]
use crate::avx512::{self as kernel, Kernel};

/// Proof that this processor has the instructions.
#[derive(Debug, Clone, Copy)]
pub struct Linear {
    #[cfg(target_arch = "x86_64")]
    kernel: Kernel,
    #[cfg(not(target_arch = "x86_64"))]
    kernel: std::convert::Infallible,
}

/// Somebody with threads.
pub trait Parallel {
    /// Calls `work` at least once, from as many threads as there are, and returns when every call has returned. Each call
    /// takes pieces of the work until none are left.
    fn run(&self, work: &(dyn Fn() + Sync));
}

/// The calling thread alone.
#[derive(Debug, Clone, Copy)]
pub struct Serial;

impl Parallel for Serial {
    fn run(&self, work: &(dyn Fn() + Sync)) {
        work();
    }
}

impl Linear {
    /// `None` if this processor lacks the instructions.
    #[must_use]
    pub fn new() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        return Kernel::detect().map(|kernel| Self { kernel });
        #[cfg(not(target_arch = "x86_64"))]
        None
    }

    /// `out = x W^T`, plus `residual` if there is one, where W is the matrices of `weights` one below the other.
    ///
    /// `x` is `[n, columns]`, `out` and `residual` are `[n, all rows]`.
    ///
    /// # Errors
    /// [`ShapeError`] if the shapes do not go together.
    pub fn multiply(
        self,
        weights: &[Blocks<'_>],
        residual: Option<&[f32]>,
        x: &[f32],
        out: &mut [f32],
        scratch: &mut Scratch,
        parallel: &dyn Parallel,
    ) -> Result<(), ShapeError> {
        let rows = check(weights, x)?;
        let outputs = weights.iter().map(Blocks::rows).sum::<usize>();
        expect("outputs", rows.checked_mul(outputs), out.len())?;
        if let Some(residual) = residual {
            expect("residuals", Some(out.len()), residual.len())?;
        }
        let job = kernel::Job::linear(weights, residual, out, outputs);
        self.kernel.run(&job, x, rows, scratch, parallel);
        Ok(())
    }

    /// `out = silu(x G^T) * (x U^T)` with `silu(v) = v / (1 + exp(-v))`: the first half of a gated feed-forward layer.
    ///
    /// `x` is `[n, columns]`, `out` is `[n, rows]`.
    ///
    /// # Errors
    /// [`ShapeError`] if the shapes do not go together.
    pub fn multiply_gated(
        self,
        [gate, up]: [Blocks<'_>; 2],
        x: &[f32],
        out: &mut [f32],
        scratch: &mut Scratch,
        parallel: &dyn Parallel,
    ) -> Result<(), ShapeError> {
        let rows = check(&[gate, up], x)?;
        expect("rows", Some(gate.rows), up.rows)?;
        expect("outputs", rows.checked_mul(gate.rows), out.len())?;
        let weights = [gate, up];
        let job = kernel::Job::gated(&weights, out);
        self.kernel.run(&job, x, rows, scratch, parallel);
        Ok(())
    }
}

/// Number of rows of `x`.
fn check(weights: &[Blocks<'_>], x: &[f32]) -> Result<usize, ShapeError> {
    let Some(first) = weights.first() else {
        return Err(ShapeError { what: "matrices", expected: 1, actual: 0 });
    };
    for other in weights {
        expect("columns", Some(first.columns), other.columns)?;
        expect("weights in a block", Some(first.size), other.size)?;
    }
    let rows = x.len() / first.columns;
    expect("activations", rows.checked_mul(first.columns), x.len())?;
    Ok(rows)
}

/// Pieces of work, each given out once.
pub(crate) struct Pieces {
    next: AtomicUsize,
    count: usize,
}

impl Pieces {
    pub(crate) fn new(count: usize) -> Self {
        Self { next: AtomicUsize::new(0), count }
    }

    /// Takes up to `most` pieces.
    pub(crate) fn take(&self, most: usize) -> Option<std::ops::Range<usize>> {
        let first = self.next.fetch_add(most, Ordering::Relaxed);
        (first < self.count).then(|| first..self.count.min(first + most))
    }
}
