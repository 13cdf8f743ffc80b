//! Any GPU, through Dawn. On ONNX Runtime 1.27 and older its GroupQueryAttention is wrong: the canary finds that out.

use ort::ep::WebGPU;

use super::build::Settings;
use super::provider::Provider;

pub(super) fn provider(settings: &Settings) -> WebGPU {
    let provider = WebGPU::default();
    settings.apply(Provider::WebGpu, provider)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_options_are_what_the_settings_say() {
        let provider = format!("{:?}", provider(&Settings::example()));
        assert!(provider.contains("WebGPU"), "{provider}");
    }
}
