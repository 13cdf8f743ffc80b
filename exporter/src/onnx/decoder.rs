//! The decoder as an ONNX graph: one graph for prefill and decode, past and present key-values.
//!
//! Inputs `input_ids` and `attention_mask` (int64, `[batch, sequence]` and `[batch, total]`) and per layer
//! `past_key_values.{i}.{key,value}` (`[batch, kv heads, past, head]`); outputs `logits` (`[batch, 1, vocabulary]`, of
//! the last position) and `present.{i}.{key,value}`. Node names follow the checkpoint's module paths.

use std::collections::BTreeSet;

use margay_trainer::{Architecture, Weights, transposed};

use super::build::{Dim, GraphBuilder, MICROSOFT, float, int};
use super::external::ExternalData;
use super::proto::tensor_proto::DataType;
use super::proto::{ModelProto, TensorProto};
use crate::error::Result;
use crate::quantize::{EMBEDDING, Quantized, Scheme, StoredMatrices};

/// Writes the weights to `data` and returns the graph that refers to them. `written` hears of every finished layer.
pub(crate) fn decoder_graph(
    a: &Architecture,
    weights: &Weights,
    stored: &StoredMatrices,
    data: &mut ExternalData,
    written: &mut dyn FnMut(usize),
) -> Result<ModelProto> {
    let mut writer = Writer { graph: GraphBuilder::new("decoder"), weights, stored, summed: BTreeSet::new(), data, a };
    writer.interface();
    let lengths = writer.lengths();
    let rotary = writer.rotary_tables()?;

    let (embedding, mut x) = writer.embedding()?;
    for layer in 0..a.num_hidden_layers {
        x = writer.layer(layer, &x, &lengths, &rotary)?;
        written(layer + 1);
    }

    // Norm and head see the last position only: decode needs no other, and prefill would pay for all.
    let (from, to) =
        (writer.graph.integers("last.from", &[1], &[-1]), writer.graph.integers("last.to", &[1], &[i64::MAX]));
    let axis = writer.graph.integers("axis.sequence", &[1], &[1]);
    let last = writer.graph.node("last", "Slice", &[&x, &from, &to, &axis], vec![]);
    let normed = writer.norm("norm", &last)?;
    let rows = writer.graph.node("last.rows", "Squeeze", &[&normed, &axis], vec![]);
    let scores = writer.head(&rows, embedding)?;
    writer.graph.custom("logits", "", "Unsqueeze", &[&scores, &axis], &["logits"], vec![]);
    Ok(writer.graph.model())
}

struct Writer<'a> {
    graph: GraphBuilder,
    weights: &'a Weights,
    stored: &'a StoredMatrices,
    /// Block sums that are in the graph.
    summed: BTreeSet<String>,
    data: &'a mut ExternalData,
    a: &'a Architecture,
}

/// A quantized matrix in the data, not yet in the graph.
struct Blocks {
    scheme: Scheme,
    codes: TensorProto,
    /// Names of the scales and, if there are any, zero points.
    grid: Vec<String>,
}

/// The embedding in the graph, for a head that is tied to it.
enum Embedding {
    /// Name of a tensor of floats.
    Floats(String),
    /// Codes as a product reads them, and the names of their scales and zero points.
    Blocks { scheme: Scheme, codes: Box<TensorProto>, grid: Vec<String> },
}

/// Names of the values by which attention knows how long the sequences are.
struct Lengths {
    /// Index of each sequence's last key, int32 `[batch]`.
    last_key: String,
    /// Longest sequence, past included, int32 scalar.
    total: String,
}

/// Names of the rotary tables, `[context, head / 2]`.
struct Rotary {
    cos: String,
    sin: String,
}

