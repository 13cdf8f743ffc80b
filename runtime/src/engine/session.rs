//! One sequence on ONNX Runtime: the session, its inputs and outputs, and the key-value cache.

use std::borrow::Cow;
use std::path::Path;

use ort::environment::Environment;
use ort::memory::Allocator;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{IoBinding, Session, SessionInputValue};
use ort::value::{DynValue, Outlet, Tensor, TensorElementType, ValueType};

use crate::bundle::manifest::{Model, Operators};
use crate::error::{Error, ErrorKind, Result};

/// Key-value buffers grow in steps of this many tokens, so that most requests find them large enough.
const CAPACITY_STEP: usize = 256;

/// A decoder with the cache of one sequence.
pub(super) struct Decoder {
    session: Session,
    dimensions: Dimensions,
    cache: Cache,
    /// After the last position, `[1, 1, vocabulary]`.
    logits: Tensor<f32>,
    /// Tokens that the cache has room for.
    capacity: usize,
    /// Tokens that it holds.
    length: usize,
}

/// Where key-values are between two steps.
enum Cache {
    /// `past_key_values.*` and `present.*` are bound to the same buffer, which GroupQueryAttention then extends in place
    /// instead of copying. The attention mask's length says how much of the buffer is in use.
    Shared(Box<IoBinding>),
    /// What the last step gave as `present.*`, in the order of [`Dimensions::caches`].
    Grown(Vec<DynValue>),
}

struct Dimensions {
    vocabulary: usize,
    context: usize,
    layers: usize,
    key_value_heads: usize,
    head_size: usize,
    scoring: bool,
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
            scoring: model.scoring,
        };
        dimensions.check(&session)?;
        let cache = match model.operators {
            Operators::Fused => Cache::Shared(Box::new(session.create_binding().map_err(inference)?)),
            Operators::Standard => Cache::Grown(vec![]),
        };
        let logits = Tensor::new(&Allocator::default(), [1, 1, dimensions.vocabulary]).map_err(inference)?;
        let mut decoder = Self { session, dimensions, cache, logits, capacity: 0, length: 0 };
        decoder.make_room(CAPACITY_STEP)?;
        Ok(decoder)
    }

    /// Forgets the sequence and makes room for another of up to `tokens` tokens.
    pub(super) fn start(&mut self, tokens: usize) -> Result<()> {
        self.length = 0;
        let grows = matches!(self.cache, Cache::Grown(_));
        if grows || tokens > self.capacity { self.make_room(tokens) } else { Ok(()) }
    }

    /// Appends `ids` to the sequence and returns the logits after the last of them, `[vocabulary]`.
    pub(super) fn append(&mut self, ids: &[u32]) -> Result<&[f32]> {
        self.step(ids, &[])?;
        let (_, logits) = self.logits.try_extract_tensor::<f32>().map_err(inference)?;
        Ok(logits)
    }

    /// Appends `ids` and returns the log-probability, in nats, of each target: of the last one after the last of the ids, of
    /// the one before after the id before, and so on.
    ///
    /// Only for a graph that scores. Logits of as many positions as there are targets exist at once inside of it.
    pub(super) fn score(&mut self, ids: &[u32], targets: &[u32]) -> Result<Vec<f32>> {
        let scores = self.step(ids, targets)?;
        let (_, scores) = scores.try_extract_tensor::<f32>().map_err(inference)?;
        Ok(scores.to_vec())
    }

    /// One run of the graph. Returns what it says of the targets.
    fn step(&mut self, ids: &[u32], targets: &[u32]) -> Result<Tensor<f32>> {
        let length = self.length + ids.len();
        if ids.is_empty() || length > self.capacity || targets.len() > ids.len() {
            let message =
                format!("{} tokens do not fit a cache for {} that holds {}", ids.len(), self.capacity, self.length);
            return Err(Error::new(ErrorKind::Inference, message));
        }
        if let Some(id) = ids.iter().chain(targets).find(|id| **id as usize >= self.dimensions.vocabulary) {
            let message = format!("id {id} is outside the vocabulary of {}", self.dimensions.vocabulary);
            return Err(Error::new(ErrorKind::InvalidRequest, message));
        }
        let input_ids = row(ids)?;
        let mask = Tensor::from_array(([1, length], vec![1_i64; length])).map_err(inference)?;
        let mut scores = Tensor::new(&Allocator::default(), [1, targets.len()]).map_err(inference)?;
        match &mut self.cache {
            Cache::Shared(binding) => {
                binding.bind_input("input_ids", &input_ids).map_err(inference)?;
                binding.bind_input("attention_mask", &mask).map_err(inference)?;
                if self.dimensions.scoring {
                    binding.bind_input("targets", &row(targets)?).map_err(inference)?;
                    binding.bind_output("log_probabilities", &mut scores).map_err(inference)?;
                }
                self.session.run_binding(binding).map_err(inference)?;
            }
            Cache::Grown(past) => {
                let mut inputs: Vec<(Cow<'_, str>, SessionInputValue<'_>)> =
                    vec![("input_ids".into(), input_ids.into()), ("attention_mask".into(), mask.into())];
                if self.dimensions.scoring {
                    inputs.push(("targets".into(), row(targets)?.into()));
                }
                let names = self.dimensions.caches(past_name);
                inputs.extend(names.zip(past.iter()).map(|(name, value)| (name.into(), value.into())));
                let mut outputs = self.session.run(inputs).map_err(inference)?;
                let mut take = |name: &str| {
                    let missing = || Error::new(ErrorKind::Inference, format!("ONNX Runtime gave no {name}"));
                    outputs.remove(name).ok_or_else(missing)
                };
                self.logits = take("logits")?.downcast().map_err(inference)?;
                if self.dimensions.scoring {
                    scores = take("log_probabilities")?.downcast().map_err(inference)?;
                }
                for (name, value) in self.dimensions.caches(present_name).zip(past) {
                    *value = take(&name)?;
                }
            }
        }
        self.length = length;
        Ok(scores)
    }

    /// Makes a fresh cache for `tokens` tokens.
    fn make_room(&mut self, tokens: usize) -> Result<()> {
        let capacity = tokens.next_multiple_of(CAPACITY_STEP).min(self.dimensions.context).max(tokens);
        let allocator = Allocator::default();
        self.capacity = 0;
        let (heads, size) = (self.dimensions.key_value_heads, self.dimensions.head_size);
        match &mut self.cache {
            Cache::Shared(binding) => {
                binding.clear();
                // First of all outputs: ort returns them in the order of binding.
                binding.bind_output("logits", &mut self.logits).map_err(inference)?;
                let names = self.dimensions.caches(past_name).zip(self.dimensions.caches(present_name));
                for (past, present) in names {
                    let buffer = Tensor::<f32>::new(&allocator, [1, heads, capacity, size]).map_err(inference)?;
                    binding.bind_input(past, &buffer).map_err(inference)?;
                    binding.bind_output(present, buffer).map_err(inference)?;
                }
            }
            Cache::Grown(past) => {
                let empty = || Ok(Tensor::<f32>::new(&allocator, [1, heads, 0, size]).map_err(inference)?.into_dyn());
                *past = self.dimensions.caches(past_name).map(|_| empty()).collect::<Result<_>>()?;
            }
        }
        self.capacity = capacity;
        Ok(())
    }
}

