//! One sequence on ONNX Runtime: the session, its inputs and outputs, and the key-value cache.

use std::borrow::Cow;
use std::sync::Arc;

use ort::memory::Allocator;
use ort::session::{IoBinding, RunOptions, Session, SessionInputValue};
use ort::value::{DynValue, Tensor};

use super::dimensions::{Dimensions, past_name, present_name};
use super::gate::Gate;
use crate::bundle::manifest::{Model, Operators};
use crate::error::{Error, ErrorKind, Result};

/// Key-value buffers grow in steps of this many tokens, so that most requests find them large enough.
pub(super) const CAPACITY_STEP: usize = 64;

/// A decoder with the cache of one sequence.
pub(super) struct Decoder {
    session: Arc<Gate<Session>>,
    dimensions: Dimensions,
    cache: Cache,
    /// After the last position, `[1, 1, vocabulary]`.
    logits: Tensor<f32>,
    /// Tokens that the cache has room for.
    capacity: usize,
    /// Tokens that it holds.
    tokens: Vec<u32>,
    /// Most bytes that the cache may take.
    cache_limit: u64,
}

/// Where key-values are between two steps: of every layer the keys, then the values.
enum Cache {
    /// `past_key_values.*` and `present.*` are bound to the same buffer, which GroupQueryAttention then extends in place
    /// instead of copying. The attention mask's length says how much of the buffer is in use, so a sequence is cut back by
    /// forgetting its last tokens: what lies behind them is not read, and overwritten by what comes next.
    Shared(Box<Bound>),
    /// What the last step gave as `present.*`, each `[1, heads, tokens, head size]`.
    Grown(Vec<DynValue>),
}

struct Bound {
    binding: IoBinding,
    /// `[1, heads, capacity, head size]` each.
    buffers: Vec<Tensor<f32>>,
    /// `input_ids` of a single token, and whether it is what is bound.
    token: Tensor<i64>,
    token_bound: bool,
    /// No targets and what is said of them, and whether that is what is bound.
    no_targets: Tensor<i64>,
    no_scores: Tensor<f32>,
    no_targets_bound: bool,
}

/// The keys and values of the first tokens of a sequence, set aside.
pub(super) struct Snapshot {
    tokens: Vec<u32>,
    /// As the cache has them, without the room behind.
    values: Vec<f32>,
}

impl Decoder {
    /// Prepares `session` for a first sequence, whose cache never takes more than `cache_limit` bytes. Whether past and present
    /// may be one buffer, the execution provider decides (`shares`) and the graph.
    pub(super) fn new(session: Session, model: &Model, shares: bool, cache_limit: u64) -> Result<Self> {
        let dimensions = Dimensions::of(model);
        dimensions.check(&session)?;
        let cache = match model.operators {
            Operators::Fused if shares => {
                Cache::Shared(Box::new(Bound::new(session.create_binding().map_err(inference)?)?))
            }
            Operators::Fused | Operators::Standard => Cache::Grown(dimensions.empty()?),
        };
        let logits = Tensor::new(&Allocator::default(), [1, 1, dimensions.vocabulary]).map_err(inference)?;
        let session = Arc::new(Gate::new(session));
        Ok(Self { session, dimensions, cache, logits, capacity: 0, tokens: Vec::new(), cache_limit })
    }

    /// The session, which others may compute on between two steps.
    pub(super) fn session(&self) -> &Arc<Gate<Session>> {
        &self.session
    }

    pub(super) fn dimensions(&self) -> &Dimensions {
        &self.dimensions
    }

    /// The sequence's key-value buffers, `[1, heads, room, head size]` each, and their room in tokens; `None` unless past and
    /// present are one buffer.
    pub(super) fn shared(&self) -> Option<(&[Tensor<f32>], usize)> {
        match &self.cache {
            Cache::Shared(bound) => Some((&bound.buffers, self.capacity)),
            Cache::Grown(_) => None,
        }
    }

    /// The tokens of the sequence so far.
    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Cuts the sequence back to its first `length` tokens.
    pub(super) fn truncate(&mut self, length: usize) -> Result<()> {
        if length >= self.tokens.len() {
            return Ok(());
        }
        if matches!(self.cache, Cache::Grown(_)) {
            let kept = self.save(length)?;
            return self.restore(&kept, length);
        }
        self.tokens.truncate(length);
        Ok(())
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
        if let Cache::Grown(_) = self.cache {
            self.capacity = capacity;
            return Ok(());
        }
        let kept = self.save(self.tokens.len())?;
        self.tokens.clear();
        self.capacity = 0;
        if let Cache::Shared(bound) = &mut self.cache {
            bound.bind(&self.dimensions, &mut self.logits, capacity)?;
        }
        self.capacity = capacity;
        self.restore(&kept, kept.tokens.len())
    }

