//! The same decoder over the same weights, for Margay's own operators (`margay_kernels`): fewer nodes, and products that read
//! the weights where they lie.
//!
//! A pass over the finished graph: every `MatMulNBits` becomes a `BlockLinear`; query, key and value become one; gate, up
//! and what is between them become a `GatedBlockLinear`; a residual that is added to a product goes into it.

use std::collections::HashMap;

use super::build::{MICROSOFT, int};
use super::proto::{ModelProto, NodeProto, OperatorSetIdProto};

/// Domain of Margay's operators.
const MARGAY: &str = "margay";

/// Block sizes that the operators know.
const BLOCK_SIZES: [i64; 3] = [32, 64, 128];

/// The graph with Margay's operators, or `None` if nothing in it can be one.
pub(crate) fn own_operators(model: &ModelProto) -> Option<ModelProto> {
    let mut model = model.clone();
    let graph = model.graph.as_mut()?;
    let mut nodes: Vec<Option<NodeProto>> = std::mem::take(&mut graph.node).into_iter().map(Some).collect();
    let outputs: Vec<String> = graph.output.iter().filter_map(|output| output.name.clone()).collect();
    let mut found = false;
    for node in nodes.iter_mut().flatten().filter(|node| is_product(node)) {
        *node = linear(node);
        found = true;
    }
    if !found {
        return None;
    }
    join_attention(&mut nodes);
    join_gates(&mut nodes, &outputs);
    join_residuals(&mut nodes, &outputs);
    graph.node = nodes.into_iter().flatten().collect();
    model.opset_import.push(OperatorSetIdProto { domain: Some(MARGAY.into()), version: Some(1) });
    Some(model)
}

/// A product that the operators can take over: 4 bits, whole blocks of a known size, no input beyond the zero points.
fn is_product(node: &NodeProto) -> bool {
    let size = attribute(node, "block_size");
    is(node, MICROSOFT, "MatMulNBits")
        && attribute(node, "bits") == Some(4)
        && (3..=4).contains(&node.input.len())
        && size.is_some_and(|size| BLOCK_SIZES.contains(&size))
        && size.zip(attribute(node, "K")).is_some_and(|(size, columns)| columns % size == 0)
}

fn linear(product: &NodeProto) -> NodeProto {
    let kept = |name: &str| int(name, attribute(product, name).unwrap_or_default());
    NodeProto {
        domain: Some(MARGAY.into()),
        op_type: Some("BlockLinear".into()),
        attribute: vec![
            kept("K"),
            kept("block_size"),
            int("zero_points", i64::from(product.input.len() == 4)),
            int("residual", 0),
        ],
        ..product.clone()
    }
}

/// Query, key and value of one input, which attention then takes packed.
fn join_attention(nodes: &mut [Option<NodeProto>]) {
    let makers = maker_of(nodes);
    for at in 0..nodes.len() {
        let Some(attention) = nodes[at].as_ref().filter(|node| is(node, MICROSOFT, "GroupQueryAttention")) else {
            continue;
        };
        let Some([query, key, value]) = all(attention.input[..3].iter().map(|name| makers.get(name).copied())) else {
            continue;
        };
        let Some(joined) = join(nodes, &[query, key, value], "BlockLinear") else { continue };
        for index in [query, key, value] {
            nodes[index] = None;
        }
        let packed = joined.output[0].clone();
        nodes[query] = Some(joined);
        if let Some(attention) = &mut nodes[at] {
            attention.input[..3].clone_from_slice(&[packed, String::new(), String::new()]);
        }
    }
}

