//! Google's XNNPACK kernels, mostly for Arm.

use std::num::NonZeroUsize;

use ort::ep::XNNPACK;

use super::build::Settings;
use super::provider::Provider;

pub(super) fn provider(settings: &Settings) -> XNNPACK {
    let provider = {
        // It has a pool of its own, which ONNX Runtime's threads would fight with.
        match NonZeroUsize::new(settings.threads) {
            Some(threads) => XNNPACK::default().with_intra_op_num_threads(threads),
            None => XNNPACK::default(),
        }
    };
    settings.apply(Provider::Xnnpack, provider)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_options_are_what_the_settings_say() {
        let provider = format!("{:?}", provider(&Settings::example()));
        for part in ["\"intra_op_num_threads\"", "\"3\""] {
            assert!(provider.contains(part), "{provider}");
        }
    }
}
