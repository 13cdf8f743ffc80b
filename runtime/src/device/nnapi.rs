//! Android's old interface. Its own CPU fallback is slower than ONNX Runtime's, so it is switched off.

use ort::ep::NNAPI;

use super::build::Settings;

pub(super) fn provider(_settings: &Settings) -> NNAPI {
    NNAPI::default().with_fp16(true).with_disable_cpu(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_options_are_what_the_settings_say() {
        let provider = format!("{:?}", provider(&Settings::example()));
        for part in ["use_fp16: true", "disable_cpu: true"] {
            assert!(provider.contains(part), "{provider}");
        }
    }
}
