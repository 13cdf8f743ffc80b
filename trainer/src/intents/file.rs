//! A classifier on disk: one safetensors file, with the intents' names in its metadata.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use margay_intents::MAX_HIDDEN;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::IntentClassifier;
use crate::error::{Error, ErrorKind, Result};
use crate::files::write_atomically;

/// Most intents: each is a row of the output matrix and a logit on the stack.
pub const MAX_INTENTS: usize = 1024;

/// The file in the classifier's folder.
const FILE: &str = "intents.safetensors";

/// Largest file that is read: 2^16 buckets of 64 units in 4 bytes, and as much again for everything else.
const MAX_BYTES: u64 = 32 << 20;

const NAMES: &str = "intents";

impl IntentClassifier {
    /// Whether a folder holds a classifier.
    #[must_use]
    pub fn is_in(folder: &Path) -> bool {
        folder.join(FILE).is_file()
    }

    /// Writes the classifier into `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub fn save(&self, folder: &Path) -> Result<PathBuf> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io("make the folder", folder, e))?;
        let path = folder.join(FILE);
        let bytes = |weights: &[f32]| weights.iter().flat_map(|weight| weight.to_le_bytes()).collect::<Vec<u8>>();
        let (embedding, output, biases) = (bytes(&self.embedding), bytes(&self.output), bytes(&self.biases));
        let refused = |e: safetensors::SafeTensorError| {
            Error::new(ErrorKind::Checkpoint, format!("cannot write {}: {e}", path.display())).with_source(e)
        };
        let intents = self.intents.len();
        let tensors = [
            ("embedding", vec![self.buckets(), self.hidden], &embedding),
            ("output", vec![intents, self.hidden], &output),
            ("biases", vec![intents], &biases),
        ];
        let views = tensors
            .iter()
            .map(|(name, shape, bytes)| Ok((*name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
            .collect::<Result<Vec<_>, _>>()
            .map_err(refused)?;
        let names = serde_json::to_string(&self.intents)
            .map_err(|e| Error::new(ErrorKind::Checkpoint, "an intent's name cannot be written").with_source(e))?;
        let metadata = HashMap::from([(NAMES.to_owned(), names)]);
        let file = safetensors::serialize(views, Some(metadata)).map_err(refused)?;
        write_atomically(&path, &file)?;
        Ok(path)
    }

    /// Reads a classifier.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]; [`ErrorKind::Checkpoint`] naming file and tensor.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let size = std::fs::metadata(&path).map_err(|e| Error::io("read", &path, e))?.len();
        let wrong = |why: String| Error::new(ErrorKind::Checkpoint, format!("{}: {why}", path.display()));
        if size > MAX_BYTES {
            return Err(wrong(format!("{size} bytes are over {MAX_BYTES}")));
        }
        let bytes = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|e| wrong(e.to_string()))?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| wrong(e.to_string()))?;
        let names = metadata.metadata().as_ref().and_then(|metadata| metadata.get(NAMES));
        let intents: Vec<String> = names
            .and_then(|names| serde_json::from_str(names).ok())
            .ok_or_else(|| wrong(format!("the metadata `{NAMES}` is no list of names")))?;
        if !(2..=MAX_INTENTS).contains(&intents.len()) {
            return Err(wrong(format!("{} intents; there must be 2 to {MAX_INTENTS}", intents.len())));
        }
        let tensor = |name: &str, rows: Option<usize>, columns: Option<usize>| -> Result<(Vec<f32>, Vec<usize>)> {
            let view = file.tensor(name).map_err(|e| wrong(format!("{name}: {e}")))?;
            let shape = view.shape().to_vec();
            let wanted = if name == "biases" { 1 } else { 2 };
            let fits = |at: usize, length: Option<usize>| length.is_none_or(|length| shape.get(at) == Some(&length));
            if view.dtype() != Dtype::F32 || shape.len() != wanted || !fits(0, rows) || !fits(1, columns) {
                return Err(wrong(format!("{name}: {:?} of shape {shape:?} is not what belongs there", view.dtype())));
            }
            let weights: Vec<f32> = view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            if weights.iter().any(|weight| !weight.is_finite()) {
                return Err(wrong(format!("{name}: a weight is not a finite number")));
            }
            Ok((weights, shape))
        };
        let (embedding, shape) = tensor("embedding", None, None)?;
        let hidden = shape[1];
        if hidden == 0 || hidden > MAX_HIDDEN || !shape[0].is_power_of_two() {
            return Err(wrong(format!("embedding: {shape:?} is no power of two of rows of 1 to {MAX_HIDDEN} units")));
        }
        let (output, _) = tensor("output", Some(intents.len()), Some(hidden))?;
        let (biases, _) = tensor("biases", Some(intents.len()), None)?;
        Ok(Self { intents, hidden, embedding, output, biases })
    }
}
