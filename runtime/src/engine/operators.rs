//! Margay's own operators on ONNX Runtime, for the graph that an exporter fuses for them (see `margay_kernels`).
//!
//! `margay.BlockLinear` multiplies with one or several matrices of 4-bit blocks and adds a residual if it is given one;
//! `margay.GatedBlockLinear` with two, a gate and what it gates; `margay.BlockLookup` takes rows of one. Codes and zero points lie
//! as `MatMulNBits` has them, scales in half precision; all of a node's are one tensor, a piece of the file.

use std::cell::RefCell;

use margay_kernels::{Blocks, Linear, Parallel, Scratch};
use ort::operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput};
use ort::value::{TensorElementType, TensorRef};

use super::session::inference;
use crate::error::Result;

/// Name of the operators' domain.
const DOMAIN: &str = "margay";

/// The operators, computed by `threads` threads; `None` if this processor lacks the instructions.
///
/// # Errors
/// [`ErrorKind::Inference`](crate::ErrorKind::Inference) if ONNX Runtime does not take them.
pub(super) fn domain(threads: usize) -> Result<Option<OperatorDomain>> {
    let Some(linear) = Linear::new() else { return Ok(None) };
    let operator = |gated| BlockLinear { linear, threads, gated };
    let domain = OperatorDomain::new(DOMAIN)
        .and_then(|domain| domain.add(operator(false))?.add(operator(true))?.add(BlockLookup));
    domain.map(Some).map_err(inference)
}

/// Whether this processor has the instructions.
pub(super) fn available() -> bool {
    Linear::new().is_some()
}

/// Either product. Inputs: `x` (`[.., inputs]`), the residual (`[.., outputs]`) if the attribute `residual` is 1, and the matrices,
/// see [`Matrix`].
struct BlockLinear {
    linear: Linear,
    threads: usize,
    gated: bool,
}

impl Operator for BlockLinear {
    type Kernel<'a> = BlockLinearKernel<'a>;

    fn name(&self) -> &str {
        if self.gated { "GatedBlockLinear" } else { "BlockLinear" }
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(TensorElementType::Float32), OperatorInput::variadic(1)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'a>(&self, context: &KernelContext<'a>) -> ort::Result<Self::Kernel<'a>> {
        let residual = number(context, "residual") == 1;
        let kernel = BlockLinearKernel {
            linear: self.linear,
            threads: self.threads,
            gated: self.gated,
            residual,
            matrices: Matrix::all(context, 1 + usize::from(residual))?,
        };
        kernel.blocks()?;
        Ok(kernel)
    }
}

struct BlockLinearKernel<'a> {
    linear: Linear,
    threads: usize,
    gated: bool,
    residual: bool,
    matrices: Vec<Matrix<'a>>,
}

thread_local! {
    /// Of all nodes together: those of a long prompt would take more memory than the model's activations if each had its own.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl BlockLinearKernel<'_> {
    /// The matrices, as the kernels take them.
    fn blocks(&self) -> ort::Result<Vec<Blocks<'_>>> {
        self.matrices.iter().map(Matrix::blocks).collect()
    }
}

impl Kernel for BlockLinearKernel<'_> {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let x = context.input(0)?.ok_or_else(missing)?;
        let (shape, x) = x.try_extract_tensor::<f32>()?;
        let residual = if self.residual { context.input(1)? } else { None };
        let residual = residual.as_ref().map(|value| value.try_extract_tensor::<f32>()).transpose()?;
        let blocks = self.blocks()?;
        let outputs =
            if self.gated { blocks.first().map_or(0, Blocks::rows) } else { blocks.iter().map(Blocks::rows).sum() };
        let mut shape = shape.to_vec();
        if let Some(last) = shape.last_mut() {
            *last = outputs as i64;
        }
        let mut out = context.output(0, shape)?.ok_or_else(missing)?;
        let (_, out) = out.try_extract_tensor_mut::<f32>()?;
        let parallel = Pool { context, threads: self.threads };
        let done = SCRATCH.with_borrow_mut(|scratch| match (self.gated, blocks.as_slice()) {
            (true, &[gate, up]) => Ok(self.linear.multiply_gated([gate, up], x, out, scratch, &parallel)),
            (true, _) => Err(ort::Error::new("a gate takes two matrices")),
            (false, blocks) => {
                Ok(self.linear.multiply(blocks, residual.map(|(_, values)| values), x, out, scratch, &parallel))
            }
        });
        done?.map_err(ort::Error::wrap)
    }
}

/// Rows of a matrix. Inputs: indices (`[..]`) and the matrix; the output is `[.., columns]`.
struct BlockLookup;

impl Operator for BlockLookup {
    type Kernel<'a> = Matrix<'a>;

