//! The rows of one rank as batches of tensors, gathered from the shards of its executor process.

use std::ops::Range;
use std::sync::Arc;

use kindling_program::{Dim, Input, Program};
use kindling_shards::{Column, DType, Element, Role, Shard, ShardStore, Split};
use tch::{Device, Kind, Tensor};

use crate::error::{Doing, Error, Result};
use crate::loss::{Judge, Labels, Rows};
use crate::order::Epoch;
use crate::plan::{Balance, Owned, Segment, ShardRef};
use crate::tensors;
use crate::upload::Room;

/// A rank's share of one batch.
pub(crate) struct Batch {
    pub(crate) inputs: Vec<Tensor>,
    /// Rows first; absent if the loss takes none.
    pub(crate) labels: Option<Tensor>,
    /// float64, one per row; absent if rows weigh the same.
    pub(crate) weights: Option<Tensor>,
    pub(crate) rows: i64,
}

impl Batch {
    /// What the loss looks at.
    pub(crate) fn judged(&self) -> Rows<'_> {
        Rows { count: self.rows, labels: self.labels.as_ref(), weights: self.weights.as_ref() }
    }

    /// Some of its rows, without a copy.
    pub(crate) fn part(&self, rows: &Range<usize>) -> Result<Batch> {
        let count = rows.len() as i64;
        let cut = |tensor: &Tensor| tensor.f_narrow(0, rows.start as i64, count).doing("cutting a batch");
        Ok(Batch {
            inputs: self.inputs.iter().map(cut).collect::<Result<_>>()?,
            labels: self.labels.as_ref().map(cut).transpose()?,
            weights: self.weights.as_ref().map(cut).transpose()?,
            rows: count,
        })
    }
}

/// Rows of one split by the shard that holds them: the row in it, and its place in the batch.
struct Places<'a> {
    rows: usize,
    shards: Vec<(&'a Shard, Vec<(u32, u32)>)>,
}

/// Rows that lie in another process.
pub(crate) struct Elsewhere<'a> {
    pub(crate) shard: &'a ShardRef,
    pub(crate) split: Split,
    /// The first row, counted within the split.
    pub(crate) first: u64,
    pub(crate) rows: u64,
}

/// Brings such rows here: a shard for each, in their order, of which they are the only rows of their split.
pub(crate) type Fetch<'a> = dyn Fn(&[Elsewhere<'_>]) -> Result<Vec<Arc<Shard>>> + 'a;

/// The [`Fetch`] of tests whose rows all lie in one process.
#[cfg(test)]
pub(crate) fn all_here(wanted: &[Elsewhere<'_>]) -> Result<Vec<Arc<Shard>>> {
    match wanted {
        [] => Ok(Vec::new()),
        [first, ..] => Err(Error::Data(format!("partition {} lies elsewhere", first.shard.partition))),
    }
}

/// What a rank reads: its shards, and which of their rows are its own.
pub(crate) struct RankData {
    /// Per shard of the plan, those of this process; behind them what was fetched.
    shards: Vec<Option<Arc<Shard>>>,
    /// The partition that each of `shards` is from.
    partitions: Vec<u32>,
    pub(crate) training: Owned,
    pub(crate) validation: Owned,
    /// One per program input, then the labels, then the weights, as far as there are any.
    columns: Vec<ColumnLayout>,
    inputs: usize,
    label: Option<Column>,
    weight: Option<Column>,
}

/// How a column becomes a tensor.
#[derive(Debug, Clone)]
pub(crate) struct ColumnLayout {
    pub(crate) kind: Kind,
    /// Sizes of one row; empty for a scalar per row.
    pub(crate) row_shape: Vec<i64>,
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
        Ok(ColumnLayout { kind: tensors::kind_of(input.dtype), row_shape })
    }

    fn of_judged(column: &Column) -> ColumnLayout {
        let kind = match column.dtype {
            kindling_shards::DType::UInt8 => Kind::Uint8,
            kindling_shards::DType::Float32 => Kind::Float,
            kindling_shards::DType::Float64 => Kind::Double,
            kindling_shards::DType::Int32 => Kind::Int,
            kindling_shards::DType::Int64 => Kind::Int64,
        };
        ColumnLayout { kind, row_shape: vec![i64::from(column.width)] }
    }

    /// An uninitialised tensor for `rows` rows.
    pub(crate) fn allocate(&self, rows: i64) -> Result<Tensor> {
        let shape: Vec<i64> = std::iter::once(rows).chain(self.row_shape.iter().copied()).collect();
        Tensor::f_empty(&shape, (self.kind, Device::Cpu)).doing("allocating a batch")
    }
}