    /// Appends `ids` to the sequence and returns the logits after the last of them, `[vocabulary]`.
    ///
    /// `run` can end the computation from another thread; the sequence is then as it was.
    pub(super) fn append(&mut self, ids: &[u32], run: &RunOptions) -> Result<&[f32]> {
        self.step(ids, &[], run)?;
        let (_, logits) = self.logits.try_extract_tensor::<f32>().map_err(inference)?;
        Ok(logits)
    }

    /// Appends `ids` and returns the log-probability, in nats, of each target: of the last one after the last of the ids, of
    /// the one before after the id before, and so on.
    ///
    /// Only for a graph that scores. Logits of as many positions as there are targets exist at once inside of it.
    pub(super) fn score(&mut self, ids: &[u32], targets: &[u32], run: &RunOptions) -> Result<Vec<f32>> {
        let Some(scores) = self.step(ids, targets, run)? else { return Ok(Vec::new()) };
        let (_, scores) = scores.try_extract_tensor::<f32>().map_err(inference)?;
        Ok(scores.to_vec())
    }

    /// One run of the graph. Returns what it says of the targets, if there are any.
    fn step(&mut self, ids: &[u32], targets: &[u32], run: &RunOptions) -> Result<Option<Tensor<f32>>> {
        let (held, length) = (self.tokens.len(), self.tokens.len() + ids.len());
        if ids.is_empty() || length > self.capacity || targets.len() > ids.len() {
            let message = format!("{} tokens do not fit a cache for {} that holds {held}", ids.len(), self.capacity);
            return Err(Error::new(ErrorKind::Inference, message));
        }
        if let Some(id) = ids.iter().chain(targets).find(|id| **id as usize >= self.dimensions.vocabulary) {
            let message = format!("id {id} is outside the vocabulary of {}", self.dimensions.vocabulary);
            return Err(Error::new(ErrorKind::InvalidRequest, message));
        }
        let mask = Tensor::from_array(([1, length], vec![1_i64; length])).map_err(inference)?;
        let mut scores = None;
        match &mut self.cache {
            Cache::Shared(bound) => {
                bound.bind_ids(ids)?;
                bound.binding.bind_input("attention_mask", &mask).map_err(inference)?;
                if self.dimensions.scoring {
                    scores = bound.bind_targets(targets)?;
                }
                let run = |session: &mut Session| session.run_binding_with_options(&bound.binding, run).map(drop);
                self.session.run(run).map_err(inference)?;
            }
            Cache::Grown(past) => {
                let mut inputs: Vec<(Cow<'_, str>, SessionInputValue<'_>)> =
                    vec![("input_ids".into(), row(ids)?.into()), ("attention_mask".into(), mask.into())];
                if self.dimensions.scoring {
                    inputs.push(("targets".into(), row(targets)?.into()));
                }
                let names = self.dimensions.caches(past_name);
                inputs.extend(names.zip(past.iter()).map(|(name, value)| (name.into(), value.into())));
                let present = self.session.run(|session| {
                    let mut outputs = session.run_with_options(inputs, run).map_err(inference)?;
                    let mut take = |name: &str| {
                        let missing = || Error::new(ErrorKind::Inference, format!("ONNX Runtime gave no {name}"));
                        outputs.remove(name).ok_or_else(missing)
                    };
                    self.logits = take("logits")?.downcast().map_err(inference)?;
                    if self.dimensions.scoring {
                        scores = Some(take("log_probabilities")?.downcast().map_err(inference)?);
                    }
                    self.dimensions.caches(present_name).map(|name| take(&name)).collect::<Result<_>>()
                })?;
                *past = present;
            }
        }
        self.tokens.extend_from_slice(ids);
        Ok(scores)
    }

    /// Sets the keys and values of the first `length` tokens aside.
    pub(super) fn save(&self, length: usize) -> Result<Snapshot> {
        let tokens = self.tokens[..length.min(self.tokens.len())].to_vec();
        let mut values = Vec::with_capacity(self.dimensions.values_per_token() * tokens.len());
        let mut copy = |buffer: &[f32], room: usize| {
            for rows in self.dimensions.rows(0, room, tokens.len()) {
                values.extend_from_slice(&buffer[rows]);
            }
        };
        match &self.cache {
            Cache::Shared(bound) => {
                for buffer in &bound.buffers {
                    copy(buffer.try_extract_tensor::<f32>().map_err(inference)?.1, self.capacity);
                }
            }
            Cache::Grown(past) => {
                for value in past {
                    copy(value.try_extract_tensor::<f32>().map_err(inference)?.1, self.tokens.len());
                }
            }
        }
        Ok(Snapshot { tokens, values })
    }

