//! Importing from layouts and archives: which image, which platform, and everything that is refused.

use std::fs;
use std::io::{Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use plywood_image::testing::TarBuilder;
use plywood_image::{Digest, Platform};
use plywood_kernel::testing::require_root;
use plywood_store::{Cancel, FetchError, FetchRequest, Source};
use serde_json::json;

use super::import_images::{
    LayerBlob, Layout, assert_untouched, chain, config, fetch, here, import, manifest, run,
};
use crate::support::store;

fn small_layer(text: &str) -> LayerBlob {
    LayerBlob::gzip(&TarBuilder::new().dir("etc", 0o755).file("etc/text", text).finish())
}

/// A tar of the layout.
fn archive_of(layout: &Layout) -> Vec<u8> {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("layout.tar");
    run("tar", "tar", &["-C", layout.path().to_str().unwrap(), "-cf", file.to_str().unwrap(), "."]);
    fs::read(file).unwrap()
}

/// Reads `etc/text` of the image's topmost layer.
fn text_of(store: &plywood_store::Store, image: &plywood_store::Image) -> String {
    let tree = store.merged(&image.layer_ids()).unwrap();
    String::from_utf8(tree.read_file("etc/text", 1000).unwrap().unwrap()).unwrap()
}

#[test]
fn root_every_compression_and_an_empty_layer_twice() {
    require_root();
    let tar = |n: u32| TarBuilder::new().dir("etc", 0o755).file(format!("etc/{n}"), n.to_string()).finish();
    let empty = LayerBlob::gzip(&[0; 1024]);
    let mut mislabelled = LayerBlob::zstd(&tar(4));
    mislabelled.media_type = LayerBlob::plain(Vec::new()).media_type;
    let layers = [
        LayerBlob::plain(tar(1)),
        LayerBlob::gzip(&tar(2)),
        empty.clone(),
        LayerBlob::zstd(&tar(3)),
        empty,
        mislabelled,
    ];
    let layout = Layout::of("mixed", &layers);
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let image = import(&store, &pins, &layout).unwrap();
    assert_eq!(image.names, ["docker.io/library/mixed:latest"]);
    assert_eq!(image.layers.len(), 6);
    let names: Vec<_> = store.merged(&image.layer_ids()).unwrap().read_dir("etc").unwrap().unwrap();
    assert_eq!(names.iter().map(|e| e.name.to_str().unwrap()).collect::<Vec<_>>(), ["1", "2", "3", "4"]);
    // All of it is here now: nothing is unpacked again.
    let again = import(&store, &pins, &layout).unwrap();
    assert_eq!(again.layer_ids(), image.layer_ids());
    assert_eq!(super::support::listed(&store, "blobs/ingest"), Vec::<String>::new());
}

#[test]
fn root_the_image_is_chosen_by_name_and_platform() {
    require_root();
    let other = if here() == "arm64" { "amd64" } else { "arm64" };
    let layout = Layout::new();
    let (mine, foreign) = (small_layer("mine"), small_layer("foreign"));
    let mut entries = Vec::new();
    for (architecture, layer) in [(other, &foreign), (here().as_str(), &mine)] {
        let config = config(architecture, std::slice::from_ref(layer));
        let manifest = manifest(&config, std::slice::from_ref(layer));
        layout.blob(&layer.bytes);
        layout.blob(&config);
        entries.push(json!({
            "mediaType": super::import_images::MANIFEST, "digest": layout.blob(&manifest), "size": manifest.len(),
            "platform": {"os": "linux", "architecture": architecture},
        }));
    }
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries,
    });
    let layout = layout.entry("multi", index.to_string().as_bytes()).image(
        "single",
        &here(),
        &[small_layer("single")],
    );

    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let mut request = FetchRequest::new(Source::Layout(layout.path().to_owned()));
    let error = chain(&fetch(&store, &pins, &request).unwrap_err());
    assert!(error.contains("several images") && error.contains("multi, single"), "{error}");
    for (name, platform, expected) in [
        ("single", Platform::host(), "single"),
        ("multi", Platform::host(), "mine"),
        ("multi", format!("linux/{other}").parse().unwrap(), "foreign"),
    ] {
        request.name = Some(name.parse().unwrap());
        request.platform = platform;
        let image = fetch(&store, &pins, &request);
        let image = image.unwrap_or_else(|e| panic!("{name}: {}", chain(&e)));
        assert_eq!(text_of(&store, &image), expected);
    }
    request.platform = "linux/s390x".parse().unwrap();
    let error = chain(&fetch(&store, &pins, &request).unwrap_err());
    assert!(error.contains("not available for linux/s390x") && error.contains(other), "{error}");
}

