//! `config.json` as Hugging Face transformers writes it, in its versions: what we compute becomes an
//! [`Architecture`], what would change the result and is not known here is refused by name.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::architecture::{Activation, Architecture, GEMMA3, LayerType, Llama3Scaling, SlidingLayers};

/// The fields that say what is computed. Defaults are those of transformers' configuration classes.
#[derive(Debug, Deserialize)]
struct ConfigFile {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    #[serde(default = "default_epsilon")]
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<Value>,
    /// What transformers 5 writes instead of the two above.
    rope_parameters: Option<Value>,
    tie_word_embeddings: Option<bool>,
    hidden_act: Option<String>,
    /// What Gemma calls it.
    hidden_activation: Option<String>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    use_sliding_window: bool,
    quantization_config: Option<Value>,
    eos_token_id: Option<Ids>,
    // Gemma's own.
    query_pre_attn_scalar: Option<f64>,
    sliding_window: Option<usize>,
    layer_types: Option<Vec<LayerType>>,
    /// One layer in so many sees all keys; older files have it instead of the types.
    sliding_window_pattern: Option<usize>,
    #[serde(rename = "_sliding_window_pattern")]
    hidden_pattern: Option<usize>,
    rope_local_base_freq: Option<f64>,
    attn_logit_softcapping: Option<f64>,
    final_logit_softcapping: Option<f64>,
    #[serde(default)]
    use_bidirectional_attention: bool,
}

fn default_epsilon() -> f64 {
    1e-6
}

const DEFAULT_THETA: f64 = 10_000.0;

/// Gemma 3's defaults where they are others.
mod gemma3 {
    pub(super) const THETA: f64 = 1_000_000.0;
    pub(super) const HEAD: usize = 256;
    pub(super) const WINDOW: usize = 4096;
    pub(super) const PATTERN: usize = 6;
}

/// What makes the rotary frequencies, in `rope_scaling` or `rope_parameters`.
#[derive(Debug, Deserialize)]
struct Rope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
}

/// One id or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Ids {
    One(u32),
    Many(Vec<u32>),
}

impl From<Ids> for Vec<u32> {
    fn from(ids: Ids) -> Self {
        match ids {
            Ids::One(id) => vec![id],
            Ids::Many(ids) => ids,
        }
    }
}

/// Reads the architecture and the ids that end a text.
///
/// # Errors
/// What is wrong, beginning with the field's name; the file's path is the caller's to add.
pub(crate) fn parse(json: &[u8]) -> Result<(Architecture, Vec<u32>), String> {
    let family: Value = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    // The family first: another one lacks other fields, and its name is the better answer.
    let model_type = family["model_type"].as_str().ok_or("model_type: missing")?;
    Architecture { model_type: model_type.into(), ..Architecture::llama(1, 16, 1, 1, 1, 1) }
        .validate()
        .map_err(|e| e.to_string())?;
    let file: ConfigFile = serde_json::from_value(family).map_err(|e| e.to_string())?;
    for (field, set) in [
        ("mlp_bias", file.mlp_bias),
        ("use_sliding_window", file.use_sliding_window),
        ("quantization_config", file.quantization_config.is_some()),
        ("attn_logit_softcapping", file.attn_logit_softcapping.is_some()),
        ("final_logit_softcapping", file.final_logit_softcapping.is_some()),
        ("use_bidirectional_attention", file.use_bidirectional_attention),
    ] {
        if set {
            return Err(format!("{field}: not supported"));
        }
    }
    let gemma = file.model_type == GEMMA3;
    let (field, activation) = match &file.hidden_activation {
        Some(activation) if gemma => ("hidden_activation", Some(activation)),
        _ => ("hidden_act", file.hidden_act.as_ref()),
    };
    let rotary = rope(&file)?;
    let square = file.hidden_size.checked_div(file.num_attention_heads).unwrap_or(0);
    let architecture = Architecture {
        num_key_value_heads: file.num_key_value_heads.unwrap_or(file.num_attention_heads),
        head_dim: file.head_dim.unwrap_or(if gemma { gemma3::HEAD } else { square }),
        query_pre_attn_scalar: file.query_pre_attn_scalar.or(gemma.then_some(gemma3::HEAD as f64)).filter(|_| gemma),
        rope_theta: rotary.theta,
        rope_scaling: rotary.scaling,
        sliding: gemma.then(|| sliding(&file, rotary.local_theta)).transpose()?,
        tie_word_embeddings: file.tie_word_embeddings.unwrap_or(gemma),
        model_type: file.model_type,
        vocab_size: file.vocab_size,
        hidden_size: file.hidden_size,
        intermediate_size: file.intermediate_size,
        num_hidden_layers: file.num_hidden_layers,
        num_attention_heads: file.num_attention_heads,
        max_position_embeddings: file.max_position_embeddings,
        rms_norm_eps: file.rms_norm_eps,
        attention_bias: file.attention_bias,
    };
    let known = activation_name(architecture.activation());
    if let Some(other) = activation.filter(|activation| *activation != known) {
        return Err(format!("{field}: `{other}` is not supported, only `{known}`"));
    }
    architecture.validate().map_err(|e| e.to_string())?;
    Ok((architecture, file.eos_token_id.map(Vec::from).unwrap_or_default()))
}

