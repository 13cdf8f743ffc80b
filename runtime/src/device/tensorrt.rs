//! NVIDIA's GPUs, with kernels compiled for the model: minutes at first, nothing from the cache folder.

use ort::ep::TensorRT;

use super::build::Settings;
use super::provider::Provider;

pub(super) fn provider(settings: &Settings) -> TensorRT {
    let provider = {
        match settings.cache_dir() {
            Some(folder) => TensorRT::default()
                .with_engine_cache(true)
                .with_engine_cache_path(folder)
                .with_timing_cache(true)
                .with_timing_cache_path(folder),
            None => TensorRT::default(),
        }
    };
    settings.apply(Provider::TensorRt, provider)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_options_are_what_the_settings_say() {
        let provider = format!("{:?}", provider(&Settings::example()));
        for part in ["\"trt_engine_cache_enable\"", "\"trt_engine_cache_path\"", "\"/cache\""] {
            assert!(provider.contains(part), "{provider}");
        }
    }
}
