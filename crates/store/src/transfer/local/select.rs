//! Which entry of a layout's `index.json`: pure.

use std::collections::BTreeSet;
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
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// Each manifest once.
    pub(super) entries: Vec<Descriptor>,
    /// All names they have.
    pub(super) names: Vec<String>,
}

/// The image asked for, or the only one.
pub(super) fn choose(manifests: &[Descriptor], wanted: Option<&str>) -> Result<Choice, NoChoice> {
    let is_wanted = |d: &Descriptor| {
        wanted.is_some_and(|wanted| {
            let tag = d.annotations.get(REF_NAME).is_some_and(|tag| tag == wanted);
            tag || name(d).is_some_and(|name| is_named(name, wanted))
        })
    };
    let by_name = manifests.iter().any(is_wanted);
    // An image has an entry for each of its names.
    let mut found: Vec<(&Descriptor, BTreeSet<&str>)> = Vec::new();
    for descriptor in manifests.iter().filter(|d| !by_name || is_wanted(d)) {
        let place = found.iter().position(|(entry, _)| is_same(entry, descriptor));
        let place = place.unwrap_or_else(|| {
            found.push((descriptor, BTreeSet::new()));
            found.len() - 1
        });
        found[place].1.extend(name(descriptor));
    }
    match found.as_slice() {
        [] => Err(NoChoice::Empty),
        [(_, names), ..] if is_one_image(&found) => Ok(Choice {
            entries: found.iter().map(|(entry, _)| (*entry).clone()).collect(),
            names: names.iter().map(|&name| name.to_owned()).collect(),
        }),
        several => {
            let names = several.iter().flat_map(|(entry, names)| shown(entry, names)).collect();
            Err(match wanted {
                Some(wanted) if !by_name => NoChoice::NoSuchImage { wanted: wanted.to_owned(), names },
                _ => NoChoice::Several(names),
            })
        }
    }
}

/// The same manifest for the same platform.
fn is_same(one: &Descriptor, other: &Descriptor) -> bool {
    one.digest == other.digest && one.platform == other.platform
}

/// A single manifest, or each for a platform of its own, and all by the same names.
fn is_one_image(found: &[(&Descriptor, BTreeSet<&str>)]) -> bool {
    let platforms: BTreeSet<_> = found.iter().filter_map(|(entry, _)| entry.platform.as_ref()).collect();
    found.len() == 1 || platforms.len() == found.len() && found.iter().all(|(_, names)| *names == found[0].1)
}

fn shown(entry: &Descriptor, names: &BTreeSet<&str>) -> Vec<String> {
    match names.len() {
        0 => vec![format!("(unnamed) {}", entry.digest)],
        _ => names.iter().map(|&name| name.to_owned()).collect(),
    }
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
        let pick = |wanted: Option<&str>| choose(&entries, wanted).map(|found| found.entries[0].digest);
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
        assert_eq!(choose(&entries, None).unwrap().entries.len(), 1);
        assert_eq!(choose(&entries, Some("whatever")).unwrap().entries.len(), 1);
    }

    #[test]
    fn platforms_of_one_image_stay_together() {
        let entries = [
            entry(Some("a"), None, Some("linux/amd64"), "1"),
            entry(Some("a"), None, Some("linux/arm64"), "2"),
        ];
        let chosen = choose(&entries, None).unwrap().entries;
        assert_eq!(chosen.len(), 2);
        let parsed = plywood_image::manifest::parse(&as_index(&chosen), None).unwrap();
        assert!(matches!(parsed, plywood_image::Document::Index(index) if index.manifests.len() == 2));
        let same = [entries[0].clone(), entry(Some("a"), None, Some("linux/amd64"), "3")];
        assert!(matches!(choose(&same, None), Err(NoChoice::Several(_))));
    }

    /// docker and containerd write an entry a name; two names of one image were taken for two images.
    #[test]
    fn one_image_may_have_several_names() {
        let entries = [
            entry(Some("1"), Some("docker.io/library/a:1"), None, "a"),
            entry(Some("2"), Some("docker.io/library/a:2"), None, "a"),
        ];
        let names = |wanted| choose(&entries, wanted).map(|choice| (choice.entries.len(), choice.names));
        let both = vec!["docker.io/library/a:1".to_owned(), "docker.io/library/a:2".to_owned()];
        assert_eq!(names(None), Ok((1, both.clone())));
        assert_eq!(names(Some("whatever")), Ok((1, both)));
        assert_eq!(names(Some("a:2")), Ok((1, vec!["docker.io/library/a:2".to_owned()])));
        let other = [&entries[..], &[entry(Some("b"), None, None, "b")]].concat();
        let expected = ["docker.io/library/a:1", "docker.io/library/a:2", "b"].map(str::to_owned);
        assert_eq!(choose(&other, None), Err(NoChoice::Several(expected.to_vec())));
        let platforms: Vec<Descriptor> = [("a", "amd64"), ("a", "arm64"), ("b", "amd64"), ("b", "arm64")]
            .map(|(name, of)| entry(Some(name), None, Some(&format!("linux/{of}")), of))
            .to_vec();
        let choice = choose(&platforms, None).unwrap();
        assert_eq!((choice.entries.len(), choice.names), (2, vec!["a".to_owned(), "b".to_owned()]));
    }
}
