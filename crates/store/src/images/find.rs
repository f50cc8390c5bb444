//! Which image a text means.

use std::collections::BTreeMap;

use plywood_image::{Digest, Reference};
use rusqlite::{Connection, OptionalExtension as _};

use super::{Image, ImageError, get};
use crate::db::parsed;

/// Digits of an id that a prefix must have.
const MIN_PREFIX: usize = 4;

/// What a text means.
pub(super) struct Found {
    /// The image, or the latest of those that share the id.
    pub(super) first: Image,
    /// Others with the same id, if that is what the text was.
    others: Vec<Image>,
    /// The name it was, if it was one.
    pub(super) name: Option<String>,
}

impl Found {
    pub(super) fn into_images(self) -> Vec<Image> {
        [vec![self.first], self.others].concat()
    }
}

/// Names come before digests, whole names before abbreviated ones.
pub(super) fn resolve(connection: &Connection, text: &str) -> Result<Found, ImageError> {
    let canonical = text.parse::<Reference>().ok().map(|reference| reference.to_string());
    for name in [Some(text.to_owned()), canonical].into_iter().flatten() {
        if let Some(found) = by_name(connection, name)? {
            return Ok(found);
        }
    }
    let names = by_short_digest(connection, text)?;
    match <[String; 1]>::try_from(names) {
        Ok([name]) => by_name(connection, name)?.ok_or_else(|| ImageError::NotFound(text.to_owned())),
        Err(names) if names.is_empty() => by_id(connection, text),
        Err(candidates) => Err(ImageError::Ambiguous { prefix: text.to_owned(), candidates }),
    }
}

fn by_name(connection: &Connection, name: String) -> Result<Option<Found>, ImageError> {
    let image = connection
        .prepare_cached("SELECT image FROM image_names WHERE name = ?1")?
        .query_row([&name], |row| parsed::<Digest>(row, "image"))
        .optional()?;
    let image = image.map(|digest| get(connection, &digest)).transpose()?.flatten();
    Ok(image.map(|first| Found { first, others: Vec::new(), name: Some(name) }))
}

/// Names by digest, of which people are shown the first digits only.
fn by_short_digest(connection: &Connection, text: &str) -> rusqlite::Result<Vec<String>> {
    let digits = text.split_once("@sha256:").map_or("", |(_, digits)| digits);
    if !is_prefix(digits) {
        return Ok(Vec::new());
    }
    connection
        .prepare_cached("SELECT name FROM image_names WHERE name >= ?1 AND name < ?2 ORDER BY name")?
        .query_map([text, &after(text)], |row| row.get(0))?
        .collect()
}

/// By the digest of a manifest, or of a config, which several images may share.
fn by_id(connection: &Connection, text: &str) -> Result<Found, ImageError> {
    let not_found = || ImageError::NotFound(text.to_owned());
    let (prefix, digits) = match text.split_once(':') {
        Some((_, digits)) => (text.to_owned(), digits),
        None => (format!("sha256:{text}"), text),
    };
    if !is_prefix(digits) {
        return Err(not_found());
    }
    // Latest first, by the digest that begins so.
    let mut found: BTreeMap<Digest, Vec<Image>> = BTreeMap::new();
    let digests = connection
        .prepare_cached(
            "SELECT manifest_digest AS digest, manifest_digest, recorded_ms FROM images
             WHERE manifest_digest >= ?1 AND manifest_digest < ?2
             UNION SELECT config_digest AS digest, manifest_digest, recorded_ms FROM images
             WHERE config_digest >= ?1 AND config_digest < ?2 ORDER BY recorded_ms DESC, manifest_digest",
        )?
        .query_map([&prefix, &after(&prefix)], |row| {
            Ok((parsed::<Digest>(row, "digest")?, parsed::<Digest>(row, "manifest_digest")?))
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    for (digest, manifest) in digests {
        found.entry(digest).or_default().extend(get(connection, &manifest)?);
    }
    if found.len() > 1 {
        let candidates = found.iter().map(|(digest, images)| candidate(digest, images)).collect();
        return Err(ImageError::Ambiguous { prefix: text.to_owned(), candidates });
    }
    let mut images = found.into_values().flatten();
    let first = images.next().ok_or_else(not_found)?;
    Ok(Found { first, others: images.collect(), name: None })
}

fn candidate(digest: &Digest, images: &[Image]) -> String {
    let names: Vec<&str> = images.iter().flat_map(|image| &image.names).map(String::as_str).collect();
    match names.as_slice() {
        [] => digest.short(),
        names => format!("{} ({})", digest.short(), names.join(", ")),
    }
}

fn is_prefix(digits: &str) -> bool {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    digits.len() >= MIN_PREFIX && digits.bytes().all(hex)
}

/// Sorts after all that begins with `prefix` and goes on in hex digits.
fn after(prefix: &str) -> String {
    format!("{prefix}g")
}
