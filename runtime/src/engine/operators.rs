//! Margay's own operators on ONNX Runtime, for the graph that an exporter fuses for them (see `margay_kernels`).
//!
//! `margay.BlockLinear` multiplies with one or several matrices of 4-bit blocks and adds a residual if it is given one;
//! `margay.GatedBlockLinear` with two, a gate and what it gates. Both take the tensors of `MatMulNBits` as they lie.

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
    let domain = OperatorDomain::new(DOMAIN).and_then(|domain| domain.add(operator(false))?.add(operator(true)));
    domain.map(Some).map_err(inference)
}

/// Whether this processor has the instructions.
pub(super) fn available() -> bool {
    Linear::new().is_some()
}

/// Either operator. Inputs: `x` (`[.., columns]`), the residual (`[.., outputs]`) if the attribute `residual` is 1, and for
/// each matrix codes, scales and, if the attribute `zero_points` is 1, zero points. Attributes `K` (columns) and `block_size`.
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
        [OperatorInput::required(TensorElementType::Float32), OperatorInput::variadic(2)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'a>(&self, context: &KernelContext<'a>) -> ort::Result<Self::Kernel<'a>> {
        let flag = |name| context.get::<i64>(name).unwrap_or(0) == 1;
        let size = |name: &str| {
            let value = context.get::<i64>(name).and_then(|value| usize::try_from(value).ok());
            value.ok_or_else(|| ort::Error::new(format!("the attribute {name} of {} is missing", self.name())))
        };
        let (columns, block) = (size("K")?, size("block_size")?);
        let (residual, zero_points) = (flag("residual"), flag("zero_points"));
        let first = 1 + usize::from(residual);
        let parts = 2 + usize::from(zero_points);
        let mut matrices = vec![];
        for at in (first..context.inputs()?.len()).step_by(parts) {
            matrices.push(Matrix {
                codes: context.constant_input(at)?,
                scales: context.constant_input(at + 1)?,
                zeros: zero_points.then(|| context.constant_input(at + 2)).transpose()?,
            });
        }
        let kernel = BlockLinearKernel {
            linear: self.linear,
            threads: self.threads,
            gated: self.gated,
            residual,
            columns,
            block,
            matrices,
            scratch: Scratch::default(),
        };
        kernel.blocks()?;
        Ok(kernel)
    }
}

/// The tensors of one matrix, which lie in the mapped file.
struct Matrix<'a> {
    codes: TensorRef<'a, u8>,
    scales: TensorRef<'a, f32>,
    zeros: Option<TensorRef<'a, u8>>,
}

struct BlockLinearKernel<'a> {
    linear: Linear,
    threads: usize,
    gated: bool,
    residual: bool,
    columns: usize,
    block: usize,
    matrices: Vec<Matrix<'a>>,
    scratch: Scratch,
}

impl BlockLinearKernel<'_> {
    /// The matrices, as the kernels take them.
    fn blocks(&self) -> ort::Result<Vec<Blocks<'_>>> {
        let blocks = self.matrices.iter().map(|matrix| {
            let (_, codes) = matrix.codes.extract_tensor();
            let (_, scales) = matrix.scales.extract_tensor();
            let zeros = matrix.zeros.as_ref().map(|zeros| zeros.extract_tensor().1);
            let rows = 2 * codes.len() / self.columns.max(1);
            Blocks::new([rows, self.columns], self.block, codes, scales, zeros).map_err(ort::Error::wrap)
        });
        blocks.collect()
    }
}

impl Kernel for BlockLinearKernel<'_> {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let missing = || ort::Error::new("an input or output is missing");
        let x = context.input(0)?.ok_or_else(missing)?;
        let (shape, x) = x.try_extract_tensor::<f32>()?;
        let residual = if self.residual { context.input(1)? } else { None };
        let residual = residual.as_ref().map(|value| value.try_extract_tensor::<f32>()).transpose()?;
        let mut scratch = std::mem::take(&mut self.scratch);
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
        let done = match (self.gated, blocks.as_slice()) {
            (true, &[gate, up]) => self.linear.multiply_gated([gate, up], x, out, &mut scratch, &parallel),
            (true, _) => return Err(ort::Error::new("a gate takes two matrices")),
            (false, blocks) => {
                self.linear.multiply(blocks, residual.map(|(_, values)| values), x, out, &mut scratch, &parallel)
            }
        };
        self.scratch = scratch;
        done.map_err(ort::Error::wrap)
    }
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
