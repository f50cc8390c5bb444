use super::*;
use crate::digest::Digest;
use crate::manifest::MediaType;

fn index(platforms: &[Option<&str>]) -> Index {
    let entry = |(i, platform): (usize, &Option<&str>)| Descriptor {
        media_type: MediaType::OciManifest.as_str().to_owned(),
        digest: Digest::sha256(&[i as u8]),
        size: 1,
        platform: platform.map(|text| match text.split_once('/') {
            Some(("unknown", _)) => Platform::new("unknown", "unknown", None),
            _ => text.parse().unwrap(),
        }),
        annotations: Default::default(),
    };
    Index {
        media_type: MediaType::OciIndex,
        manifests: platforms.iter().enumerate().map(entry).collect(),
        annotations: Default::default(),
    }
}

#[test]
fn names_are_normalised() {
    let table = [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("aarch64", "linux/arm64"),
        ("Linux/ARM64/V8", "linux/arm64"),
        ("linux/arm64/v9", "linux/arm64/v9"),
        ("linux/arm", "linux/arm/v7"),
        ("armhf", "linux/arm/v7"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux/i686", "linux/386"),
        ("windows/amd64", "windows/amd64"),
    ];
    for (text, canonical) in table {
        assert_eq!(text.parse::<Platform>().unwrap().to_string(), canonical, "{text}");
    }
    for bad in ["", "linux", "/", "linux/", "a/b/c/d", "linux/amd 64", "linux//v8"] {
        assert!(bad.parse::<Platform>().unwrap_err().to_string().contains("linux/arm64"), "{bad}");
    }
}

#[test]
fn the_best_entry_is_chosen() {
    type Case<'a> = (&'a str, &'a [Option<&'a str>], Option<usize>);
    let table: &[Case<'_>] = &[
        ("linux/amd64", &[Some("linux/arm64"), Some("linux/amd64")], Some(1)),
        ("linux/arm64", &[Some("linux/arm64/v8")], Some(0)),
        ("linux/arm64/v8", &[Some("linux/arm64")], Some(0)),
        ("linux/arm64", &[Some("linux/arm64/v9"), Some("linux/arm64")], Some(1)),
        ("linux/arm64", &[Some("linux/arm64/v9")], None),
        ("linux/amd64", &[Some("linux/amd64/v2")], None),
        ("linux/amd64/v3", &[Some("linux/amd64"), Some("linux/amd64/v2"), Some("linux/amd64/v4")], Some(1)),
        ("linux/arm/v7", &[Some("linux/arm/v5"), Some("linux/arm/v6"), Some("linux/arm64")], Some(1)),
        ("linux/arm/v6", &[Some("linux/arm/v7")], None),
        ("linux/s390x", &[Some("linux/s390x"), Some("linux/s390x")], Some(0)),
        ("linux/amd64", &[Some("windows/amd64")], None),
        ("linux/amd64", &[None], Some(0)),
        ("linux/amd64", &[None, None], None),
        ("linux/amd64", &[None, Some("linux/amd64")], Some(1)),
        ("linux/amd64", &[Some("unknown/unknown")], None),
        ("linux/amd64", &[], None),
    ];
    for (wanted, platforms, best) in table {
        let index = index(platforms);
        let found = choose(&index, &wanted.parse().unwrap()).ok();
        assert_eq!(found, best.map(|i| &index.manifests[i]), "{wanted} from {platforms:?}");
    }
}

#[test]
fn an_image_for_another_platform_only_lists_what_there_is() {
    let index =
        index(&[Some("linux/s390x"), Some("windows/amd64"), Some("linux/s390x"), Some("unknown/unknown")]);
    let error = choose(&index, &"linux/amd64".parse().unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the image is not available for linux/amd64; it is for linux/s390x, windows/amd64"
    );
}

#[test]
fn entries_that_are_no_images_are_passed_over() {
    let mut index = index(&[Some("linux/amd64"), None]);
    index.manifests[0].media_type = "application/vnd.in-toto+json".to_owned();
    index.manifests[1].media_type = MediaType::OciIndex.as_str().to_owned();
    let chosen = choose(&index, &"linux/amd64".parse().unwrap()).unwrap();
    assert!(chosen.kind().is_some_and(MediaType::is_index));
}

#[test]
fn the_host_runs_its_own_baseline() {
    let host = Platform::host();
    assert_eq!(host.os(), "linux");
    assert!(host.accepts(&Platform::new(host.os(), host.architecture(), None)), "{host}");
    assert!(!host.accepts(&Platform::new("linux", "none", None)));
}

/// What an index or config calls its platform went to the terminal as it was.
#[test]
fn platforms_of_foreign_images_are_printable() {
    let mut index = index(&[Some("linux/s390x")]);
    index.manifests[0].platform = Some(Platform::new("\u{1b}[2Jlinux", "x\u{202e}", Some("\u{7}v1")));
    let error = choose(&index, &"linux/amd64".parse().unwrap()).unwrap_err();
    assert!(error.to_string().ends_with(r"it is for \u{1b}[2jlinux/x\u{202e}/\u{7}v1"), "{error}");
}
