use std::io::Write as _;

use super::*;

const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn round_trips_and_known_values() {
    assert_eq!(Digest::sha256(b"").to_string(), EMPTY);
    assert_eq!(EMPTY.parse::<Digest>().unwrap(), Digest::sha256(b""));
    let long = Digest::of(Algorithm::Sha512, b"abc").to_string();
    assert!(long.starts_with("sha512:ddaf35a193617abacc417349ae204131"), "{long}");
    assert_eq!(long.parse::<Digest>().unwrap().to_string(), long);
    assert_eq!(Digest::sha256(b"").short(), "e3b0c44298fc");
    assert_eq!(serde_json::to_string(&Digest::sha256(b"")).unwrap(), format!("{EMPTY:?}"));
    assert_eq!(serde_json::from_str::<DiffId>(&format!("{EMPTY:?}")).unwrap().0, Digest::sha256(b""));
}

#[test]
fn refuses_what_is_not_canonical() {
    let upper = EMPTY.to_uppercase().replace("SHA256", "sha256");
    let table = [
        ("", "no algorithm"),
        ("e3b0", "no algorithm"),
        ("md5:d41d8cd98f00b204e9800998ecf8427e", "not supported"),
        ("SHA256:00", "not supported"),
        ("sha256:00", "64 hex digits"),
        ("sha512:00", "128 hex digits"),
        (upper.as_str(), "lower-case"),
        (&EMPTY.replace('e', "/"), "lower-case"),
        (&format!("{}é", &EMPTY[..EMPTY.len() - 2]), "lower-case"),
    ];
    for (text, wanted) in table {
        let error = text.parse::<Digest>().unwrap_err().to_string();
        assert!(error.contains(wanted), "{text}: {error}");
    }
}

#[test]
fn verifier_checks_size_and_digest() {
    let digest = Digest::sha256(b"hello");
    let check = |bytes: &[u8], size| {
        let mut verifier = Verifier::new(digest, size);
        verifier.update(bytes)?;
        verifier.finish()
    };
    assert_eq!(check(b"hello", Some(5)), Ok(()));
    assert_eq!(check(b"hello", None), Ok(()));
    assert!(matches!(check(b"hell", Some(5)), Err(VerifyError::Size { actual: 4, .. })));
    assert!(matches!(check(b"hello!", Some(5)), Err(VerifyError::Size { actual: 6, .. })));
    assert!(matches!(check(b"jello", Some(5)), Err(VerifyError::Digest { .. })));
}

#[test]
fn hasher_is_a_sink() {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.write_all(b"hel").unwrap();
    hasher.update(b"lo");
    assert_eq!(hasher.finish(), Digest::sha256(b"hello"));
}

#[test]
fn chains_follow_the_specification() {
    let ids = [b"a", b"b", b"c"].map(|bytes| DiffId(Digest::sha256(bytes)));
    let chain = chain_ids(&ids);
    assert_eq!(chain[0].0, ids[0].0);
    assert_eq!(chain[1].0, Digest::sha256(format!("{} {}", ids[0], ids[1]).as_bytes()));
    assert_eq!(chain[2].0, Digest::sha256(format!("{} {}", chain[1], ids[2]).as_bytes()));
    assert!(chain_ids(&[]).is_empty());
}
