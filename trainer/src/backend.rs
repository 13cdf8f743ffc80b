//! Where tensors live: the CPU in pure Rust, or a GPU whose Cargo feature the program was built with.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// What computes. All but the CPU are Cargo features of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Backend {
    /// Burn's flex backend: pure Rust, nothing to install, the same run twice gives the same bits.
    #[default]
    Cpu,
    /// NVIDIA's.
    Cuda,
    /// AMD's.
    Rocm,
    /// Apple's.
    Metal,
    /// Any GPU with a driver for Vulkan.
    Vulkan,
    /// Any GPU that the graphics library `wgpu` reaches.
    Webgpu,
}

impl Backend {
    const ALL: [Self; 6] = [Self::Cpu, Self::Cuda, Self::Rocm, Self::Metal, Self::Vulkan, Self::Webgpu];

    /// The name in recipes and options.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Rocm => "rocm",
            Self::Metal => "metal",
            Self::Vulkan => "vulkan",
            Self::Webgpu => "webgpu",
        }
    }

    /// The first device of this kind.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] if this program was built without it.
    pub fn device(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            #[cfg(feature = "cuda")]
            Self::Cuda => Ok(Device::cuda(0)),
            #[cfg(feature = "rocm")]
            Self::Rocm => Ok(Device::rocm(0)),
            #[cfg(feature = "metal")]
            Self::Metal => Ok(Device::metal(burn::tensor::DeviceKind::DefaultDevice)),
            #[cfg(feature = "vulkan")]
            Self::Vulkan => Ok(Device::vulkan(burn::tensor::DeviceKind::DefaultDevice)),
            #[cfg(feature = "webgpu")]
            Self::Webgpu => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
            #[cfg(not(all(
                feature = "cuda",
                feature = "rocm",
                feature = "metal",
                feature = "vulkan",
                feature = "webgpu"
            )))]
            absent => {
                let message = format!(
                    "this program was built without the backend `{absent}`: build it with `--features {absent}`"
                );
                Err(Error::new(ErrorKind::Config, message))
            }
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Backend {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|backend| backend.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            Error::new(ErrorKind::Config, format!("backend: `{name}` is none of {known}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_recipes_and_an_absent_backend_says_how_to_get_it() {
        for backend in Backend::ALL {
            assert_eq!(backend.name().parse::<Backend>().unwrap(), backend);
            assert_eq!(serde_json::to_value(backend).unwrap(), backend.name());
        }
        assert!("tpu".parse::<Backend>().unwrap_err().to_string().contains("vulkan"));
        assert!(Backend::Cpu.device().is_ok());
        #[cfg(not(feature = "cuda"))]
        assert!(Backend::Cuda.device().unwrap_err().to_string().contains("--features cuda"));
    }
}
