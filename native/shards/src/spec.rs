//! What a shard holds and how it is described: columns, splits, the request that opens one, the report that closes one.
//!
//! [`ShardSpec`] is the raw request as it came over the border. [`Schema`] is the same thing after its one check: every
//! width is positive and fits Arrow's list size, every column has a name, no two of one role share it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use arrow_schema::{DataType, Field, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What the values of a column are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// Fed to an input of the program.
    Input,
    /// Compared with the program's output by the loss.
    Label,
    /// What the row counts in the loss, beside others: one number of at least 0.
    Weight,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Input => "input",
            Role::Label => "label",
            Role::Weight => "weight",
        })
    }
}

/// Type of one value of a column, in the machine's byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DType {
    /// Unsigned, 1 byte: pixels.
    #[serde(rename = "uint8")]
    UInt8,
    /// IEEE 754, 4 bytes.
    Float32,
    /// IEEE 754, 8 bytes.
    Float64,
    /// Two's complement, 4 bytes.
    Int32,
    /// Two's complement, 8 bytes.
    Int64,
}

impl DType {
    /// Bytes of one value.
    pub fn size(self) -> usize {
        match self {
            DType::UInt8 => 1,
            DType::Float32 | DType::Int32 => 4,
            DType::Float64 | DType::Int64 => 8,
        }
    }

    /// The name used in configurations and messages.
    pub fn name(self) -> &'static str {
        match self {
            DType::UInt8 => "uint8",
            DType::Float32 => "float32",
            DType::Float64 => "float64",
            DType::Int32 => "int32",
            DType::Int64 => "int64",
        }
    }

    pub(crate) fn arrow(self) -> DataType {
        match self {
            DType::UInt8 => DataType::UInt8,
            DType::Float32 => DataType::Float32,
            DType::Float64 => DataType::Float64,
            DType::Int32 => DataType::Int32,
            DType::Int64 => DataType::Int64,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One column: `width` values of one type per row, row-major.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Column {
    /// The program's name of the input, or the name of the label; unique within its role.
    pub name: String,
    /// What the values are for.
    pub role: Role,
    /// Type of one value.
    pub dtype: DType,
    /// Values per row, at least 1.
    pub width: u32,
}

impl Column {
    /// Bytes of one row of this column.
    pub fn row_bytes(&self) -> usize {
        // Saturation is out of reach on 64 bits; elsewhere the allocation of such a row is what fails.
        usize::try_from(self.width).unwrap_or(usize::MAX).saturating_mul(self.dtype.size())
    }
}

/// The two sets of rows of a shard. They have the same columns and are numbered separately, each from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Split {
    /// Rows that are trained on.
    Train,
    /// Rows held back to judge the model; may be empty.
    Validation,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Split::Train => "training",
            Split::Validation => "validation",
        })
    }
}

/// The numbers of the splits at the border: 0 is training, 1 is validation.
///
/// # Errors
/// [`Error::NoSplit`] for any other number.
impl TryFrom<i32> for Split {
    type Error = Error;

    fn try_from(number: i32) -> Result<Self> {
        match number {
            0 => Ok(Split::Train),
            1 => Ok(Split::Validation),
            number => Err(Error::NoSplit { number }),
        }
    }
}

/// One thing per split.
#[derive(Debug, Default)]
pub(crate) struct Splits<T> {
    pub(crate) train: T,
    pub(crate) validation: T,
}

impl<T> Splits<T> {
    pub(crate) fn of(&self, split: Split) -> &T {
        match split {
            Split::Train => &self.train,
            Split::Validation => &self.validation,
        }
    }

    pub(crate) fn of_mut(&mut self, split: Split) -> &mut T {
        match split {
            Split::Train => &mut self.train,
            Split::Validation => &mut self.validation,
        }
    }
}

/// How much memory rows may take, and where they go beyond it.
///
/// Rows are kept in memory while all shards of the store together take at most `memory` bytes, whichever runs they are
/// of; what comes after is written to files in `directories`, tried in turn. A batch that is still being written counts
/// in full, so memory goes over by the open reservations at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Budget {
    /// Bytes of memory for all shards of the process. By default there is no bound.
    #[serde(default = "unbounded")]
    pub memory: u64,
    /// Directories on local disks. By default there are none, and rows beyond `memory` are refused.
    #[serde(default)]
    pub directories: Vec<PathBuf>,
}

