use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn program(directory: &Path, name: &str, script: &str) {
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn find_in(directory: &Path, wanted: Option<&str>, layout: Layout) -> Result<Runtime, FindError> {
    find(wanted, directory.as_os_str(), layout, Path::new("/run/plywood"))
}

const CRUN: &str = "[ $1 = --version ] && echo crun version 1.8.1 && exit 0; exit 1";
const RUNC: &str = r#"[ $1 = --version ] && echo runc version 1.1.5 && exit 0; echo '{"linux":{"cgroup":{"v1":true,"v2":true}}}'"#;

#[test]
fn the_first_runtime_that_works_here_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    program(directory.path(), "crun", CRUN);
    program(directory.path(), "runc", RUNC);
    let found = find_in(directory.path(), None, Layout::V2).unwrap();
    assert_eq!((found.name(), found.family()), ("crun", Family::Crun));
    let found = find_in(directory.path(), None, Layout::Hybrid).unwrap();
    assert_eq!((found.name(), found.family()), ("runc", Family::Runc));
    assert_eq!(found.state_root(), Path::new("/run/plywood/runc"));
    let refusals = survey(directory.path().as_os_str(), Layout::Hybrid);
    assert!(matches!(refusals[0].refusal, Some(Refusal::HybridCgroups)));
    assert!(refusals[1].refusal.is_none());
}

#[test]
fn a_missing_or_broken_runtime_is_explained() {
    let directory = tempfile::tempdir().unwrap();
    let error = find_in(directory.path(), None, Layout::V2).unwrap_err().to_string();
    assert!(error.contains("crun: not installed; runc: not installed"), "{error}");
    assert!(error.contains("apt-get install runc"), "{error}");

    program(directory.path(), "broken", "echo no such option >&2; exit 3");
    let wanted = directory.path().join("broken");
    let error = find_in(directory.path(), wanted.to_str(), Layout::V2).unwrap_err();
    let FindError::Refused { refusal, .. } = error else { panic!("{error}") };
    assert!(refusal.to_string().ends_with("failed: no such option"), "{refusal}");

    program(
        directory.path(),
        "v2only",
        r#"[ $1 = --version ] && echo x version 1 && exit 0; echo '{"linux":{"cgroup":{"v1":false}}}'"#,
    );
    assert!(find_in(directory.path(), Some("v2only"), Layout::V2).is_ok());
    let error = find_in(directory.path(), Some("v2only"), Layout::V1).unwrap_err();
    assert!(matches!(error, FindError::Refused { refusal: Refusal::NoCgroups("v1"), .. }), "{error}");
}

#[test]
fn a_failed_command_is_shown_with_its_words() {
    let directory = tempfile::tempdir().unwrap();
    program(
        directory.path(),
        "runc",
        "[ $1 = --version ] && echo runc version 1 && exit 0; echo gone wrong >&2; exit 1",
    );
    let runtime = find_in(directory.path(), Some("runc"), Layout::V2).unwrap();
    let error = runtime.kill("c1", "TERM").unwrap_err().to_string();
    assert!(
        error.ends_with("--root /run/plywood/runc kill c1 TERM` failed (exit status: 1): gone wrong"),
        "{error}"
    );
}
