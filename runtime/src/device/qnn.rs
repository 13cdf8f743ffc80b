//! Qualcomm's NPU. The backend library lies beside ONNX Runtime's or is named in the provider's options.

use ort::ep::QNN;
use ort::ep::qnn::PerformanceMode;

use super::build::Settings;
use super::provider::Provider;

pub(super) fn provider(settings: &Settings) -> QNN {
    let provider = QNN::default().with_performance_mode(PerformanceMode::Burst).with_htp_fp16_precision(true);
    settings.apply(Provider::Qnn, provider)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_options_are_what_the_settings_say() {
        let provider = format!("{:?}", provider(&Settings::example()));
        for part in ["\"burst\"", "\"enable_htp_fp16_precision\""] {
            assert!(provider.contains(part), "{provider}");
        }
    }
}
