//! Any GPU under Windows.

use ort::ep::DirectML;
use ort::ep::directml::PerformancePreference;

use super::build::Settings;

pub(super) fn provider(_settings: &Settings) -> DirectML {
    DirectML::default().with_performance_preference(PerformancePreference::HighPerformance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_options_are_what_the_settings_say() {
        let provider = format!("{:?}", provider(&Settings::example()));
        assert!(provider.contains("HighPerformance"), "{provider}");
    }
}