impl RankData {
    /// Finds this rank's shards in the store, fetches what lies elsewhere, and checks them against the program and the loss.
    pub(crate) fn open(
        store: &ShardStore,
        plan: &[ShardRef],
        processes: &[&str],
        rank: usize,
        program: &Program,
        judge: &Judge,
        fetch: &Fetch<'_>,
    ) -> Result<RankData> {
        let here = store.process();
        let mut shards = plan
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
        let balance = Balance::new(plan, processes);
        let mut training = balance.owned(|shard| shard.rows, rank)?;
        let mut validation = balance.owned(|shard| shard.validation_rows, rank)?;
        let mut partitions: Vec<u32> = plan.iter().map(|shard| shard.partition).collect();
        let mut wanted = Vec::new();
        for (split, owned) in [(Split::Train, &mut training), (Split::Validation, &mut validation)] {
            for segment in owned.segments_mut() {
                let Some(shard) = plan.get(segment.shard).filter(|shard| shard.process != here) else { continue };
                let rows = segment.rows.end - segment.rows.start;
                wanted.push(Elsewhere { shard, split, first: segment.first, rows });
                (segment.shard, segment.first) = (partitions.len(), 0);
                partitions.push(shard.partition);
            }
        }
        let fetched = if wanted.is_empty() { Vec::new() } else { fetch(&wanted)? };
        if fetched.len() != wanted.len()
            || fetched.iter().zip(&wanted).any(|(shard, wanted)| shard.rows(wanted.split) as u64 != wanted.rows)
        {
            return Err(Error::Data("other rows were fetched than those that lie elsewhere".to_owned()));
        }
        shards.extend(fetched.into_iter().map(Some));
        // A rank that holds no shard owns no row and has nothing to lay out.
        let described = shards.iter().flatten().next().map_or_else(Vec::new, |shard| shard.columns().to_vec());
        let columns = if described.is_empty() { Vec::new() } else { layouts(&described, program)? };
        let of_role = |role| described.iter().find(|column| column.role == role).cloned();
        let (label, weight) = (of_role(Role::Label), of_role(Role::Weight));
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
        let data =
            RankData { shards, partitions, training, validation, columns, inputs: program.inputs.len(), label, weight };
        if !described.is_empty() {
            let labels = judge.labels(data.label.as_ref())?;
            data.check_labels(&labels)?;
        }
        if let Some(weight) = &data.weight {
            judge.check_weights()?;
            data.check_weights(weight)?;
        }
        Ok(data)
    }

    /// Takes the rows away, as no shard of a run may be lost while it trains.
    #[cfg(test)]
    pub(crate) fn lose_shards(&mut self) {
        self.shards.fill(None);
    }

    /// Bytes of a row, all columns together; 0 if this rank owns no row and so knows no columns.
    pub(crate) fn row_bytes(&self) -> u64 {
        let columns = self.shards.iter().flatten().next().map_or(&[][..], |shard| shard.columns());
        columns.iter().map(|column| column.row_bytes() as u64).sum()
    }

    /// Whether some of this rank's rows lie in files.
    pub(crate) fn spilled(&self) -> bool {
        let spilled = |segment: &Segment| self.shards.get(segment.shard)?.as_deref().map(Shard::spilled);
        self.training.segments().iter().any(|segment| spilled(segment) == Some(true))
    }

    /// Has the system read those of the training rows `rows` that this rank owns and that lie in files.
    pub(crate) fn read_ahead(&self, rows: &Range<u64>) {
        for (shard, local) in self.training.within(rows) {
            let shard = self.shards.get(shard).and_then(Option::as_deref);
            // No shard has more rows than a u32 counts.
            if let (Some(shard), Ok(from), Ok(to)) = (shard, u32::try_from(local.start), u32::try_from(local.end)) {
                shard.read_ahead(Split::Train, from..to);
            }
        }
    }

    /// The label column, if there is one here.
    pub(crate) fn label(&self) -> Option<&Column> {
        self.label.as_ref()
    }

