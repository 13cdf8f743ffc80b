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
        self.entry().name
    }

    /// What ONNX Runtime calls it.
    #[must_use]
    pub const fn onnx_runtime_name(self) -> &'static str {
        self.entry().onnx_runtime_name
    }

    /// Whether its Cargo feature is compiled in.
    #[must_use]
    pub const fn is_compiled(self) -> bool {
        self.entry().compiled.is_some()
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
        let Some(Compiled { in_library, .. }) = self.entry().compiled else { return Ok(Available::NoFeature) };
        let failed = |error: ort::Error| {
            Error::new(ErrorKind::Library, "ONNX Runtime does not list its providers").with_source(error)
        };
        Ok(if in_library().map_err(failed)? { Available::InLibrary } else { Available::NotInLibrary })
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
        let Some(Compiled { dispatch, .. }) = self.entry().compiled else {
            let message = format!("this program was built without the feature `{self}`");
            return Err(Error::new(ErrorKind::Provider, message));
        };
        Ok(dispatch(settings).error_on_failure())
    }
}

/// What differs from provider to provider.
struct Entry {
    name: &'static str,
    onnx_runtime_name: &'static str,
    compiled: Option<Compiled>,
}

/// What there is of a provider whose feature is compiled in.
struct Compiled {
    in_library: fn() -> ort::Result<bool>,
    dispatch: fn(&Settings) -> ExecutionProviderDispatch,
}

/// One line for each provider that is a feature: its name here and in ONNX Runtime, its module and ort's type.
macro_rules! entries {
    ($($provider:ident $feature:tt $onnx_runtime_name:literal $module:ident $type:ident;)*) => {
        impl Provider {
            const fn entry(self) -> Entry {
                match self {
                    Self::Cpu => Entry {
                        name: "cpu",
                        onnx_runtime_name: "CPUExecutionProvider",
                        compiled: Some(Compiled {
                            in_library: || Ok(true),
                            dispatch: |settings| super::cpu::provider(settings).build(),
                        }),
                    },
                    $(Self::$provider => Entry {
                        name: $feature,
                        onnx_runtime_name: $onnx_runtime_name,
                        #[cfg(feature = $feature)]
                        compiled: Some(Compiled {
                            in_library: <ort::ep::$type as ort::ep::ExecutionProvider>::is_available,
                            dispatch: |settings| super::$module::provider(settings).build(),
                        }),
                        #[cfg(not(feature = $feature))]
                        compiled: None,
                    },)*
                }
            }
        }
    };
}

entries! {
    Xnnpack "xnnpack" "XnnpackExecutionProvider" xnnpack XNNPACK;
    OpenVino "openvino" "OpenVINOExecutionProvider" openvino OpenVINO;
    CoreMl "coreml" "CoreMLExecutionProvider" coreml CoreML;
    Nnapi "nnapi" "NnapiExecutionProvider" nnapi NNAPI;
    Qnn "qnn" "QNNExecutionProvider" qnn QNN;
    Cuda "cuda" "CUDAExecutionProvider" cuda CUDA;
    TensorRt "tensorrt" "TensorrtExecutionProvider" tensorrt TensorRT;
    DirectMl "directml" "DmlExecutionProvider" directml DirectML;
    MiGraphX "migraphx" "MIGraphXExecutionProvider" migraphx MIGraphX;
    WebGpu "webgpu" "WebGpuExecutionProvider" webgpu WebGPU;
    Acl "acl" "ACLExecutionProvider" acl ACL;
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
