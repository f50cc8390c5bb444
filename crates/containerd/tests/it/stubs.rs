//! The committed stubs against what the definitions generate, and the definitions against those of the projects they
//! are of.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use plywood_xtask::containerd::Definitions;
use prost_types::{DescriptorProto, FileDescriptorSet};

const DEFINITIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
const STUBS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/proto");

/// Set by `cargo xtask generate`: write the stubs instead of comparing them.
const WRITE: &str = "PLYWOOD_GENERATE";

fn files(dir: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
}

fn contents(dir: &Path) -> BTreeMap<String, String> {
    let mut paths = Vec::new();
    files(dir, "rs", &mut paths);
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    paths.iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn the_stubs_are_what_the_definitions_generate() {
    let mut definitions = Vec::new();
    files(Path::new(DEFINITIONS), "proto", &mut definitions);
    let dir = tempfile::tempdir().unwrap();
    tonic_prost_build::configure()
        .out_dir(dir.path())
        .build_server(false)
        .disable_comments(["."])
        .emit_rerun_if_changed(false)
        .compile_fds(protox::compile(&definitions, [DEFINITIONS]).unwrap())
        .unwrap();
    let generated = contents(dir.path());
    if std::env::var_os(WRITE).is_some() {
        for name in contents(Path::new(STUBS)).keys().filter(|name| !generated.contains_key(*name)) {
            fs::remove_file(Path::new(STUBS).join(name)).unwrap();
        }
        for (name, text) in &generated {
            fs::write(Path::new(STUBS).join(name), text).unwrap();
        }
    }
    let committed = contents(Path::new(STUBS));
    assert_eq!(committed.keys().collect::<Vec<_>>(), generated.keys().collect::<Vec<_>>());
    for (name, text) in &generated {
        assert!(
            committed[name] == *text,
            "{name} is not what its definition generates; type: cargo xtask generate"
        );
    }
}

/// Fields newer than the containerds there are to compare with.
const NEWER: [&str; 1] = ["containerd.services.snapshots.v1.CommitSnapshotRequest.parent"];

/// What goes over the wire, by full name: fields with number and type, values of enums, methods with their messages.
fn on_the_wire(descriptors: &FileDescriptorSet) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for file in &descriptors.file {
        let package = file.package();
        for message in &file.message_type {
            message_on_the_wire(package, message, &mut found);
        }
        for definition in &file.enum_type {
            for value in &definition.value {
                found.insert(
                    format!("{package}.{}.{}", definition.name(), value.name()),
                    value.number().to_string(),
                );
            }
        }
        for service in &file.service {
            for method in &service.method {
                let stream = |is: bool| if is { "stream " } else { "" };
                let (input, output) = (stream(method.client_streaming()), stream(method.server_streaming()));
                found.insert(
                    format!("{package}.{}/{}", service.name(), method.name()),
                    format!("{input}{} -> {output}{}", method.input_type(), method.output_type()),
                );
            }
        }
    }
    found
}

fn message_on_the_wire(parent: &str, message: &DescriptorProto, found: &mut BTreeMap<String, String>) {
    let name = format!("{parent}.{}", message.name());
    for field in &message.field {
        found.insert(
            format!("{name}.{}", field.name()),
            format!("{} {:?} {:?} {}", field.number(), field.label(), field.r#type(), field.type_name()),
        );
    }
    for nested in &message.nested_type {
        message_on_the_wire(&name, nested, found);
    }
}

#[test]
fn the_definitions_are_those_of_containerd_and_of_kubernetes() {
    let mut ours = Vec::new();
    files(Path::new(DEFINITIONS), "proto", &mut ours);
    let ours = on_the_wire(&protox::compile(&ours, [DEFINITIONS]).unwrap());
    let theirs = Definitions::open().unwrap();
    let theirs = on_the_wire(&protox::compile(theirs.files().unwrap(), theirs.roots()).unwrap());
    assert!(ours.len() > 200, "{} names only", ours.len());
    let wrong: Vec<_> = ours
        .iter()
        .filter(|(name, _)| !name.starts_with("google.protobuf."))
        .filter(|(name, _)| theirs.contains_key(*name) || !NEWER.contains(&name.as_str()))
        .filter(|(name, shape)| theirs.get(*name) != Some(shape))
        .map(|(name, shape)| format!("{name}: {shape}, theirs {:?}", theirs.get(name)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