#[test]
fn root_archives_are_the_same_image() {
    require_root();
    let layers = [small_layer("below"), small_layer("archived")];
    let layout = Layout::of("quay.io/team/app:7", &layers);
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    let dir = layout.path().to_str().unwrap();
    let oci = path("oci.tar");
    run("tar", "tar", &["-C", dir, "-cf", oci.to_str().unwrap(), "."]);
    run("gzip", "gzip", &["-k", oci.to_str().unwrap()]);
    run("zstd", "zstd", &["-q", "-k", oci.to_str().unwrap()]);
    let docker = path("docker.tar");
    let copy = |to: &str| {
        let from = format!("oci:{dir}:quay.io/team/app:7");
        run("skopeo", "skopeo", &["copy", "--insecure-policy", "-q", &from, to]);
    };
    copy(&format!("docker-archive:{}:docker.io/library/saved:1", docker.display()));
    run("gzip", "gzip", &["-k", docker.to_str().unwrap()]);

    for (file, name) in [
        ("oci.tar", "quay.io/team/app:7"),
        ("oci.tar.gz", "quay.io/team/app:7"),
        ("oci.tar.zst", "quay.io/team/app:7"),
        ("docker.tar", "docker.io/library/saved:1"),
        ("docker.tar.gz", "docker.io/library/saved:1"),
    ] {
        let (_scratch, store) = store();
        let pins = store.pins().unwrap();
        let image = fetch(&store, &pins, &FetchRequest::new(Source::Archive(path(file))));
        let image = image.unwrap_or_else(|e| panic!("{file}: {}", chain(&e)));
        assert_eq!(image.names, [name], "{file}");
        assert_eq!(text_of(&store, &image), "archived", "{file}");
        let diff_ids: Vec<Digest> = image.layers.iter().map(|layer| layer.info.diff_id.0).collect();
        assert_eq!(diff_ids, layers.iter().map(|layer| layer.diff_id).collect::<Vec<_>>(), "{file}");
        assert_eq!(super::support::listed(&store, "blobs/ingest"), Vec::<String>::new());
    }
}

/// Opening an archive heard of nothing: not of a request to stop, and not of a full disk.
#[test]
fn opening_an_archive_can_be_stopped_and_leaves_room_on_the_disk() {
    let scratch = tempfile::tempdir().unwrap();
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let fifo = scratch.path().join("fifo");
    run("mkfifo", "coreutils", &[fifo.to_str().unwrap()]);
    let request = FetchRequest::new(Source::Archive(fifo.clone()));
    let stopped = |what: &str| {
        let cancel = Cancel::new();
        let started = std::time::Instant::now();
        let error = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(std::time::Duration::from_millis(100));
                cancel.cancel();
            });
            plywood_store::fetch_image(&store, &pins, &request, &|_| {}, &cancel).unwrap_err()
        });
        assert!(matches!(error, FetchError::Cancelled), "{what}: {error:?}");
        assert!(started.elapsed() < std::time::Duration::from_secs(5), "{what}");
    };
    stopped("a pipe that nobody writes to");
    // Reading too, so that opening it does not wait.
    let silent = fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
    stopped("a silent pipe");
    drop(silent);
    let endless = std::thread::spawn({
        let fifo = fifo.clone();
        move || {
            let mut fifo = fs::OpenOptions::new().write(true).open(fifo).unwrap();
            let member = TarBuilder::new().file("x", "").finish();
            while fifo.write_all(&member[..512]).is_ok() {}
        }
    });
    stopped("an endless one");
    endless.join().unwrap();

    let compressed = scratch.path().join("full.tar.gz");
    fs::write(&compressed, LayerBlob::gzip(&TarBuilder::new().file("x", "x").finish()).bytes).unwrap();
    let mut request = FetchRequest::new(Source::Archive(compressed));
    request.limits.keep_free_bytes = Some(u64::MAX);
    let error = chain(&fetch(&store, &pins, &request).unwrap_err());
    assert!(error.contains("18446744073709551615 are kept free"), "{error}");
    assert_untouched(&store);
}

