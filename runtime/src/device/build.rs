//! Builds a session on a given execution provider.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;
use ort::ep::ArbitrarilyConfigurableExecutionProvider;
use ort::operator::OperatorDomain;
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};

use super::options::DeviceOptions;
use super::provider::Provider;
use crate::error::{Error, ErrorKind, Result};

/// What every provider is given, as it understands it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    /// Threads that compute one step.
    pub(crate) threads: usize,
    /// Most bytes of the accelerator's memory.
    memory_limit: Option<usize>,
    cache_dir: Option<String>,
    plugins: Vec<(Provider, PathBuf)>,
    options: Vec<(Provider, String, String)>,
}

impl Settings {
    /// # Errors
    /// [`ErrorKind::InvalidRequest`] for 0 threads or a cache folder that is not UTF-8; [`ErrorKind::Io`] if it cannot be made.
    pub(crate) fn of(options: &DeviceOptions) -> Result<Self> {
        let threads = match options.threads {
            Some(0) => return Err(Error::new(ErrorKind::InvalidRequest, "a model cannot run on 0 threads")),
            Some(threads) => threads,
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let cache_dir = options.cache_dir.as_deref().map(cache_folder).transpose()?;
        Ok(Self {
            threads,
            memory_limit: options.memory_cap.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
            cache_dir,
            plugins: options.plugins.clone(),
            options: options.provider_options.clone(),
        })
    }

    /// Most bytes of the accelerator's memory.
    #[cfg_attr(
        not(any(feature = "cuda", feature = "migraphx")),
        expect(dead_code, reason = "only some providers have memory of their own")
    )]
    pub(super) fn memory_limit(&self) -> Option<usize> {
        self.memory_limit
    }

    /// Where compiled models are kept between starts.
    #[cfg_attr(
        not(any(feature = "openvino", feature = "coreml", feature = "tensorrt")),
        expect(dead_code, reason = "only some providers compile")
    )]
    pub(super) fn cache_dir(&self) -> Option<&str> {
        self.cache_dir.as_deref()
    }

    /// The caller's own options for `of`, on top of ours.
    #[cfg_attr(
        not(any(
            feature = "xnnpack",
            feature = "openvino",
            feature = "coreml",
            feature = "qnn",
            feature = "cuda",
            feature = "tensorrt",
            feature = "webgpu"
        )),
        expect(dead_code, reason = "the CPU has no such options")
    )]
    pub(super) fn apply<E: ArbitrarilyConfigurableExecutionProvider>(&self, of: Provider, mut provider: E) -> E {
        for (_, key, value) in self.options.iter().filter(|(named, ..)| *named == of) {
            provider = provider.with_arbitrary_config(key, value);
        }
        provider
    }

    fn plugin(&self, of: Provider) -> Option<&Path> {
        self.plugins.iter().find(|(provider, _)| *provider == of).map(|(_, path)| path.as_path())
    }

    #[cfg(test)]
    pub(super) fn example() -> Self {
        Self { threads: 3, memory_limit: Some(1000), cache_dir: Some("/cache".into()), ..Self::default() }
    }
}

fn cache_folder(folder: &Path) -> Result<String> {
    let shown = folder.display();
    std::fs::create_dir_all(folder)
        .map_err(|error| Error::new(ErrorKind::Io, format!("cannot make the folder {shown}")).with_source(error))?;
    folder
        .to_str()
        .map(str::to_owned)
        .ok_or_else(|| Error::new(ErrorKind::InvalidRequest, format!("the cache folder {shown} is not in UTF-8")))
}

