//! Auth files as their writers leave them.

use std::collections::HashMap;

use std::time::Duration;

use super::*;

fn password(username: &str, password: &str) -> Credential {
    Credential::Password { username: username.into(), password: password.into() }
}

fn look_up(json: &str, registry: &str, repository: &str) -> Result<Option<Credential>, CredentialError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("auth.json");
    std::fs::write(&path, json).unwrap();
    AuthFiles::only(path).find(registry, repository, Duration::from_secs(30), &Cancel::new())
}

#[test]
fn the_longest_matching_prefix_wins() {
    let json = format!(
        r#"{{"auths": {{"quay.io": {{"auth": "{}"}}, "quay.io/team": {{"auth": "{}"}}, "quay.io/team/app": {{"auth": "{}"}}}}}}"#,
        BASE64_STANDARD.encode("host:a"),
        BASE64_STANDARD.encode("team:b"),
        BASE64_STANDARD.encode("app:c:d"),
    );
    for (repository, expected) in [
        ("team/app", password("app", "c:d")),
        ("team/app/deeper", password("app", "c:d")),
        ("team/apple", password("team", "b")),
        ("teams/app", password("host", "a")),
    ] {
        assert_eq!(look_up(&json, "quay.io", repository).unwrap(), Some(expected), "{repository}");
    }
    assert_eq!(look_up(&json, "quay.io:443", "team/app").unwrap(), None);
}

#[test]
fn docker_spellings_of_a_host() {
    for key in [
        "https://index.docker.io/v1/",
        "index.docker.io",
        "index.docker.io/v1/",
        "docker.io",
        "https://registry-1.docker.io/v2/",
    ] {
        let json = format!(r#"{{"auths": {{"{key}": {{"auth": "{}"}}}}}}"#, BASE64_STANDARD.encode("u:p"));
        assert_eq!(look_up(&json, "docker.io", "library/debian").unwrap(), Some(password("u", "p")), "{key}");
    }
    let json = format!(
        r#"{{"auths": {{"https://reg.corp:5000/v2/": {{"auth": "{}"}}}}}}"#,
        BASE64_STANDARD.encode("u:p")
    );
    assert_eq!(look_up(&json, "reg.corp:5000", "a").unwrap(), Some(password("u", "p")));
    assert_eq!(look_up(&json, "reg.corp", "a").unwrap(), None);
}

#[test]
fn tokens_and_plain_fields() {
    let json = r#"{"auths": {"a": {"identitytoken": "refresh", "auth": "dTpw"}, "b": {"registrytoken": "bearer"},
        "c": {"username": "u", "password": "p"}, "d": {}}, "HttpHeaders": {"X": "y"}}"#;
    assert_eq!(look_up(json, "a", "x").unwrap(), Some(Credential::IdentityToken("refresh".into())));
    assert_eq!(look_up(json, "b", "x").unwrap(), Some(Credential::RegistryToken("bearer".into())));
    assert_eq!(look_up(json, "c", "x").unwrap(), Some(password("u", "p")));
    assert_eq!(look_up(json, "d", "x").unwrap(), None);
}

#[test]
fn damage_names_the_file() {
    let bad_entry = look_up(r#"{"auths": {"a": {"auth": "!!"}}}"#, "a", "x").unwrap_err();
    assert!(bad_entry.to_string().contains("auth.json") && bad_entry.to_string().contains("entry for a"));
    let no_colon = format!(r#"{{"auths": {{"a": {{"auth": "{}"}}}}}}"#, BASE64_STANDARD.encode("nocolon"));
    assert!(matches!(look_up(&no_colon, "a", "x"), Err(CredentialError::Entry { .. })));
    assert!(matches!(look_up("{", "a", "x"), Err(CredentialError::Syntax { .. })));
    let absent = AuthFiles::only("/nonexistent/auth.json".into()).find(
        "a",
        "x",
        Duration::from_secs(30),
        &Cancel::new(),
    );
    assert!(matches!(absent, Err(CredentialError::Read { .. })));
}

#[test]
fn environment_chooses_the_files() {
    let files = |vars: &[(&str, &str)]| {
        let vars: HashMap<_, _> = vars.iter().map(|(k, v)| ((*k).to_owned(), OsString::from(v))).collect();
        AuthFiles::from_vars(|name| vars.get(name).cloned(), 7)
    };
    let alone = files(&[("REGISTRY_AUTH_FILE", "/x/auth.json"), ("HOME", "/root")]);
    assert_eq!((alone.required, alone.optional.len()), (Some(PathBuf::from("/x/auth.json")), 0));
    let plain = files(&[("HOME", "/root")]).optional;
    let expected =
        ["/run/containers/7/auth.json", "/root/.config/containers/auth.json", "/root/.docker/config.json"];
    assert_eq!(plain, expected.map(PathBuf::from));
    let set =
        files(&[("XDG_RUNTIME_DIR", "/r"), ("XDG_CONFIG_HOME", "/c"), ("DOCKER_CONFIG", "/d")]).optional;
    assert_eq!(
        set,
        ["/r/containers/auth.json", "/c/containers/auth.json", "/d/config.json"].map(PathBuf::from)
    );
}

#[test]
fn debug_shows_no_secret() {
    let shown = format!("{:?}", [password("u", "hush"), Credential::IdentityToken("hush".into())]);
    assert!(!shown.contains("hush"), "{shown}");
}
