//! The container of a written archive: stored entries laid out as PyTorch lays them out.
//!
//! Every entry's bytes begin on a multiple of 64, as in files of PyTorch's own writer, so that a reader may map them.
//! The padding stands in an extra field of the entry's local header. The bytes of an archive depend on its contents
//! alone: there is no time and no random id in it.

use std::io::Write;

use rawzip::extra_fields::ExtraFieldId;
use rawzip::{Header, ZipArchiveWriter};

use crate::error::Error;

/// The folder in which all entries stand; PyTorch names it after the file, and reads any.
const ROOT: &str = "model";
const ALIGNMENT: u64 = 64;
/// A local header without name and extra fields.
const HEADER: u64 = 30;
/// The id and length of an extra field.
const FIELD: u64 = 4;
/// PyTorch's own id for padding, "FB".
const PADDING: ExtraFieldId = ExtraFieldId::new(0x4246);

/// A zip under construction.
pub(super) struct Zip<W> {
    archive: ZipArchiveWriter<W>,
}

impl<W: Write> Zip<W> {
    pub(super) fn new(out: W) -> Self {
        Self { archive: ZipArchiveWriter::new(out) }
    }

    /// Writes one entry; `path` does not name the root folder.
    pub(super) fn entry(&mut self, path: &str, content: &[u8]) -> Result<(), Error> {
        self.write(path, content).map_err(|source| Error::Writing { entry: path.to_owned(), source })
    }

    pub(super) fn finish(self) -> Result<(), Error> {
        let written = self.archive.finish().and_then(|mut out| out.flush().map_err(Into::into));
        written.map_err(|source| Error::Writing { entry: "(directory)".into(), source })
    }

    fn write(&mut self, path: &str, content: &[u8]) -> Result<(), rawzip::Error> {
        let path = format!("{ROOT}/{path}");
        let start = self.archive.stream_offset() + HEADER + path.len() as u64 + FIELD;
        let padding = vec![b'Z'; (start.next_multiple_of(ALIGNMENT) - start) as usize];
        let entry = self.archive.new_file(&path).extra_field(PADDING, &padding, Header::LOCAL)?;
        let (mut entry, config) = entry.start()?;
        let mut data = config.wrap(&mut entry);
        data.write_all(content)?;
        let (_, descriptor) = data.finish()?;
        entry.finish(descriptor)?;
        Ok(())
    }
}

/// A whole archive of these entries.
pub(crate) fn zip(out: &mut Vec<u8>, files: &[(String, &[u8])]) -> Result<(), Error> {
    let mut zip = Zip::new(out);
    files.iter().try_for_each(|(path, content)| zip.entry(path, content))?;
    zip.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_begins_on_a_multiple_of_64_and_is_found_again() {
        let mut bytes = Vec::new();
        let mut zip = Zip::new(&mut bytes);
        let contents: Vec<(String, Vec<u8>)> =
            (1..70_usize).map(|n| (format!("data/{}", "x".repeat(n)), vec![n as u8; n * 3])).collect();
        for (path, content) in &contents {
            zip.entry(path, content).unwrap();
        }
        zip.finish().unwrap();

        let archive = rawzip::ZipArchive::from_slice(&bytes).unwrap();
        let mut entries = archive.entries();
        for (path, content) in &contents {
            let header = entries.next_entry().unwrap().unwrap();
            assert_eq!(header.file_path().as_ref(), format!("model/{path}").as_bytes());
            assert_eq!(header.crc32(), rawzip::crc32(content));
            let (start, end) = archive.get_entry(header.wayfinder()).unwrap().compressed_data_range();
            assert_eq!(start % ALIGNMENT, 0, "{path}");
            assert_eq!(&bytes[start as usize..end as usize], content);
        }
        assert!(entries.next_entry().unwrap().is_none());
    }

    #[test]
    fn a_place_that_takes_no_more_is_an_error_that_names_the_entry() {
        let mut room = [0_u8; 200];
        let mut zip = Zip::new(&mut room[..]);
        let error = zip.entry("data/weights/weight_0", &[1; 300]).unwrap_err();
        assert!(error.to_string().contains("data/weights/weight_0"), "{error}");
    }
}
