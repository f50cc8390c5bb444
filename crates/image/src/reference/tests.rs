use proptest::prelude::*;

use super::*;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn short_names_mean_what_they_mean_to_podman_and_docker() {
    let table = [
        ("debian", "docker.io/library/debian:latest"),
        ("debian:12-slim", "docker.io/library/debian:12-slim"),
        ("bitnami/redis", "docker.io/bitnami/redis:latest"),
        ("docker.io/debian", "docker.io/library/debian:latest"),
        ("index.docker.io/debian", "docker.io/library/debian:latest"),
        ("docker.io/library/debian", "docker.io/library/debian:latest"),
        ("library/debian", "docker.io/library/debian:latest"),
        ("localhost/a", "localhost/a:latest"),
        ("localhost:5000/a/b:1", "localhost:5000/a/b:1"),
        ("127.0.0.1:5000/a", "127.0.0.1:5000/a:latest"),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
        ("Registry/a", "Registry/a:latest"),
        ("quay.io/a/b/c", "quay.io/a/b/c:latest"),
        ("a__b/c.d-e---f_g", "docker.io/a__b/c.d-e---f_g:latest"),
        ("docker.io/a.b/c", "docker.io/a.b/c:latest"),
        ("docker.io/library/a/b", "docker.io/library/a/b:latest"),
    ];
    for (text, full) in table {
        let reference: Reference = text.parse().unwrap_or_else(|error| panic!("{text}: {error:?}"));
        assert_eq!(reference.to_string(), full);
    }
}

#[test]
fn tags_and_digests() {
    let by_digest: Reference = format!("debian@{DIGEST}").parse().unwrap();
    assert_eq!((by_digest.tag(), by_digest.digest().is_some()), (None, true));
    assert_eq!(by_digest.to_string(), format!("docker.io/library/debian@{DIGEST}"));
    let both: Reference = format!("localhost:5000/a:1@{DIGEST}").parse().unwrap();
    assert_eq!((both.registry(), both.repository(), both.tag()), ("localhost:5000", "a", Some("1")));
    assert_eq!(both.to_string(), format!("localhost:5000/a:1@{DIGEST}"));
}

#[test]
fn errors_say_what_is_wrong() {
    let long_name = format!("a/{}", "b".repeat(255));
    let long_tag = format!("a:{}", "t".repeat(129));
    let table = [
        ("", "empty"),
        (":tag", "empty"),
        ("Debian", "upper-case"),
        ("a/B", "upper-case"),
        ("a//b", "not made of"),
        ("/a", "not made of"),
        ("a/", "not made of"),
        ("a..b", "not made of"),
        ("a___b", "not made of"),
        ("-a", "not made of"),
        ("a_", "not made of"),
        ("é", "not made of"),
        ("a b", "not made of"),
        ("../a", "registry host"),
        ("a.b:x/c", "registry host"),
        ("a.b:0/c", "registry host"),
        ("a.b:65536/c", "registry host"),
        ("-a.b/c", "registry host"),
        ("[::1/c", "registry host"),
        ("[::1]x/c", "registry host"),
        ("a:", "tag"),
        ("a:.b", "tag"),
        ("a:b c", "tag"),
        (long_tag.as_str(), "tag is longer than 128"),
        (long_name.as_str(), "repository is longer than 255"),
        ("a@sha256:00", "digest"),
        ("a@b", "digest"),
        (&DIGEST[7..], "image ID"),
        ("https://docker.io/a", "registry host"),
    ];
    for (text, wanted) in table {
        let error = text.parse::<Reference>().expect_err(text);
        let chain = format!("{error}: {}", error.problem());
        assert!(chain.contains(wanted), "{text}: {chain}");
    }
}

proptest! {
    #[test]
    fn display_parses_back(text in "[a-zA-Z0-9./:_-]{1,40}") {
        if let Ok(reference) = text.parse::<Reference>() {
            prop_assert_eq!(&reference.to_string().parse::<Reference>().unwrap(), &reference);
            let json = serde_json::to_string(&reference).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Reference>(&json).unwrap(), &reference);
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,80}") {
        let _ = text.parse::<Reference>();
    }
}
