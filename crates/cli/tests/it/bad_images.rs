//! Images that cannot be brought in: exit code 1, the thing named, what to do about it, nothing left.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use plywood_image::Digest;
use plywood_image::testing::TarBuilder;
use serde_json::{Value, json};

use super::bad_input::says;
use super::bed::{Bed, in_bed, start};
use super::layout::{Layout, TestImage, gzip, text, tool};

const AGAIN: &str = "damaged: make or push it again";
const IN_PART: &str = "copy or export it again";
const REBUILD: &str = "build it again with a current builder";

/// Something to bring in, and what must be said of it.
struct Case {
    args: Vec<String>,
    named: Vec<String>,
    remedy: &'static str,
}

/// Three small layers.
fn small() -> TestImage {
    let mut image = TestImage::new();
    image.layers = vec![];
    image
        .layer(TarBuilder::new().dir("etc", 0o755).file("etc/first", "1"))
        .layer(TarBuilder::new().dir("etc", 0o755).file("etc/second", vec![b'2'; 200_000]))
        .layer(TarBuilder::new().dir("etc", 0o755).file("etc/third", "3"))
}

fn diff_ids(image: &TestImage) -> Vec<Digest> {
    image.layers.iter().map(|tar| Digest::sha256(tar)).collect()
}

/// An import of a layout that `make` makes in a directory of its own.
fn import(bed: &Bed, name: &str, make: impl FnOnce(Layout) -> Layout) -> (Layout, Vec<String>) {
    let layout = make(Layout::new(&bed.path(name)));
    let args = vec!["import".to_owned(), text(layout.path()).to_owned()];
    (layout, args)
}

/// The second of three layers packed otherwise.
fn packed(bed: &Bed, name: &str, pack: fn(&[u8]) -> Vec<u8>, said: &str, remedy: &'static str) -> Case {
    let (layout, args) = import(bed, name, |layout| {
        let image = small();
        layout.image_of(&image, name, &diff_ids(&image), |n, tar| if n == 1 { pack(tar) } else { gzip(tar) })
    });
    Case { args, named: vec!["layer 2".into(), layout.layers[1].hex(), said.into()], remedy }
}

/// The blob of the second of three layers changed behind its digest.
fn changed(bed: &Bed, name: &str, change: fn(&mut Vec<u8>), remedy: &'static str) -> Case {
    let (layout, args) = import(bed, name, |layout| layout.image(&small(), name));
    let blob = layout.blob_path(&layout.layers[1]);
    let mut bytes = fs::read(&blob).unwrap();
    fs::remove_file(&blob).unwrap();
    change(&mut bytes);
    if !bytes.is_empty() {
        fs::write(&blob, bytes).unwrap();
    }
    Case { args, named: vec![layout.layers[1].hex()], remedy }
}

/// A layer on top that no image may have.
fn hostile(bed: &Bed, name: &str, tar: TarBuilder, named: &[&str]) -> Case {
    let (_, args) = import(bed, name, |layout| layout.image(&small().layer(tar), name));
    let named = [&["layer 4"], named].concat().into_iter().map(str::to_owned).collect();
    Case { args, named, remedy: REBUILD }
}

