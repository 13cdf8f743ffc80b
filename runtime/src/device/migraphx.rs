//! AMD's GPUs.

use ort::ep::MIGraphX;

use super::build::Settings;

pub(super) fn provider(settings: &Settings) -> MIGraphX {
    match settings.memory_limit() {
        Some(bytes) => MIGraphX::default().with_mem_limit(bytes),
        None => MIGraphX::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_options_are_what_the_settings_say() {
        let provider = format!("{:?}", provider(&Settings::example()));
        assert!(provider.contains("1000"), "{provider}");
    }
}
