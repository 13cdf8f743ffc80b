//! The execution providers that Margay knows, by name.

use std::fmt;
use std::str::FromStr;

use ort::ep::ExecutionProviderDispatch;
use serde::{Deserialize, Serialize};

use super::build::Settings;
use crate::error::{Error, ErrorKind, Result};

/// An execution provider of ONNX Runtime. Each but the CPU is a Cargo feature of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Provider {
    /// ONNX Runtime's own kernels; always there.
    Cpu,
    /// Google's kernels for Arm and x86.
    Xnnpack,
    /// Intel's CPUs, GPUs and NPUs.
    OpenVino,
    /// Apple's CPU, GPU and Neural Engine.
    CoreMl,
    /// Android's old interface: deprecated, often slower than the CPU, never chosen automatically.
    Nnapi,
    /// Qualcomm's NPU.
    Qnn,
    /// NVIDIA's GPUs.
    Cuda,
    /// NVIDIA's GPUs, compiled for the model.
    TensorRt,
    /// Any GPU under Windows.
    DirectMl,
    /// AMD's GPUs.
    MiGraphX,
    /// Any GPU, through Dawn.
    WebGpu,
    /// Arm's Compute Library.
    Acl,
}

/// What there is of a provider, see [`Provider::available`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Available {
    /// The Cargo feature is not compiled in.
    NoFeature,
    /// ONNX Runtime's library was built without it; a plug-in may still bring it.
    NotInLibrary,
    /// ONNX Runtime's library was built with it. Whether there is a device for it only a session shows.
    InLibrary,
}