    /// Whether any shard is here, so that the columns are known.
    pub(crate) fn holds_rows(&self) -> bool {
        !self.columns.is_empty()
    }

    /// Whether rows have weights here.
    pub(crate) fn weighted(&self) -> bool {
        self.weight.is_some()
    }

    /// This rank's rows of batch `step`, by global number, in the batch's order.
    pub(crate) fn share(&self, epoch: &Epoch<'_>, step: u64) -> Vec<u64> {
        let mine = epoch.batch_where(step, |start, end| self.training.touches(start, end));
        mine.filter(|&row| self.training.locate(row).is_some()).collect()
    }

    /// The places in batch `step` of this rank's rows.
    pub(crate) fn places_in_batch(&self, epoch: &Epoch<'_>, step: u64) -> Vec<u64> {
        let mine = epoch.placed_where(step, |start, end| self.training.touches(start, end));
        mine.filter(|&(_, row)| self.training.locate(row).is_some()).map(|(place, _)| place).collect()
    }

    /// Gathers the given rows, by global number, in their order, into `room`. All must be owned by this rank. The room can be
    /// filled again when the batch is no longer used.
    pub(crate) fn batch(&self, split: Split, rows: &[u64], room: &mut Room) -> Result<Batch> {
        let places = self.places(split, rows)?;
        let inputs = (0..self.inputs).map(|column| self.gather(split, column, &places, room)).collect::<Result<_>>()?;
        Ok(Batch { inputs, ..self.judged_part(split, &places, room)? })
    }

    /// Labels and weights of the given rows, as in [`Self::batch`], without the inputs.
    pub(crate) fn judged(&self, split: Split, rows: &[u64]) -> Result<Batch> {
        self.judged_part(split, &self.places(split, rows)?, &mut Room::default())
    }

    fn judged_part(&self, split: Split, places: &Places<'_>, room: &mut Room) -> Result<Batch> {
        let label = self.label.as_ref().map(|_| self.gather(split, self.inputs, places, room)).transpose()?;
        let at = self.inputs + usize::from(label.is_some());
        let weights = self.weight.as_ref().map(|_| self.gather(split, at, places, room)).transpose()?;
        let weights =
            weights.map(|weights| weights.f_to_kind(Kind::Double)).transpose().doing("reading the weights")?;
        Ok(Batch { inputs: Vec::new(), labels: label, weights, rows: places.rows as i64 })
    }

