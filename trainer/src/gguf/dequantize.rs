//! The numbers that GGUF's blocks stand for, as `ggml-common.h` lays them out and `dequantize_row_*` in `ggml-quants.c` of
//! llama.cpp reads them.

use gguf_rs_lib::format::GGUFTensorType as Kind;
use half::{bf16, f16};

/// How a type lays out its weights.
#[derive(Clone, Copy)]
pub(super) struct Block {
    /// Weights in a block, neighbours in a row.
    pub(super) weights: usize,
    /// Bytes of a block.
    bytes: usize,
    /// Writes the weights of one block.
    read: fn(&[u8], &mut [f32]),
}

impl Block {
    /// The layout of a type, if it is known here.
    pub(super) fn of(kind: Kind) -> Option<Self> {
        let block = |weights, bytes, read: fn(&[u8], &mut [f32])| Some(Self { weights, bytes, read });
        match kind {
            Kind::F32 => {
                block(1, 4, |block, out| out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]))
            }
            Kind::F16 => block(1, 2, |block, out| out[0] = half(block)),
            Kind::BF16 => block(1, 2, |block, out| out[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32()),
            Kind::Q4_0 => block(32, 18, q4_0),
            Kind::Q4_1 => block(32, 20, q4_1),
            Kind::Q5_0 => block(32, 22, q5_0),
            Kind::Q5_1 => block(32, 24, q5_1),
            Kind::Q8_0 => block(32, 34, q8_0),
            Kind::Q4_K => block(256, 144, q4_k),
            Kind::Q5_K => block(256, 176, q5_k),
            Kind::Q6_K => block(256, 210, q6_k),
            _ => None,
        }
    }

    /// The numbers in whole blocks; what is left over at the end is not one.
    pub(super) fn dequantize(self, bytes: &[u8]) -> Vec<f32> {
        let mut values = vec![0.0; bytes.len() / self.bytes * self.weights];
        for (block, out) in bytes.chunks_exact(self.bytes).zip(values.chunks_exact_mut(self.weights)) {
            (self.read)(block, out);
        }
        values
    }
}

fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// The low halves of 16 bytes are the first 16 codes, the high halves the other 16.
fn nibbles(bytes: &[u8], mut each: impl FnMut(usize, u8)) {
    for (index, &byte) in bytes.iter().enumerate() {
        each(index, byte & 15);
        each(index + bytes.len(), byte >> 4);
    }
}

fn q4_0(block: &[u8], out: &mut [f32]) {
    let scale = half(block);
    nibbles(&block[2..], |index, code| out[index] = (f32::from(code) - 8.0) * scale);
}

fn q4_1(block: &[u8], out: &mut [f32]) {
    let (scale, least) = (half(block), half(&block[2..]));
    nibbles(&block[4..], |index, code| out[index] = f32::from(code) * scale + least);
}

/// The fifth bit of each of 32 codes.
fn fifth(bits: &[u8], index: usize) -> u8 {
    (bits[index / 8] >> (index % 8) & 1) << 4
}

fn q5_0(block: &[u8], out: &mut [f32]) {
    let scale = half(block);
    nibbles(&block[6..], |index, code| {
        out[index] = (f32::from(code | fifth(&block[2..6], index)) - 16.0) * scale;
    });
}

fn q5_1(block: &[u8], out: &mut [f32]) {
    let (scale, least) = (half(block), half(&block[2..]));
    nibbles(&block[8..], |index, code| {
        out[index] = f32::from(code | fifth(&block[4..8], index)) * scale + least;
    });
}

fn q8_0(block: &[u8], out: &mut [f32]) {
    let scale = half(block);
    for (value, &code) in out.iter_mut().zip(&block[2..]) {
        *value = f32::from(code.cast_signed()) * scale;
    }
}

/// Scale and offset of one of eight parts of a block, 6 bits each, packed into 12 bytes.
fn scale_and_offset(part: usize, packed: &[u8]) -> (f32, f32) {
    let (scale, offset) = if part < 4 {
        (packed[part] & 63, packed[part + 4] & 63)
    } else {
        (packed[part + 4] & 15 | packed[part - 4] >> 6 << 4, packed[part + 4] >> 4 | packed[part] >> 6 << 4)
    };
    (f32::from(scale), f32::from(offset))
}

fn q4_k(block: &[u8], out: &mut [f32]) {
    five_or_four(block, &block[16..], None, out);
}

fn q5_k(block: &[u8], out: &mut [f32]) {
    five_or_four(block, &block[48..], Some(&block[16..48]), out);
}

/// Eight parts of 32: two parts share 32 bytes, the even one in the low halves; bit `part` of `high` is the fifth bit.
fn five_or_four(block: &[u8], codes: &[u8], high: Option<&[u8]>, out: &mut [f32]) {
    let (scale, least) = (half(block), half(&block[2..]));
    for part in 0..8 {
        let (factor, offset) = scale_and_offset(part, &block[4..16]);
        let (factor, offset) = (scale * factor, least * offset);
        for lane in 0..32 {
            let byte = codes[part / 2 * 32 + lane];
            let low = if part % 2 == 0 { byte & 15 } else { byte >> 4 };
            let code = low | high.map_or(0, |high| (high[lane] >> part & 1) << 4);
            out[part * 32 + lane] = factor * f32::from(code) - offset;
        }
    }
}

/// Two halves of 128, each in four parts of 32; sixteen weights share a scale.
fn q6_k(block: &[u8], out: &mut [f32]) {
    let (low, high, scales, scale) = (&block[..128], &block[128..192], &block[192..208], half(&block[208..]));
    for (index, value) in out.iter_mut().enumerate() {
        let (middle, part, lane) = (index / 128, index / 32 % 4, index % 32);
        let byte = low[middle * 64 + part % 2 * 32 + lane];
        let four = if part < 2 { byte & 15 } else { byte >> 4 };
        let two = high[middle * 32 + lane] >> (2 * part) & 3;
        let code = f32::from(four | two << 4) - 32.0;
        *value = scale * f32::from(scales[index / 16].cast_signed()) * code;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Case {
        kind: String,
        bytes: Vec<u8>,
        values: Vec<f32>,
    }

    #[test]
    fn blocks_stand_for_what_llama_cpp_takes_them_for() {
        let cases: Vec<Case> = serde_json::from_str(include_str!("../../tests/fixtures/gguf_blocks.json")).unwrap();
        let kinds = [
            Kind::F32,
            Kind::F16,
            Kind::BF16,
            Kind::Q4_0,
            Kind::Q4_1,
            Kind::Q5_0,
            Kind::Q5_1,
            Kind::Q8_0,
            Kind::Q4_K,
            Kind::Q5_K,
            Kind::Q6_K,
        ];
        assert_eq!(cases.len(), kinds.len());
        for (kind, Case { kind: name, bytes, values }) in kinds.into_iter().zip(cases) {
            assert_eq!(kind.name(), name);
            let ours = Block::of(kind).unwrap().dequantize(&bytes);
            assert_eq!(ours.len(), values.len(), "{name}");
            for (index, (ours, theirs)) in ours.iter().zip(&values).enumerate() {
                assert!((ours - theirs).abs() <= 1e-6 * theirs.abs().max(1.0), "{name} at {index}: {ours} {theirs}");
            }
        }
    }
}
