//! GGUF's metadata as an [`Architecture`]: keys are those of llama.cpp's `gguf-py/gguf/constants.py`.

use super::header::Header;
use super::tensors;
use crate::architecture::{Architecture, GEMMA3, LLAMA, LayerType, Llama3Scaling, QWEN2, QWEN3, SlidingLayers};

/// Reads what the model is made of.
///
/// # Errors
/// What is wrong, beginning with the key or the tensor's name.
pub(super) fn read(file: &Header) -> Result<Architecture, String> {
    let family = file.text("general.architecture").ok_or("general.architecture: missing")?;
    let model_type = match family {
        "llama" => LLAMA,
        "qwen2" => QWEN2,
        "qwen3" => QWEN3,
        "gemma3" => GEMMA3,
        other => {
            return Err(format!(
                "general.architecture: `{other}` is not supported, only `llama`, `qwen2`, `qwen3` and `gemma3`"
            ));
        }
    };
    let key = |name: &str| format!("{family}.{name}");
    for name in ["final_logit_softcapping", "attn_logit_softcapping", "expert_count"] {
        if file.number(&key(name))?.is_some_and(|value| value != 0.0) {
            return Err(format!("{}: not supported", key(name)));
        }
    }
    let scaling = key("rope.scaling.type");
    let scaled = file.text(&scaling).unwrap_or("none");
    if scaled != "none" && file.number(&key("rope.scaling.factor"))?.is_none_or(|factor| factor != 1.0) {
        return Err(format!("{scaling}: `{scaled}` is not supported, only `none`"));
    }
    let size = |name: &str| file.count(&key(name));
    let or = |name: &str, other: usize| Ok::<_, String>(file.whole(&key(name))?.unwrap_or(other));
    let (hidden_size, heads, layers) = (size("embedding_length")?, size("attention.head_count")?, size("block_count")?);
    let head_dim = or("attention.key_length", hidden_size.checked_div(heads).unwrap_or(0))?;
    for name in ["attention.value_length", "rope.dimension_count"] {
        if or(name, head_dim)? != head_dim {
            return Err(format!("{}: only the width of a key, {head_dim}, is supported", key(name)));
        }
    }
    let theta = |name: &str, other: f64| Ok::<_, String>(file.number(&key(name))?.unwrap_or(other));
    let gemma = model_type == GEMMA3;
    let sliding = || -> Result<_, String> {
        let pattern = or("attention.sliding_window_pattern", GEMMA3_PATTERN)?.max(1);
        let types = (1..=layers.min(MAX_LAYERS))
            .map(|layer| if layer.is_multiple_of(pattern) { LayerType::Full } else { LayerType::Sliding });
        let width = size("attention.sliding_window")?;
        let rope_theta = theta("rope.freq_base_swa", DEFAULT_THETA)?;
        Ok(SlidingLayers { width, layer_types: types.collect(), rope_theta })
    };
    let architecture = Architecture {
        model_type: model_type.into(),
        vocab_size: tensors::rows(file, "token_embd.weight")?,
        hidden_size,
        intermediate_size: size("feed_forward_length")?,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: or("attention.head_count_kv", heads)?,
        head_dim,
        query_pre_attn_scalar: None,
        max_position_embeddings: size("context_length")?,
        rms_norm_eps: file.number(&key("attention.layer_norm_rms_epsilon"))?.map_or(DEFAULT_EPSILON, decimal),
        rope_theta: theta("rope.freq_base", DEFAULT_THETA)?,
        rope_scaling: None,
        sliding: gemma.then(sliding).transpose()?,
        attention_bias: model_type != QWEN2 && file.has("blk.0.attn_q.bias"),
        tie_word_embeddings: !file.has("output.weight"),
    };
    architecture.validate().map_err(|e| e.to_string())?;
    let rope_scaling = stretch(file, &architecture)?;
    Ok(Architecture { rope_scaling, ..architecture })
}

/// Llama 3's stretched frequencies. The file has what each is divided by, not the numbers that this came from: those that
/// Meta publishes are tried, and must give the same.
fn stretch(file: &Header, a: &Architecture) -> Result<Option<Llama3Scaling>, String> {
    if !file.has(tensors::FREQUENCIES) {
        return Ok(None);
    }
    let divisors = file.values(tensors::FREQUENCIES, &[a.head_dim / 2])?;
    let factor = divisors.iter().copied().fold(1.0, f32::max).into();
    let (low_freq_factor, high_freq_factor, original_max_position_embeddings) = LLAMA3;
    let scaling = Llama3Scaling { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings };
    let stretched = Architecture { rope_scaling: Some(scaling.clone()), ..a.clone() }.rotary_frequencies();
    let plain = a.rotary_frequencies();
    let same = divisors.iter().zip(plain.iter().zip(&stretched)).all(|(&divisor, (plain, stretched))| {
        let expected = plain / stretched;
        (f64::from(divisor) - expected).abs() <= 1e-4 * expected
    });
    match same {
        true => Ok(Some(scaling)),
        false => Err(format!("{}: is not how Llama 3 stretches frequencies", tensors::FREQUENCIES)),
    }
}

/// A number that a person wrote in decimal and a tool stored in single precision.
fn decimal(value: f64) -> f64 {
    format!("{:e}", value as f32).parse().unwrap_or(value)
}

/// Low and high frequency factor and original context of Llama 3.1 and 3.2.
const LLAMA3: (f64, f64, usize) = (1.0, 4.0, 8192);
const DEFAULT_THETA: f64 = 10_000.0;
const DEFAULT_EPSILON: f64 = 1e-6;
/// One layer in so many sees all keys.
const GEMMA3_PATTERN: usize = 6;
/// More layers than this are refused when their types are counted; no model has as many.
const MAX_LAYERS: usize = 1 << 16;
