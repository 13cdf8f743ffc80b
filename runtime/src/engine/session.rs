//! One sequence on ONNX Runtime: the session, its inputs and outputs, and the key-value cache.

use std::ops::Range;

use ort::memory::Allocator;
use ort::session::{IoBinding, RunOptions, Session};
use ort::value::{Outlet, Tensor, TensorElementType, ValueType};

use crate::bundle::manifest::Model;
use crate::error::{Error, ErrorKind, Result};

/// Key-value buffers grow in steps of this many tokens, so that most requests find them large enough.
const CAPACITY_STEP: usize = 256;

/// A decoder with the cache of one sequence.
///
/// `past_key_values.*` and `present.*` are bound to the same buffer, which GroupQueryAttention then extends in
/// place instead of copying. The attention mask's length says how much of the buffer is in use, so a sequence is cut back by
/// forgetting its last tokens: what lies behind them is not read and overwritten by what comes next.
pub(super) struct Decoder {
    session: Session,
    dimensions: Dimensions,
    binding: IoBinding,
    logits: Tensor<f32>,
    /// The bound key-value buffers, `[1, heads, capacity, head size]` each: of every layer the keys, then the values.
    cache: Vec<Tensor<f32>>,
    /// Tokens that the buffers can hold.
    capacity: usize,
    /// Tokens that they do hold.
    tokens: Vec<u32>,
    /// `input_ids` of a single token, and whether it is what is bound.
    token: Tensor<i64>,
    token_bound: bool,
    /// Most bytes that the buffers may take.
    cache_limit: u64,
}

struct Dimensions {
    vocabulary: usize,
    context: usize,
    layers: usize,
    key_value_heads: usize,
    head_size: usize,
}

/// The keys and values of the first tokens of a sequence, set aside.
pub(super) struct Snapshot {
    tokens: Vec<u32>,
    /// As the buffers have them, without the room behind.
    values: Vec<f32>,
}

impl Decoder {
    /// Prepares `session` for a first sequence. Its key-value buffers never take more than `cache_limit` bytes.
    pub(super) fn new(session: Session, model: &Model, cache_limit: u64) -> Result<Self> {
        let dimensions = Dimensions {
            vocabulary: model.vocabulary_size,
            context: model.context_length,
            layers: model.layers,
            key_value_heads: model.key_value_heads,
            head_size: model.head_size,
        };
        dimensions.check(&session)?;
        let binding = session.create_binding().map_err(inference)?;
        let allocator = Allocator::default();
        let logits = Tensor::new(&allocator, [1, 1, dimensions.vocabulary]).map_err(inference)?;
        let token = Tensor::new(&allocator, [1_usize, 1]).map_err(inference)?;
        let mut decoder = Self {
            session,
            dimensions,
            binding,
            logits,
            cache: Vec::new(),
            capacity: 0,
            tokens: Vec::new(),
            token,
            token_bound: false,
            cache_limit,
        };
        decoder.reserve(CAPACITY_STEP.min(decoder.dimensions.context))?;
        Ok(decoder)
    }

    /// The session, to end its profile.
    pub(super) fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// The tokens of the sequence so far.
    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Cuts the sequence back to its first `length` tokens.
    pub(super) fn truncate(&mut self, length: usize) {
        self.tokens.truncate(length);
    }

    /// Makes room for a sequence of up to `tokens` tokens, with what it has now.
    pub(super) fn reserve(&mut self, tokens: usize) -> Result<()> {
        if tokens <= self.capacity {
            return Ok(());
        }
        let most = usize::try_from(self.cache_limit / self.dimensions.bytes_per_token()).unwrap_or(usize::MAX);
        if tokens > most {
            let message = format!("a sequence of {tokens} tokens needs more memory than is allowed: room for {most}");
            return Err(Error::new(ErrorKind::Memory, message));
        }
        let capacity = tokens.next_multiple_of(CAPACITY_STEP).min(self.dimensions.context).max(tokens).min(most);
        let kept = self.save(self.tokens.len())?;
        // The old buffers go before the new ones come: never both.
        self.capacity = 0;
        self.tokens.clear();
        self.binding.clear();
        self.token_bound = false;
        self.cache.clear();
        // First of all outputs: ort returns them in the order of binding.
        self.binding.bind_output("logits", &mut self.logits).map_err(inference)?;
        let allocator = Allocator::default();
        let shape = [1, self.dimensions.key_value_heads, capacity, self.dimensions.head_size];
        for layer in 0..self.dimensions.layers {
            for part in ["key", "value"] {
                let mut buffer = Tensor::<f32>::new(&allocator, shape).map_err(inference)?;
                self.binding.bind_input(past(layer, part), &buffer).map_err(inference)?;
                self.binding.bind_output(present(layer, part), &mut buffer).map_err(inference)?;
                self.cache.push(buffer);
            }
        }
        self.capacity = capacity;
        self.restore(&kept, kept.tokens.len())
    }

