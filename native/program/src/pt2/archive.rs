//! The container of a `.pt2` file: a zip whose entries are stored as they are.
//!
//! PyTorch writes `<name>/models/model.json`, `<name>/data/weights/weight_0` and so on, uncompressed. So an entry *is* a
//! range of the file, and reading one is a bounds check, a checksum and no copy. A compressed entry is refused rather
//! than inflated: PyTorch never writes one, and so no archive can be a zip bomb.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::error::Error;
use crate::tensor::Bytes;

/// The entries of an archive by their paths without the root folder.
#[derive(Debug)]
pub(super) struct Archive {
    bytes: Bytes,
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    range: Range<usize>,
    checksum: u32,
}

const MODELS: &str = "models/";

impl Archive {
    pub(super) fn open(bytes: Bytes) -> Result<Self, Error> {
        let broken = |source| Error::BrokenArchive { length: bytes.len(), source };
        let zip = rawzip::ZipArchive::from_slice(&*bytes).map_err(broken)?;
        let mut roots = BTreeMap::<String, BTreeMap<String, Entry>>::new();
        let mut directory = zip.entries();
        let mut listed = 0_u64;
        while let Some(header) = directory.next_entry().map_err(broken)? {
            let path = String::from_utf8_lossy(header.file_path().as_ref()).into_owned();
            let damaged = |problem: String| Error::BrokenEntry { entry: path.clone(), problem };
            listed += 1;
            if header.is_dir() {
                continue;
            }
            if header.compression_method() != rawzip::CompressionMethod::STORE {
                return Err(damaged("it is compressed, which torch.export.save never does".into()));
            }
            if header.flags().is_encrypted() {
                return Err(damaged("it is encrypted".into()));
            }
            let found = zip.get_entry(header.wayfinder()).map_err(|source| damaged(source.to_string()))?;
            let (start, end) = found.compressed_data_range();
            let range = usize::try_from(start).ok().zip(usize::try_from(end).ok()).map(|(start, end)| start..end);
            let range = range
                .filter(|range| range.end <= bytes.len() && range.len() as u64 == header.uncompressed_size_hint())
                .ok_or_else(|| damaged(format!("it claims {} bytes", header.uncompressed_size_hint())))?;
            // Nothing is ever unpacked, so such a path could do no harm here; it may where the file goes next.
            if path.starts_with('/') || path.contains(['\\', '\0']) || path.split('/').any(|part| part == "..") {
                return Err(damaged("its path leads out of the archive".into()));
            }
            let Some((root, inside)) = path.split_once('/') else { continue };
            let entry = Entry { range, checksum: header.crc32() };
            if roots.entry(root.to_owned()).or_default().insert(inside.to_owned(), entry).is_some() {
                return Err(damaged("it is there twice".into()));
            }
        }
        if listed != zip.entries_hint() {
            let problem = format!("it lists {listed} entries, {} are announced", zip.entries_hint());
            return Err(Error::BrokenEntry { entry: "(directory)".into(), problem });
        }
        check_overlap(&roots)?;
        let entries =
            roots.into_values().find(|entries| entries.keys().any(|path| is_model(path))).ok_or(Error::NotAnExport)?;
        Ok(Self { bytes, entries })
    }

    /// The name of the one program in the archive.
    pub(super) fn program(&self) -> Result<String, Error> {
        let mut names: Vec<String> = self
            .entries
            .keys()
            .filter(|path| is_model(path))
            .filter_map(|path| path.strip_prefix(MODELS)?.strip_suffix(".json").map(str::to_owned))
            .collect();
        match (names.pop(), names.is_empty()) {
            (Some(name), true) => Ok(name),
            (Some(name), false) => {
                names.push(name);
                Err(Error::SeveralPrograms { names })
            }
            (None, _) => Err(Error::NotAnExport),
        }
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.entries.contains_key(path)
    }

    /// Every entry.
    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The bytes of an entry, checked against their checksum.
    pub(super) fn read(&self, path: &str) -> Result<Bytes, Error> {
        let entry = self.entries.get(path).ok_or_else(|| Error::MissingEntry { entry: path.to_owned() })?;
        let damaged = |problem| Error::BrokenEntry { entry: path.to_owned(), problem };
        let bytes = self
            .bytes
            .slice(entry.range.clone())
            .ok_or_else(|| damaged(format!("it lies outside the archive ({:?})", entry.range)))?;
        let found = rawzip::crc32(&bytes);
        if found == entry.checksum {
            Ok(bytes)
        } else {
            Err(damaged(format!("its checksum is {found:08x}, the archive says {:08x}", entry.checksum)))
        }
    }

    /// An entry parsed as JSON.
    pub(super) fn json<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let bytes = self.read(path)?;
        serde_json::from_slice(&bytes).map_err(|source| Error::Json { entry: path.to_owned(), source })
    }
}

/// Refuses entries that share bytes: a thousand names for one large entry would be checksummed a thousand times.
fn check_overlap(roots: &BTreeMap<String, BTreeMap<String, Entry>>) -> Result<(), Error> {
    let mut entries: Vec<(&Range<usize>, &String)> = roots
        .values()
        .flatten()
        .map(|(path, entry)| (&entry.range, path))
        .filter(|(range, _)| !range.is_empty())
        .collect();
    entries.sort_unstable_by_key(|(range, _)| range.start);
    for pair in entries.windows(2) {
        if let [(before, _), (range, path)] = pair
            && before.end > range.start
        {
            return Err(Error::BrokenEntry { entry: (*path).clone(), problem: "it overlaps another entry".into() });
        }
    }
    Ok(())
}

fn is_model(path: &str) -> bool {
    path.strip_prefix(MODELS).is_some_and(|name| name.ends_with(".json") && !name.contains('/'))
}
