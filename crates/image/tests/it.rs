//! Tests of the crate through its public interface.
#![allow(missing_docs, clippy::unwrap_used, reason = "test code; a panic is how its helpers fail")]

#[path = "it/hostile.rs"]
mod hostile;
#[path = "it/properties.rs"]
mod properties;
#[path = "it/tar_program.rs"]
mod tar_program;

use std::io::Read as _;

use plywood_image::tar::{Header, Reader, TarError};

/// Every entry of an archive with its stored data.
fn read_all(bytes: &[u8]) -> Result<Vec<(Header, Vec<u8>)>, TarError> {
    let mut reader = Reader::new(bytes);
    let mut entries = Vec::new();
    while let Some(header) = reader.next_entry()? {
        let mut data = Vec::new();
        reader
            .data()
            .read_to_end(&mut data)
            .map_err(|error| error.downcast::<TarError>().expect("a tar error"))?;
        let stored = match &header.sparse {
            Some(map) => map.segments().iter().map(|segment| segment.length).sum(),
            None => header.size,
        };
        assert_eq!(data.len() as u64, stored);
        entries.push((header, data));
    }
    Ok(entries)
}

/// A file as it will be read, its holes filled with zeros.
fn expand(header: &Header, data: &[u8]) -> Vec<u8> {
    let Some(map) = &header.sparse else { return data.to_vec() };
    let mut content = vec![0; header.size as usize];
    let mut rest = data;
    for segment in map.segments() {
        let (piece, next) = rest.split_at(segment.length as usize);
        content[segment.offset as usize..][..piece.len()].copy_from_slice(piece);
        rest = next;
    }
    assert!(rest.is_empty());
    content
}
