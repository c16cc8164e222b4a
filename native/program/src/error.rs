//! Everything that can be wrong with a model, one variant per kind.
//!
//! Every message is one sentence that names the place (archive entry, node, weight, input or layer) and, where there
//! is something to do about it, says what. Match on the variant, never on the text.

use crate::ir::{DType, Scalar};

/// Why a model was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are neither a zip nor JSON.
    #[error(
        "the model ({length} bytes) is neither a .pt2 archive nor a layer list in JSON; save a program with \
         torch.export.save or give a layer list"
    )]
    UnknownFormat {
        /// How many bytes were given.
        length: usize,
    },

    /// The zip's structure cannot be followed.
    #[error("the .pt2 archive ({length} bytes) is truncated or damaged ({source}); save or copy it again")]
    BrokenArchive {
        /// How many bytes were given.
        length: usize,
        /// What the zip reader found.
        source: rawzip::Error,
    },

    /// One entry of the zip is not what its directory says.
    #[error("entry {entry} of the .pt2 archive is damaged: {problem}; save or copy the archive again")]
    BrokenEntry {
        /// Path inside the archive.
        entry: String,
        /// What was expected and what was found.
        problem: String,
    },

    /// The zip holds no exported program.
    #[error(
        "the zip holds no exported program (no models/*.json); TorchScript files, torch.save files and exports of torch \
         before 2.9 cannot be read: save the model with torch.export.save of torch 2.9 or newer"
    )]
    NotAnExport,

    /// The archive holds more than one program.
    #[error("the .pt2 archive holds the programs {}; save exactly one", names.join(", "))]
    SeveralPrograms {
        /// The names of the programs found.
        names: Vec<String>,
    },

    /// An entry the archive should have is not there.
    #[error("the .pt2 archive has no entry {entry}; save it again with torch.export.save of torch 2.9 or newer")]
    MissingEntry {
        /// Path inside the archive.
        entry: String,
    },

    /// The weights were written on a machine of the other byte order.
    #[error("the .pt2 archive holds {found}-endian weights; only little-endian archives can be read")]
    ByteOrder {
        /// What the archive's `byteorder` entry says.
        found: String,
    },

    /// An entry is not the JSON it should be.
    #[error("entry {entry} of the .pt2 archive is not what torch.export writes: {source}")]
    Json {
        /// Path inside the archive.
        entry: String,
        /// Where and why parsing ended.
        source: serde_json::Error,
    },

    /// The program's schema has another major version.
    #[error(
        "the program has export schema {major}.{minor}, Kindling reads schema {supported}.x; export it with a torch \
         release from 2.9 to 2.13"
    )]
    SchemaVersion {
        /// Major version found.
        major: i64,
        /// Minor version found.
        minor: i64,
        /// The major version this crate reads.
        supported: i64,
    },

    /// The program's ATen operators have another version.
    #[error("the program uses version {found} of the aten operators, Kindling runs version {supported}")]
    OpsetVersion {
        /// Version found.
        found: i64,
        /// The version this crate knows.
        supported: i64,
    },

    /// The program was lowered: its dropout and batch norm no longer know training from evaluation.
    #[error(
        "the program is of the {dialect} dialect, not a training program; save what torch.export.export returned, \
         without run_decompositions"
    )]
    Decomposed {
        /// The dialect named by the program.
        dialect: String,
    },

    /// The program takes something that is not a tensor, a parameter, a buffer or a constant.
    #[error("input {index} of the program is of kind {kind}; a program may take tensors only")]
    UnsupportedInput {
        /// Position among all inputs of the graph, weights included.
        index: usize,
        /// Kind as the archive names it.
        kind: String,
    },

    /// The program takes no tensor at all.
    #[error("the program has no tensor input; there is nothing to feed rows into")]
    NoInput,

    /// The program returns something that is neither a tensor, a number nor None.
    #[error("output {index} of the program is of kind {kind}; return tensors, in tuples, dicts or dataclasses")]
    UnsupportedOutput {
        /// Position of the output.
        index: usize,
        /// Kind as the archive names it.
        kind: String,
    },

    /// The program returns nothing.
    #[error("the program returns no tensor; return at least the prediction")]
    NoOutput,

    /// Dimension 0 of an input is a number, so the program fits one batch size only.
    #[error(
        "input {input} has a fixed batch of {size} rows; export with a dynamic batch: \
         torch.export.export(model, args, dynamic_shapes=({{0: torch.export.Dim(\"batch\", min=2)}},))"
    )]
    StaticBatch {
        /// Name of the input.
        input: String,
        /// The size of dimension 0.
        size: i64,
    },

    /// Dimension 0 of an input is symbolic but cannot be any number of rows.
    #[error("input {input} takes batches of {expression} rows only; export with a plain dynamic batch dimension")]
    ConstrainedBatch {
        /// Name of the input.
        input: String,
        /// The symbolic expression of dimension 0.
        expression: String,
    },

    /// A size of an input is computed from other sizes in a way Kindling cannot check.
    #[error(
        "dimension {dimension} of input {input} has the size {expression}, which Kindling cannot check; export with a \
         plain dimension, or with one that is computed by +, *, //, %, max and min"
    )]
    UnsupportedSize {
        /// Name of the input.
        input: String,
        /// Which dimension.
        dimension: usize,
        /// The expression as the archive writes it.
        expression: String,
    },

    /// An input has no dimension to number the rows.
    #[error("input {input} is a scalar; its first dimension must be the batch")]
    ScalarInput {
        /// Name of the input.
        input: String,
    },

    /// The operator is not on Kindling's list.
    #[error("node {node} runs {op}, which is not on Kindling's list of operators that only compute")]
    ForbiddenOp {
        /// Name of the node.
        node: String,
        /// Operator as `aten::name.overload`.
        op: String,
    },

    /// The node computes on numbers in a way Kindling does not.
    #[error(
        "node {node} runs {op} on numbers, which is not supported; compute it from tensors, or from numbers known at \
         export"
    )]
    SymbolicNumber {
        /// Name of the node.
        node: String,
        /// The Python operation.
        op: String,
    },

    /// A node that holds a graph is not put together as torch.export does it.
    #[error("node {node} holds a graph of its own and {problem}; export the model again")]
    BrokenRegion {
        /// Name of the node.
        node: String,
        /// What is wrong.
        problem: &'static str,
    },

    /// The node runs a graph of its own in a way Kindling does not know.
    #[error(
        "node {node} runs the higher-order operator {op}, which holds a graph of its own and is not supported; {hint}"
    )]
    HigherOrder {
        /// Name of the node.
        node: String,
        /// Operator as the archive names it.
        op: String,
        /// What to write instead.
        hint: &'static str,
    },

    /// An argument or a result is of a kind that is not supported.
    #[error("{role} {argument} of node {node} is of the unsupported kind {kind}")]
    UnsupportedArgument {
        /// Name of the node.
        node: String,
        /// "argument" or "result".
        role: &'static str,
        /// Name or number of the argument.
        argument: String,
        /// Kind as the archive names it.
        kind: String,
    },

    /// A node uses a value that no earlier node, input or weight defines.
    #[error("{user} uses the value {value}, which nothing before it defines")]
    UndefinedValue {
        /// Who uses it: a node and argument, or an output.
        user: String,
        /// Name of the value.
        value: String,
    },

    /// A node uses a number where a tensor is due, or the other way round.
    #[error("{user} uses the value {value} as {expected}, but it is not one")]
    WrongValue {
        /// Who uses it: a node and argument, or an output.
        user: String,
        /// Name of the value.
        value: String,
        /// What it was used as.
        expected: &'static str,
    },

    /// Two definitions share a name.
    #[error("the value {value} is defined twice")]
    DuplicateValue {
        /// Name of the value.
        value: String,
    },

    /// A symbolic operation has another number of arguments than Python's operator.
    #[error("node {node} gives {found} arguments to {op}, which takes {expected}")]
    Arity {
        /// Name of the node.
        node: String,
        /// The operation.
        op: String,
        /// Arguments found.
        found: usize,
        /// Arguments it takes.
        expected: usize,
    },

    /// A tensor has more dimensions than libtorch works on.
    #[error("{place} has {found} dimensions; libtorch works on at most {most}")]
    TooManyDimensions {
        /// Which tensor.
        place: String,
        /// Dimensions found.
        found: usize,
        /// The most there may be.
        most: usize,
    },

    /// A tensor is said to have a size below zero.
    #[error("{place} has the size {size}, which is below zero; export the model again")]
    NegativeSize {
        /// Which tensor.
        place: String,
        /// The size found.
        size: i64,
    },

    /// A tensor's type and shape are not stated.
    #[error("the program does not state the type and shape of the tensor {value}")]
    MissingMeta {
        /// Name of the tensor.
        value: String,
    },

    /// An element type Kindling does not have.
    #[error("{place} has the element type {dtype}, which Kindling does not support")]
    UnsupportedDtype {
        /// Which tensor or argument.
        place: String,
        /// The type's name, or its number in the export schema.
        dtype: String,
    },

    /// A memory layout Kindling does not have.
    #[error("{place} has a layout other than strided (number {code} in the export schema), which is not supported")]
    UnsupportedLayout {
        /// Which tensor or argument.
        place: String,
        /// Number in the export schema.
        code: i64,
    },

    /// An unknown memory format.
    #[error("{place} has an unknown memory format (number {code} in the export schema)")]
    UnsupportedMemoryFormat {
        /// Which argument.
        place: String,
        /// Number in the export schema.
        code: i64,
    },

    /// A weight the program uses is not in the archive.
    #[error("the weight {name} is not listed in {entry} of the .pt2 archive")]
    MissingWeight {
        /// Name of the parameter, buffer or constant.
        name: String,
        /// The list it should be in.
        entry: String,
    },

    /// A weight is stored as a Python pickle, which could run code.
    #[error(
        "{name} is stored as a Python pickle, which Kindling never opens; save a program with plain tensors using \
         torch 2.9 or newer"
    )]
    Pickled {
        /// Name of the weight or archive entry.
        name: String,
    },

    /// Sizes, strides and offset of a stored tensor do not make sense or do not fit its bytes.
    #[error("the tensor {name} (sizes {sizes:?}, strides {strides:?}, offset {offset}, {dtype}) {problem}")]
    TensorLayout {
        /// Name of the weight.
        name: String,
        /// Sizes found.
        sizes: Vec<i64>,
        /// Strides found, in elements.
        strides: Vec<i64>,
        /// Offset found, in elements.
        offset: i64,
        /// Element type.
        dtype: DType,
        /// What is wrong, with the numbers.
        problem: String,
    },

    /// The stored tensor and the program disagree.
    #[error("the tensor {name} is stored as {stored}, but the program expects {expected}")]
    WeightMismatch {
        /// Name of the weight.
        name: String,
        /// Type and sizes stored.
        stored: String,
        /// Type and sizes the graph states.
        expected: String,
    },

    /// Two weights share memory without being the same tensor, so training one would have to move the other.
    #[error(
        "the weights {first} and {second} are different views of the same memory, which training cannot keep \
         together; clone one of them before exporting"
    )]
    SharedStorage {
        /// Name of the first weight.
        first: String,
        /// Name of the second weight.
        second: String,
    },

    /// The layer list is not the JSON it should be.
    #[error("the layer list is not valid: {source}")]
    LayerList {
        /// Where and why parsing ended.
        source: serde_json::Error,
    },

    /// One layer has an unknown type or key, a value of the wrong type, or the wrong number of inputs.
    #[error("layer {layer} of the layer list is not valid: {problem}")]
    LayerJson {
        /// Position of the layer, from 0, with its type and name as far as they are known.
        layer: String,
        /// Why it was refused.
        problem: String,
    },

    /// A layer's setting is out of range, or the layer does not fit what it is given.
    #[error("layer {layer} cannot be built on rows of shape {}: {problem}", shapes_text(shapes))]
    Layer {
        /// Position of the layer, from 0, with its type and name.
        layer: String,
        /// What one row of each input looks like where the layer stands (without the batch).
        shapes: Vec<Vec<i64>>,
        /// What is wrong, with the numbers.
        problem: String,
    },

    /// The layer list has no layer.
    #[error("the layer list has no layers; give at least one")]
    NoLayers,

    /// The shape of an input is none.
    #[error("the shape {shape:?} of the layer list's {input} {problem}")]
    InputShape {
        /// Name of the input.
        input: String,
        /// The shape given.
        shape: Vec<i64>,
        /// What is wrong.
        problem: &'static str,
    },

    /// Memory for a layer's first weights could not be had.
    #[error("there is no memory for the {elements} elements of the weight {name}")]
    Memory {
        /// Name of the weight.
        name: String,
        /// Elements asked for.
        elements: i64,
    },

    /// A batch norm cannot be synchronised.
    #[error(
        "syncBatchNorm: node {node} calls {op}, which only a decomposed program has; export the model without run_decompositions"
    )]
    Synchronise {
        /// The node.
        node: String,
        /// What it calls.
        op: String,
    },

    /// What is to be computed again in backward cannot be chosen as asked.
    #[error("activationCheckpointing: {problem}")]
    Checkpointing {
        /// What is wrong, and what to do.
        problem: String,
    },

    /// An operation on numbers has no result: a division by zero, an integer beyond 64 bits, a root of a negative number.
    #[error("{op} of {} has no result", arguments.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Arithmetic {
        /// The operation.
        op: &'static str,
        /// Its arguments.
        arguments: Vec<Scalar>,
    },
    /// Trained weights are not the program's.
    #[error("the trained weights {problem}: they belong to another program")]
    Trained {
        /// What they lack or hold, as the end of a sentence.
        problem: String,
    },

    /// The program has no form as an archive.
    #[error("the program cannot be written as a .pt2 archive: {problem}")]
    Unwritable {
        /// What stands in the way.
        problem: String,
    },

    /// The archive's graph cannot be followed node by node to its evaluation.
    #[error(
        "node {node} of the program has no place in the archive's graph, so its evaluation cannot be written; write the \
         training program"
    )]
    NoEvaluation {
        /// Name of the node.
        node: String,
    },

    /// The archive could not be written to its place.
    #[error("entry {entry} of the .pt2 archive could not be written: {source}")]
    Writing {
        /// Path inside the archive.
        entry: String,
        /// Why.
        source: rawzip::Error,
    },
}

fn shapes_text(shapes: &[Vec<i64>]) -> String {
    shapes.iter().map(|shape| format!("{shape:?}")).collect::<Vec<_>>().join(" and ")
}
