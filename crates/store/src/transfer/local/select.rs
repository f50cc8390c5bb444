//! Which entry of a layout's `index.json`: pure.

use std::path::Path;

use plywood_image::Descriptor;

use super::{LocalError, is_named};

/// Where containerd and docker put the whole reference; the OCI annotation then holds only the tag.
const FULL_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// No entry, or too many.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoChoice {
    Empty,
    Several(Vec<String>),
    NoSuchImage { wanted: String, names: Vec<String> },
}

impl NoChoice {
    pub(super) fn at(self, path: &Path) -> LocalError {
        let path = path.to_owned();
        match self {
            Self::Empty => LocalError::Empty { path },
            Self::Several(names) => LocalError::Several { path, names },
            Self::NoSuchImage { wanted, names } => LocalError::NoSuchImage { path, wanted, names },
        }
    }
}

/// The name an entry has.
pub(super) fn name(descriptor: &Descriptor) -> Option<&str> {
    let annotation =
        |key: &str| descriptor.annotations.get(key).map(String::as_str).filter(|v| !v.is_empty());
    annotation(FULL_NAME).or_else(|| annotation(REF_NAME))
}

/// The entries of one image: one, or several that differ by platform only.
pub(super) fn choose(manifests: &[Descriptor], wanted: Option<&str>) -> Result<Vec<Descriptor>, NoChoice> {
    let named = |wanted: &str| -> Vec<Descriptor> {
        let by = |d: &&Descriptor| {
            let tag = d.annotations.get(REF_NAME).is_some_and(|tag| tag == wanted);
            tag || name(d).is_some_and(|name| is_named(name, wanted))
        };
        manifests.iter().filter(by).cloned().collect()
    };
    let matching = wanted.map(named).unwrap_or_default();
    let (candidates, by_name) =
        if matching.is_empty() { (manifests.to_vec(), false) } else { (matching, true) };
    match candidates.as_slice() {
        [] => Err(NoChoice::Empty),
        [_] => Ok(candidates),
        _ if is_one_image(&candidates) => Ok(candidates),
        _ => {
            let names = names(&candidates);
            Err(match wanted {
                Some(wanted) if !by_name => NoChoice::NoSuchImage { wanted: wanted.to_owned(), names },
                _ => NoChoice::Several(names),
            })
        }
    }
}

/// The same name, or none, and each for a platform of its own.
fn is_one_image(candidates: &[Descriptor]) -> bool {
    let mut platforms: Vec<_> = candidates.iter().filter_map(|d| d.platform.as_ref()).collect();
    platforms.sort();
    platforms.dedup();
    platforms.len() == candidates.len() && candidates.iter().all(|d| name(d) == name(&candidates[0]))
}

fn names(candidates: &[Descriptor]) -> Vec<String> {
    candidates
        .iter()
        .map(|d| name(d).map_or_else(|| format!("(unnamed) {}", d.digest), str::to_owned))
        .collect()
}

/// The entries as an index of their own.
pub(super) fn as_index(manifests: &[Descriptor]) -> Vec<u8> {
    let manifests: Vec<_> = manifests
        .iter()
        .map(|d| {
            let platform = d.platform.as_ref().map(|p| {
                serde_json::json!({"os": p.os(), "architecture": p.architecture(), "variant": p.variant()})
            });
            serde_json::json!({
                "mediaType": d.media_type, "digest": d.digest, "size": d.size, "platform": platform,
            })
        })
        .collect();
    serde_json::json!({"schemaVersion": 2, "manifests": manifests}).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use plywood_image::{Digest, Platform};

    use super::*;

    fn entry(name: Option<&str>, full: Option<&str>, platform: Option<&str>, content: &str) -> Descriptor {
        let annotations = [(REF_NAME, name), (FULL_NAME, full)];
        Descriptor {
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            digest: Digest::sha256(content.as_bytes()),
            size: 1,
            platform: platform.map(|p| p.parse::<Platform>().unwrap()),
            annotations: annotations
                .into_iter()
                .filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned())))
                .collect(),
        }
    }

    #[test]
    fn entries_are_chosen_by_name() {
        let entries = [
            entry(Some("one"), None, None, "1"),
            entry(Some("two"), None, None, "2"),
            entry(Some("3.0"), Some("docker.io/library/three:3.0"), None, "3"),
            entry(Some("quay.io/x/four:4"), None, None, "4"),
        ];
        let pick = |wanted: Option<&str>| choose(&entries, wanted).map(|found| found[0].digest);
        assert_eq!(pick(Some("two")), Ok(entries[1].digest));
        assert_eq!(pick(Some("3.0")), Ok(entries[2].digest));
        assert_eq!(pick(Some("three:3.0")), Ok(entries[2].digest));
        assert_eq!(pick(Some("quay.io/x/four:4")), Ok(entries[3].digest));
        assert!(matches!(pick(Some("five")), Err(NoChoice::NoSuchImage { names, .. }) if names.len() == 4));
        assert!(matches!(pick(None), Err(NoChoice::Several(_))));
        assert_eq!(choose(&[], None), Err(NoChoice::Empty));
    }

    #[test]
    fn the_only_entry_needs_no_name() {
        let entries = [entry(None, None, None, "1")];
        assert_eq!(choose(&entries, None).unwrap().len(), 1);
        assert_eq!(choose(&entries, Some("whatever")).unwrap().len(), 1);
    }

    #[test]
    fn platforms_of_one_image_stay_together() {
        let entries = [
            entry(Some("a"), None, Some("linux/amd64"), "1"),
            entry(Some("a"), None, Some("linux/arm64"), "2"),
        ];
        let chosen = choose(&entries, None).unwrap();
        assert_eq!(chosen.len(), 2);
        let parsed = plywood_image::manifest::parse(&as_index(&chosen), None).unwrap();
        assert!(matches!(parsed, plywood_image::Document::Index(index) if index.manifests.len() == 2));
        let same = [entries[0].clone(), entry(Some("a"), None, Some("linux/amd64"), "3")];
        assert!(matches!(choose(&same, None), Err(NoChoice::Several(_))));
    }
}
