//! The tensors of an archive: `data/weights` holds the model's state, `data/constants` everything else.
//!
//! PyTorch writes each *storage* once and describes tensors as views of it, so a tied weight, a transposed buffer and
//! a slice of a larger tensor all arrive as (file, sizes, strides, offset). The views are checked against the file and
//! share its bytes with the archive.

use std::collections::{BTreeMap, HashMap};

use super::archive::Archive;
use super::graph::check_rank;
use super::schema::{Payload, PayloadConfig, Size, TensorMeta};
use crate::dtype::{DType, Layout};
use crate::error::Error;
use crate::tensor::{Bytes, TensorData};

/// Where a tensor is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Folder {
    /// The model's saved state: parameters and persistent buffers.
    Weights,
    /// Non-persistent buffers and tensor constants.
    Constants,
}

impl Folder {
    fn path(self) -> &'static str {
        match self {
            Self::Weights => "data/weights/",
            Self::Constants => "data/constants/",
        }
    }

    pub(super) fn config(self, program: &str) -> String {
        match self {
            Self::Weights => format!("{}{program}_weights_config.json", self.path()),
            Self::Constants => format!("{}{program}_constants_config.json", self.path()),
        }
    }
}

/// A tensor as it is stored.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    /// The archive entry of its storage.
    pub(super) file: String,
    pub(super) tensor: TensorData,
    pub(super) requires_grad: bool,
}

impl Stored {
    /// What makes two names one tensor: the same view of the same storage. `None` for a tensor without elements,
    /// because PyTorch files all of those under one storage.
    pub(super) fn identity(&self) -> Option<Identity> {
        let TensorData { dtype, sizes, strides, offset, .. } = &self.tensor;
        (self.tensor.elements() > 0).then(|| Identity {
            file: self.file.clone(),
            dtype: *dtype,
            sizes: sizes.clone(),
            strides: strides.clone(),
            offset: *offset,
        })
    }
}

/// See [`Stored::identity`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    file: String,
    dtype: DType,
    sizes: Vec<i64>,
    strides: Vec<i64>,
    offset: i64,
}

/// Reads tensors by name.
#[derive(Debug)]
pub(super) struct Weights<'a> {
    archive: &'a Archive,
    program: &'a str,
    weights: BTreeMap<String, Payload>,
    constants: BTreeMap<String, Payload>,
    /// Storages already read, so that a tied weight is not checksummed twice.
    read: HashMap<String, Bytes>,
}

impl<'a> Weights<'a> {
    pub(super) fn open(archive: &'a Archive, program: &'a str) -> Result<Self, Error> {
        let list = |folder: Folder| {
            let entry = folder.config(program);
            // Before 2.9 the weights were one pickle in this place.
            let pickle = format!("{}{program}.pt", folder.path());
            if !archive.has(&entry) && archive.has(&pickle) {
                return Err(Error::Pickled { name: pickle });
            }
            archive.json::<PayloadConfig>(&entry).map(|list| list.config)
        };
        Ok(Self {
            archive,
            program,
            weights: list(Folder::Weights)?,
            constants: list(Folder::Constants)?,
            read: HashMap::new(),
        })
    }

    /// Every name listed in a folder.
    pub(super) fn names(&self, folder: Folder) -> impl Iterator<Item = &str> {
        self.list(folder).keys().map(String::as_str)
    }

    pub(super) fn load(&mut self, folder: Folder, name: &str) -> Result<Stored, Error> {
        let Some(payload) = self.list(folder).get(name) else {
            return Err(Error::MissingWeight { name: name.to_owned(), entry: folder.config(self.program) });
        };
        let (true, Some(meta)) = (!payload.use_pickle, &payload.tensor_meta) else {
            return Err(Error::Pickled { name: name.to_owned() });
        };
        let file = format!("{}{}", folder.path(), payload.path_name);
        let place = || format!("the weight {name}");
        check_rank(&meta.sizes, place)?;
        let dtype =
            DType::from_schema(meta.dtype).map_err(|dtype| Error::UnsupportedDtype { place: place(), dtype })?;
        if Layout::from_schema(meta.layout).is_none() {
            return Err(Error::UnsupportedLayout { place: place(), code: meta.layout });
        }
        let (Some(sizes), Some(strides), Some(offset)) = numbers(meta) else {
            return Err(Error::MissingMeta { value: name.to_owned() });
        };
        let requires_grad = meta.requires_grad;
        let bytes = match self.read.get(&file) {
            Some(bytes) => bytes.clone(),
            None => {
                let bytes = self.archive.read(&file)?;
                self.read.insert(file.clone(), bytes.clone());
                bytes
            }
        };
        let tensor = TensorData::checked(name, dtype, sizes, strides, offset, bytes)?;
        Ok(Stored { file, tensor, requires_grad })
    }

    fn list(&self, folder: Folder) -> &BTreeMap<String, Payload> {
        match folder {
            Folder::Weights => &self.weights,
            Folder::Constants => &self.constants,
        }
    }
}

type Numbers = (Option<Vec<i64>>, Option<Vec<i64>>, Option<i64>);

/// A stored tensor's sizes, strides and offset, which are never symbolic.
fn numbers(meta: &TensorMeta) -> Numbers {
    let number = |size: &Size| match size {
        Size::Int(number) => Some(*number),
        Size::Expression { .. } => None,
    };
    let all = |sizes: &[Size]| sizes.iter().map(number).collect();
    (all(&meta.sizes), all(&meta.strides), number(&meta.storage_offset))
}