/// 36 GB of zeros were written to the state root before they were found to be no archive.
#[test]
fn root_nothing_is_spooled_beyond_an_archives_end() {
    require_root();
    let layout = Layout::of("spooled:1", &[small_layer("spooled")]);
    let archive = archive_of(&layout);
    let zeros = vec![0; 64 << 20];
    let noise = vec![b'z'; 64 << 20];
    let cases: [(&str, Vec<u8>, Option<&str>); 4] = [
        ("zeros", zeros.clone(), Some("there is nothing in it")),
        ("noise", noise.clone(), Some("not a readable tar archive")),
        ("zeros follow", [&archive[..], &zeros].concat(), None),
        ("noise follows", [&archive[..], &noise].concat(), None),
    ];
    let scratch = tempfile::tempdir().unwrap();
    for (what, bytes, expected) in cases {
        for compressed in [false, true] {
            let (_scratch, store) = store();
            let pins = store.pins().unwrap();
            // All that is read goes through a pipe, which tells how much that was.
            let bytes = if compressed { LayerBlob::gzip(&bytes).bytes } else { bytes.clone() };
            let fifo = scratch.path().join(format!("{what}{compressed}"));
            run("mkfifo", "coreutils", &[fifo.to_str().unwrap()]);
            let writer = std::thread::spawn({
                let fifo = fifo.clone();
                move || {
                    let mut fifo = fs::OpenOptions::new().write(true).open(fifo).unwrap();
                    let written = bytes.chunks(4096).take_while(|piece| fifo.write_all(piece).is_ok());
                    written.map(<[u8]>::len).sum::<usize>()
                }
            });
            let mut request = FetchRequest::new(Source::Archive(fifo));
            // What is spooled counts.
            request.limits.layer_bytes = 2 << 20;
            let what = format!("{what}, compressed: {compressed}");
            match (fetch(&store, &pins, &request), expected) {
                (Ok(image), None) => assert_eq!(text_of(&store, &image), "spooled", "{what}"),
                (Err(error), Some(expected)) => {
                    let error = chain(&error);
                    assert!(error.contains(expected), "{what}: {error}");
                    assert_untouched(&store);
                }
                (other, _) => panic!("{what}: {other:?}"),
            }
            let read = writer.join().unwrap();
            assert!(read < 4 << 20, "{what}: {read} bytes were read");
        }
    }
}

/// `-` of the command: whatever standard input is, and wherever it stands.
#[test]
fn root_an_archive_is_read_from_where_a_stream_stands() {
    require_root();
    let layout = Layout::of("stream:1", &[small_layer("streamed")]);
    let archive = archive_of(&layout);
    for bytes in [archive.clone(), LayerBlob::gzip(&archive).bytes] {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"a line before it\n").unwrap();
        let start = file.stream_position().unwrap();
        file.write_all(&bytes).unwrap();
        file.seek(std::io::SeekFrom::Start(start)).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let (socket, other) = std::os::unix::net::UnixStream::pair().unwrap();
        for end in [OwnedFd::from(writer), OwnedFd::from(other)] {
            let bytes = bytes.clone();
            // The reader has all it wants before the end.
            std::thread::spawn(move || fs::File::from(end).write_all(&bytes));
        }
        for file in [file, fs::File::from(OwnedFd::from(reader)), fs::File::from(OwnedFd::from(socket))] {
            let (_scratch, store) = store();
            let pins = store.pins().unwrap();
            let source = Source::Stream { file: Arc::new(file), called: "a stream".into() };
            let image = fetch(&store, &pins, &FetchRequest::new(source));
            let image = image.unwrap_or_else(|e| panic!("{}", chain(&e)));
            assert_eq!(text_of(&store, &image), "streamed");
        }
    }
}

/// As `open` itself waits for somebody to write.
#[test]
fn root_an_archive_may_come_late_through_a_pipe() {
    require_root();
    let layout = Layout::of("piped:1", &[small_layer("piped")]);
    let scratch = tempfile::tempdir().unwrap();
    let fifo = scratch.path().join("fifo");
    run("mkfifo", "coreutils", &[fifo.to_str().unwrap()]);
    let script = format!("sleep 0.3; tar -C '{}' -c . > '{}'", layout.path().display(), fifo.display());
    let mut writer = std::process::Command::new("sh").args(["-c", &script]).spawn().unwrap();
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let image = fetch(&store, &pins, &FetchRequest::new(Source::Archive(fifo)));
    assert!(writer.wait().unwrap().success());
    assert_eq!(text_of(&store, &image.unwrap_or_else(|e| panic!("{}", chain(&e)))), "piped");
}