    fn name(&self) -> &str {
        "BlockLookup"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(TensorElementType::Int64), OperatorInput::required(TensorElementType::Uint8)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'a>(&self, context: &KernelContext<'a>) -> ort::Result<Self::Kernel<'a>> {
        let matrix = Matrix::all(context, 1)?.pop().ok_or_else(missing)?;
        matrix.blocks()?;
        Ok(matrix)
    }
}

impl Kernel for Matrix<'_> {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let indices = context.input(0)?.ok_or_else(missing)?;
        let (shape, indices) = indices.try_extract_tensor::<i64>()?;
        let shape: Vec<i64> = shape.iter().copied().chain([self.columns as i64]).collect();
        let mut out = context.output(0, shape)?.ok_or_else(missing)?;
        let (_, out) = out.try_extract_tensor_mut::<f32>()?;
        let blocks = self.blocks()?;
        for (index, out) in indices.iter().zip(out.chunks_exact_mut(self.columns)) {
            blocks.row(usize::try_from(*index).unwrap_or(usize::MAX), out).map_err(ort::Error::wrap)?;
        }
        Ok(())
    }
}

/// One of the matrices in a tensor of bytes, which lies in the mapped file.
///
/// The node's attributes are `K` (columns), of which the last `block_sums` multiply sums of the input's blocks, `block_size`,
/// `rows` of each matrix, and `places`, where in the bytes it has its codes, its scales and, if the attribute `zero_points` is 1,
/// its zero points.
struct Matrix<'a> {
    rows: usize,
    columns: usize,
    block: usize,
    block_sums: usize,
    bytes: TensorRef<'a, u8>,
    codes: usize,
    scales: usize,
    zeros: Option<usize>,
}

impl<'a> Matrix<'a> {
    /// Those of a node whose input `at` has their bytes.
    fn all(context: &KernelContext<'a>, at: usize) -> ort::Result<Vec<Self>> {
        let zero_points = number(context, "zero_points") == 1;
        let (rows, places) = (numbers(context, "rows"), numbers(context, "places"));
        let parts = 2 + usize::from(zero_points);
        if places.len() != rows.len() * parts {
            return Err(ort::Error::new("the attribute `places` does not go with `rows`"));
        }
        let matrix = |(rows, places): (usize, &[usize])| {
            Ok(Self {
                rows,
                columns: number(context, "K"),
                block: number(context, "block_size"),
                block_sums: number(context, "block_sums"),
                bytes: context.constant_input(at)?,
                codes: places[0],
                scales: places[1],
                zeros: places.get(2).copied(),
            })
        };
        rows.into_iter().zip(places.chunks_exact(parts)).map(matrix).collect()
    }

    /// The matrix as the kernels take it.
    fn blocks(&self) -> ort::Result<Blocks<'_>> {
        let (_, bytes) = self.bytes.extract_tensor();
        let outside = || ort::Error::new("a matrix is not inside its bytes");
        let blocks = self.columns / self.block.max(1);
        let part = |at: usize, per_row: usize| {
            let length = self.rows.checked_mul(per_row).ok_or_else(outside)?;
            bytes.get(at..).and_then(|bytes| bytes.get(..length)).ok_or_else(outside)
        };
        let codes = part(self.codes, self.columns / 2)?;
        let scales = part(self.scales, 2 * blocks)?.as_chunks::<2>().0;
        let zeros = self.zeros.map(|at| part(at, blocks.div_ceil(2))).transpose()?;
        let blocks = Blocks::new([self.rows, self.columns], self.block, codes, scales, zeros);
        blocks.and_then(|blocks| blocks.with_block_sums(self.block_sums)).map_err(ort::Error::wrap)
    }
}

/// An attribute of the node; 0 if it has none of this name.
fn number(context: &KernelContext<'_>, name: &str) -> usize {
    context.get::<i64>(name).and_then(|value| usize::try_from(value).ok()).unwrap_or(0)
}

fn numbers(context: &KernelContext<'_>, name: &str) -> Vec<usize> {
    let values = context.get::<Vec<i64>>(name).unwrap_or_default();
    values.into_iter().map(|value| usize::try_from(value).unwrap_or(usize::MAX)).collect()
}

fn missing() -> ort::Error {
    ort::Error::new("an input or output is missing")
}

/// ONNX Runtime's own threads, which wait for work anyway.
struct Pool<'a> {
    context: &'a ComputeContext,
    threads: usize,
}

impl Parallel for Pool<'_> {
    fn run(&self, work: &(dyn Fn() + Sync)) {
        if self.context.par_for(self.threads, self.threads, |_| work()).is_err() {
            work();
        }
    }
}
