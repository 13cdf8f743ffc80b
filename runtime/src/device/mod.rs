//! What the model runs on: ONNX Runtime's shared library and the execution providers inside it.

pub mod library;
