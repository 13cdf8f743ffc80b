//! The pinned ONNX Runtime release: one Python wheel per platform, and the library inside it.

/// The release that is fetched and that every figure was measured with.
pub const VERSION: &str = "1.31.1";

/// One platform's build.
#[derive(Debug)]
#[cfg_attr(not(feature = "fetch"), expect(dead_code, reason = "the wheel's facts are for fetching"))]
pub(super) struct Release {
    /// Short name of the platform, part of the folder's name in the cache.
    pub(super) platform: &'static str,
    /// The wheel's platform tag.
    pub(super) tag: &'static str,
    /// SHA-256 of the wheel for CPython 3.11. The Python version does not matter to the library inside.
    pub(super) wheel_sha256: &'static str,
    /// The library's path inside the wheel.
    pub(super) member: &'static str,
    /// Size of the library, in bytes.
    pub(super) library_size: u64,
}

impl Release {
    pub(super) fn file_name(&self) -> &'static str {
        self.member.rsplit_once('/').map_or(self.member, |(_, name)| name)
    }
}

/// The build for the platform this crate is compiled for.
pub(super) const RELEASE: Option<&Release> =
    if cfg!(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64")) {
        Some(&Release {
            platform: "linux-x86_64",
            tag: "manylinux_2_28_x86_64",
            wheel_sha256: "5752bd508126ae7c49894d3b9d2e83f0c3d487319246d04c444b393308d7ad7f",
            member: "onnxruntime/capi/libonnxruntime.so.1.31.1",
            library_size: 29_352_200,
        })
    } else if cfg!(all(target_os = "linux", target_env = "gnu", target_arch = "aarch64")) {
        Some(&Release {
            platform: "linux-aarch64",
            tag: "manylinux_2_28_aarch64",
            wheel_sha256: "da05378364c44d4407e463982d2bf8d5e4cfea873283757e48beeb41df97b7f3",
            member: "onnxruntime/capi/libonnxruntime.so.1.31.1",
            library_size: 25_265_040,
        })
    } else if cfg!(all(target_os = "macos", target_arch = "aarch64")) {
        Some(&Release {
            platform: "macos-aarch64",
            tag: "macosx_14_0_arm64",
            wheel_sha256: "60b6b69bfe580eab576cacc5d132a0e9cf2a37fcfd18d46dd191042b1d1ed0d7",
            member: "onnxruntime/capi/libonnxruntime.1.31.1.dylib",
            library_size: 33_037_336,
        })
    } else if cfg!(all(target_os = "windows", target_arch = "x86_64")) {
        Some(&Release {
            platform: "windows-x86_64",
            tag: "win_amd64",
            wheel_sha256: "c3d91b5de31e2fc82d71bd65b2b22bddee8b49057a3a36338e9a868e0ea90c05",
            member: "onnxruntime/capi/onnxruntime.dll",
            library_size: 19_288_888,
        })
    } else {
        None
    };