/// `silu(gate) * up`, written as `Mul(Mul(gate, Sigmoid(gate)), up)`.
fn join_gates(nodes: &mut [Option<NodeProto>], outputs: &[String]) {
    let (makers, uses) = (maker_of(nodes), uses(nodes, outputs));
    for at in 0..nodes.len() {
        let node = |index: usize| nodes[index].as_ref();
        let maker = |name: &String| makers.get(name).copied();
        let once = |index: usize| node(index).is_some_and(|node| uses.get(&node.output[0]) == Some(&1));
        let found = (|| {
            let gated = node(at).filter(|node| is(node, "", "Mul"))?;
            let [silu, up] = all(gated.input.iter().map(maker))?;
            let inner = node(silu).filter(|node| is(node, "", "Mul"))?;
            let [gate, sigmoid] = all(inner.input.iter().map(maker))?;
            let sigmoid_of = &node(sigmoid).filter(|node| is(node, "", "Sigmoid"))?.input[0];
            let whole = maker(sigmoid_of) == Some(gate) && uses.get(sigmoid_of) == Some(&2);
            (whole && [silu, sigmoid, up].into_iter().all(once)).then_some([gate, up, sigmoid, silu])
        })();
        let Some([gate, up, sigmoid, silu]) = found else { continue };
        let Some(mut joined) = join(nodes, &[gate, up], "GatedBlockLinear") else { continue };
        let name = nodes[at].as_ref().map(|node| (node.name.clone(), node.output.clone()));
        if let Some((name, output)) = name {
            (joined.name, joined.output) = (name, output);
        }
        for index in [gate, up, sigmoid, silu] {
            nodes[index] = None;
        }
        nodes[at] = Some(joined);
    }
}

/// `Add(x, product)`, if nobody else wants the product.
fn join_residuals(nodes: &mut [Option<NodeProto>], outputs: &[String]) {
    let (makers, uses) = (maker_of(nodes), uses(nodes, outputs));
    for at in 0..nodes.len() {
        let Some(sum) = nodes[at].as_ref().filter(|node| is(node, "", "Add")) else { continue };
        let [residual, product] = sum.input.as_slice() else { continue };
        let Some(&maker) = makers.get(product) else { continue };
        // A bias is an initializer, which no node makes: only what has the product's own shape is taken in.
        let alone = uses.get(product) == Some(&1) && makers.contains_key(residual);
        let Some(mut joined) = nodes[maker].clone().filter(|node| alone && is(node, MARGAY, "BlockLinear")) else {
            continue;
        };
        joined.input.insert(1, residual.clone());
        set(&mut joined, "residual", 1);
        (joined.name, joined.output) = (sum.name.clone(), sum.output.clone());
        nodes[maker] = None;
        nodes[at] = Some(joined);
    }
}

/// One operator for several `BlockLinear` of the same input, blocks and zero points; it keeps the first one's name.
fn join(nodes: &[Option<NodeProto>], members: &[usize], operator: &str) -> Option<NodeProto> {
    let members: Vec<&NodeProto> = members
        .iter()
        .map(|&index| nodes[index].as_ref().filter(|node| is(node, MARGAY, "BlockLinear")))
        .collect::<Option<_>>()?;
    let first = *members.first()?;
    let alike = members.iter().all(|node| node.input[0] == first.input[0] && node.attribute == first.attribute);
    if !alike || attribute(first, "residual") != Some(0) {
        return None;
    }
    let mut joined = NodeProto { op_type: Some(operator.into()), ..first.clone() };
    for other in &members[1..] {
        joined.input.extend_from_slice(&other.input[1..]);
    }
    Some(joined)
}

fn is(node: &NodeProto, domain: &str, operator: &str) -> bool {
    node.domain.as_deref().unwrap_or_default() == domain && node.op_type.as_deref() == Some(operator)
}

fn attribute(node: &NodeProto, name: &str) -> Option<i64> {
    node.attribute.iter().find(|attribute| attribute.name.as_deref() == Some(name)).and_then(|attribute| attribute.i)
}

fn set(node: &mut NodeProto, name: &str, value: i64) {
    for attribute in node.attribute.iter_mut().filter(|attribute| attribute.name.as_deref() == Some(name)) {
        attribute.i = Some(value);
    }
}

/// Index of the node that makes each value.
fn maker_of(nodes: &[Option<NodeProto>]) -> HashMap<String, usize> {
    let made = nodes.iter().enumerate().filter_map(|(index, node)| Some((index, node.as_ref()?)));
    made.flat_map(|(index, node)| node.output.iter().map(move |name| (name.clone(), index))).collect()
}

/// How often each value is read, by nodes and as an output.
fn uses(nodes: &[Option<NodeProto>], outputs: &[String]) -> HashMap<String, usize> {
    let mut uses = HashMap::new();
    for name in nodes.iter().flatten().flat_map(|node| &node.input).chain(outputs) {
        *uses.entry(name.clone()).or_insert(0) += 1;
    }
    uses
}

fn all<const N: usize>(items: impl Iterator<Item = Option<usize>>) -> Option<[usize; N]> {
    items.collect::<Option<Vec<_>>>()?.try_into().ok()
}
