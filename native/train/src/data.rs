//! The rows of one rank as batches of tensors, gathered from the shards of its executor process.

use std::sync::Arc;

use kindling_program::{Dim, Input, Program};
use kindling_shards::{Column, Role, Shard, ShardStore, Split};
use tch::{Device, Kind, Tensor};

use crate::error::{Doing, Error, Result};
use crate::loss::Loss;
use crate::plan::{self, Owned, ShardRef};
use crate::tensors;

/// A rank's share of one batch.
pub(crate) struct Batch {
    pub(crate) inputs: Vec<Tensor>,
    pub(crate) labels: Tensor,
    pub(crate) rows: i64,
}

/// What a rank reads: its shards, and which of their rows are its own.
pub(crate) struct RankData {
    /// Per shard of the plan, those of this process.
    shards: Vec<Option<Arc<Shard>>>,
    pub(crate) training: Owned,
    pub(crate) validation: Owned,
    /// One per program input, and last the labels.
    columns: Vec<ColumnLayout>,
}

/// How a column becomes a tensor.
#[derive(Debug, Clone)]
pub(crate) struct ColumnLayout {
    pub(crate) kind: Kind,
    /// Sizes of one row; empty for a scalar per row.
    pub(crate) row_shape: Vec<i64>,
    pub(crate) row_bytes: usize,
}

impl ColumnLayout {
    /// The layout of `column` as the program input `input` wants it: dtypes must agree, and the width must be the
    /// product of the input's sizes per row, of which one may be symbolic.
    pub(crate) fn of_input(column: &Column, input: &Input) -> Result<ColumnLayout> {
        if column.dtype.name() != input.dtype.name() {
            return Err(Error::Config(format!(
                "column {} holds {} and the program's input {} takes {}",
                column.name,
                column.dtype.name(),
                input.name,
                input.dtype.name()
            )));
        }
        let width = i64::from(column.width);
        let dims = input.shape.get(1..).unwrap_or(&[]);
        // Sizes are the archive's claim; a product beyond 64 bits fits no column.
        let known =
            dims.iter().filter_map(Dim::as_static).try_fold(1i64, |known, size| known.checked_mul(size)).unwrap_or(0);
        let unknown = dims.iter().filter(|dim| !matches!(dim, Dim::Static(_))).count();
        let refused = || {
            Error::Config(format!(
                "column {} has {width} values per row and the program's input {} takes {}",
                column.name,
                input.name,
                if unknown == 0 { known.to_string() } else { format!("a multiple of {known}") }
            ))
        };
        if unknown > 1 {
            return Err(Error::Config(format!(
                "input {} has {unknown} symbolic sizes beside the batch; export the program with at most one",
                input.name
            )));
        }
        if known == 0 || width % known != 0 || (unknown == 0 && width != known) {
            return Err(refused());
        }
        let row_shape =
            dims.iter().map(|dim| if let Dim::Static(size) = dim { *size } else { width / known }).collect();
        Ok(ColumnLayout { kind: tensors::kind_of(input.dtype), row_shape, row_bytes: column.row_bytes() })
    }

    fn of_label(column: &Column) -> ColumnLayout {
        let kind = match column.dtype {
            kindling_shards::DType::Float32 => Kind::Float,
            kindling_shards::DType::Float64 => Kind::Double,
            kindling_shards::DType::Int32 => Kind::Int,
            kindling_shards::DType::Int64 => Kind::Int64,
        };
        ColumnLayout { kind, row_shape: vec![i64::from(column.width)], row_bytes: column.row_bytes() }
    }

    /// An uninitialised tensor for `rows` rows.
    pub(crate) fn allocate(&self, rows: i64) -> Result<Tensor> {
        let shape: Vec<i64> = std::iter::once(rows).chain(self.row_shape.iter().copied()).collect();
        Tensor::f_empty(&shape, (self.kind, Device::Cpu)).doing("allocating a batch")
    }
}

