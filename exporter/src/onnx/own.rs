//! The same decoder over the same weights, for Margay's own operators (`margay_kernels`): fewer nodes, and products that read
//! the weights where they lie.
//!
//! A pass over the finished graph: every `MatMulNBits` becomes a `BlockLinear`, which reads scales in half precision and
//! sums blocks itself; query, key and value become one; gate, up and what is between them become a `GatedBlockLinear`; a
//! residual that is added to a product goes into it; the embedding becomes a `BlockLookup`. The matrices of a node become one
//! tensor: ONNX Runtime spends more on opening a tensor than on anything else when it loads a graph.

use std::collections::HashMap;

use super::build::{MICROSOFT, int, ints};
use super::external::{piece, place};
use super::matrix::BLOCK_SUMS;
use super::proto::tensor_proto::DataType;
use super::proto::{AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto};

/// Domain of Margay's operators.
const MARGAY: &str = "margay";

/// Block sizes that the operators know.
const BLOCK_SIZES: [i64; 3] = [32, 64, 128];

/// The graph with Margay's operators, or `None` if nothing in it can be one.
pub(crate) fn own_operators(model: &ModelProto) -> Option<ModelProto> {
    let mut model = model.clone();
    let graph = model.graph.as_mut()?;
    let outputs: Vec<String> = graph.output.iter().filter_map(|output| output.name.clone()).collect();
    let sources = Sources::of(graph);
    let mut found = false;
    for node in &mut graph.node {
        if let Some(own) = sources.linear(node).or_else(|| sources.lookup(node)) {
            *node = own;
            found = true;
        }
    }
    if !found {
        return None;
    }
    let mut nodes: Vec<Option<NodeProto>> = std::mem::take(&mut graph.node).into_iter().map(Some).collect();
    join_attention(&mut nodes);
    join_gates(&mut nodes, &outputs);
    join_residuals(&mut nodes, &outputs);
    drop_unused(&mut nodes, &outputs);
    graph.node = nodes.into_iter().flatten().collect();
    for node in graph.node.iter_mut().filter(|node| node.domain.as_deref() == Some(MARGAY)) {
        let piece = sources.as_piece(node)?;
        graph.initializer.push(piece);
    }
    let uses = uses_of(&graph.node, &outputs);
    graph.initializer.retain(|tensor| uses.contains_key(tensor.name.as_deref().unwrap_or_default()));
    model.opset_import.push(OperatorSetIdProto { domain: Some(MARGAY.into()), version: Some(1) });
    Some(model)
}

/// Where the inputs of products come from, in the graph as it was.
struct Sources {
    tensors: HashMap<String, TensorProto>,
    makers: HashMap<String, NodeProto>,
}

impl Sources {
    fn of(graph: &GraphProto) -> Self {
        let tensors = graph.initializer.iter().filter_map(|tensor| Some((tensor.name.clone()?, tensor.clone())));
        let nodes = graph.node.iter();
        let makers = nodes.flat_map(|node| node.output.iter().map(move |name| (name.clone(), node.clone())));
        Self { tensors: tensors.collect(), makers: makers.collect() }
    }

    /// A product that the operators can take over: 4 bits, whole blocks of a known size, no input beyond the zero points.
    fn linear(&self, product: &NodeProto) -> Option<NodeProto> {
        let (columns, size) = (attribute(product, "K")?, blocks_of_4_bits(product, "MatMulNBits")?);
        if columns % size != 0 || !(3..=4).contains(&product.input.len()) {
            return None;
        }
        let (x, block_sums) = self.summed(&product.input[0]).unwrap_or((product.input[0].clone(), 0));
        let mut input = vec![x];
        input.extend(self.matrix(&product.input[1..])?);
        let attribute = vec![
            int("K", columns),
            int("block_size", size),
            int("zero_points", i64::from(input.len() == 4)),
            int("block_sums", block_sums),
            int("residual", 0),
        ];
        Some(own(product, "BlockLinear", input, attribute))
    }

    /// The embedding, likewise.
    fn lookup(&self, gather: &NodeProto) -> Option<NodeProto> {
        let size = blocks_of_4_bits(gather, "GatherBlockQuantized")?;
        let columns = 2 * self.tensors.get(&gather.input[0])?.dims.get(1)?;
        if columns % size != 0 || attribute(gather, "gather_axis") != Some(0) {
            return None;
        }
        let [codes, ids, grid @ ..] = gather.input.as_slice() else { return None };
        let mut input = vec![ids.clone()];
        input.extend(self.matrix(&[std::slice::from_ref(codes), grid].concat())?);
        let attribute =
            vec![int("K", columns), int("block_size", size), int("zero_points", i64::from(input.len() == 4))];
        Some(own(gather, "BlockLookup", input, attribute))
    }

