//! SPECIFICATION.md names the tests that enforce its promises; this holds the names to the tests that exist: functions
//! with `#[test]`, in the crate that is named before them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::proc::workspace;

/// Crates and names in backticks in the last column of the tables that look like tests: with underscores, perhaps a `*`
/// at the end. A crate holds for the names up to the next semicolon.
fn named(specification: &str) -> BTreeSet<(&str, &str)> {
    let rows = specification.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| no."));
    let enforced = rows.filter_map(|row| row.trim_end_matches(" |").rsplit_once(" | ")).map(|(_, last)| last);
    let parts = enforced.flat_map(|cell| cell.split(';'));
    parts
        .flat_map(|part| {
            let before = part.split('`').next().unwrap_or_default();
            let of_crate = before.trim().strip_suffix(':').unwrap_or_default();
            part.split('`').skip(1).step_by(2).filter(test_like).map(move |name| (of_crate, name))
        })
        .collect()
}

fn test_like(name: &&str) -> bool {
    name.contains('_')
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_*".contains(&b))
}

/// The tests of a source file: functions with `#[test]` among the attributes right before them.
fn tests(source: &str) -> impl Iterator<Item = &str> {
    let mut marked = false;
    source.lines().map(str::trim_start).filter_map(move |line| {
        if line == "#[test]" || line.starts_with("#[tokio::test") {
            marked = true;
        } else if let Some(function) = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ") {
            return std::mem::take(&mut marked).then(|| function.split(['(', '<']).next()).flatten();
        } else if line.is_empty() || line.ends_with(['{', '}', ';']) {
            marked = false;
        }
        None
    })
}

/// Every test below `dir`, by name.
fn tests_below(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            tests_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.extend(tests(&fs::read_to_string(&path).unwrap()).map(str::to_owned));
        }
    }
}

/// The tests of each crate, by the crate's short name.
fn existing() -> BTreeMap<String, BTreeSet<String>> {
    let crates = fs::read_dir(workspace().join("crates")).unwrap().map(Result::unwrap);
    crates
        .map(|entry| {
            let mut found = BTreeSet::new();
            tests_below(&entry.path(), &mut found);
            (entry.file_name().into_string().unwrap(), found)
        })
        .collect()
}

fn missing<'a>(
    named: &BTreeSet<(&'a str, &'a str)>,
    existing: &BTreeMap<String, BTreeSet<String>>,
) -> Vec<(&'a str, &'a str)> {
    let exists = |of_crate: &str, name: &str| {
        existing.get(of_crate).is_some_and(|tests| match name.strip_suffix('*') {
            Some(start) => tests.iter().any(|test| test.starts_with(start)),
            None => tests.contains(name),
        })
    };
    named.iter().copied().filter(|(of_crate, name)| !exists(of_crate, name)).collect()
}

#[test]
fn the_specification_names_tests_that_exist() {
    let specification = fs::read_to_string(workspace().join("SPECIFICATION.md")).unwrap();
    let named = named(&specification);
    assert!(named.len() > 40, "the tables were not read: {named:?}");
    let missing = missing(&named, &existing());
    assert!(missing.is_empty(), "SPECIFICATION.md names tests that do not exist: {missing:?}");
}

#[test]
fn helpers_and_tests_of_other_crates_enforce_nothing() {
    let source = "
        #[test]
        #[cfg(unix)]
        fn a_test() {}
        fn a_helper() {}
        #[tokio::test(flavor = \"current_thread\")]
        async fn another_test() {}
        #[test]
        const X: u8 = 0;
        fn a_late_one() {}
    ";
    assert_eq!(tests(source).collect::<Vec<_>>(), ["a_test", "another_test"]);

    let row = "| X1 | Something | one: `a_test`, `a_helper`; two: `a_test`, `another_*`; bench `run` |";
    let of = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    let existing =
        BTreeMap::from([("one".to_owned(), of(&["a_test"])), ("two".to_owned(), of(&["another_test"]))]);
    assert_eq!(missing(&named(row), &existing), [("one", "a_helper"), ("two", "a_test")]);
    assert_eq!(missing(&named("| X2 | Nobody's | `a_test` |"), &existing), [("", "a_test")]);
}
