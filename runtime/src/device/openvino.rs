//! Intel's CPUs, GPUs and NPUs: inside ONNX Runtime, or as the plug-in of the Python package `onnxruntime-ep-openvino`.

use ort::ep::OpenVINO;
use serde_json::json;

use super::build::Settings;
use super::provider::Provider;

pub(super) fn provider(settings: &Settings) -> OpenVINO {
    let provider = {
        let provider = OpenVINO::default().with_num_threads(settings.threads);
        match settings.cache_dir() {
            Some(folder) => provider.with_cache_dir(folder),
            None => provider,
        }
    };
    settings.apply(Provider::OpenVino, provider)
}

/// What the plug-in is told. On CPUs that have it OpenVINO would compute in bfloat16, which is another model than the one whose
/// canary and thresholds the bundle has.
pub(super) fn plugin_options(settings: &Settings) -> Vec<(&'static str, String)> {
    let mut cpu = json!({
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": settings.threads.to_string(),
    });
    if let Some(folder) = settings.cache_dir() {
        cpu["CACHE_DIR"] = folder.into();
    }
    vec![("load_config", json!({"CPU": cpu}).to_string())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_options_are_what_the_settings_say() {
        let provider = format!("{:?}", provider(&Settings::example()));
        for part in ["\"num_of_threads\"", "\"cache_dir\"", "\"/cache\""] {
            assert!(provider.contains(part), "{provider}");
        }
        let [(key, config)] = plugin_options(&Settings::example()).try_into().unwrap();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        assert_eq!((key, &config["CPU"]["INFERENCE_PRECISION_HINT"]), ("load_config", &"f32".into()));
        assert_eq!(config["CPU"]["CACHE_DIR"], "/cache");
    }
}
