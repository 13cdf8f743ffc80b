//! What a run needs to go on as if it had not been stopped: trained parameters, moments, averages, place in the data.
//!
//! A folder appears whole under its name or not at all.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::OptimizerRecord;
use burn::tensor::Tensor;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use super::averages::{Averages, put, values};
use super::session::{Place, Session};
use crate::error::{Error, ErrorKind, Result};
use crate::model::CausalLm;

/// Shape and values of parameters by their path.
pub(super) type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// The small facts of a state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Facts {
    version: u32,
    pub(super) step: usize,
    epoch: u64,
    batch: usize,
    /// The optimiser knows parameters by number.
    numbers: BTreeMap<String, u64>,
    /// Digest of the recipe that this belongs to.
    pub(super) recipe: String,
    /// The best measure so far.
    pub(super) best: Option<f64>,
}

const VERSION: u32 = 1;
const FACTS: &str = "state.json";
const PARAMETERS: &str = "parameters.safetensors";
const AVERAGES: &str = "averages.safetensors";
const OPTIMIZER: &str = "optimizer.bpk";
const PREFIX: &str = "step-";
const UNFINISHED: &str = ".state-";
/// A step has so many digits in a folder's name, so that names sort.
const DIGITS: usize = 9;

/// Writes a session's state as `folder/step-N`, and removes all but the last `keep` such folders.
///
/// # Errors
/// [`ErrorKind::Io`] when a file cannot be written; earlier states are as before then.
pub(super) fn save(session: &Session<'_>, folder: &Path, recipe: &str, best: Option<f64>, keep: usize) -> Result<()> {
    fs::create_dir_all(folder).map_err(|e| Error::io("make the folder", folder, e))?;
    remove_unfinished(folder)?;
    let staging = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(folder);
    let staging = staging.map_err(|e| Error::io("make a folder in", folder, e))?;
    let at = |name: &str| staging.path().join(name);
    write_tensors(&trained(&session.model), &at(PARAMETERS))?;
    if let Some(averages) = &session.averages {
        write_tensors(averages.values(), &at(AVERAGES))?;
    }
    let path = at(OPTIMIZER);
    let saved = session.optimizer.save(&path);
    saved.map_err(|e| Error::new(ErrorKind::Io, format!("cannot write {}: {e}", path.display())))?;
    let facts = Facts {
        version: VERSION,
        step: session.step,
        epoch: session.place.epoch,
        batch: session.place.batch,
        numbers: numbers(&session.model),
        recipe: recipe.into(),
        best,
    };
    let json = serde_json::to_vec_pretty(&facts).map_err(|e| Error::new(ErrorKind::Io, format!("{FACTS}: {e}")))?;
    fs::write(at(FACTS), json).map_err(|e| Error::io("write", &at(FACTS), e))?;
    let entries = fs::read_dir(staging.path()).map_err(|e| Error::io("read", staging.path(), e))?;
    for entry in entries {
        let path = entry.map_err(|e| Error::io("read", staging.path(), e))?.path();
        sync(&path)?;
    }
    sync(staging.path())?;
    let target = folder.join(format!("{PREFIX}{:0DIGITS$}", session.step));
    if target.exists() {
        fs::remove_dir_all(&target).map_err(|e| Error::io("remove", &target, e))?;
    }
    let staging = staging.keep();
    fs::rename(&staging, &target).map_err(|e| Error::io("rename to", &target, e))?;
    sync(folder)?;
    let states = all(folder)?;
    for old in states.iter().rev().skip(keep) {
        fs::remove_dir_all(old).map_err(|e| Error::io("remove", old, e))?;
    }
    Ok(())
}

/// Removes what a process that was killed while it wrote has left.
fn remove_unfinished(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|e| Error::io("read", folder, e))? {
        let entry = entry.map_err(|e| Error::io("read", folder, e))?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(UNFINISHED)) {
            fs::remove_dir_all(entry.path()).map_err(|e| Error::io("remove", &entry.path(), e))?;
        }
    }
    Ok(())
}

/// The last state in a folder, if there is one.
///
/// # Errors
/// [`ErrorKind::Io`] when the folder cannot be read.
pub(super) fn last(folder: &Path) -> Result<Option<PathBuf>> {
    if !folder.exists() {
        return Ok(None);
    }
    Ok(all(folder)?.pop())
}

/// Every state in a folder, first to last.
fn all(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(|e| Error::io("read", folder, e))?;
    let mut states = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("read", folder, e))?;
        let name = entry.file_name();
        let step = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if step.is_some_and(|step| step.len() >= DIGITS && step.bytes().all(|byte| byte.is_ascii_digit())) {
            states.push(entry.path());
        }
    }
    states.sort();
    Ok(states)
}

