//! Apple's CPU, GPU and Neural Engine. Without a cache folder every start compiles the model anew.

use ort::ep::CoreML;
use ort::ep::coreml::{ComputeUnits, ModelFormat};

use super::build::Settings;
use super::provider::Provider;

pub(super) fn provider(settings: &Settings) -> CoreML {
    let provider = {
        let provider =
            CoreML::default().with_model_format(ModelFormat::MLProgram).with_compute_units(ComputeUnits::All);
        match settings.cache_dir() {
            Some(folder) => provider.with_model_cache_dir(folder),
            None => provider,
        }
    };
    settings.apply(Provider::CoreMl, provider)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_options_are_what_the_settings_say() {
        let provider = format!("{:?}", provider(&Settings::example()));
        for part in ["\"MLProgram\"", "\"ModelCacheDirectory\"", "\"/cache\""] {
            assert!(provider.contains(part), "{provider}");
        }
    }
}