fn zstd(tar: &[u8]) -> Vec<u8> {
    let mut child = Command::new("zstd")
        .args(["-q", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot run zstd ({e}); type: apt-get install zstd"));
    let mut stdin = child.stdin.take().unwrap();
    let tar = tar.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(&tar).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    output.stdout
}

fn cut(mut blob: Vec<u8>) -> Vec<u8> {
    blob.truncate(blob.len() - 9);
    blob
}

fn cases(bed: &Bed) -> Vec<Case> {
    let escape = "/etc/plywood-escaped";
    let outside = TarBuilder::new().symlink("srv", "/").file("srv/etc/plywood-escaped", "x");
    let twice = TarBuilder::new().file("srv/twice", "1").file("./srv/twice", "2");
    let other_mode = TarBuilder::new().dir("srv", 0o755).dir("srv/", 0o700);
    let mut cases = vec![
        packed(bed, "gzip-cut", |tar| cut(gzip(tar)), "the gzip stream is truncated", AGAIN),
        packed(bed, "zstd-cut", |tar| cut(zstd(tar)), "the zstd stream is truncated", AGAIN),
        packed(
            bed,
            "gzip-tail",
            |tar| [&gzip(tar)[..], b"xyz"].concat(),
            "bytes that are no gzip follow",
            AGAIN,
        ),
        packed(
            bed,
            "zstd-tail",
            |tar| [&zstd(tar)[..], b"xyz0"].concat(),
            "bytes that are no zstd follow",
            AGAIN,
        ),
        packed(bed, "tar-cut", |tar| gzip(&tar[..3000]), "the archive is truncated", AGAIN),
        packed(bed, "tar-none", |_| gzip(&[b'z'; 4000]), "not a sound tar archive", AGAIN),
        changed(bed, "digest", |bytes| *bytes.last_mut().unwrap() ^= 1, AGAIN),
        changed(bed, "short", |bytes| bytes.truncate(100), IN_PART),
        changed(bed, "long", |bytes| bytes.push(0), IN_PART),
        changed(bed, "missing", Vec::clear, IN_PART),
        hostile(
            bed,
            "up",
            TarBuilder::new().file("../../../../etc/plywood-escaped", "x"),
            &["\"..\"", escape],
        ),
        hostile(
            bed,
            "slash",
            TarBuilder::new().file("srv/x/", "x"),
            &["srv/x/", "readers of tar archives disagree"],
        ),
        hostile(bed, "absolute", TarBuilder::new().file(escape, "x"), &[escape, "is absolute"]),
        hostile(bed, "through", outside, &["srv/etc/plywood-escaped", "symbolic link"]),
        hostile(
            bed,
            "link-up",
            TarBuilder::new().hard_link("x", "../../etc/passwd"),
            &["\"x\"", "../../etc/passwd"],
        ),
        hostile(
            bed,
            "link-absolute",
            TarBuilder::new().hard_link("x", "/etc/passwd"),
            &["\"x\"", "\"etc/passwd\""],
        ),
        hostile(
            bed,
            "link-nowhere",
            TarBuilder::new().hard_link("srv/x", "srv/no"),
            &["\"srv/x\"", "\"srv/no\""],
        ),
        hostile(bed, "twice", twice, &["\"srv/twice\"", "earlier entry of this name (file)"]),
        hostile(bed, "two-modes", other_mode, &["\"srv\"", "with other attributes"]),
        hostile(
            bed,
            "mtime",
            TarBuilder::new().pax("mtime", "1e9").file("srv/odd", "x"),
            &["bad PAX header: a time is no number"],
        ),
        hostile(bed, "long-name", TarBuilder::new().file(vec!["d"; 4000].join("/"), "x"), &["limit"]),
        hostile(
            bed,
            "capability",
            TarBuilder::new().pax("SCHILY.xattr.security.capability", "garbage").file("srv/able", "x"),
            &["\"srv/able\"", "security.capability"],
        ),
        hostile(
            bed,
            "whiteout",
            TarBuilder::new().char_device("srv/w", 0, 0),
            &["\"srv/w\"", "overlayfs whiteout"],
        ),
    ];
    cases.push(Case {
        remedy: "has no such attributes",
        ..hostile(
            bed,
            "namespace",
            TarBuilder::new().xattr("bogus.foo", "x").file("srv/odd", "x"),
            &["\"srv/odd\"", "bogus.foo"],
        )
    });
    cases.push(hostile(
        bed,
        "large-attribute",
        TarBuilder::new().xattr("user.large", vec![b'x'; 70_000]).file("srv/odd", "x"),
        &["srv/odd", "value of an extended attribute"],
    ));
    cases.push(Case {
        args: import(bed, "link-dir", |layout| {
            layout.image(&small().layer(TarBuilder::new().hard_link("x", "etc")), "link-dir")
        })
        .1,
        named: vec!["\"x\"".into(), "\"etc\" is a directory".into()],
        remedy: REBUILD,
    });
    cases.extend(made_so(bed));
    let mut more = |args: Vec<String>, named: &[&str], remedy| {
        cases.push(Case { args, named: named.iter().map(|&part| part.to_owned()).collect(), remedy });
    };

    let mut wrong = diff_ids(&small());
    wrong[2] = Digest::sha256(b"something else");
    let (_, args) = import(bed, "diff-id", |layout| layout.image_with(&small(), "diff-id", &wrong));
    more(args, &["layer 3", "diff ID", &wrong[2].hex(), &diff_ids(&small())[2].hex()], AGAIN);
    let (_, args) = import(bed, "many", |layout| layout.image(&TestImage::of_layers(501), "many"));
    more(args, &["501 layers", "500"], "squash the image to at most 500 layers");
    let mut foreign = small();
    foreign.architecture = if foreign.architecture == "s390x" { "amd64" } else { "s390x" }.to_owned();
    let platform = format!("linux/{}", foreign.architecture);
    let (_, args) = import(bed, "foreign", |layout| layout.image(&foreign, "foreign"));
    more(args, &[&format!("the image is for {platform}, not for linux/")], "add --platform linux/");
    let mut windows = small();
    windows.os = "windows".to_owned();
    let (_, args) = import(bed, "windows", |layout| layout.image(&windows, "windows"));
    more(args, &["the image is for windows/"], "get an image built for Linux");
    let (_, args) = import(bed, "unnamed", |layout| layout.image(&small(), "Not A Name"));
    more(args, &["\"Not A Name\"", "not an image name"], "give the image a name by --name");
    let (_, args) =
        import(bed, "two", |layout| layout.image(&small(), "one:1").image(&TestImage::new(), "two:2"));
    more(args, &["several images", "one:1", "two:2"], "by --name");

    fs::write(bed.path("text.tar"), "no tar at all").unwrap();
    let tar = TarBuilder::new().file("index.json", "{}").finish();
    fs::write(bed.path("tail.tar"), [&tar[..1024], &[b'z'; 2000]].concat()).unwrap();
    fs::write(bed.path("zeros.tar.gz"), gzip(&[0; 100_000])).unwrap();
    fs::create_dir(bed.path("empty")).unwrap();
    fs::write(bed.path("cut.tar.gz"), cut(gzip(&TarBuilder::new().file("index.json", "{}").finish())))
        .unwrap();
    let layouts = "a directory in the OCI image layout";
    for (path, said, remedy) in [
        ("text.tar", "not a readable tar archive", layouts),
        ("tail.tar", "not a readable tar archive", AGAIN),
        ("zeros.tar.gz", "there is nothing in it", layouts),
        ("empty", "no index.json", layouts),
        ("nowhere.tar", "No such file", layouts),
        ("cut.tar.gz", "the gzip stream is truncated", AGAIN),
    ] {
        more(vec!["import".to_owned(), text(&bed.path(path)).to_owned()], &[path, said], remedy);
    }

    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (host, remedy) in [
        (unused.to_string(), "check the registry's name and port, and that it runs"),
        ("registry.invalid".to_owned(), "can resolve names"),
    ] {
        more(vec!["pull".to_owned(), format!("{host}/team/app:1")], &["team/app:1", &host], remedy);
    }
    cases
}

/// Images that are whole and not supported were called damaged.
fn made_so(bed: &Bed) -> Vec<Case> {
    let changed = |name: &str, of: &str, change: fn(&mut Value), said: &str, remedy: &'static str| {
        let (layout, args) = import(bed, name, |layout| layout.image(&small(), name));
        layout.change(of, change);
        Case { args, named: vec![said.to_owned()], remedy }
    };
    let is_layer = "is a foreign (non-distributable) layer";
    vec![
        changed(
            "foreign-layer",
            "manifest",
            |manifest| manifest["layers"][0]["urls"] = json!(["https://elsewhere.invalid/layer"]),
            is_layer,
            "such layers lie outside of registries",
        ),
        changed(
            "encrypted",
            "manifest",
            |manifest| {
                manifest["layers"][0]["mediaType"] =
                    json!("application/vnd.oci.image.layer.v1.tar+gzip+encrypted");
            },
            "unsupported media type",
            "decrypt the image",
        ),
        changed(
            "md5",
            "manifest",
            |manifest| manifest["layers"][0]["digest"] = json!("md5:d41d8cd98f00b204e9800998ecf8427e"),
            "digest algorithm \"md5\" is not supported",
            "digests of sha256 or sha512",
        ),
        changed(
            "no-architecture",
            "config",
            |config| drop(config.as_object_mut().unwrap().remove("architecture")),
            "has no architecture",
            "the image is whole",
        ),
        changed(
            "nameless",
            "config",
            |config| config["config"]["Env"] = json!(["=x"]),
            "a variable without a name",
            "the image is whole",
        ),
    ]
}

#[test]
fn root_what_cannot_be_brought_in_is_named_with_a_remedy() {
    in_bed(|bed| {
        // Names lead nowhere, at once, whatever this machine's resolver would do.
        fs::write(bed.path("resolv.conf"), "nameserver 127.0.0.1\noptions attempts:1 timeout:1\n").unwrap();
        tool("mount", "mount", &["--bind", text(&bed.path("resolv.conf")), "/etc/resolv.conf"]);
        for case in cases(bed) {
            let mut command = bed.command(["--json"].into_iter().chain(case.args.iter().map(String::as_str)));
            for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]
            {
                command.env_remove(proxy);
            }
            let done = start(command).finish().check(1);
            let error = &done.json()["error"];
            let parts: Vec<&str> = case.named.iter().map(String::as_str).collect();
            says(error["message"].as_str().unwrap(), &parts);
            says(error["remedy"].as_str().unwrap_or_default(), &[case.remedy]);
            says(&done.stderr, &parts);
            says(&done.stderr, &["\n  what to do: ", case.remedy]);
            assert!(!fs::exists("/etc/plywood-escaped").unwrap());
            assert_eq!(bed.json(&["images"]), json!({ "images": [] }));
            for place in ["layers", "flat", "blobs/sha256"] {
                assert_eq!(bed.listed(place), Vec::<String>::new(), "{place}: {:?}", case.args);
            }
            bed.expect_empty();
        }
        tool("umount", "mount", &["/etc/resolv.conf"]);
    });
}