/// Reads the small facts of a state.
///
/// # Errors
/// [`ErrorKind::Io`], or [`ErrorKind::Checkpoint`] naming the file.
pub(super) fn facts(state: &Path) -> Result<Facts> {
    let path = state.join(FACTS);
    let json = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
    let facts: Facts = serde_json::from_slice(&json).map_err(|e| malformed(&path, e.to_string()))?;
    if facts.version != VERSION {
        return Err(malformed(&path, format!("is of version {}, this reads {VERSION}", facts.version)));
    }
    Ok(facts)
}

/// Puts a session where a state was saved. Its model must be the run's first one.
///
/// # Errors
/// [`ErrorKind::Io`], or [`ErrorKind::Checkpoint`] naming the file that is malformed or of another model.
pub(super) fn restore(session: &mut Session<'_>, state: &Path) -> Result<Facts> {
    let facts = facts(state)?;
    let path = state.join(PARAMETERS);
    let parameters = read_tensors(&path)?;
    let own = trained(&session.model);
    let shapes =
        |tensors: &Tensors| tensors.iter().map(|(k, (shape, _))| (k.clone(), shape.clone())).collect::<Vec<_>>();
    if shapes(&own) != shapes(&parameters) {
        return Err(malformed(&path, "is of a model with other parameters".into()));
    }
    let model = put(session.model.clone(), &parameters);
    session.model = model.map(&mut Renumber { numbers: &facts.numbers, path: vec![] });
    if let Some(averages) = &session.averages {
        let values = read_tensors(&state.join(AVERAGES))?;
        session.averages = Some(Averages::resumed(averages.decay(), values));
    }
    let path = state.join(OPTIMIZER);
    let record = OptimizerRecord::load(&path).map_err(|e| malformed(&path, e.to_string()))?;
    session.optimizer = session.optimizer.clone().load_record(record);
    session.step = facts.step;
    session.go_to(Place { epoch: facts.epoch, batch: facts.batch });
    Ok(facts)
}

/// Every parameter that is trained.
pub(super) fn trained(model: &CausalLm) -> Tensors {
    let mut visitor = Trained { tensors: Tensors::new(), path: vec![] };
    model.visit(&mut visitor);
    visitor.tensors
}

struct Trained {
    tensors: Tensors,
    path: Vec<String>,
}

impl ModuleVisitor for Trained {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.base();
        if tensor.is_require_grad() {
            self.tensors.insert(self.path.join("."), (tensor.dims().to_vec(), values(&tensor)));
        }
    }
}

fn numbers(model: &CausalLm) -> BTreeMap<String, u64> {
    let mut visitor = Numbers { numbers: BTreeMap::new(), path: vec![] };
    model.visit(&mut visitor);
    visitor.numbers
}

struct Numbers {
    numbers: BTreeMap<String, u64>,
    path: Vec<String>,
}

impl ModuleVisitor for Numbers {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.numbers.insert(self.path.join("."), param.id.val());
    }
}

/// Gives parameters the numbers that the optimiser's record knows them by.
struct Renumber<'a> {
    numbers: &'a BTreeMap<String, u64>,
    path: Vec<String>,
}

impl ModuleMapper for Renumber<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(&number) = self.numbers.get(&self.path.join(".")) else { return param };
        let (_, tensor, mapper) = param.consume();
        Param::from_mapped_value(ParamId::from(number), tensor, mapper)
    }
}

fn write_tensors(tensors: &Tensors, path: &Path) -> Result<()> {
    let bytes: Vec<(&str, &[usize], Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, values))| {
            (name.as_str(), shape.as_slice(), values.iter().flat_map(|value| value.to_le_bytes()).collect())
        })
        .collect();
    let views =
        bytes.iter().map(|(name, shape, bytes)| Ok((*name, TensorView::new(Dtype::F32, shape.to_vec(), bytes)?)));
    let views: Result<Vec<_>, safetensors::SafeTensorError> = views.collect();
    let written = views.and_then(|views| safetensors::serialize_to_file(views, None, path));
    written.map_err(|e| Error::new(ErrorKind::Io, format!("cannot write {}: {e}", path.display())).with_source(e))
}

fn read_tensors(path: &Path) -> Result<Tensors> {
    let bytes = fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| malformed(path, e.to_string()))?;
    let mut read = Tensors::new();
    for (name, view) in tensors.tensors() {
        if view.dtype() != Dtype::F32 {
            return Err(malformed(path, format!("{name}: is of {:?}, not F32", view.dtype())));
        }
        let values = view.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        read.insert(name, (view.shape().to_vec(), values));
    }
    Ok(read)
}

fn malformed(path: &Path, what: String) -> Error {
    Error::new(ErrorKind::Checkpoint, format!("{}: {what}", path.display()))
}

/// Makes sure that a file, or the names in a folder, are on the disk.
fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|e| Error::io("flush", path, e))
}