impl Provider {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Cpu,
        Self::Xnnpack,
        Self::OpenVino,
        Self::CoreMl,
        Self::Nnapi,
        Self::Qnn,
        Self::Cuda,
        Self::TensorRt,
        Self::DirectMl,
        Self::MiGraphX,
        Self::WebGpu,
        Self::Acl,
    ];

    /// The name on command lines and in files, which is also the Cargo feature's.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Xnnpack => "xnnpack",
            Self::OpenVino => "openvino",
            Self::CoreMl => "coreml",
            Self::Nnapi => "nnapi",
            Self::Qnn => "qnn",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
            Self::DirectMl => "directml",
            Self::MiGraphX => "migraphx",
            Self::WebGpu => "webgpu",
            Self::Acl => "acl",
        }
    }

    /// What ONNX Runtime calls it.
    #[must_use]
    pub const fn onnx_runtime_name(self) -> &'static str {
        match self {
            Self::Cpu => "CPUExecutionProvider",
            Self::Xnnpack => "XnnpackExecutionProvider",
            Self::OpenVino => "OpenVINOExecutionProvider",
            Self::CoreMl => "CoreMLExecutionProvider",
            Self::Nnapi => "NnapiExecutionProvider",
            Self::Qnn => "QNNExecutionProvider",
            Self::Cuda => "CUDAExecutionProvider",
            Self::TensorRt => "TensorrtExecutionProvider",
            Self::DirectMl => "DmlExecutionProvider",
            Self::MiGraphX => "MIGraphXExecutionProvider",
            Self::WebGpu => "WebGpuExecutionProvider",
            Self::Acl => "ACLExecutionProvider",
        }
    }

    /// Whether its Cargo feature is compiled in.
    #[must_use]
    pub const fn is_compiled(self) -> bool {
        match self {
            Self::Cpu => true,
            Self::Xnnpack => cfg!(feature = "xnnpack"),
            Self::OpenVino => cfg!(feature = "openvino"),
            Self::CoreMl => cfg!(feature = "coreml"),
            Self::Nnapi => cfg!(feature = "nnapi"),
            Self::Qnn => cfg!(feature = "qnn"),
            Self::Cuda => cfg!(feature = "cuda"),
            Self::TensorRt => cfg!(feature = "tensorrt"),
            Self::DirectMl => cfg!(feature = "directml"),
            Self::MiGraphX => cfg!(feature = "migraphx"),
            Self::WebGpu => cfg!(feature = "webgpu"),
            Self::Acl => cfg!(feature = "acl"),
        }
    }

    /// Whether it extends past key-values in place when past and present are one buffer, as ONNX Runtime's own kernel does.
    /// OpenVINO takes the whole buffer for the past, and what is not written yet with it; of the others it was not seen.
    pub(crate) fn shares_buffers(self) -> bool {
        self == Self::Cpu
    }

    /// What there is of it in this program and in the ONNX Runtime that is loaded.
    ///
    /// # Errors
    /// [`ErrorKind::Library`] if none is loaded yet.
    pub fn available(self) -> Result<Available> {
        if super::library::Library::loaded().is_none() {
            return Err(Error::new(ErrorKind::Library, "no ONNX Runtime is loaded yet"));
        }
        let in_library = match self {
            Self::Cpu => Ok(true),
            #[cfg(feature = "xnnpack")]
            Self::Xnnpack => in_library::<ort::ep::XNNPACK>(),
            #[cfg(feature = "openvino")]
            Self::OpenVino => in_library::<ort::ep::OpenVINO>(),
            #[cfg(feature = "coreml")]
            Self::CoreMl => in_library::<ort::ep::CoreML>(),
            #[cfg(feature = "nnapi")]
            Self::Nnapi => in_library::<ort::ep::NNAPI>(),
            #[cfg(feature = "qnn")]
            Self::Qnn => in_library::<ort::ep::QNN>(),
            #[cfg(feature = "cuda")]
            Self::Cuda => in_library::<ort::ep::CUDA>(),
            #[cfg(feature = "tensorrt")]
            Self::TensorRt => in_library::<ort::ep::TensorRT>(),
            #[cfg(feature = "directml")]
            Self::DirectMl => in_library::<ort::ep::DirectML>(),
            #[cfg(feature = "migraphx")]
            Self::MiGraphX => in_library::<ort::ep::MIGraphX>(),
            #[cfg(feature = "webgpu")]
            Self::WebGpu => in_library::<ort::ep::WebGPU>(),
            #[cfg(feature = "acl")]
            Self::Acl => in_library::<ort::ep::ACL>(),
            #[cfg(not(all(
                feature = "xnnpack",
                feature = "openvino",
                feature = "coreml",
                feature = "nnapi",
                feature = "qnn",
                feature = "cuda",
                feature = "tensorrt",
                feature = "directml",
                feature = "migraphx",
                feature = "webgpu",
                feature = "acl"
            )))]
            _ => return Ok(Available::NoFeature),
        };
        let failed = |error: ort::Error| {
            Error::new(ErrorKind::Library, "ONNX Runtime does not list its providers").with_source(error)
        };
        Ok(if in_library.map_err(failed)? { Available::InLibrary } else { Available::NotInLibrary })
    }

    /// What its plug-in is told, if it comes as one.
    #[cfg_attr(
        not(feature = "openvino"),
        expect(unused_variables, reason = "only OpenVINO's plug-in is told anything")
    )]
    pub(super) fn plugin_options(self, settings: &Settings) -> Vec<(&'static str, String)> {
        match self {
            #[cfg(feature = "openvino")]
            Self::OpenVino => super::openvino::plugin_options(settings),
            _ => Vec::new(),
        }
    }

    /// The provider with its options, as ONNX Runtime takes it.
    pub(super) fn dispatch(self, settings: &Settings) -> Result<ExecutionProviderDispatch> {
        let dispatch = match self {
            Self::Cpu => super::cpu::provider(settings).build(),
            #[cfg(feature = "xnnpack")]
            Self::Xnnpack => super::xnnpack::provider(settings).build(),
            #[cfg(feature = "openvino")]
            Self::OpenVino => super::openvino::provider(settings).build(),
            #[cfg(feature = "coreml")]
            Self::CoreMl => super::coreml::provider(settings).build(),
            #[cfg(feature = "nnapi")]
            Self::Nnapi => super::nnapi::provider(settings).build(),
            #[cfg(feature = "qnn")]
            Self::Qnn => super::qnn::provider(settings).build(),
            #[cfg(feature = "cuda")]
            Self::Cuda => super::cuda::provider(settings).build(),
            #[cfg(feature = "tensorrt")]
            Self::TensorRt => super::tensorrt::provider(settings).build(),
            #[cfg(feature = "directml")]
            Self::DirectMl => super::directml::provider(settings).build(),
            #[cfg(feature = "migraphx")]
            Self::MiGraphX => super::migraphx::provider(settings).build(),
            #[cfg(feature = "webgpu")]
            Self::WebGpu => super::webgpu::provider(settings).build(),
            #[cfg(feature = "acl")]
            Self::Acl => super::acl::provider(settings).build(),
            #[cfg(not(all(
                feature = "xnnpack",
                feature = "openvino",
                feature = "coreml",
                feature = "nnapi",
                feature = "qnn",
                feature = "cuda",
                feature = "tensorrt",
                feature = "directml",
                feature = "migraphx",
                feature = "webgpu",
                feature = "acl"
            )))]
            _ => {
                let message = format!("this program was built without the feature `{self}`");
                return Err(Error::new(ErrorKind::Provider, message));
            }
        };
        Ok(dispatch.error_on_failure())
    }
}

#[cfg(any(
    feature = "xnnpack",
    feature = "openvino",
    feature = "coreml",
    feature = "nnapi",
    feature = "qnn",
    feature = "cuda",
    feature = "tensorrt",
    feature = "directml",
    feature = "migraphx",
    feature = "webgpu",
    feature = "acl"
))]
fn in_library<E: ort::ep::ExecutionProvider>() -> ort::Result<bool> {
    E::is_available()
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Provider {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|provider| provider.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::new(ErrorKind::InvalidRequest, format!("`{name}` is no execution provider: {names}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for provider in Provider::ALL {
            assert_eq!(provider.name().parse::<Provider>().unwrap(), provider);
            assert_eq!(serde_json::to_value(provider).unwrap(), provider.name());
        }
        assert!("gpu".parse::<Provider>().is_err());
    }

    #[test]
    fn a_provider_that_is_not_compiled_in_says_so() {
        let settings = Settings::default();
        for provider in Provider::ALL {
            let dispatch = provider.dispatch(&settings);
            assert_eq!(dispatch.is_ok(), provider.is_compiled(), "{provider}");
            if let Err(error) = dispatch {
                assert_eq!(error.kind(), ErrorKind::Provider);
            }
        }
    }
}