/// What transformers calls it.
fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
    }
}

/// Which layers have a window, and which.
fn sliding(file: &ConfigFile, rope_theta: f64) -> Result<SlidingLayers, String> {
    let pattern = file.sliding_window_pattern.or(file.hidden_pattern).unwrap_or(gemma3::PATTERN);
    if pattern == 0 {
        return Err("sliding_window_pattern: 0 is not a number of layers".into());
    }
    let by_pattern = |layer: usize| match (layer + 1).is_multiple_of(pattern) {
        true => LayerType::Full,
        false => LayerType::Sliding,
    };
    let types = || (0..file.num_hidden_layers.min(MAX_LAYERS)).map(by_pattern).collect();
    Ok(SlidingLayers {
        width: file.sliding_window.unwrap_or(gemma3::WINDOW),
        layer_types: file.layer_types.clone().unwrap_or_else(types),
        rope_theta,
    })
}

/// More layers than this are refused when their types are counted; no model has as many.
const MAX_LAYERS: usize = 1 << 16;

/// Bases and stretch of the rotary frequencies.
struct Rotary {
    theta: f64,
    scaling: Option<Llama3Scaling>,
    /// Of layers with a window.
    local_theta: f64,
}

fn rope(file: &ConfigFile) -> Result<Rotary, String> {
    let default = if file.model_type == GEMMA3 { gemma3::THETA } else { DEFAULT_THETA };
    let theta = file.rope_theta.unwrap_or(default);
    let local_theta = file.rope_local_base_freq.unwrap_or(DEFAULT_THETA);
    let (field, value) = match (&file.rope_parameters, &file.rope_scaling) {
        (Some(value), _) => ("rope_parameters", value),
        (None, Some(value)) => ("rope_scaling", value),
        (None, None) => return Ok(Rotary { theta, scaling: None, local_theta }),
    };
    // Where layers differ, transformers 5 has one entry for each type of them.
    let (full, window) = (value.get("full_attention"), value.get("sliding_attention"));
    let (theta, scaling) = stretch(field, full.unwrap_or(value), theta)?;
    let (local_theta, None) = window.map_or(Ok((local_theta, None)), |value| stretch(field, value, local_theta))?
    else {
        return Err(format!("{field}.sliding_attention: only `default` is supported"));
    };
    Ok(Rotary { theta, scaling, local_theta })
}

/// Base and stretch in one entry, with a base for where it has none.
fn stretch(field: &str, value: &Value, theta: f64) -> Result<(f64, Option<Llama3Scaling>), String> {
    let rope = Rope::deserialize(value).map_err(|e| format!("{field}: {e}"))?;
    if rope.partial_rotary_factor.is_some_and(|factor| factor != 1.0) {
        return Err(format!("{field}.partial_rotary_factor: only 1 is supported"));
    }
    let theta = rope.rope_theta.unwrap_or(theta);
    match rope.rope_type.as_deref() {
        None | Some("default") => Ok((theta, None)),
        Some("llama3") => {
            let mut tagged = value.clone();
            tagged["rope_type"] = "llama3".into();
            let scaling = Llama3Scaling::deserialize(&tagged).map_err(|e| format!("{field}: {e}"))?;
            Ok((theta, Some(scaling)))
        }
        Some(other) => Err(format!("{field}.rope_type: `{other}` is not supported, only `default` and `llama3`")),
    }
}

/// `config.json` as we write it.
#[derive(Debug, Serialize)]
pub(crate) struct WrittenConfig<'a> {
    architectures: [String; 1],
    #[serde(flatten)]
    architecture: &'a Architecture,
    #[serde(skip_serializing_if = "Option::is_none")]
    hidden_act: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hidden_activation: Option<&'a str>,
    eos_token_id: &'a [u32],
}

