//! What a command may use of the device, and `margay devices`: what there is, and what a model really runs on.

use std::path::PathBuf;

use clap::Args;
use margay::device::{Available, EpPolicy, Outcome, Provider};
use margay::{DeviceOptions, Report};
use serde::Serialize;

use crate::console::Console;
use crate::error::Result;
use crate::library;

/// What a model may use of the device.
#[derive(Debug, Clone, Default, Args)]
pub struct DeviceArgs {
    /// Threads that compute one step [default: one for each core]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Execution providers, the most wanted first, e.g. openvino,xnnpack [default: cpu]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub provider: Vec<Provider>,
    /// What happens with a provider that is missing, fails or is slow: require, prefer or auto
    #[arg(long, value_name = "POLICY", default_value_t)]
    pub provider_policy: EpPolicy,
    /// Library of a provider that is not part of ONNX Runtime, e.g. openvino=/opt/libonnxruntime_providers_openvino_plugin.so
    #[arg(long, value_name = "PROVIDER=PATH", value_parser = plugin)]
    pub plugin: Vec<(Provider, PathBuf)>,
    /// Option of a provider in its own words, e.g. openvino.device_type=GPU
    #[arg(long, value_name = "PROVIDER.KEY=VALUE", value_parser = provider_option)]
    pub provider_option: Vec<(Provider, String, String)>,
    /// Most bytes for weights, key-value buffers and prefix cache together
    #[arg(long, value_name = "BYTES")]
    pub memory_cap: Option<u64>,
    /// Folder where compiled models and notes of canaries are kept between starts [default: in Margay's cache]
    #[arg(long, value_name = "DIR")]
    pub provider_cache: Option<PathBuf>,
}

/// What `margay devices` is asked.
#[derive(Debug, Clone, Args)]
pub struct DevicesArgs {
    /// Load this bundle too and say what it runs on
    #[arg(long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// What the bundle may use
    #[command(flatten)]
    pub device: DeviceArgs,
}

impl DeviceArgs {
    /// The same as the runtime takes it.
    #[must_use]
    pub fn options(&self) -> DeviceOptions {
        DeviceOptions {
            threads: self.threads,
            providers: self.provider.clone(),
            policy: self.provider_policy,
            plugins: self.plugin.clone(),
            provider_options: self.provider_option.clone(),
            memory_cap: self.memory_cap,
            cache_dir: self.provider_cache.clone().or_else(library::device_cache),
            ..DeviceOptions::default()
        }
    }
}

fn plugin(text: &str) -> Result<(Provider, PathBuf), String> {
    let (provider, path) = text.split_once('=').ok_or("not PROVIDER=PATH")?;
    Ok((provider.parse().map_err(|error: margay::Error| error.to_string())?, path.into()))
}

fn provider_option(text: &str) -> Result<(Provider, String, String), String> {
    let (key, value) = text.split_once('=').ok_or("not PROVIDER.KEY=VALUE")?;
    let (provider, key) = key.split_once('.').ok_or("not PROVIDER.KEY=VALUE")?;
    Ok((provider.parse().map_err(|error: margay::Error| error.to_string())?, key.into(), value.into()))
}

/// What there is of every provider, and what a bundle runs on.
#[derive(Debug, Serialize)]
pub struct Devices {
    /// In the order of [`Provider::ALL`].
    pub providers: Vec<ProviderLine>,
    /// How the bundle was loaded, if one was named.
    pub report: Option<Report>,
}

/// One provider.
#[derive(Debug, Serialize)]
pub struct ProviderLine {
    /// Which.
    pub provider: Provider,
    /// What there is of it.
    pub available: Available,
}

/// Lists the execution providers and, with a bundle, loads it and says what ran where.
///
/// # Errors
/// [`crate::Error`] naming the bundle or the provider that is required and does not run it.
pub fn devices(args: &DevicesArgs, console: &mut Console) -> Result<Devices> {
    console.for_programs(args.json);
    library::prepare(&mut console.aside(), "")?;
    let available = |provider: Provider| Ok(ProviderLine { provider, available: provider.available()? });
    let providers = Provider::ALL.into_iter().map(available).collect::<Result<Vec<_>>>()?;
    let options = DeviceOptions { count_nodes: true, ..args.device.options() };
    let report = match &args.bundle {
        Some(bundle) => Some(library::open(bundle, options, console)?.1.report()),
        None => None,
    };
    let devices = Devices { providers, report };
    let of_providers = devices.providers.iter().map(|ProviderLine { provider, available }| {
        let words = match available {
            Available::NoFeature => "not compiled into this program",
            Available::NotInLibrary => "not in this ONNX Runtime; a plug-in may bring it",
            _ => "in this ONNX Runtime",
        };
        format!("{provider:<10} {words}")
    });
    console.result(&devices, of_providers.chain(devices.report.iter().flat_map(lines)))?;
    Ok(devices)
}

fn lines(report: &Report) -> Vec<String> {
    let milliseconds = |time: std::time::Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    let mut lines = vec![format!("{} ({})", report.library.display(), report.library_build)];
    for attempt in &report.attempts {
        let canary = attempt.canary.map(|time| format!(", warm canary {}", milliseconds(time))).unwrap_or_default();
        lines.push(match &attempt.outcome {
            Outcome::InUse => format!("{:<10} in use{canary}", attempt.provider),
            Outcome::Slower => format!("{:<10} runs, but slower{canary}", attempt.provider),
            Outcome::Dropped(why) => format!("{:<10} dropped: {why}", attempt.provider),
            other => format!("{:<10} {other:?}", attempt.provider),
        });
    }
    let nodes = report.nodes.iter().flatten().map(|(provider, nodes)| format!("{nodes} on {provider}"));
    lines.push(format!("nodes: {}", nodes.collect::<Vec<_>>().join(", ")));
    lines.push(format!(
        "{} threads, load {}, warm-up {}, canary within {:.1e}; model {:.1} MB{}",
        report.threads,
        milliseconds(report.load),
        milliseconds(report.warm_up),
        report.canary_error,
        report.model_bytes as f64 / 1e6,
        report.peak_rss.map(|bytes| format!(", peak RSS {:.1} MB", bytes as f64 / 1e6)).unwrap_or_default(),
    ));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_provider_is_told_is_read_or_refused() {
        assert_eq!(plugin("openvino=/a=b.so").unwrap(), (Provider::OpenVino, "/a=b.so".into()));
        let option = provider_option("openvino.device_type=HETERO:NPU,GPU").unwrap();
        assert_eq!(option, (Provider::OpenVino, "device_type".into(), "HETERO:NPU,GPU".into()));
        for bad in ["openvino", "gpu=/x", ""] {
            assert!(plugin(bad).is_err());
        }
        for bad in ["openvino=x", "openvino.key", "gpu.key=1"] {
            assert!(provider_option(bad).is_err());
        }
    }
}
