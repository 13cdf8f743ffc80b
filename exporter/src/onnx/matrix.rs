//! Matrices in the graph: as floats, or quantized in blocks, and the products and look-ups that read them.

use half::f16;
use margay::bundle::manifest::Operators;
use margay_trainer::transposed;

use super::build::{MICROSOFT, int};
use super::decoder::Writer;
use super::proto::TensorProto;
use super::proto::tensor_proto::DataType;
use crate::error::{Error, ErrorKind, Result};
use crate::quantize::{EMBEDDING, Quantized, Scheme, WeightFormat};

/// A quantized matrix in the data, not yet in the graph.
struct Blocks {
    scheme: Scheme,
    codes: TensorProto,
    /// Names of the scales and, if there are any, zero points.
    grid: Vec<String>,
}

/// The embedding in the graph, for a head that is tied to it.
pub(super) enum Embedding {
    /// Name of a tensor of floats.
    Floats(String),
    /// Codes as a product reads them, and the names of their scales and zero points.
    Blocks { scheme: Scheme, codes: Box<TensorProto>, grid: Vec<String> },
    /// Codes for standard operators, whose look-up and product want them in different order.
    Standard,
}

impl Writer<'_> {
    /// The embedding, and what it gives for the input.
    pub(super) fn embedding(&mut self) -> Result<(Embedding, String)> {
        let (node, shape) = ("embed_tokens", [self.a.vocab_size, self.a.hidden_size]);
        let Some(matrix) = self.stored.get(EMBEDDING) else {
            let values = self.weights.tensor(EMBEDDING, &shape)?;
            let name = self.floats(EMBEDDING, shape, &values)?;
            let x = self.graph.node(node, "Gather", &[&name, "input_ids"], vec![]);
            return Ok((Embedding::Floats(name), x));
        };
        if self.operators == Operators::Standard {
            let x = self.rows_of_blocks(node, EMBEDDING, shape, matrix)?;
            return Ok((Embedding::Standard, x));
        }
        let Blocks { scheme, codes, grid } = self.blocks(EMBEDDING, shape, matrix)?;
        // A product reads codes as `[rows, blocks, bytes]`, a lookup as `[rows, bytes]`: one piece of the file, named twice.
        let rows = TensorProto {
            name: Some(format!("{EMBEDDING}.rows")),
            dims: vec![shape[0] as i64, (shape[1] * scheme.bits / 8) as i64],
            ..codes.clone()
        };
        let rows = self.initializer(rows);
        let inputs: Vec<&str> =
            [rows.as_str(), "input_ids"].into_iter().chain(grid.iter().map(String::as_str)).collect();
        let attributes = vec![
            int("gather_axis", 0),
            int("quantize_axis", 1),
            int("block_size", scheme.block as i64),
            int("bits", scheme.bits as i64),
        ];
        self.graph.custom(node, MICROSOFT, "GatherBlockQuantized", &inputs, &[node], attributes);
        Ok((Embedding::Blocks { scheme, codes: Box::new(codes), grid }, node.into()))
    }

    /// Logits of `[batch, positions, hidden]`.
    pub(super) fn head(&mut self, rows: &str, embedding: Embedding) -> Result<String> {
        let (name, shape) = ("lm_head", [self.a.vocab_size, self.a.hidden_size]);
        match embedding {
            _ if !self.a.tie_word_embeddings => self.project(name, name, rows, shape),
            // Gemm takes the embedding as it lies, `[vocabulary, hidden]`: it is stored once. It knows rows only.
            Embedding::Floats(matrix) => {
                let g = &mut self.graph;
                let hidden = g.integers("lm_head.hidden", &[2], &[-1, shape[1] as i64]);
                let flat = g.node("lm_head.rows", "Reshape", &[rows, &hidden], vec![]);
                let product = g.node(name, "Gemm", &[&flat, &matrix], vec![int("transB", 1)]);
                let outer = g.node("lm_head.outer", "Shape", &[rows], vec![int("end", 2)]);
                let vocabulary = g.integers("lm_head.vocabulary", &[1], &[shape[0] as i64]);
                let shape = g.node("lm_head.shape", "Concat", &[&outer, &vocabulary], vec![int("axis", 0)]);
                Ok(g.node("lm_head.positions", "Reshape", &[&product, &shape], vec![]))
            }
            Embedding::Blocks { scheme, codes, grid } => {
                let codes = self.initializer(*codes);
                Ok(self.product(name, rows, scheme, shape, &codes, &grid))
            }
            Embedding::Standard => match self.stored.get(EMBEDDING) {
                Some(matrix) => self.product_of_blocks(name, rows, shape, matrix),
                None => self.project(name, name, rows, shape),
            },
        }
    }

    /// The module `name`: product with its weights `[outputs, inputs]`, and its bias if it has one.
    pub(super) fn linear(&mut self, name: &str, x: &str, shape: [usize; 2], bias: bool) -> Result<String> {
        let module = format!("model.{name}");
        let product = self.project(name, &module, x, shape)?;
        if !bias {
            return Ok(product);
        }
        let values = self.weights.tensor(&format!("{module}.bias"), &[shape[0]])?;
        let tensor = self.data.append(&format!("{name}.bias"), &[shape[0]], &values)?;
        let bias = self.initializer(tensor);
        Ok(self.graph.node(&format!("{name}.biased"), "Add", &[&product, &bias], vec![]))
    }

    /// Product with the weights of `module`; the node is called `name`.
    fn project(&mut self, name: &str, module: &str, x: &str, shape: [usize; 2]) -> Result<String> {
        let source = format!("{module}.weight");
        let weight = format!("{name}.weight");
        if let Some(matrix) = self.stored.get(&source) {
            let x = self.with_block_sums(x, shape[1], matrix)?;
            let shape = [shape[0], shape[1] + matrix.block_sums()];
            if self.operators == Operators::Standard {
                return self.product_of_blocks(name, &x, shape, matrix);
            }
            let Blocks { scheme, codes, grid } = self.blocks(&weight, shape, matrix)?;
            let codes = self.initializer(codes);
            return Ok(self.product(name, &x, scheme, shape, &codes, &grid));
        }
        let values = self.weights.tensor(&source, &shape)?;
        // MatMul takes `[inputs, outputs]`.
        let weight = self.floats(&weight, [shape[1], shape[0]], &transposed(&values, shape[1]))?;
        Ok(self.graph.node(name, "MatMul", &[x, &weight], vec![]))
    }

    /// A matrix of floats, in half precision if that is how weights are stored: ONNX Runtime then makes 32-bit ones of them when
    /// it loads the graph.
    fn floats(&mut self, name: &str, shape: [usize; 2], values: &[f32]) -> Result<String> {
        if self.format != WeightFormat::F16 {
            let tensor = self.data.append(name, &shape, values)?;
            return Ok(self.initializer(tensor));
        }
        let halves: Vec<f16> = values.iter().map(|&value| f16::from_f32(value)).collect();
        if let Some(at) = halves.iter().position(|half| !half.is_finite()) {
            let message = format!("{name} has {}, which is no number of half precision", values[at]);
            return Err(Error::new(ErrorKind::Checkpoint, message));
        }
        let tensor = self.data.append_halves(&format!("{name}.halves"), &shape, &halves)?;
        let halves = self.initializer(tensor);
        Ok(self.graph.node(name, "Cast", &[&halves], vec![int("to", DataType::Float as i64)]))
    }

    /// Product with a quantized matrix `[outputs, inputs]`.
    fn product(
        &mut self,
        name: &str,
        x: &str,
        scheme: Scheme,
        shape: [usize; 2],
        codes: &str,
        grid: &[String],
    ) -> String {
        let inputs: Vec<&str> = [x, codes].into_iter().chain(grid.iter().map(String::as_str)).collect();
        let attributes = vec![
            int("N", shape[0] as i64),
            int("K", shape[1] as i64),
            int("bits", scheme.bits as i64),
            int("block_size", scheme.block as i64),
            int("accuracy_level", ACCURACY_LEVEL),
        ];
        self.graph.custom(name, MICROSOFT, "MatMulNBits", &inputs, &[name], attributes);
        name.into()
    }

    /// `x` and behind it the sums of its blocks, if the matrix has weights for them. Projections that share an input share
    /// its sums.
    fn with_block_sums(&mut self, x: &str, columns: usize, matrix: &Quantized) -> Result<String> {
        let sums = matrix.block_sums();
        if sums == 0 {
            return Ok(x.into());
        }
        let name = format!("{x}.with_block_sums");
        if !self.summed.insert(name.clone()) {
            return Ok(name);
        }
        let (ones, block) = (format!("{BLOCK_SUMS}{columns}"), matrix.scheme.block);
        if self.summed.insert(ones.clone()) {
            let belongs = |index: usize| index / sums / block == index % sums;
            let bytes: Vec<u8> = (0..columns * sums).map(|index| u8::from(belongs(index))).collect();
            let tensor = self.data.append_bytes(&format!("{ones}.bytes"), &[columns, sums], &bytes)?;
            let bytes = self.initializer(tensor);
            self.graph.node(&ones, "Cast", &[&bytes], vec![int("to", DataType::Float as i64)]);
        }
        let summed = self.graph.node(&format!("{x}.block_sums"), "MatMul", &[x, &ones], vec![]);
        Ok(self.graph.node(&name, "Concat", &[x, &summed], vec![int("axis", -1)]))
    }

    /// Writes a quantized matrix; its scales stand in the graph as floats.
    fn blocks(&mut self, name: &str, [rows, columns]: [usize; 2], matrix: &Quantized) -> Result<Blocks> {
        let Quantized { scheme, codes, scales, zero_points, .. } = matrix;
        let Scheme { bits, block } = *scheme;
        let blocks = columns.div_ceil(block);
        let codes = self.data.append_bytes(name, &[rows, blocks, block * bits / 8], codes)?;
        let halves = self.data.append_halves(&format!("{name}.scales"), &[rows, blocks], scales)?;
        let halves = self.initializer(halves);
        // Folded when the graph is loaded: ONNX Runtime's products take scales of the type of the activations.
        let to = vec![int("to", DataType::Float as i64)];
        let mut grid = vec![self.graph.node(&format!("{name}.scales.floats"), "Cast", &[&halves], to)];
        if let Some(zeros) = zero_points {
            let shape = [rows, (blocks * bits).div_ceil(8)];
            let zeros = self.data.append_bytes(&format!("{name}.zero_points"), &shape, zeros)?;
            grid.push(self.initializer(zeros));
        }
        Ok(Blocks { scheme: *scheme, codes, grid })
    }
}

/// How the matrices of ones are called that sum blocks.
pub(super) const BLOCK_SUMS: &str = "block_sums.";

/// Activations in 8 bits, block by block: the fastest of ONNX Runtime's kernels.
const ACCURACY_LEVEL: i64 = 4;