    /// Where rows lie.
    fn places(&self, split: Split, rows: &[u64]) -> Result<Places<'_>> {
        let owned = match split {
            Split::Train => &self.training,
            Split::Validation => &self.validation,
        };
        let foreign = || Error::Data("a batch names a row that this rank does not hold".to_owned());
        let mut located = Vec::with_capacity(rows.len());
        for (&row, place) in rows.iter().zip(0..) {
            let (shard, local) = owned.locate(row).ok_or_else(foreign)?;
            located.push((shard, u32::try_from(local).map_err(|_| foreign())?, place));
        }
        located.sort_unstable_by_key(|&(shard, _, place)| (shard, place));
        let of_one_shard = |group: &[(usize, u32, u32)]| {
            let shard =
                group.first().and_then(|&(shard, ..)| self.shards.get(shard)?.as_deref()).ok_or_else(foreign)?;
            Ok((shard, group.iter().map(|&(_, local, place)| (local, place)).collect()))
        };
        let shards = located.chunk_by(|one, other| one.0 == other.0).map(of_one_shard).collect::<Result<_>>()?;
        Ok(Places { rows: rows.len(), shards })
    }

    fn gather(&self, split: Split, column: usize, places: &Places<'_>, room: &mut Room) -> Result<Tensor> {
        let layout = self.columns.get(column);
        let layout = layout.ok_or_else(|| Error::Data(format!("the data has no column {column}")))?;
        let mut tensor = room.take(column, &layout.row_shape, layout.kind, places.rows as i64)?;
        let out = tensors::bytes_mut(&mut tensor)?;
        for (shard, rows) in &places.shards {
            shard.gather_to(split, column, rows, out)?;
        }
        Ok(tensor)
    }

    /// Refuses labels that the loss does not take, in the rows that this rank owns.
    fn check_labels(&self, labels: &Labels) -> Result<()> {
        let Some(column) = self.label.as_ref().filter(|_| labels.restricted()) else { return Ok(()) };
        self.for_each_row(self.inputs, column, &mut |partition, row| match labels.problem(row) {
            Some((value, allowed)) => {
                Err(Error::Data(format!("label {value} in partition {partition} is out of range: {allowed}")))
            }
            None => Ok(()),
        })
    }

    /// Refuses weights that no mean can have, in the rows that this rank owns.
    fn check_weights(&self, column: &Column) -> Result<()> {
        if column.width != 1 || !matches!(column.dtype, DType::Float32 | DType::Float64) {
            return Err(Error::Config(format!(
                "the weight column {} holds {} values of {} per row: give one float32 or float64",
                column.name,
                column.width,
                column.dtype.name()
            )));
        }
        let index = self.inputs + usize::from(self.label.is_some());
        self.for_each_row(index, column, &mut |partition, row| match row {
            [weight] if weight.is_finite() && *weight >= 0.0 => Ok(()),
            other => Err(Error::Data(format!(
                "the weight {} of column {} in partition {partition} is no finite number of at least 0",
                other.first().copied().unwrap_or(f64::NAN),
                column.name
            ))),
        })
    }

    /// Visits the values of a column in the rows that this rank owns, with the partition they are from.
    fn for_each_row(
        &self,
        index: usize,
        column: &Column,
        visit: &mut dyn FnMut(u32, &[f64]) -> Result<()>,
    ) -> Result<()> {
        for (split, owned) in [(Split::Train, &self.training), (Split::Validation, &self.validation)] {
            for segment in owned.segments() {
                let Some(Some(shard)) = self.shards.get(segment.shard) else { continue };
                let partition = self.partitions.get(segment.shard).copied().unwrap_or(0);
                let walk =
                    Walk { shard, split, index, width: usize::try_from(column.width).unwrap_or(1).max(1), segment };
                let visit = &mut |row: &[f64]| visit(partition, row);
                #[expect(clippy::cast_precision_loss, reason = "looked at to judge its range only")]
                match column.dtype {
                    DType::UInt8 => walk.rows::<u8>(f64::from, visit)?,
                    DType::Float32 => walk.rows::<f32>(f64::from, visit)?,
                    DType::Float64 => walk.rows::<f64>(|value| value, visit)?,
                    DType::Int32 => walk.rows::<i32>(f64::from, visit)?,
                    DType::Int64 => walk.rows::<i64>(|value| value as f64, visit)?,
                }
            }
        }
        Ok(())
    }
}

/// The rows of one column in one segment.
struct Walk<'a> {
    shard: &'a Shard,
    split: Split,
    index: usize,
    width: usize,
    segment: &'a Segment,
}

impl Walk<'_> {
    fn rows<T: Element>(&self, number: fn(T) -> f64, visit: &mut dyn FnMut(&[f64]) -> Result<()>) -> Result<()> {
        let values = |rows: u64| usize::try_from(rows).unwrap_or(usize::MAX).saturating_mul(self.width);
        let count = self.segment.rows.end - self.segment.rows.start;
        let all = self.shard.values::<T>(self.split, self.index)?.flatten();
        let mut row = Vec::with_capacity(self.width);
        for &value in all.skip(values(self.segment.first)).take(values(count)) {
            row.push(number(value));
            if row.len() == self.width {
                visit(&row)?;
                row.clear();
            }
        }
        Ok(())
    }
}

fn layouts(columns: &[Column], program: &Program) -> Result<Vec<ColumnLayout>> {
    let inputs: Vec<&Column> = columns.iter().filter(|column| column.role == Role::Input).collect();
    let rest: Vec<Role> = columns.iter().skip(inputs.len()).map(|column| column.role).collect();
    let in_order = matches!(rest.as_slice(), [] | [Role::Label] | [Role::Weight] | [Role::Label, Role::Weight]);
    if inputs.len() != program.inputs.len() || !in_order {
        return Err(Error::Config(format!(
            "the program takes {} inputs and the data has {} columns: give one column per input, then the label, then the \
             weight",
            program.inputs.len(),
            columns.len()
        )));
    }
    let judged = columns.iter().skip(inputs.len()).map(|column| Ok(ColumnLayout::of_judged(column)));
    let inputs = inputs.into_iter().zip(&program.inputs).map(|(column, input)| ColumnLayout::of_input(column, input));
    inputs.chain(judged).collect()
}
