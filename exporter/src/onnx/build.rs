//! Small constructors for ONNX messages, so that the decoder reads like the formula it is.

use super::proto::tensor_proto::DataType;
use super::proto::tensor_shape_proto::{Dimension, dimension};
use super::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto, attribute_proto::AttributeType, type_proto,
};

/// A graph under construction. Every node's output carries the node's name.
#[derive(Default)]
pub(crate) struct GraphBuilder {
    graph: GraphProto,
}

impl GraphBuilder {
    pub(crate) fn new(name: &str) -> Self {
        Self { graph: GraphProto { name: Some(name.into()), ..GraphProto::default() } }
    }

    /// Declares an input of the given dimensions; a text is a dimension known at run time.
    pub(crate) fn input(&mut self, name: &str, element: DataType, shape: &[Dim<'_>]) {
        self.graph.input.push(value_info(name, element, shape));
    }

    /// Declares that the value `name` is an output.
    pub(crate) fn output(&mut self, name: &str, element: DataType, shape: &[Dim<'_>]) {
        self.graph.output.push(value_info(name, element, shape));
    }

    pub(crate) fn initializer(&mut self, tensor: TensorProto) {
        self.graph.initializer.push(tensor);
    }

    /// A constant of integers; a scalar if `shape` is empty.
    pub(crate) fn integers(&mut self, name: &str, shape: &[usize], values: &[i64]) -> String {
        self.initializer(TensorProto {
            name: Some(name.into()),
            dims: shape.iter().map(|&d| d as i64).collect(),
            data_type: Some(DataType::Int64 as i32),
            int64_data: values.to_vec(),
            ..TensorProto::default()
        });
        name.into()
    }

    /// A constant of 32-bit floats.
    pub(crate) fn floats(&mut self, name: &str, shape: &[usize], values: Vec<f32>) -> String {
        self.initializer(TensorProto {
            name: Some(name.into()),
            dims: shape.iter().map(|&d| d as i64).collect(),
            data_type: Some(DataType::Float as i32),
            float_data: values,
            ..TensorProto::default()
        });
        name.into()
    }

    /// A constant of one 32-bit float.
    pub(crate) fn number(&mut self, name: &str, value: f32) -> String {
        self.initializer(TensorProto {
            name: Some(name.into()),
            data_type: Some(DataType::Float as i32),
            float_data: vec![value],
            ..TensorProto::default()
        });
        name.into()
    }

    /// A constant of one byte.
    pub(crate) fn byte(&mut self, name: &str, value: u8) -> String {
        self.initializer(TensorProto {
            name: Some(name.into()),
            data_type: Some(DataType::Uint8 as i32),
            int32_data: vec![value.into()],
            ..TensorProto::default()
        });
        name.into()
    }

    /// A node of the standard operator set with one output, which is returned.
    pub(crate) fn node(&mut self, name: &str, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        self.custom(name, "", op, inputs, &[name], attributes);
        name.into()
    }

    /// A node of any operator set, with named outputs.
    pub(crate) fn custom(
        &mut self,
        name: &str,
        domain: &str,
        op: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) {
        self.graph.node.push(NodeProto {
            name: Some(name.into()),
            domain: Some(domain.into()),
            op_type: Some(op.into()),
            input: inputs.iter().map(|&input| input.into()).collect(),
            output: outputs.iter().map(|&output| output.into()).collect(),
            attribute: attributes,
            ..NodeProto::default()
        });
    }

    /// The finished model. Only operator sets that a node is of are named: a runtime without the others takes it.
    pub(crate) fn model(self) -> ModelProto {
        let has = |wanted: &dyn Fn(&NodeProto) -> bool| self.graph.node.iter().any(wanted);
        let norms = has(&|node| node.op_type.as_deref() == Some("RMSNormalization"));
        let fused = has(&|node| node.domain.as_deref() == Some(MICROSOFT));
        let (version, ir_version) = if norms { WITH_NORMS } else { WIDESPREAD };
        let opset = |domain: &str, version| OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) };
        ModelProto {
            ir_version: Some(ir_version),
            producer_name: Some("margay".into()),
            producer_version: Some(env!("CARGO_PKG_VERSION").into()),
            opset_import: [opset("", version)].into_iter().chain(fused.then(|| opset(MICROSOFT, 1))).collect(),
            graph: Some(self.graph),
            ..ModelProto::default()
        }
    }
}

/// The operator set in which RMSNormalization is standard (ONNX 1.18) and the file format that goes with it.
const WITH_NORMS: (i64, i64) = (23, 11);

/// The same for a graph without: the operator set in which DequantizeLinear takes blocks (ONNX 1.16).
const WIDESPREAD: (i64, i64) = (21, 10);

/// Domain of ONNX Runtime's own operators.
pub(crate) const MICROSOFT: &str = "com.microsoft";

/// One dimension of a tensor.
#[derive(Clone, Copy)]
pub(crate) enum Dim<'a> {
    Fixed(usize),
    Named(&'a str),
}

pub(crate) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::Int as i32),
        i: Some(value),
        ..AttributeProto::default()
    }
}

pub(crate) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::Ints as i32),
        ints: values.to_vec(),
        ..AttributeProto::default()
    }
}

pub(crate) fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::Float as i32),
        f: Some(value),
        ..AttributeProto::default()
    }
}

pub(crate) fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::String as i32),
        s: Some(value.into()),
        ..AttributeProto::default()
    }
}

fn value_info(name: &str, element: DataType, shape: &[Dim<'_>]) -> ValueInfoProto {
    let dim = shape
        .iter()
        .map(|dim| Dimension {
            value: Some(match dim {
                Dim::Fixed(size) => dimension::Value::DimValue(*size as i64),
                Dim::Named(name) => dimension::Value::DimParam((*name).into()),
            }),
            ..Dimension::default()
        })
        .collect();
    let tensor = type_proto::Tensor { elem_type: Some(element as i32), shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() }),
        ..ValueInfoProto::default()
    }
}
