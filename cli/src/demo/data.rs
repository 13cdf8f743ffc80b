//! CLINC150 as text-to-text, carried inside the binary: the utterance in, the intent's words out.

use std::fs;
use std::path::Path;

use margay_trainer::data::{Example, read_jsonl, split_by_hash};

use super::Recipe;
use crate::error::{Error, Result};

/// Rows of the demonstration.
pub(super) struct Data {
    /// What the models are trained on.
    pub(super) train: Vec<Example>,
    /// What thresholds are chosen on.
    pub(super) calibration: Vec<Example>,
    /// What everything is scored on, once.
    pub(super) test: Vec<Example>,
}

/// The two files, as they lie in the repository. See NOTICE for their origin and licence.
const FILES: [(&str, &[u8]); 2] = [
    ("train.jsonl.gz", include_bytes!("../../data/clinc150/train.jsonl.gz")),
    ("test.jsonl.gz", include_bytes!("../../data/clinc150/test.jsonl.gz")),
];

impl Data {
    /// Reads `train.jsonl.gz` and `test.jsonl.gz` from `folder`, or else those inside the binary by way of `out`.
    pub(super) fn load(folder: Option<&Path>, out: &Path, recipe: &Recipe) -> Result<Self> {
        let unpacked = out.join("data");
        let folder = match folder {
            Some(folder) => folder,
            None => {
                fs::create_dir_all(&unpacked).map_err(|e| Error::io("make the folder", &unpacked, e))?;
                for (name, bytes) in FILES {
                    let path = unpacked.join(name);
                    fs::write(&path, bytes).map_err(|e| Error::io("write", &path, e))?;
                }
                &unpacked
            }
        };
        let [train, test] = FILES.map(|(name, _)| read_jsonl(&folder.join(name)));
        let thin = |rows: Vec<Example>| rows.into_iter().step_by(recipe.every).collect();
        let split = split_by_hash(thin(train?), recipe.calibration_share);
        Ok(Self { train: split.train, calibration: split.calibration, test: thin(test?) })
    }
}