    /// Appends `ids` to the sequence and returns the logits after the last of them, `[vocabulary]`.
    ///
    /// `run` can end the computation from another thread; the sequence is then as it was.
    pub(super) fn append(&mut self, ids: &[u32], run: &RunOptions) -> Result<&[f32]> {
        let length = self.tokens.len() + ids.len();
        if ids.is_empty() || length > self.capacity {
            let (new, held) = (ids.len(), self.tokens.len());
            let message = format!("{new} tokens do not fit a cache for {} that holds {held}", self.capacity);
            return Err(Error::new(ErrorKind::Inference, message));
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.dimensions.vocabulary) {
            let message = format!("id {id} is outside the vocabulary of {}", self.dimensions.vocabulary);
            return Err(Error::new(ErrorKind::InvalidRequest, message));
        }
        if let [id] = ids {
            let (_, token) = self.token.try_extract_tensor_mut::<i64>().map_err(inference)?;
            token[0] = i64::from(*id);
            if !self.token_bound {
                self.binding.bind_input("input_ids", &self.token).map_err(inference)?;
                self.token_bound = true;
            }
        } else {
            let input_ids: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
            let input_ids = Tensor::from_array(([1, ids.len()], input_ids)).map_err(inference)?;
            self.binding.bind_input("input_ids", &input_ids).map_err(inference)?;
            self.token_bound = false;
        }
        let mask = Tensor::from_array(([1, length], vec![1_i64; length])).map_err(inference)?;
        self.binding.bind_input("attention_mask", &mask).map_err(inference)?;
        self.session.run_binding_with_options(&self.binding, run).map_err(inference)?;
        self.tokens.extend_from_slice(ids);
        let (_, logits) = self.logits.try_extract_tensor::<f32>().map_err(inference)?;
        Ok(logits)
    }

    /// Sets the keys and values of the first `length` tokens aside.
    pub(super) fn save(&self, length: usize) -> Result<Snapshot> {
        let tokens = self.tokens[..length.min(self.tokens.len())].to_vec();
        let mut values = Vec::with_capacity(self.dimensions.values_per_token() * tokens.len());
        for buffer in &self.cache {
            let (_, buffer) = buffer.try_extract_tensor::<f32>().map_err(inference)?;
            for rows in self.dimensions.rows(self.capacity, tokens.len()) {
                values.extend_from_slice(&buffer[rows]);
            }
        }
        Ok(Snapshot { tokens, values })
    }

    /// Makes the first `length` tokens of `snapshot` the sequence.
    pub(super) fn restore(&mut self, snapshot: &Snapshot, length: usize) -> Result<()> {
        let length = length.min(snapshot.tokens.len());
        self.reserve(length)?;
        self.tokens.clear();
        let saved = snapshot.tokens.len() * self.dimensions.head_size;
        let mut values = snapshot.values.chunks_exact(saved.max(1));
        for buffer in &mut self.cache {
            let (_, buffer) = buffer.try_extract_tensor_mut::<f32>().map_err(inference)?;
            for (rows, values) in self.dimensions.rows(self.capacity, length).zip(&mut values) {
                let count = rows.len();
                buffer[rows].copy_from_slice(&values[..count]);
            }
        }
        self.tokens.extend_from_slice(&snapshot.tokens[..length]);
        Ok(())
    }
}

impl Snapshot {
    /// The tokens whose keys and values these are.
    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// What it takes in memory.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(self.values.as_slice()) + size_of_val(self.tokens.as_slice())
    }
}

impl Dimensions {
    /// Numbers that the keys and values of one token are.
    fn values_per_token(&self) -> usize {
        2 * self.layers * self.key_value_heads * self.head_size
    }

    fn bytes_per_token(&self) -> u64 {
        (self.values_per_token() * size_of::<f32>()).max(1) as u64
    }

    /// Where in a buffer for `capacity` tokens the first `length` lie: one range for each head.
    fn rows(&self, capacity: usize, length: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let size = self.head_size;
        (0..self.key_value_heads).map(move |head| head * capacity * size..(head * capacity + length) * size)
    }

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

pub(super) fn inference(error: ort::Error) -> Error {
    Error::new(ErrorKind::Inference, format!("ONNX Runtime: {error}")).with_source(error)
}