/// Attributes that are left out of an image are told, and the image is there.
#[test]
fn root_what_is_left_out_is_told() {
    in_bed(|bed| {
        let lists = TarBuilder::new().pax("SCHILY.acl.access", "user::rwx").file("etc/acl", "x");
        let (_layout, args) = import(bed, "acl", |layout| layout.image(&small().layer(lists), "acl"));
        let done = start(bed.command(args.iter().map(String::as_str))).finish().check(0);
        says(&done.stderr, &["layer 4: left out, as containerd does: access lists (SCHILY.acl) of 1 entry"]);
    });
}

/// Too few open files, at whatever point they run out.
#[test]
fn root_too_few_open_files_are_named() {
    in_bed(|bed| {
        let deep = TarBuilder::new().file(format!("{}/x", vec!["d"; 60].join("/")), "x");
        let layout = small().layer(deep).write(&bed.path("deep"), "deep");
        for limit in [14, 20, 26, 32] {
            let mut command = Command::new("sh");
            command.arg("-c").arg(format!("ulimit -n {limit} && exec \"$@\"")).arg("sh");
            command.arg(env!("CARGO_BIN_EXE_plywood")).arg("--root").arg(bed.root());
            command.arg("import").arg(layout.path()).stdin(Stdio::null());
            let error = start(command).finish().check(1).stderr;
            says(&error, &["what to do: ", "ulimit -n"]);
        }
        assert_eq!(bed.json(&["images"]), json!({ "images": [] }));
        assert_eq!(bed.listed("layers"), Vec::<String>::new());
        bed.ok(&["import", text(layout.path())]);
    });
}
