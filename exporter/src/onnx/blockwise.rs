//! Quantized matrices in ONNX's standard operators. A product reads DequantizeLinear over blocks, which ONNX Runtime turns
//! into its own product of codes where it can; a look-up takes rows of codes and computes their numbers.

use super::build::{int, text};
use super::decoder::Writer;
use super::proto::tensor_proto::DataType;
use crate::error::Result;
use crate::quantize::{Quantized, Scheme};

impl Writer<'_> {
    /// Product with a quantized matrix `[outputs, inputs]`, which lies transposed in the data, as MatMul wants it.
    pub(super) fn product_of_blocks(
        &mut self,
        name: &str,
        x: &str,
        [outputs, inputs]: [usize; 2],
        matrix: &Quantized,
    ) -> Result<String> {
        let Quantized { scheme: Scheme { bits, block }, codes, scales, zero_points, .. } = matrix;
        let (blocks, weight) = (inputs.div_ceil(*block), format!("{name}.weight"));
        // Without zero points the middle of the range is zero: that of a signed number with the highest bit turned over.
        let (signed, middle) = (zero_points.is_none(), 1_u8 << (bits - 1));
        let element = match (bits, signed) {
            (4, false) => DataType::Uint4,
            (4, true) => DataType::Int4,
            (_, false) => DataType::Uint8,
            (_, true) => DataType::Int8,
        };
        let turn = |code: u8| if signed { code ^ middle } else { code };
        let transposed = pack(*bits, inputs * outputs, |index| {
            let (input, output) = (index / outputs, index % outputs);
            turn(code(codes, *bits, output * blocks * block + input))
        });
        let codes = self.data.append_raw(&weight, &[inputs, outputs], element, &transposed)?;
        let by_block = |index: usize| (index % outputs, index / outputs);
        let grid: Vec<f32> =
            (0..blocks * outputs).map(by_block).map(|(row, block)| scales[row * blocks + block].to_f32()).collect();
        let scales = self.data.append(&format!("{weight}.scales"), &[blocks, outputs], &grid)?;
        let mut names = vec![self.initializer(codes), self.initializer(scales)];
        if let Some(zeros) = zero_points {
            let row_codes = (blocks * bits).div_ceil(8) * 8 / bits;
            let transposed = pack(*bits, blocks * outputs, |index| {
                let (row, block) = by_block(index);
                code(zeros, *bits, row * row_codes + block)
            });
            let shape = [blocks, outputs];
            let zeros = self.data.append_raw(&format!("{weight}.zero_points"), &shape, element, &transposed)?;
            names.push(self.initializer(zeros));
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let attributes = vec![int("axis", 0), int("block_size", *block as i64)];
        let floats = self.graph.node(&format!("{name}.dequantized"), "DequantizeLinear", &names, attributes);
        Ok(self.graph.node(name, "MatMul", &[x, &floats], vec![]))
    }

    /// Rows of a quantized matrix `[rows, columns]` for the input ids, `[batch, sequence, columns]`; rows are whole blocks.
    pub(super) fn rows_of_blocks(
        &mut self,
        name: &str,
        weight: &str,
        [rows, columns]: [usize; 2],
        matrix: &Quantized,
    ) -> Result<String> {
        let Quantized { scheme: Scheme { bits, block }, codes, scales, zero_points, .. } = matrix;
        let (blocks, at) = (columns / block, |part: &str| format!("{name}.{part}"));
        let codes = self.data.append_bytes(weight, &[rows, columns * bits / 8], codes)?;
        let floats: Vec<f32> = scales.iter().map(|scale| scale.to_f32()).collect();
        let scales = self.data.append(&format!("{weight}.scales"), &[rows, blocks], &floats)?;
        let (codes, scales) = (self.initializer(codes), self.initializer(scales));
        let codes = self.graph.node(&at("codes"), "Gather", &[&codes, "input_ids"], vec![]);
        let codes = self.unpacked(&at("codes"), codes, *bits, [blocks, *block]);
        let scales = self.graph.node(&at("scales"), "Gather", &[&scales, "input_ids"], vec![]);
        let zeros = match zero_points {
            None => self.graph.number(&at("zero"), f32::from(1_u8 << (bits - 1))),
            Some(zeros) => {
                let bytes = (blocks * bits).div_ceil(8);
                let zeros = self.data.append_bytes(&format!("{weight}.zero_points"), &[rows, bytes], zeros)?;
                let zeros = self.initializer(zeros);
                let zeros = self.graph.node(&at("zeros"), "Gather", &[&zeros, "input_ids"], vec![]);
                let zeros = self.unpacked(&at("zeros"), zeros, *bits, [bytes * 8 / bits, 1]);
                // A row of zero points ends with a whole byte.
                let g = &mut self.graph;
                let (from, to) =
                    (g.integers(&at("zeros.from"), &[1], &[0]), g.integers(&at("zeros.to"), &[1], &[blocks as i64]));
                let axis = g.integers(&at("zeros.axis"), &[1], &[2]);
                g.node(&at("zeros.of_blocks"), "Slice", &[&zeros, &from, &to, &axis], vec![])
            }
        };
        let g = &mut self.graph;
        let last = g.integers(&at("last"), &[1], &[-1]);
        let scales = g.node(&at("scales.of_blocks"), "Unsqueeze", &[&scales, &last], vec![]);
        let centred = g.node(&at("centred"), "Sub", &[&codes, &zeros], vec![]);
        let values = g.node(&at("values"), "Mul", &[&centred, &scales], vec![]);
        let shape = g.integers(&at("shape"), &[3], &[0, 0, columns as i64]);
        Ok(g.node(name, "Reshape", &[&values, &shape], vec![]))
    }

    /// Bytes `[batch, sequence, bytes]` as the codes in them, floats `[batch, sequence, ..shape]`.
    fn unpacked(&mut self, name: &str, mut bytes: String, bits: usize, shape: [usize; 2]) -> String {
        let g = &mut self.graph;
        let at = |part: &str| format!("{name}.{part}");
        if bits == 4 {
            let (low, four) = (g.byte(&at("low_bits"), 15), g.byte(&at("four"), 4));
            let last = g.integers(&at("last"), &[1], &[-1]);
            let low = g.node(&at("low"), "BitwiseAnd", &[&bytes, &low], vec![]);
            let high = g.node(&at("high"), "BitShift", &[&bytes, &four], vec![text("direction", "RIGHT")]);
            let low = g.node(&at("low.pair"), "Unsqueeze", &[&low, &last], vec![]);
            let high = g.node(&at("high.pair"), "Unsqueeze", &[&high, &last], vec![]);
            bytes = g.node(&at("pairs"), "Concat", &[&low, &high], vec![int("axis", -1)]);
        }
        let shape = g.integers(&at("shape"), &[4], &[0, 0, shape[0] as i64, shape[1] as i64]);
        let codes = g.node(&at("split"), "Reshape", &[&bytes, &shape], vec![]);
        g.node(&at("floats"), "Cast", &[&codes], vec![int("to", DataType::Float as i64)])
    }
}

/// The code at `index` in bytes that hold one or two each.
fn code(bytes: &[u8], bits: usize, index: usize) -> u8 {
    match bits {
        4 => bytes[index / 2] >> (4 * (index % 2)) & 15,
        _ => bytes[index],
    }
}

/// Codes one behind the other, in bytes that hold one or two each.
fn pack(bits: usize, count: usize, code: impl Fn(usize) -> u8) -> Vec<u8> {
    if bits != 4 {
        return (0..count).map(code).collect();
    }
    let high = |index: usize| if index < count { code(index) << 4 } else { 0 };
    (0..count).step_by(2).map(|index| code(index) | high(index + 1)).collect()
}
