//! `config.json` as Hugging Face transformers writes it, in its versions: what we compute becomes an
//! [`Architecture`], what would change the result and is not known here is refused by name.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::architecture::{Architecture, Llama3Scaling};

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
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default = "default_activation")]
    hidden_act: String,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    use_sliding_window: bool,
    quantization_config: Option<Value>,
    eos_token_id: Option<Ids>,
}

fn default_epsilon() -> f64 {
    1e-6
}

fn default_activation() -> String {
    "silu".into()
}

const DEFAULT_THETA: f64 = 10_000.0;

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
    ] {
        if set {
            return Err(format!("{field}: not supported"));
        }
    }
    if file.hidden_act != "silu" {
        return Err(format!("hidden_act: `{}` is not supported, only `silu`", file.hidden_act));
    }
    let (rope_theta, rope_scaling) = rope(&file)?;
    let square = file.hidden_size.checked_div(file.num_attention_heads).unwrap_or(0);
    let architecture = Architecture {
        model_type: file.model_type,
        vocab_size: file.vocab_size,
        hidden_size: file.hidden_size,
        intermediate_size: file.intermediate_size,
        num_hidden_layers: file.num_hidden_layers,
        num_attention_heads: file.num_attention_heads,
        num_key_value_heads: file.num_key_value_heads.unwrap_or(file.num_attention_heads),
        head_dim: file.head_dim.unwrap_or(square),
        max_position_embeddings: file.max_position_embeddings,
        rms_norm_eps: file.rms_norm_eps,
        rope_theta,
        rope_scaling,
        attention_bias: file.attention_bias,
        tie_word_embeddings: file.tie_word_embeddings,
    };
    architecture.validate().map_err(|e| e.to_string())?;
    Ok((architecture, file.eos_token_id.map(Vec::from).unwrap_or_default()))
}

/// Base and stretch of the rotary frequencies.
fn rope(file: &ConfigFile) -> Result<(f64, Option<Llama3Scaling>), String> {
    let (field, value) = match (&file.rope_parameters, &file.rope_scaling) {
        (Some(value), _) => ("rope_parameters", value),
        (None, Some(value)) => ("rope_scaling", value),
        (None, None) => return Ok((file.rope_theta.unwrap_or(DEFAULT_THETA), None)),
    };
    let rope = Rope::deserialize(value).map_err(|e| format!("{field}: {e}"))?;
    if rope.partial_rotary_factor.is_some_and(|factor| factor != 1.0) {
        return Err(format!("{field}.partial_rotary_factor: only 1 is supported"));
    }
    let theta = rope.rope_theta.or(file.rope_theta).unwrap_or(DEFAULT_THETA);
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
    hidden_act: &'a str,
    eos_token_id: &'a [u32],
}

impl<'a> WrittenConfig<'a> {
    pub(crate) fn new(architecture: &'a Architecture, stop_tokens: &'a [u32]) -> Self {
        let class = match architecture.model_type.as_str() {
            "qwen2" => "Qwen2ForCausalLM",
            "qwen3" => "Qwen3ForCausalLM",
            _ => "LlamaForCausalLM",
        };
        Self { architectures: [class.into()], architecture, hidden_act: "silu", eos_token_id: stop_tokens }
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

    #[test]
    fn what_is_written_is_read_back() {
        let (architecture, _) = read(&llama()).unwrap();
        let json = serde_json::to_vec(&WrittenConfig::new(&architecture, &[2])).unwrap();
        assert_eq!(parse(&json).unwrap(), (architecture, vec![2]));
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
            let mut config = llama();
            let pointer = format!("/{}", field.replace('.', "/"));
            match config.pointer_mut(&pointer) {
                Some(place) => *place = value,
                None => config[field] = value,
            }
            let message = read(&config).unwrap_err();
            assert!(message.starts_with(field), "{field}: {message}");
        }
    }
}