fn unbounded() -> u64 {
    u64::MAX
}

impl Default for Budget {
    fn default() -> Self {
        Budget { memory: unbounded(), directories: Vec::new() }
    }
}

/// The request that opens a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ShardSpec {
    /// The training run the rows are for; not empty.
    pub run: String,
    /// Number of the partition the rows come from.
    pub partition: u32,
    /// Which attempt at that partition this is; several may be in the store at once.
    pub attempt: u64,
    /// Runs the driver knew to be alive when the run began. The shards of other runs are released, see
    /// [`ShardStore::open`](crate::ShardStore::open). `run` itself is alive whether it is listed or not.
    pub live_runs: Vec<String>,
    /// At least one column; reservations return addresses in this order.
    pub columns: Vec<Column>,
    /// How much memory the rows may take. By default there is no bound.
    #[serde(default)]
    pub budget: Budget,
}

/// What a sealed shard holds: the handle by which ranks find it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ShardReport {
    /// Number of the partition the rows came from.
    pub partition: u32,
    /// The attempt at the partition, as its [`ShardSpec`] had it.
    pub attempt: u64,
    /// Identity of the store, see [`ShardStore::process`](crate::ShardStore::process).
    pub process: String,
    /// Key of the shard in that store.
    pub key: u64,
    /// Rows of the training split.
    pub rows: u64,
    /// Rows of the validation split.
    pub validation_rows: u64,
    /// Bytes of the rows of both splits as they are kept, without padding: fewer than the columns' widths make where rows
    /// that are mostly zeros are compressed.
    pub bytes: u64,
    /// Bytes of files, for rows that the budget had no room for.
    pub spilled_bytes: u64,
    /// 16 hexadecimal digits that depend on every row and on their order, and on nothing else: a partition that is
    /// ingested again and has another hash has other rows.
    pub hash: String,
}

/// The columns of a shard after their check, and their Arrow schema where none is compressed: a non-null `FixedSizeList` each.
#[derive(Debug, Clone)]
pub(crate) struct Schema {
    pub(crate) columns: Arc<[Column]>,
    pub(crate) arrow: SchemaRef,
}

/// Arrow counts list sizes in i32.
const MAX_WIDTH: u32 = i32::MAX as u32;

impl Schema {
    pub(crate) fn check(spec: &ShardSpec) -> Result<Schema> {
        if spec.run.is_empty() {
            return Err(Error::NoRun { partition: spec.partition });
        }
        if spec.columns.is_empty() {
            return Err(Error::NoColumns { partition: spec.partition });
        }
        let mut fields = Vec::with_capacity(spec.columns.len());
        for (index, column) in spec.columns.iter().enumerate() {
            if column.name.is_empty() {
                return Err(Error::NoName { index, role: column.role });
            }
            if column.width == 0 || column.width > MAX_WIDTH {
                return Err(Error::Width { column: column.name.clone(), width: column.width, max: MAX_WIDTH });
            }
            let twice = |other: &Column| other.role == column.role && other.name == column.name;
            if spec.columns.iter().take(index).any(twice) {
                return Err(Error::Twice { column: column.name.clone(), role: column.role });
            }
            fields.push(Field::new(&column.name, column.list_type()?, false));
        }
        Ok(Schema { columns: spec.columns.clone().into(), arrow: Arc::new(arrow_schema::Schema::new(fields)) })
    }
}

impl Column {
    fn list_type(&self) -> Result<DataType> {
        let (item, width) = self.item()?;
        Ok(DataType::FixedSizeList(item, width))
    }

