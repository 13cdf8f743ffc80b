//! The products that a decoder is made of, over whatever instructions there are.

use crate::activations::Scratch;
use crate::blocks::{Blocks, ShapeError, expect};
use crate::job::Job;

#[cfg(target_arch = "aarch64")]
use crate::neon::Neon;
#[cfg(target_arch = "x86_64")]
use crate::{avx2::Avx2, avx512::Avx512};

/// The products in one kind of instructions, which this processor has.
#[derive(Debug, Clone, Copy)]
pub struct Linear(Instructions);

#[derive(Debug, Clone, Copy)]
enum Instructions {
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
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
    /// The fastest that this processor has; `None` if it has none.
    #[must_use]
    pub fn new() -> Option<Self> {
        Self::all().next()
    }

    /// All that this processor has, the fastest first.
    pub fn all() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let all = [Avx512::detect().map(Instructions::Avx512), Avx2::detect().map(Instructions::Avx2)];
        #[cfg(target_arch = "aarch64")]
        let all = [Neon::detect().map(Instructions::Neon)];
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let all: [Option<Instructions>; 0] = [];
        all.into_iter().flatten().map(Self)
    }

    /// `out = x W^T`, plus `residual` if there is one, where W is the matrices of `weights` one below the other.
    ///
    /// `x` is `[n, inputs]`, `out` and `residual` are `[n, all rows]`.
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
        self.run(&Job::linear(weights, residual, out, outputs), x, rows, scratch, parallel);
        Ok(())
    }

    /// `out = silu(x G^T) * (x U^T)` with `silu(v) = v / (1 + exp(-v))`: the first half of a gated feed-forward layer.
    ///
    /// `x` is `[n, inputs]`, `out` is `[n, rows]`.
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
        self.run(&Job::gated(&weights, out), x, rows, scratch, parallel);
        Ok(())
    }

    #[cfg_attr(
        not(any(target_arch = "x86_64", target_arch = "aarch64")),
        expect(unused_variables, reason = "there are no instructions to compute it with")
    )]
    fn run(self, job: &Job<'_>, x: &[f32], rows: usize, scratch: &mut Scratch, parallel: &dyn Parallel) {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512(kernel) => job.run(kernel, x, rows, scratch, parallel),
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2(kernel) => job.run(kernel, x, rows, scratch, parallel),
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon(kernel) => job.run(kernel, x, rows, scratch, parallel),
        }
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
        expect("sums of blocks", Some(first.block_sums), other.block_sums)?;
    }
    let rows = x.len() / first.inputs();
    expect("activations", rows.checked_mul(first.inputs()), x.len())?;
    Ok(rows)
}
