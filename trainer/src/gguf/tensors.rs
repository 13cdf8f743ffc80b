//! Tensors of a GGUF file under Hugging Face's names and in its layout: what llama.cpp's converter changed is changed back.

use std::collections::BTreeSet;

use super::header::Header;
use crate::architecture::{Architecture, LLAMA};

/// What Llama 3's rotary frequencies are divided by, `[head / 2]`.
pub(super) const FREQUENCIES: &str = "rope_freqs.weight";

/// Values of the tensor that Hugging Face calls `name`.
///
/// # Errors
/// What is wrong, beginning with the tensor's name in the file.
pub(super) fn read(file: &Header, a: &Architecture, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
    let stored = stored_name(name, a).ok_or_else(|| format!("{name}: GGUF has no name for this tensor"))?;
    let mut values = file.values(&stored, shape)?;
    if a.model_type == LLAMA {
        let heads = match name.rsplit('.').nth(1) {
            Some("q_proj") => Some(a.num_attention_heads),
            Some("k_proj") => Some(a.num_key_value_heads),
            _ => None,
        };
        if let Some(heads) = heads {
            values = halves_from_pairs(&values, heads, shape[0]);
        }
    }
    if name.contains("norm") {
        // The converter has added it already.
        values.iter_mut().for_each(|weight| *weight -= a.norm_offset());
    }
    Ok(values)
}

/// Rows of the matrix that the file calls `name`.
pub(super) fn rows(file: &Header, name: &str) -> Result<usize, String> {
    match file.shape(name)? {
        [rows, _] => usize::try_from(*rows).map_err(|_| format!("{name}: is too large")),
        _ => Err(format!("{name}: is not a matrix")),
    }
}

/// The first tensor of the file, by name, that is none of those `read`.
pub(super) fn left_over<'a>(file: &'a Header, a: &Architecture, read: &BTreeSet<String>) -> Option<&'a str> {
    let read: BTreeSet<String> = read.iter().filter_map(|name| stored_name(name, a)).collect();
    file.names().filter(|name| *name != FREQUENCIES && !read.contains(*name)).min()
}

/// What the file calls a tensor.
fn stored_name(name: &str, a: &Architecture) -> Option<String> {
    let (module, part) = name.rsplit_once('.')?;
    let outer = match module {
        "model.embed_tokens" => Some("token_embd"),
        "model.norm" => Some("output_norm"),
        "lm_head" => Some("output"),
        _ => None,
    };
    if let Some(outer) = outer {
        return Some(format!("{outer}.{part}"));
    }
    let (layer, module) = module.strip_prefix("model.layers.")?.split_once('.')?;
    let inner = match module {
        "input_layernorm" => "attn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "post_attention_layernorm" if a.sandwich_norms() => "post_attention_norm",
        "post_attention_layernorm" | "pre_feedforward_layernorm" => "ffn_norm",
        "post_feedforward_layernorm" => "post_ffw_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    };
    Some(format!("blk.{layer}.{inner}.{part}"))
}

/// Rows of each head with its halves one behind the other, from rows in which lanes that turn together are neighbours. The
/// converter makes the latter of Llama's queries and keys, and of no other family's.
fn halves_from_pairs(values: &[f32], heads: usize, rows: usize) -> Vec<f32> {
    let (width, size) = (values.len() / rows.max(1), rows / heads.max(1));
    let mut result = Vec::with_capacity(values.len());
    for row in 0..rows {
        let (head, lane) = (row / size, row % size);
        let (half, pair) = (lane / (size / 2), lane % (size / 2));
        let source = head * size + 2 * pair + half;
        result.extend_from_slice(&values[source * width..][..width]);
    }
    result
}