/// Old `docker save`: twin layers are symbolic links, and hostile archives have other ideas of links.
#[test]
fn root_docker_archives_with_links() {
    require_root();
    let layer = LayerBlob::plain(TarBuilder::new().dir("etc", 0o755).file("etc/text", "linked").finish());
    let config = config(&here(), &[layer.clone(), layer.clone()]);
    let manifest =
        json!([{"Config": "c.json", "RepoTags": ["old:1"], "Layers": ["a/layer.tar", "b/layer.tar"]}]);
    let archive = |link: &str| {
        TarBuilder::new()
            .file("../escape", "never")
            .file("/absolute", "never")
            .file("c.json", &config)
            .file("a/layer.tar", &layer.bytes)
            .symlink("b/layer.tar", link)
            .file("manifest.json", manifest.to_string())
            .finish()
    };
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("old.tar");
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    for outside in ["../../etc/passwd", "/etc/passwd", "../b/layer.tar", "absent"] {
        fs::write(&file, archive(outside)).unwrap();
        let error =
            chain(&fetch(&store, &pins, &FetchRequest::new(Source::Archive(file.clone()))).unwrap_err());
        assert!(error.contains("b/layer.tar") && error.contains("missing"), "{error}");
        assert_untouched(&store);
    }
    fs::write(&file, archive("../a/layer.tar")).unwrap();
    let image = fetch(&store, &pins, &FetchRequest::new(Source::Archive(file))).unwrap();
    assert_eq!(text_of(&store, &image), "linked");
    assert_eq!(image.layers.len(), 2);
}

#[test]
fn root_a_name_is_needed() {
    require_root();
    let layer = small_layer("x");
    let layout = Layout::of("", std::slice::from_ref(&layer));
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let error = chain(&import(&store, &pins, &layout).unwrap_err());
    assert!(error.contains("no name of its own"), "{error}");
    let error = chain(&import(&store, &pins, &Layout::of("Not A Name", &[layer])).unwrap_err());
    assert!(error.contains("Not A Name") && error.contains("not an image name"), "{error}");
    assert_untouched(&store);
    let mut request = FetchRequest::new(Source::Layout(layout.path().to_owned()));
    request.name = Some("given:2".parse().unwrap());
    assert_eq!(fetch(&store, &pins, &request).unwrap().names, ["docker.io/library/given:2"]);
}

