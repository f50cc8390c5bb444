//! Blobs: exclusive writers, resuming, verification.

use std::io::Read;

use plywood_image::Digest;
use plywood_store::{BlobError, BlobWriter, Ingest, Store};

use crate::support::{listed, store};

const BYTES: &[u8] = b"the bytes of a blob";

fn writer(store: &Store, digest: &Digest, size: Option<u64>) -> Box<BlobWriter> {
    match store.ingest_blob(digest, size).unwrap() {
        Ingest::Write(writer) => writer,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_blob_is_written_once_and_read_back() {
    let (_scratch, store) = store();
    let digest = Digest::sha256(BYTES);
    let mut first = writer(&store, &digest, Some(BYTES.len() as u64));
    assert!(matches!(store.ingest_blob(&digest, None).unwrap(), Ingest::Busy));
    first.write(BYTES).unwrap();
    let mut text = Vec::new();
    first.commit().unwrap().read_to_end(&mut text).unwrap();
    assert_eq!(text, BYTES);
    assert!(store.open_blob(&digest).unwrap().is_some());
    let Ingest::Present(mut file) = store.ingest_blob(&digest, None).unwrap() else { panic!() };
    file.read_to_end(&mut text).unwrap();
    assert_eq!(text, BYTES.repeat(2));
    store.remove_blob(&digest).unwrap();
    store.remove_blob(&digest).unwrap();
    assert!(store.open_blob(&digest).unwrap().is_none());
    assert!(listed(&store, "blobs/ingest").is_empty());
}

#[test]
fn an_interrupted_download_is_resumed_where_it_ended() {
    let (_scratch, store) = store();
    let digest = Digest::sha256(BYTES);
    let mut first = writer(&store, &digest, Some(BYTES.len() as u64));
    first.write(&BYTES[..7]).unwrap();
    drop(first);
    let mut second = writer(&store, &digest, Some(BYTES.len() as u64));
    assert_eq!(second.offset(), 7);
    second.write(&BYTES[7..]).unwrap();
    second.commit().unwrap();

    let again = Digest::sha256(b"again");
    let mut first = writer(&store, &again, None);
    first.write(b"wrong").unwrap();
    drop(first);
    let mut second = writer(&store, &again, None);
    second.restart().unwrap();
    assert_eq!(second.offset(), 0);
    second.write(b"again").unwrap();
    second.commit().unwrap();
}

#[test]
fn wrong_bytes_never_become_a_blob() {
    let (_scratch, store) = store();
    let digest = Digest::sha256(BYTES);
    let mut wrong = writer(&store, &digest, None);
    wrong.write(b"something else").unwrap();
    assert!(matches!(wrong.commit(), Err(BlobError::Verify(_))));

    let mut short = writer(&store, &digest, Some(BYTES.len() as u64));
    assert_eq!(short.offset(), 0, "the wrong bytes are gone");
    short.write(&BYTES[1..]).unwrap();
    assert!(matches!(short.commit(), Err(BlobError::Verify(_))));

    let mut long = writer(&store, &digest, Some(BYTES.len() as u64));
    assert!(matches!(long.write(&BYTES.repeat(2)), Err(BlobError::Verify(_))));
    assert_eq!(long.offset(), 0);
    long.write(BYTES).unwrap();
    long.commit().unwrap();
    assert!(store.open_blob(&digest).unwrap().is_some());
}

#[test]
fn leftovers_longer_than_announced_are_dropped() {
    let (_scratch, store) = store();
    let digest = Digest::sha256(BYTES);
    let mut first = writer(&store, &digest, None);
    first.write(&BYTES.repeat(3)).unwrap();
    drop(first);
    assert_eq!(writer(&store, &digest, Some(BYTES.len() as u64)).offset(), 0);
}