    /// The field of one value and the number of them per row, as Arrow wants them.
    pub(crate) fn item(&self) -> Result<(Arc<Field>, i32)> {
        let width = i32::try_from(self.width).map_err(|_| Error::Width {
            column: self.name.clone(),
            width: self.width,
            max: MAX_WIDTH,
        })?;
        Ok((Arc::new(Field::new("item", self.dtype.arrow(), false)), width))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn column(name: &str, role: Role, width: u32) -> Column {
        Column { name: name.into(), role, dtype: DType::Float32, width }
    }

    fn spec(columns: Vec<Column>) -> ShardSpec {
        ShardSpec { run: "run".into(), partition: 3, attempt: 0, live_runs: vec![], columns, budget: Budget::default() }
    }

    #[test]
    fn a_spec_is_read_from_camel_case_json() {
        let text = r#"{"run":"r1","partition":3,"attempt":9,"liveRuns":["r0"],"columns":[
            {"name":"x","role":"input","dtype":"float32","width":64},{"name":"y","role":"label","dtype":"int64","width":1}]}"#;
        let read: ShardSpec = serde_json::from_str(text).unwrap();
        assert_eq!((read.partition, read.attempt, &read.live_runs[..]), (3, 9, &["r0".to_string()][..]));
        assert_eq!(read.columns[1], Column { name: "y".into(), role: Role::Label, dtype: DType::Int64, width: 1 });
        assert_eq!(read.columns[0].row_bytes(), 256);
        assert_eq!(serde_json::from_str::<ShardSpec>(&serde_json::to_string(&read).unwrap()).unwrap(), read);
    }

    #[test]
    fn an_unknown_key_in_a_spec_or_a_column_is_refused() {
        let spec = r#"{"run":"r","partition":0,"attempt":0,"liveRuns":[],"columns":[],"spill":true}"#;
        assert!(serde_json::from_str::<ShardSpec>(spec).unwrap_err().to_string().contains("spill"));
        let column = r#"{"name":"x","role":"input","dtype":"float32","width":1,"nullable":true}"#;
        assert!(serde_json::from_str::<Column>(column).unwrap_err().to_string().contains("nullable"));
    }

    #[test]
    fn a_budget_bounds_nothing_where_it_says_nothing() {
        let spec = r#"{"run":"r","partition":0,"attempt":0,"liveRuns":[],"columns":[]}"#;
        assert_eq!(serde_json::from_str::<ShardSpec>(spec).unwrap().budget, Budget::default());
        let budget: Budget = serde_json::from_str(r#"{"memory":4096,"directories":["/a"]}"#).unwrap();
        assert_eq!(budget, Budget { memory: 4096, directories: vec!["/a".into()] });
        assert!(serde_json::from_str::<Budget>(r#"{"memroy":4096}"#).unwrap_err().to_string().contains("memroy"));
    }

    #[test]
    fn a_report_is_written_in_camel_case() {
        let report = ShardReport {
            partition: 1,
            attempt: 7,
            process: "ab".into(),
            key: 2,
            rows: 3,
            validation_rows: 4,
            bytes: 5,
            spilled_bytes: 6,
            hash: "0f".into(),
        };
        let expected = r#"{"partition":1,"attempt":7,"process":"ab","key":2,"rows":3,"validationRows":4,"bytes":5,"spilledBytes":6,"hash":"0f"}"#;
        assert_eq!(serde_json::to_string(&report).unwrap(), expected);
    }

    #[test]
    fn a_spec_that_cannot_be_stored_is_refused_with_what_is_wrong() {
        let refused = |spec: &ShardSpec| {
            let error = Schema::check(spec).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Spec);
            error.to_string()
        };
        assert!(refused(&spec(vec![])).contains("partition 3"));
        assert!(refused(&spec(vec![column("x", Role::Input, 0)])).contains("\"x\""));
        assert!(refused(&spec(vec![column("x", Role::Input, u32::MAX)])).contains("4294967295"));
        assert!(refused(&spec(vec![column("", Role::Input, 1)])).contains("column 0"));
        assert!(refused(&spec(vec![column("x", Role::Input, 1), column("x", Role::Input, 2)])).contains("twice"));
        assert!(refused(&ShardSpec { run: String::new(), ..spec(vec![column("x", Role::Input, 1)]) }).contains("run"));
    }

    #[test]
    fn an_input_and_a_label_may_share_a_name() {
        assert!(Schema::check(&spec(vec![column("x", Role::Input, 1), column("x", Role::Label, 1)])).is_ok());
    }

    #[test]
    fn splits_have_numbers_at_the_border() {
        assert_eq!(Split::try_from(0).unwrap(), Split::Train);
        assert_eq!(Split::try_from(1).unwrap(), Split::Validation);
        assert_eq!(Split::try_from(2).unwrap_err().kind(), ErrorKind::Argument);
    }
}
