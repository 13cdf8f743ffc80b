//! Low-rank adapters (Hu et al., arXiv 2106.09685): Burn attaches them to the weights, here is which and from what seed.

use burn::module::{Lora, Module, ModuleMapper, Param, ParamGroup};
use burn::tensor::{Tensor, TensorData};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::model::CausalLm;
use crate::parameters::normal;

/// Which matrices get an adapter, and how large it is: `W + alpha / rank x A B`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraOptions {
    /// Inner dimension of the adapters.
    pub rank: usize,
    /// Numerator of their scale.
    pub alpha: f64,
    /// Names of the projections that get one, in every layer.
    pub targets: Vec<String>,
}

impl Default for LoraOptions {
    /// Rank 8, alpha 16, on queries and values, as in the paper.
    fn default() -> Self {
        Self { rank: 8, alpha: 16.0, targets: ["q_proj", "v_proj"].map(str::to_owned).into() }
    }
}

impl LoraOptions {
    /// Freezes the model and attaches adapters that change nothing yet: `A` normal with deviation `1 / rank`, `B` zero.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when a name is no projection of a layer, or a number is out of range.
    pub(crate) fn attach(&self, model: CausalLm, seed: u64) -> Result<CausalLm> {
        let refuse = |what: String| Err(Error::new(ErrorKind::Config, format!("model.lora.{what}")));
        if self.rank == 0 || !(self.alpha.is_finite() && self.alpha > 0.0) {
            return refuse("rank, alpha: must be above 0".into());
        }
        if let Some(name) = self.targets.iter().find(|name| !PROJECTIONS.contains(&name.as_str())) {
            return refuse(format!("targets: `{name}` is none of {}", PROJECTIONS.join(", ")));
        }
        if self.targets.is_empty() {
            return refuse("targets: names no projection".into());
        }
        let pattern = format!(r"^model\.layers\.\d+\.(self_attn|mlp)\.({})\.weight$", self.targets.join("|"));
        let group = ParamGroup::from_regex(&pattern)
            .map_err(|e| Error::new(ErrorKind::Config, format!("model.lora.targets: {e:?}")))?;
        let adapted = model.apply_lora(Lora::new(self.rank, self.alpha).set_param_group(group));
        let rng = StdRng::seed_from_u64(seed ^ 0x10_4A);
        Ok(adapted.map(&mut Redraw { rng, deviation: 1.0 / self.rank as f64, path: vec![] }))
    }
}

/// Every matrix of a layer.
const PROJECTIONS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// Draws every `A` again from a stream of the run's own, so that the same seed gives the same run.
struct Redraw {
    rng: StdRng,
    deviation: f64,
    path: Vec<String>,
}

impl ModuleMapper for Redraw {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.path.last().is_none_or(|name| name != "a") {
            return param;
        }
        let Self { rng, deviation, .. } = self;
        param.map(|tensor| {
            let (shape, device) = (tensor.dims(), tensor.device());
            let count = shape.iter().product();
            let values: Vec<f32> = (0..count).map(|_| (normal(rng) * *deviation) as f32).collect();
            Tensor::from_data(TensorData::new(values, shape), &device)
        })
    }
}