/// Each way in which a layout can be wrong, and a part of the message that says so.
#[test]
fn root_damaged_layouts_are_refused_and_leave_nothing() {
    require_root();
    let tar = TarBuilder::new().dir("etc", 0o755).file("etc/text", vec![b'x'; 300_000]).finish();
    let good = LayerBlob::gzip(&tar);
    let digest = Digest::sha256(&good.bytes);
    let with = |bytes: Vec<u8>| LayerBlob { bytes, ..good.clone() };
    let replace = |layout: &Layout, bytes: &[u8]| fs::write(layout.blob_path(&digest), bytes).unwrap();
    let zstd = LayerBlob::zstd(&tar);
    let other = LayerBlob::gzip(&TarBuilder::new().file("other", "").finish());

    let cases: Vec<(&str, Layout, Vec<String>)> = vec![
        ("other bytes under the digest", Layout::of("a", std::slice::from_ref(&good)), vec![]),
        (
            "truncated gzip",
            Layout::of("a", &[with(good.bytes[..good.bytes.len() - 9].to_vec())]),
            vec!["gzip stream is truncated".into()],
        ),
        (
            "truncated zstd",
            Layout::of("a", &[LayerBlob { bytes: zstd.bytes[..zstd.bytes.len() - 3].to_vec(), ..zstd }]),
            vec!["zstd stream is truncated".into()],
        ),
        (
            "garbage after gzip",
            Layout::of("a", &[with([&good.bytes[..], b"more than the header of another member"].concat())]),
            vec!["bytes that are no gzip follow the end of the gzip stream".into()],
        ),
        (
            "wrong diff ID",
            Layout::of("a", &[LayerBlob { diff_id: other.diff_id, ..good.clone() }]),
            vec!["diff ID".into(), good.diff_id.to_string(), other.diff_id.to_string()],
        ),
        ("no tar", Layout::of("a", &[LayerBlob::gzip(&[b'z'; 2000])]), vec!["tar".into()]),
        (
            "truncated tar",
            Layout::of("a", &[LayerBlob::gzip(&tar[..3000])]),
            vec!["the archive is truncated".into()],
        ),
        (
            "another platform",
            Layout::new().image("a", "s390x", std::slice::from_ref(&good)),
            vec!["the image is for linux/s390x, not for linux/".into()],
        ),
    ];
    for (what, layout, expected) in cases {
        let (_scratch, store) = store();
        let pins = store.pins().unwrap();
        let expected = if what == "other bytes under the digest" {
            let mut damaged = good.bytes.clone();
            let middle = damaged.len() / 2;
            damaged[middle] ^= 1;
            replace(&layout, &damaged);
            vec!["digest mismatch".to_owned(), digest.to_string()]
        } else {
            expected
        };
        let error = chain(&import(&store, &pins, &layout).unwrap_err());
        for part in expected {
            assert!(error.contains(&part), "{what}: {error}");
        }
        assert_untouched(&store);
    }
    for (what, damage) in [
        ("shorter", (|path: &Path| fs::write(path, b"short").unwrap()) as fn(&Path)),
        ("a fifo", |path| {
            fs::remove_file(path).unwrap();
            run("mkfifo", "coreutils", &[path.to_str().unwrap()]);
        }),
        ("a directory", |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
        ("a link to a device", |path| {
            fs::remove_file(path).unwrap();
            symlink("/dev/zero", path).unwrap();
        }),
        ("absent", |path| fs::remove_file(path).unwrap()),
    ] {
        let (_scratch, store) = store();
        let pins = store.pins().unwrap();
        let layout = Layout::of("a", std::slice::from_ref(&good));
        damage(&layout.blob_path(&digest));
        let error = chain(&import(&store, &pins, &layout).unwrap_err());
        assert!(error.contains(&digest.hex()), "{what}: {error}");
        assert_untouched(&store);
    }
}

#[test]
fn root_501_layers_are_too_many() {
    require_root();
    let layers = vec![LayerBlob::gzip(&[0; 1024]); 501];
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let error = chain(&import(&store, &pins, &Layout::of("many", &layers)).unwrap_err());
    assert!(error.contains("501 layers") && error.contains("500"), "{error}");
    assert_untouched(&store);
    let image = import(&store, &pins, &Layout::of("most", &layers[..500])).unwrap();
    assert_eq!(image.layers.len(), 500);
}

#[test]
fn not_an_image_at_all() {
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let text = scratch.path().join("text");
    fs::write(&text, "this is no archive, but it is long enough to hold a header block".repeat(20)).unwrap();
    let empty_tar = scratch.path().join("empty.tar");
    fs::write(&empty_tar, [0; 1024]).unwrap();
    for (source, expected) in [
        (Source::Layout(scratch.path().to_owned()), "no index.json"),
        (Source::Layout("/nonexistent".into()), "/nonexistent"),
        (Source::Layout(text.clone()), "text"),
        (Source::Archive(text.clone()), "not a readable tar archive"),
        (Source::Archive(empty_tar), "there is nothing in it"),
        (Source::Archive(scratch.path().to_owned()), "directory"),
        (Source::Archive("/nonexistent".into()), "/nonexistent"),
    ] {
        let error = chain(&fetch(&store, &pins, &FetchRequest::new(source)).unwrap_err());
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

/// A blob that unpacks into far more than there is room for ends before the disk is full.
#[test]
fn root_a_bomb_is_stopped() {
    require_root();
    let zeros = vec![0; 64 << 20];
    let bomb = LayerBlob::zstd(&TarBuilder::new().file("zeros", zeros).finish());
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let layout = Layout::of("bomb", &[bomb]);
    let mut request = FetchRequest::new(Source::Layout(layout.path().to_owned()));
    request.limits.layer_bytes = 8 << 20;
    let error = chain(&fetch(&store, &pins, &request).unwrap_err());
    assert!(error.contains("more than 8388608 bytes"), "{error}");
    assert_untouched(&store);
}

/// What a layout calls its images, and a config its platform, went to the terminal as it was.
#[test]
fn root_foreign_text_is_printable() {
    require_root();
    let layer = [small_layer("a")];
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let several = Layout::new().image("\u{1b}[2Jone", &here(), &layer).image(
        "two\u{202e}",
        &here(),
        &[small_layer("b")],
    );
    let named = Layout::of("\u{1b}[2Jone", &layer);
    let elsewhere = Layout::new().image("other", "\u{9b}2J", &layer);
    for (layout, expected) in [
        (several, r"several images: \u{1b}[2Jone, two\u{202e}"),
        (named, r#"is named "\u{1b}[2Jone""#),
        (elsewhere, r"is for linux/\u{9b}2j"),
    ] {
        let error = chain(&import(&store, &pins, &layout).unwrap_err());
        assert!(error.contains(expected), "{expected}: {error}");
        assert_untouched(&store);
    }
}