impl Writer<'_> {
    fn interface(&mut self) {
        use Dim::{Fixed, Named};
        let (batch, a) = (Named("batch"), self.a);
        self.graph.input("input_ids", DataType::Int64, &[batch, Named("sequence")]);
        self.graph.input("attention_mask", DataType::Int64, &[batch, Named("total_sequence")]);
        self.graph.output("logits", DataType::Float, &[batch, Fixed(1), Fixed(a.vocab_size)]);
        let cache = |length| [batch, Fixed(a.num_key_value_heads), Named(length), Fixed(a.head_dim)];
        for layer in 0..a.num_hidden_layers {
            for part in ["key", "value"] {
                let past = format!("past_key_values.{layer}.{part}");
                self.graph.input(&past, DataType::Float, &cache("past_sequence"));
                let present = format!("present.{layer}.{part}");
                self.graph.output(&present, DataType::Float, &cache("present_sequence"));
            }
        }
    }

    fn lengths(&mut self) -> Lengths {
        let g = &mut self.graph;
        let to_int32 = || vec![int("to", DataType::Int32 as i64)];
        let axis = g.integers("attention_mask.axis", &[1], &[1]);
        let one = g.integers("attention_mask.one", &[], &[1]);
        let keys = g.node("attention_mask.keys", "ReduceSum", &["attention_mask", &axis], vec![int("keepdims", 0)]);
        let last = g.node("attention_mask.last", "Sub", &[&keys, &one], vec![]);
        let last_key = g.node("attention_mask.last_key", "Cast", &[&last], to_int32());
        let shape = g.node("attention_mask.shape", "Shape", &["attention_mask"], vec![]);
        let total = g.node("attention_mask.length", "Gather", &[&shape, &one], vec![]);
        let total = g.node("attention_mask.total", "Cast", &[&total], to_int32());
        Lengths { last_key, total }
    }

    /// Cosines and sines of every position, in the layout that turns halves rather than pairs.
    fn rotary_tables(&mut self) -> Result<Rotary> {
        let (context, half) = (self.a.max_position_embeddings, self.a.head_dim / 2);
        let frequencies = self.a.rotary_frequencies();
        let angle = |index: usize| (index / half) as f64 * frequencies[index % half];
        let cos: Vec<f32> = (0..context * half).map(|index| angle(index).cos() as f32).collect();
        let sin: Vec<f32> = (0..context * half).map(|index| angle(index).sin() as f32).collect();
        for (name, values) in [("rotary.cos", cos), ("rotary.sin", sin)] {
            let tensor = self.data.append(name, &[context, half], &values)?;
            self.initializer(tensor);
        }
        Ok(Rotary { cos: "rotary.cos".into(), sin: "rotary.sin".into() })
    }

    /// One block: `x + attention(norm(x))`, then `x + mlp(norm(x))`.
    fn layer(&mut self, layer: usize, x: &str, lengths: &Lengths, rotary: &Rotary) -> Result<String> {
        let a = self.a;
        let at = |name: &str| format!("layers.{layer}.{name}");

        let normed = self.norm(&at("input_layernorm"), x)?;
        let (queries, keys) = (a.query_size(), a.key_value_size());
        let query = self.linear(&at("self_attn.q_proj"), &normed, [queries, a.hidden_size], a.input_bias())?;
        let query = self.head_norm(&at("self_attn.q_norm"), query, a.num_attention_heads)?;
        let key = self.linear(&at("self_attn.k_proj"), &normed, [keys, a.hidden_size], a.input_bias())?;
        let key = self.head_norm(&at("self_attn.k_norm"), key, a.num_key_value_heads)?;
        let value = self.linear(&at("self_attn.v_proj"), &normed, [keys, a.hidden_size], a.input_bias())?;
        let attention = at("self_attn");
        let past = ["key", "value"].map(|part| format!("past_key_values.{layer}.{part}"));
        let present = ["key", "value"].map(|part| format!("present.{layer}.{part}"));
        self.graph.custom(
            &attention,
            MICROSOFT,
            "GroupQueryAttention",
            &[&query, &key, &value, &past[0], &past[1], &lengths.last_key, &lengths.total, &rotary.cos, &rotary.sin],
            &[&attention, &present[0], &present[1]],
            vec![
                int("num_heads", a.num_attention_heads as i64),
                int("kv_num_heads", a.num_key_value_heads as i64),
                float("scale", 1.0 / (a.head_dim as f32).sqrt()),
                int("do_rotary", 1),
                int("rotary_interleaved", 0),
            ],
        );
        let attended = self.linear(&at("self_attn.o_proj"), &attention, [a.hidden_size, queries], a.output_bias())?;
        let x = self.graph.node(&at("self_attn.residual"), "Add", &[x, &attended], vec![]);

        let normed = self.norm(&at("post_attention_layernorm"), &x)?;
        let gate = self.linear(&at("mlp.gate_proj"), &normed, [a.intermediate_size, a.hidden_size], false)?;
        let up = self.linear(&at("mlp.up_proj"), &normed, [a.intermediate_size, a.hidden_size], false)?;
        let sigmoid = self.graph.node(&at("mlp.sigmoid"), "Sigmoid", &[&gate], vec![]);
        let silu = self.graph.node(&at("mlp.silu"), "Mul", &[&gate, &sigmoid], vec![]);
        let gated = self.graph.node(&at("mlp.gated"), "Mul", &[&silu, &up], vec![]);
        let down = self.linear(&at("mlp.down_proj"), &gated, [a.hidden_size, a.intermediate_size], false)?;
        Ok(self.graph.node(&at("mlp.residual"), "Add", &[&x, &down], vec![]))
    }

    /// The embedding, and what it gives for the input.
    fn embedding(&mut self) -> Result<(Embedding, String)> {
        let (node, shape) = ("embed_tokens", [self.a.vocab_size, self.a.hidden_size]);
        let Some(matrix) = self.stored.get(EMBEDDING) else {
            let values = self.weights.tensor(EMBEDDING, &shape)?;
            let tensor = self.data.append(EMBEDDING, &shape, &values)?;
            let name = self.initializer(tensor);
            let x = self.graph.node(node, "Gather", &[&name, "input_ids"], vec![]);
            return Ok((Embedding::Floats(name), x));
        };
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

    /// Logits of `[batch, hidden]`.
    fn head(&mut self, rows: &str, embedding: Embedding) -> Result<String> {
        let (name, shape) = ("lm_head", [self.a.vocab_size, self.a.hidden_size]);
        match embedding {
            _ if !self.a.tie_word_embeddings => self.project(name, name, rows, shape),
            // Gemm takes the embedding as it lies, `[vocabulary, hidden]`: it is stored once.
            Embedding::Floats(matrix) => Ok(self.graph.node(name, "Gemm", &[rows, &matrix], vec![int("transB", 1)])),
            Embedding::Blocks { scheme, codes, grid } => {
                let codes = self.initializer(*codes);
                Ok(self.product(name, rows, scheme, shape, &codes, &grid))
            }
        }
    }

    /// RMSNorm of the module `name`, named as in the checkpoint.
    fn norm(&mut self, name: &str, x: &str) -> Result<String> {
        self.norm_over(name, x, self.a.hidden_size)
    }

    fn norm_over(&mut self, name: &str, x: &str, size: usize) -> Result<String> {
        let scale = self.weights.tensor(&format!("model.{name}.weight"), &[size])?;
        let tensor = self.data.append(&format!("{name}.weight"), &[size], &scale)?;
        let scale = self.initializer(tensor);
        let attributes = vec![int("axis", -1), float("epsilon", self.a.rms_norm_eps as f32)];
        Ok(self.graph.node(name, "RMSNormalization", &[x, &scale], attributes))
    }

    /// RMSNorm of each head of `[batch, sequence, heads x head]`, in families that have it.
    fn head_norm(&mut self, name: &str, x: String, heads: usize) -> Result<String> {
        if !self.a.head_norms() {
            return Ok(x);
        }
        let size = self.a.head_dim;
        // A zero keeps the dimension as it is.
        let split = self.graph.integers(&format!("{name}.heads"), &[4], &[0, 0, heads as i64, size as i64]);
        let joined = self.graph.integers(&format!("{name}.width"), &[3], &[0, 0, (heads * size) as i64]);
        let x = self.graph.node(&format!("{name}.split"), "Reshape", &[&x, &split], vec![]);
        let x = self.norm_over(name, &x, size)?;
        Ok(self.graph.node(&format!("{name}.joined"), "Reshape", &[&x, &joined], vec![]))
    }

    /// The module `name`: product with its weights `[outputs, inputs]`, and its bias if it has one.
    fn linear(&mut self, name: &str, x: &str, shape: [usize; 2], bias: bool) -> Result<String> {
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
            let Blocks { scheme, codes, grid } = self.blocks(&weight, shape, matrix)?;
            let codes = self.initializer(codes);
            return Ok(self.product(name, &x, scheme, shape, &codes, &grid));
        }
        let values = self.weights.tensor(&source, &shape)?;
        // MatMul takes `[inputs, outputs]`.
        let tensor = self.data.append(&weight, &[shape[1], shape[0]], &transposed(&values, shape[1]))?;
        let weight = self.initializer(tensor);
        Ok(self.graph.node(name, "MatMul", &[x, &weight], vec![]))
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
        let (ones, block) = (format!("block_sums.{columns}"), matrix.scheme.block);
        if self.summed.insert(ones.clone()) {
            let belongs = |index: usize| index / sums / block == index % sums;
            let values: Vec<f32> = (0..columns * sums).map(|index| f32::from(u8::from(belongs(index)))).collect();
            let tensor = self.data.append(&ones, &[columns, sums], &values)?;
            self.initializer(tensor);
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

    fn initializer(&mut self, tensor: TensorProto) -> String {
        let name = tensor.name.clone().unwrap_or_default();
        self.graph.initializer(tensor);
        name
    }
}

/// Activations in 8 bits, block by block: the fastest of ONNX Runtime's kernels.
const ACCURACY_LEVEL: i64 = 4;