/// Loads the graph by its path, for ONNX Runtime to map the weights that lie beside it, on `provider` and on the CPU for what
/// that leaves. With a `profile`, what runs is recorded in a file whose name begins so. `operators` are Margay's own, which their
/// graph needs.
pub(crate) fn session(
    environment: &Environment,
    graph: &Path,
    provider: Provider,
    settings: &Settings,
    profile: Option<&Path>,
    operators: Option<OperatorDomain>,
) -> Result<Session> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(ErrorKind::Inference, format!("ONNX Runtime does not take {} on {provider}", graph.display()))
            .with_source(error)
    };
    // The pools of these two would fight with ONNX Runtime's.
    let threads = if provider == Provider::Xnnpack { 1 } else { settings.threads };
    let mut builder = Session::builder(environment)
        .map_err(|error| failed(error.into()))?
        .with_optimization_level(GraphOptimizationLevel::Level3)
        .map_err(|error| failed(error.to_string().into()))?
        .with_intra_threads(threads)
        .map_err(|error| failed(error.to_string().into()))?
        .with_config_entry("session.intra_op.spin_duration_us", SPIN_MICROSECONDS)
        .map_err(|error| failed(error.to_string().into()))?;
    if let Some(profile) = profile {
        builder = builder.with_profiling(profile).map_err(|error| failed(error.to_string().into()))?;
    }
    if let Some(operators) = operators {
        builder = builder.with_operators(operators).map_err(|error| failed(error.to_string().into()))?;
    }
    builder = register(environment, builder, provider, settings)?;
    builder.commit_from_file(graph).map_err(|error| failed(error.into()))
}

/// How long a thread of ONNX Runtime's looks for more work before it sleeps: longer than between two operators of a step, and
/// not so long that it keeps a core from those who verify the weights and read the tokenizer, or a battery from rest.
const SPIN_MICROSECONDS: &str = "50";

fn register(
    environment: &Environment,
    builder: SessionBuilder,
    provider: Provider,
    settings: &Settings,
) -> Result<SessionBuilder> {
    let refused = |error: String| {
        Error::new(ErrorKind::Provider, format!("ONNX Runtime does not give the provider {provider}: {error}"))
    };
    if provider == Provider::Cpu {
        // Named as a device: a session that names none is given whatever provider ONNX Runtime finds most efficient, CoreML on
        // every Mac, and a plug-in from the moment that it was loaded for somebody else.
        let name = provider.onnx_runtime_name();
        let device = environment.devices().find(|device| device.ep().is_ok_and(|ep| ep == name));
        if let Some(device) = device {
            return builder.with_devices([device], None).map_err(|error| refused(error.to_string()));
        }
    }
    let Some(plugin) = settings.plugin(provider) else {
        let dispatch = provider.dispatch(settings)?;
        return builder.with_execution_providers([dispatch]).map_err(|error| refused(error.to_string()));
    };
    if !provider.is_compiled() {
        provider.dispatch(settings)?;
    }
    load_plugin(environment, provider, plugin)?;
    let name = provider.onnx_runtime_name();
    let devices: Vec<_> = environment.devices().filter(|device| device.ep().is_ok_and(|ep| ep == name)).collect();
    if devices.is_empty() {
        return Err(refused(format!("{} finds no device", plugin.display())));
    }
    let own = settings.options.iter().filter(|(named, ..)| *named == provider);
    let own: Vec<(&str, &str)> = own.map(|(_, key, value)| (key.as_str(), value.as_str())).collect();
    let ours = provider.plugin_options(settings);
    // The caller's own replace ours.
    let ours = ours.iter().map(|(key, value)| (*key, value.as_str()));
    let kept = ours.filter(|(key, _)| own.iter().all(|(named, _)| named != key));
    let options: Vec<(String, String)> =
        kept.chain(own.iter().copied()).map(|(key, value)| (format!("{name}.{key}"), value.to_owned())).collect();
    // The first device only: several of one plug-in are alternatives, in its own order of preference.
    builder.with_devices(devices.into_iter().take(1), Some(&options)).map_err(|error| refused(error.to_string()))
}

/// Loads a provider's own library into the environment, once per process.
fn load_plugin(environment: &Environment, provider: Provider, library: &Path) -> Result<()> {
    static LOADED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let missing = |error: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(ErrorKind::Provider, format!("the plug-in {} does not load", library.display())).with_source(error)
    };
    // Registering a library that is not there makes ONNX Runtime complain on standard error, too.
    let library = library.canonicalize().map_err(|error| missing(error.into()))?;
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if !loaded.contains(&library) {
        environment
            .register_ep_library(provider.onnx_runtime_name(), &library)
            .map_err(|error| missing(error.into()))?;
        loaded.insert(library);
    }
    Ok(())
}
