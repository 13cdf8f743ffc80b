//! One sequence on ONNX Runtime: the session, its inputs and outputs, and the key-value cache.

use std::path::Path;

use ort::environment::Environment;
use ort::memory::Allocator;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{IoBinding, Session};
use ort::value::{Outlet, Tensor, TensorElementType, ValueType};

use crate::bundle::manifest::Model;
use crate::error::{Error, ErrorKind, Result};

/// Key-value buffers grow in steps of this many tokens, so that most requests find them large enough.
const CAPACITY_STEP: usize = 256;

/// A decoder with the cache of one sequence.
///
/// `past_key_values.*` and `present.*` are bound to the same buffer, which GroupQueryAttention then extends in
/// place instead of copying. The attention mask's length says how much of the buffer is in use.
pub(super) struct Decoder {
    session: Session,
    dimensions: Dimensions,
    binding: IoBinding,
    logits: Tensor<f32>,
    /// Tokens that the bound key-value buffers can hold.
    capacity: usize,
    /// Tokens that they hold.
    length: usize,
}

struct Dimensions {
    vocabulary: usize,
    context: usize,
    layers: usize,
    key_value_heads: usize,
    head_size: usize,
}

impl Decoder {
    /// Loads the graph by its path: ONNX Runtime maps the weights that lie beside it.
    pub(super) fn load(environment: &Environment, graph: &Path, model: &Model, threads: usize) -> Result<Self> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(ErrorKind::Inference, format!("ONNX Runtime does not take {}", graph.display()))
                .with_source(error)
        };
        let mut builder = Session::builder(environment)
            .map_err(|error| failed(error.into()))?
            .with_optimization_level(GraphOptimizationLevel::Level3)
            .map_err(|error| failed(error.to_string().into()))?
            .with_intra_threads(threads)
            .map_err(|error| failed(error.to_string().into()))?;
        let session = builder.commit_from_file(graph).map_err(|error| failed(error.into()))?;
        let dimensions = Dimensions {
            vocabulary: model.vocabulary_size,
            context: model.context_length,
            layers: model.layers,
            key_value_heads: model.key_value_heads,
            head_size: model.head_size,
        };
        dimensions.check(&session)?;
        let binding = session.create_binding().map_err(inference)?;
        let logits = Tensor::new(&Allocator::default(), [1, 1, dimensions.vocabulary]).map_err(inference)?;
        let mut decoder = Self { session, dimensions, binding, logits, capacity: 0, length: 0 };
        decoder.bind(CAPACITY_STEP)?;
        Ok(decoder)
    }

    /// Forgets the sequence and makes room for another of up to `tokens` tokens.
    pub(super) fn start(&mut self, tokens: usize) -> Result<()> {
        self.length = 0;
        if tokens > self.capacity { self.bind(tokens) } else { Ok(()) }
    }

    /// Appends `ids` to the sequence and returns the logits after the last of them, `[vocabulary]`.
    pub(super) fn append(&mut self, ids: &[u32]) -> Result<&[f32]> {
        let length = self.length + ids.len();
        if ids.is_empty() || length > self.capacity {
            let message =
                format!("{} tokens do not fit a cache for {} that holds {}", ids.len(), self.capacity, self.length);
            return Err(Error::new(ErrorKind::Inference, message));
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.dimensions.vocabulary) {
            let message = format!("id {id} is outside the vocabulary of {}", self.dimensions.vocabulary);
            return Err(Error::new(ErrorKind::InvalidRequest, message));
        }
        let input_ids: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
        let input_ids = Tensor::from_array(([1, ids.len()], input_ids)).map_err(inference)?;
        let mask = Tensor::from_array(([1, length], vec![1_i64; length])).map_err(inference)?;
        self.binding.bind_input("input_ids", &input_ids).map_err(inference)?;
        self.binding.bind_input("attention_mask", &mask).map_err(inference)?;
        self.session.run_binding(&self.binding).map_err(inference)?;
        self.length = length;
        let (_, logits) = self.logits.try_extract_tensor::<f32>().map_err(inference)?;
        Ok(logits)
    }

    /// Binds fresh key-value buffers that hold `tokens` tokens.
    fn bind(&mut self, tokens: usize) -> Result<()> {
        let capacity = tokens.next_multiple_of(CAPACITY_STEP).min(self.dimensions.context).max(tokens);
        let allocator = Allocator::default();
        self.capacity = 0;
        self.binding.clear();
        // First of all outputs: ort returns them in the order of binding.
        self.binding.bind_output("logits", &mut self.logits).map_err(inference)?;
        let shape = [1, self.dimensions.key_value_heads, capacity, self.dimensions.head_size];
        for layer in 0..self.dimensions.layers {
            for part in ["key", "value"] {
                let buffer = Tensor::<f32>::new(&allocator, shape).map_err(inference)?;
                self.binding.bind_input(past(layer, part), &buffer).map_err(inference)?;
                self.binding.bind_output(present(layer, part), buffer).map_err(inference)?;
            }
        }
        self.capacity = capacity;
        Ok(())
    }
}

impl Dimensions {
    /// Compares the graph's inputs and outputs with what the manifest says.
    fn check(&self, session: &Session) -> Result<()> {
        use TensorElementType::{Float32, Int64};
        let (any, vocabulary) = (-1, self.vocabulary as i64);
        let cache = [any, self.key_value_heads as i64, any, self.head_size as i64];
        let caches = |name: fn(usize, &str) -> String| {
            (0..self.layers)
                .flat_map(move |layer| ["key", "value"].map(|part| (name(layer, part), Float32, cache.to_vec())))
        };
        let inputs =
            [("input_ids".to_owned(), Int64, vec![any, any]), ("attention_mask".to_owned(), Int64, vec![any, any])];
        let outputs = [("logits".to_owned(), Float32, vec![any, any, vocabulary])];
        compare("input", session.inputs(), inputs.into_iter().chain(caches(past)))?;
        compare("output", session.outputs(), outputs.into_iter().chain(caches(present)))
    }
}

/// Every expected value is there with its type and dimensions (-1 agrees with any), and no other.
fn compare(
    kind: &str,
    actual: &[Outlet],
    expected: impl Iterator<Item = (String, TensorElementType, Vec<i64>)>,
) -> Result<()> {
    let refuse = |message: String| Err(Error::new(ErrorKind::Bundle, message));
    let mut count = 0;
    for (name, element, dimensions) in expected {
        count += 1;
        let Some(outlet) = actual.iter().find(|outlet| outlet.name() == name) else {
            return refuse(format!("the graph has no {kind} {name}, which the manifest implies"));
        };
        let agrees = match outlet.dtype() {
            ValueType::Tensor { ty, shape, .. } => {
                *ty == element
                    && shape.len() == dimensions.len()
                    && shape.iter().zip(&dimensions).all(|(a, b)| *a < 0 || *b < 0 || a == b)
            }
            _ => false,
        };
        if !agrees {
            return refuse(format!(
                "the graph's {kind} {name} is {}, the manifest implies {element} {dimensions:?}",
                outlet.dtype()
            ));
        }
    }
    if actual.len() != count {
        return refuse(format!("the graph has {} {kind}s, the manifest implies {count}", actual.len()));
    }
    Ok(())
}

fn past(layer: usize, part: &str) -> String {
    format!("past_key_values.{layer}.{part}")
}

fn present(layer: usize, part: &str) -> String {
    format!("present.{layer}.{part}")
}

fn inference(error: ort::Error) -> Error {
    Error::new(ErrorKind::Inference, format!("ONNX Runtime: {error}")).with_source(error)
}
