//! NVIDIA's GPUs.

use ort::ep::{ArenaExtendStrategy, CUDA};

use super::build::Settings;
use super::provider::Provider;

pub(super) fn provider(settings: &Settings) -> CUDA {
    let provider = {
        // Growing in steps asked for keeps room for others on the same card.
        let provider = CUDA::default().with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested);
        match settings.memory_limit() {
            Some(bytes) => provider.with_memory_limit(bytes),
            None => provider,
        }
    };
    settings.apply(Provider::Cuda, provider)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_options_are_what_the_settings_say() {
        let provider = format!("{:?}", provider(&Settings::example()));
        for part in ["\"kSameAsRequested\"", "\"gpu_mem_limit\"", "\"1000\""] {
            assert!(provider.contains(part), "{provider}");
        }
    }
}