impl RankData {
    /// Finds this rank's shards in the store and checks them against the program and the loss.
    pub(crate) fn open(
        store: &ShardStore,
        plan: &[ShardRef],
        processes: &[&str],
        rank: usize,
        program: &Program,
        loss: Loss,
    ) -> Result<RankData> {
        let here = store.process();
        let shards = plan
            .iter()
            .map(|shard| if shard.process == here { store.shard(shard.key).map(Some) } else { Ok(None) })
            .collect::<std::result::Result<Vec<_>, _>>()?;
        for (described, shard) in plan.iter().zip(&shards) {
            let Some(shard) = shard else { continue };
            let (rows, validation) = (shard.rows(Split::Train) as u64, shard.rows(Split::Validation) as u64);
            if (rows, validation) != (described.rows, described.validation_rows) {
                return Err(Error::Data(format!(
                    "partition {} was reported with {} training and {} validation rows and its shard holds {rows} and \
                     {validation}",
                    described.partition, described.rows, described.validation_rows
                )));
            }
        }
        let training = plan::owned(plan, |shard| shard.rows, processes, rank)?;
        let validation = plan::owned(plan, |shard| shard.validation_rows, processes, rank)?;
        let columns = match shards.iter().flatten().next() {
            Some(shard) => layouts(shard.columns(), program)?,
            None => Vec::new(),
        };
        if let Some(other) = shards
            .iter()
            .flatten()
            .find(|other| shards.iter().flatten().next().is_some_and(|first| first.columns() != other.columns()))
        {
            return Err(Error::Data(format!(
                "the partitions of the data differ in their columns: {:?}",
                other.columns()
            )));
        }
        let data = RankData { shards, training, validation, columns };
        if loss == Loss::CrossEntropy {
            data.check_labels(plan, classes(program))?;
        }
        Ok(data)
    }

    /// Gathers the given rows, by global number, in their order. All must be owned by this rank.
    pub(crate) fn batch(&self, split: Split, rows: &[u64]) -> Result<Batch> {
        let owned = match split {
            Split::Train => &self.training,
            Split::Validation => &self.validation,
        };
        let places = rows
            .iter()
            .map(|&row| {
                let (shard, local) = owned.locate(row)?;
                let shard = self.shards.get(shard)?.as_deref()?;
                Some((shard, u32::try_from(local).ok()?))
            })
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| Error::Data("a batch names a row that this rank does not hold".to_owned()))?;
        let count = rows.len() as i64;
        let mut tensors = Vec::with_capacity(self.columns.len());
        for (column, layout) in self.columns.iter().enumerate() {
            let mut tensor = layout.allocate(count)?;
            let out = tensors::bytes_mut(&mut tensor)?;
            for (&(shard, local), slot) in places.iter().zip(out.chunks_exact_mut(layout.row_bytes.max(1))) {
                slot.copy_from_slice(shard.row(split, column, local)?);
            }
            tensors.push(tensor);
        }
        let labels = tensors.pop().ok_or_else(|| Error::Data("the data has no label column".to_owned()))?;
        Ok(Batch { inputs: tensors, labels, rows: count })
    }

    /// Refuses labels that are no class of the program, in the rows that this rank owns.
    fn check_labels(&self, plan: &[ShardRef], classes: Option<i64>) -> Result<()> {
        let label = self.columns.len().saturating_sub(1);
        for (split, owned) in [(Split::Train, &self.training), (Split::Validation, &self.validation)] {
            for segment in owned.segments() {
                let Some(Some(shard)) = self.shards.get(segment.shard) else { continue };
                let (first, count) = (segment.first, segment.rows.end - segment.rows.start);
                let within = |rows: u64| usize::try_from(rows).unwrap_or(usize::MAX);
                let labels = shard.values::<i64>(split, label)?.flatten().skip(within(first)).take(within(count));
                for &value in labels {
                    if value < 0 || classes.is_some_and(|classes| value >= classes) {
                        let partition = plan.get(segment.shard).map_or(0, |shard| shard.partition);
                        let allowed = match classes {
                            Some(classes) => {
                                format!("the program has {classes} classes, so labels go from 0 to {}", classes - 1)
                            }
                            None => "labels count classes from 0".to_owned(),
                        };
                        return Err(Error::Data(format!(
                            "label {value} in partition {partition} is out of range: {allowed}"
                        )));
                    }
                }
            }
        }
        Ok(())
    }
}

fn layouts(columns: &[Column], program: &Program) -> Result<Vec<ColumnLayout>> {
    let inputs: Vec<&Column> = columns.iter().filter(|column| column.role == Role::Input).collect();
    let in_order = columns.iter().position(|column| column.role == Role::Label) == Some(inputs.len());
    if inputs.len() != program.inputs.len() || columns.len() != inputs.len() + 1 || !in_order {
        return Err(Error::Config(format!(
            "the program takes {} inputs and the data has {} columns: give one column per input and then the label",
            program.inputs.len(),
            columns.len()
        )));
    }
    let inputs = inputs.into_iter().zip(&program.inputs).map(|(column, input)| ColumnLayout::of_input(column, input));
    let labels = columns.last().map(|column| Ok(ColumnLayout::of_label(column)));
    inputs.chain(labels).collect()
}

/// The number of classes, where the program's output says it.
pub(crate) fn classes(program: &Program) -> Option<i64> {
    let output = program.outputs.first()?;
    match program.meta(*output)?.shape.get(1)? {
        Dim::Static(classes) => Some(*classes),
        _ => None,
    }
}