    /// Makes the first `length` tokens of `snapshot` the sequence.
    pub(super) fn restore(&mut self, snapshot: &Snapshot, length: usize) -> Result<()> {
        let length = length.min(snapshot.tokens.len());
        self.reserve(length)?;
        self.tokens.clear();
        let (heads, size) = (self.dimensions.key_value_heads, self.dimensions.head_size);
        // Of every head all tokens saved, of which the first `length` are wanted.
        let saved = snapshot.values.chunks_exact((snapshot.tokens.len() * size).max(1));
        let mut wanted = saved.map(|values| &values[..length * size]);
        match &mut self.cache {
            Cache::Shared(bound) => {
                for buffer in &mut bound.buffers {
                    let (_, buffer) = buffer.try_extract_tensor_mut::<f32>().map_err(inference)?;
                    for (rows, values) in self.dimensions.rows(0, self.capacity, length).zip(&mut wanted) {
                        buffer[rows].copy_from_slice(values);
                    }
                }
            }
            Cache::Grown(past) if length == 0 => *past = self.dimensions.empty()?,
            Cache::Grown(past) => {
                for value in past {
                    let values: Vec<f32> = wanted.by_ref().take(heads).flatten().copied().collect();
                    let tensor = Tensor::from_array(([1, heads, length, size], values)).map_err(inference)?;
                    *value = tensor.into_dyn();
                }
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

impl Bound {
    fn new(binding: IoBinding) -> Result<Self> {
        let allocator = Allocator::default();
        Ok(Self {
            binding,
            buffers: Vec::new(),
            token: Tensor::new(&allocator, [1_usize, 1]).map_err(inference)?,
            token_bound: false,
            no_targets: Tensor::new(&allocator, [1_usize, 0]).map_err(inference)?,
            no_scores: Tensor::new(&allocator, [1_usize, 0]).map_err(inference)?,
            no_targets_bound: false,
        })
    }

    /// Binds fresh buffers for `capacity` tokens.
    fn bind(&mut self, dimensions: &Dimensions, logits: &mut Tensor<f32>, capacity: usize) -> Result<()> {
        // The old buffers go before the new ones come: never both.
        self.binding.clear();
        self.buffers.clear();
        (self.token_bound, self.no_targets_bound) = (false, false);
        // First of all outputs: ort returns them in the order of binding.
        self.binding.bind_output("logits", logits).map_err(inference)?;
        let shape = [1, dimensions.key_value_heads, capacity, dimensions.head_size];
        for (past, present) in dimensions.caches(past_name).zip(dimensions.caches(present_name)) {
            let mut buffer = Tensor::<f32>::new(&Allocator::default(), shape).map_err(inference)?;
            self.binding.bind_input(past, &buffer).map_err(inference)?;
            self.binding.bind_output(present, &mut buffer).map_err(inference)?;
            self.buffers.push(buffer);
        }
        Ok(())
    }

    /// A single token goes into the one tensor that stays bound.
    fn bind_ids(&mut self, ids: &[u32]) -> Result<()> {
        let [id] = ids else {
            self.token_bound = false;
            return self.binding.bind_input("input_ids", &row(ids)?).map_err(inference);
        };
        let (_, token) = self.token.try_extract_tensor_mut::<i64>().map_err(inference)?;
        token[0] = i64::from(*id);
        if !self.token_bound {
            self.binding.bind_input("input_ids", &self.token).map_err(inference)?;
            self.token_bound = true;
        }
        Ok(())
    }

    /// Returns where the scores of `targets` will be, if there are any.
    fn bind_targets(&mut self, targets: &[u32]) -> Result<Option<Tensor<f32>>> {
        if targets.is_empty() {
            if !self.no_targets_bound {
                self.binding.bind_input("targets", &self.no_targets).map_err(inference)?;
                self.binding.bind_output("log_probabilities", &mut self.no_scores).map_err(inference)?;
                self.no_targets_bound = true;
            }
            return Ok(None);
        }
        self.no_targets_bound = false;
        let mut scores = Tensor::new(&Allocator::default(), [1, targets.len()]).map_err(inference)?;
        self.binding.bind_input("targets", &row(targets)?).map_err(inference)?;
        self.binding.bind_output("log_probabilities", &mut scores).map_err(inference)?;
        Ok(Some(scores))
    }
}

/// Ids as the graph takes them, `[1, ids]`.
fn row(ids: &[u32]) -> Result<Tensor<i64>> {
    let ids: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
    Tensor::from_array(([1, ids.len()], ids)).map_err(inference)
}

pub(super) fn inference(error: ort::Error) -> Error {
    Error::new(ErrorKind::Inference, format!("ONNX Runtime: {error}")).with_source(error)
}
