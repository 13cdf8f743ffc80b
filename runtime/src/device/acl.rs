//! Arm's Compute Library. Fast math rounds to bfloat16, which the canary's tolerance does not allow for.

use ort::ep::ACL;

use super::build::Settings;

pub(super) fn provider(_settings: &Settings) -> ACL {
    ACL::default().with_fast_math(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_options_are_what_the_settings_say() {
        let provider = format!("{:?}", provider(&Settings::example()));
        assert!(provider.contains("fast_math: false"), "{provider}");
    }
}
