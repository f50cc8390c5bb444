//! SPECIFICATION.md names the tests that enforce its promises; this holds the names to the tests that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::proc::workspace;

/// Names in backticks in the last column of the tables that look like tests: with underscores, perhaps a `*` at the end.
fn named(specification: &str) -> BTreeSet<&str> {
    let rows = specification.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| no."));
    let enforced = rows.filter_map(|row| row.trim_end_matches(" |").rsplit_once(" | ")).map(|(_, last)| last);
    let quoted = enforced.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let test = |name: &&str| {
        name.contains('_')
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_*".contains(&b))
    };
    quoted.filter(test).collect()
}

/// Every function below `dir`, by name.
fn functions(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let names = text
                .lines()
                .filter_map(|line| line.trim_start().strip_prefix("fn ")?.split(['(', '<']).next());
            found.extend(names.map(str::to_owned));
        }
    }
}

#[test]
fn the_specification_names_tests_that_exist() {
    let specification = fs::read_to_string(workspace().join("SPECIFICATION.md")).unwrap();
    let mut existing = BTreeSet::new();
    functions(&workspace().join("crates"), &mut existing);
    let named = named(&specification);
    assert!(named.len() > 40, "the tables were not read: {named:?}");
    let missing: Vec<_> = named
        .into_iter()
        .filter(|name| match name.strip_suffix('*') {
            Some(start) => !existing.iter().any(|test| test.starts_with(start)),
            None => !existing.contains(*name),
        })
        .collect();
    assert!(missing.is_empty(), "SPECIFICATION.md names tests that do not exist: {missing:?}");
}