impl<'a> WrittenConfig<'a> {
    pub(crate) fn new(architecture: &'a Architecture, stop_tokens: &'a [u32]) -> Self {
        let class = match architecture.model_type.as_str() {
            "qwen2" => "Qwen2ForCausalLM",
            "qwen3" => "Qwen3ForCausalLM",
            GEMMA3 => "Gemma3ForCausalLM",
            _ => "LlamaForCausalLM",
        };
        let (activation, gemma) = (activation_name(architecture.activation()), architecture.model_type == GEMMA3);
        Self {
            architectures: [class.into()],
            architecture,
            hidden_act: (!gemma).then_some(activation),
            hidden_activation: gemma.then_some(activation),
            eos_token_id: stop_tokens,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The shape of Llama 3.2's file, small.
    fn llama() -> Value {
        json!({
            "model_type": "llama", "vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "hidden_act": "silu",
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "eos_token_id": [1, 2], "tie_word_embeddings": true,
            "rope_scaling": {
                "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192, "rope_type": "llama3",
            },
        })
    }

    fn read(value: &Value) -> Result<(Architecture, Vec<u32>), String> {
        parse(value.to_string().as_bytes())
    }

    #[test]
    fn both_spellings_of_the_rotary_parameters_are_one_architecture() {
        let old = llama();
        let mut new = llama();
        new["rope_parameters"] = new["rope_scaling"].take();
        new["rope_parameters"]["rope_theta"] = new["rope_theta"].take();
        let (architecture, stop) = read(&old).unwrap();
        assert_eq!(read(&new).unwrap().0, architecture);
        assert_eq!((architecture.head_dim, architecture.rope_theta, stop), (16, 500_000.0, vec![1, 2]));
        assert_eq!(architecture.rope_scaling.as_ref().unwrap().factor, 32.0);
    }

    /// The shape of Gemma 3 270M's file, small: what it leaves to transformers' defaults is left out here too.
    fn gemma() -> Value {
        json!({
            "model_type": "gemma3_text", "vocab_size": 96, "hidden_size": 64, "intermediate_size": 128,
            "hidden_activation": "gelu_pytorch_tanh", "num_hidden_layers": 7, "num_attention_heads": 4,
            "num_key_value_heads": 1, "head_dim": 256, "query_pre_attn_scalar": 256, "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "rope_scaling": null,
            "sliding_window": 512, "_sliding_window_pattern": 6, "attn_logit_softcapping": null,
            "final_logit_softcapping": null, "use_bidirectional_attention": false, "eos_token_id": 1,
        })
    }

    #[test]
    fn what_is_written_is_read_back() {
        for config in [llama(), gemma()] {
            let (architecture, _) = read(&config).unwrap();
            let json = serde_json::to_vec(&WrittenConfig::new(&architecture, &[2])).unwrap();
            assert_eq!(parse(&json).unwrap(), (architecture, vec![2]));
        }
    }

    #[test]
    fn all_spellings_of_alternating_layers_are_one_architecture() {
        let (old, _) = read(&gemma()).unwrap();
        let windows: Vec<_> = (0..7).map(|layer| old.window(layer)).collect();
        let window = Some(512);
        assert_eq!(windows, [window, window, window, window, window, None, window]);
        assert!(old.tie_word_embeddings && old.attention_scale() == 0.0625);
        let mut new = gemma();
        let types = serde_json::to_value(&old.sliding.as_ref().unwrap().layer_types).unwrap();
        assert_eq!(types[5], "full_attention");
        new["layer_types"] = types;
        new["rope_parameters"] = json!({
            "full_attention": {"rope_type": "default", "rope_theta": new["rope_theta"].take()},
            "sliding_attention": {"rope_type": "default", "rope_theta": new["rope_local_base_freq"].take()},
        });
        assert_eq!(read(&new).unwrap().0, old);
    }

    /// Sets one field, which may be inside another, and expects a refusal that begins with its name.
    fn refused(mut config: Value, field: &str, value: Value) {
        let pointer = format!("/{}", field.replace('.', "/"));
        match config.pointer_mut(&pointer) {
            Some(place) => *place = value,
            None => config[field] = value,
        }
        let message = read(&config).unwrap_err();
        assert!(message.starts_with(field), "{field}: {message}");
    }

    #[test]
    fn what_would_compute_something_else_is_refused_by_name() {
        for (field, value) in [
            ("model_type", json!("mamba")),
            ("hidden_act", json!("gelu")),
            ("mlp_bias", json!(true)),
            ("use_sliding_window", json!(true)),
            ("quantization_config", json!({"bits": 4})),
            ("rope_scaling.rope_type", json!("yarn")),
            ("rope_scaling.factor", json!(0.0)),
            ("num_key_value_heads", json!(3)),
            ("head_dim", json!(24)),
            ("rms_norm_eps", json!(-1.0)),
        ] {
            refused(llama(), field, value);
        }
        for (field, value) in [
            ("final_logit_softcapping", json!(30.0)),
            ("attn_logit_softcapping", json!(50.0)),
            ("use_bidirectional_attention", json!(true)),
            ("hidden_activation", json!("relu")),
            ("query_pre_attn_scalar", json!(0)),
            ("sliding_window", json!(0)),
            ("layer_types", json!(["full_attention"])),
            ("rope_local_base_freq", json!(0)),
            ("sliding_window_pattern", json!(0)),
        ] {
            refused(gemma(), field, value);
        }
    }
}