/// Ids as the graph takes them, `[1, ids]`.
fn row(ids: &[u32]) -> Result<Tensor<i64>> {
    let ids: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
    Tensor::from_array(([1, ids.len()], ids)).map_err(inference)
}

impl Dimensions {
    /// Names of all key and value caches, made of layer and part.
    fn caches(&self, name: fn(usize, &str) -> String) -> impl Iterator<Item = String> {
        (0..self.layers).flat_map(move |layer| ["key", "value"].map(|part| name(layer, part)))
    }

    /// Compares the graph's inputs and outputs with what the manifest says.
    fn check(&self, session: &Session) -> Result<()> {
        use TensorElementType::{Float32, Int64};
        let (any, vocabulary) = (-1, self.vocabulary as i64);
        let cache = [any, self.key_value_heads as i64, any, self.head_size as i64];
        let caches = |name: fn(usize, &str) -> String| self.caches(name).map(|name| (name, Float32, cache.to_vec()));
        let row = |name: &str, element| (name.to_owned(), element, vec![any, any]);
        let inputs = [row("input_ids", Int64), row("attention_mask", Int64)];
        let outputs = [("logits".to_owned(), Float32, vec![any, any, vocabulary])];
        let targets = self.scoring.then(|| row("targets", Int64));
        let scores = self.scoring.then(|| row("log_probabilities", Float32));
        compare("input", session.inputs(), inputs.into_iter().chain(targets).chain(caches(past_name)))?;
        compare("output", session.outputs(), outputs.into_iter().chain(scores).chain(caches(present_name)))
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

fn past_name(layer: usize, part: &str) -> String {
    format!("past_key_values.{layer}.{part}")
}

fn present_name(layer: usize, part: &str) -> String {
    format!("present.{layer}.{part}")
}

fn inference(error: ort::Error) -> Error {
    Error::new(ErrorKind::Inference, format!("ONNX Runtime: {error}")).with_source(error)
}