    /// Makes the matrices of one of our nodes one input: the piece of the file from the first of their tensors to the last.
    fn as_piece(&self, node: &mut NodeProto) -> Option<TensorProto> {
        let first = 1 + usize::try_from(attribute(node, "residual").unwrap_or_default()).ok()?;
        let parts = 2 + usize::try_from(attribute(node, "zero_points")?).ok()?;
        let tensors: Vec<_> = node.input[first..].iter().map(|name| self.tensors.get(name)).collect::<Option<_>>()?;
        let places: Vec<(u64, u64)> = tensors.iter().map(|tensor| place(tensor)).collect::<Option<_>>()?;
        let begin = places.iter().map(|(offset, _)| *offset).min()?;
        let end = places.iter().map(|(offset, length)| offset + length).max()?;
        let rows: Vec<i64> =
            tensors.iter().step_by(parts).map(|codes| codes.dims.first().copied()).collect::<Option<_>>()?;
        let places: Vec<i64> = places.iter().map(|(offset, _)| (offset - begin) as i64).collect();
        node.attribute.extend([ints("rows", &rows), ints("places", &places)]);
        let name = format!("{}.matrices", node.name.as_deref().unwrap_or_default());
        node.input.truncate(first);
        node.input.push(name.clone());
        Some(piece(name, tensors.first()?, begin, end - begin))
    }

    /// Codes, scales and perhaps zero points, with the scales as they are stored: in half precision.
    fn matrix(&self, inputs: &[String]) -> Option<Vec<String>> {
        let cast = self.makers.get(inputs.get(1)?).filter(|node| is(node, "", "Cast"))?;
        let halves = self.tensors.get(&cast.input[0]).filter(|t| t.data_type == Some(DataType::Float16 as i32))?;
        let mut inputs = inputs.to_vec();
        inputs[1] = halves.name.clone()?;
        Some(inputs)
    }

    /// What `x` is before the sums of its blocks are put behind it, and how many columns they take.
    fn summed(&self, x: &str) -> Option<(String, i64)> {
        let both = self.makers.get(x).filter(|node| is(node, "", "Concat"))?;
        let [before, sums] = both.input.as_slice() else { return None };
        let sums = self.makers.get(sums).filter(|node| is(node, "", "MatMul") && node.input[0] == *before)?;
        // The ones lie in the file as bytes.
        let floats = self.makers.get(&sums.input[1]).filter(|node| is(node, "", "Cast"))?;
        let ones = self.tensors.get(&floats.input[0]).filter(|_| sums.input[1].starts_with(BLOCK_SUMS))?;
        Some((before.clone(), *ones.dims.get(1)?))
    }
}

/// Size of the node's blocks, if it is this one of ONNX Runtime's operators, on 4 bits in blocks that ours know.
fn blocks_of_4_bits(node: &NodeProto, operator: &str) -> Option<i64> {
    let ours = is(node, MICROSOFT, operator) && attribute(node, "bits") == Some(4);
    attribute(node, "block_size").filter(|size| ours && BLOCK_SIZES.contains(size))
}

/// Margay's `operator` in place of `node`.
fn own(node: &NodeProto, operator: &str, input: Vec<String>, attribute: Vec<AttributeProto>) -> NodeProto {
    let (domain, op_type) = (Some(MARGAY.into()), Some(operator.into()));
    NodeProto { domain, op_type, input, attribute, ..node.clone() }
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
    uses_of(nodes.iter().flatten(), outputs)
}

fn uses_of<'a>(nodes: impl IntoIterator<Item = &'a NodeProto>, outputs: &[String]) -> HashMap<String, usize> {
    let mut uses = HashMap::new();
    for name in nodes.into_iter().flat_map(|node| &node.input).chain(outputs) {
        *uses.entry(name.clone()).or_insert(0) += 1;
    }
    uses
}

/// Removes what nobody reads any more. Nodes stand behind those that they read, so one pass from the end finds all.
fn drop_unused(nodes: &mut [Option<NodeProto>], outputs: &[String]) {
    let mut uses = uses(nodes, outputs);
    for slot in nodes.iter_mut().rev() {
        let unused = |node: &NodeProto| node.output.iter().all(|name| uses.get(name).is_none_or(|count| *count == 0));
        let Some(node) = slot.take_if(|node| unused(node)) else { continue };
        for name in &node.input {
            uses.entry(name.clone()).and_modify(|count| *count -= 1);
        }
    }
}

fn all<const N: usize>(items: impl Iterator<Item = Option<usize>>) -> Option<[usize; N]> {
    items.collect::<Option<Vec<_>>>()?.try_into().ok()
}
