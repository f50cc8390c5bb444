//! Who keeps plywood waiting: images, runtimes, registries. Nobody does so for ever.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use plywood_image::testing::{RawHeader, TarBuilder};

use serde_json::json;

use super::bad_input::says;
use super::bed::in_bed;
use super::layout::{TestImage, text};

/// A node without contents.
fn node(flag: u8, name: &str) -> TarBuilder {
    let mut header = RawHeader::new(flag);
    header.name(name).device(1, 8);
    TarBuilder::new().entry(&header, &[])
}

/// The runtime opens these files inside the container: a pipe there kept it, and the launch, waiting for ever.
#[test]
fn root_accounts_that_are_no_files_are_refused() {
    in_bed(|bed| {
        let elsewhere = |file: &str| node(b'6', "srv/pipe").symlink(file, "../srv/pipe");
        for (name, layer, named) in [
            ("pipe", node(b'6', "etc/passwd"), "/etc/passwd in the image is a named pipe"),
            ("group", node(b'6', "etc/group"), "/etc/group in the image is a named pipe"),
            ("device", node(b'3', "etc/group"), "/etc/group in the image is a device"),
            ("link", elsewhere("etc/passwd"), "/etc/passwd in the image is a named pipe"),
        ] {
            bed.import(&TestImage::new().layer(layer), name);
            for args in [&["run"][..], &["run", "-d"], &["run", "--user", "0"]] {
                let error = bed.fails(1, &[args, &[name, "--", "true"]].concat());
                says(&error, &[named, "what to do: ", "regular file"]);
            }
        }
        // What is mounted there is read instead.
        let accounts = bed.path("accounts");
        fs::write(&accounts, "root:x:0:0:root:/root:/bin/sh\n").unwrap();
        let volume = format!("{}:/etc/passwd:ro", text(&accounts));
        bed.ok(&["run", "-v", &volume, "pipe", "--", "true"]);
    });
}

/// Each variable was looked for among all others, and each directory of `PATH` in all layers: minutes, past Ctrl-C.
#[test]
fn root_an_endless_environment_is_refused_at_once() {
    in_bed(|bed| {
        let variables: Vec<String> = (0..400_000).map(|n| format!("V{n:06}=")).collect();
        bed.import(&TestImage::new().with("Env", json!(variables)), "variables");
        let path: Vec<String> = (0..20_000).map(|n| format!("/{n}")).collect();
        let path = format!("PATH={}", path.join(":"));
        bed.import(&TestImage::of_layers(60).with("Env", json!([path])), "path");
        let long = format!("LONG={}", "x".repeat(3 << 20));
        bed.import(&TestImage::new().with("Env", json!([long])), "long");
        for (image, command, named) in [
            ("variables", "true", "400002 environment variables: "),
            ("path", "nosuch", "no command `nosuch` in the first 1024 directories of PATH"),
            ("long", "true", "environment variable `LONG`: 3145733 bytes, and the kernel takes "),
        ] {
            let start = Instant::now();
            let error = bed.fails(1, &["run", image, "--", command]);
            assert!(start.elapsed() < Duration::from_secs(20), "{image}: {:?}", start.elapsed());
            says(&error, &[named]);
            assert!(error.len() < 2000, "{image}: {} bytes of error", error.len());
        }
        let error = bed.fails(1, &["run", "path", "--", "nosuch"]);
        says(&error, &["what to do: ", "--env PATH="]);
        assert_eq!(bed.ok(&["run", "path", "--", "/bin/echo", "told where"]), "told where\n");
    });
}

#[test]
fn root_a_runtime_that_does_not_start_a_container_is_killed() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let script = bed.path("stuck");
        let stuck = "case \"$*\" in *' run '*) while :; do sleep 0.1; done;; esac; exec runc \"$@\"";
        fs::write(&script, format!("#!/bin/sh\n{stuck}\n")).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        for detached in [&["-d"][..], &[]] {
            let start = Instant::now();
            let flags = ["--start-timeout", "1s", "--runtime", text(&script), "app", "--", "true"];
            let error = bed.fails(1, &[&["run"], detached, &flags].concat());
            assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
            says(&error, &["failed ", "stuck had not started it after 1 s, and was killed"]);
            bed.expect_empty();
        }
        // One that does not even say what it is.
        fs::write(&script, "#!/bin/sh\nwhile :; do sleep 0.1; done\n").unwrap();
        let start = Instant::now();
        let error = bed.fails(1, &["run", "--runtime", text(&script), "app", "--", "true"]);
        says(&error, &["--version` cannot be run", "no answer within 10 s"]);
        assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    });
}

/// A registry that takes requests and says no more than `head`, then nothing for as long as the client stays.
fn silent(head: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            std::thread::spawn(move || {
                let mut request = [0; 4096];
                let _gone = client.read(&mut request).and_then(|_| client.write_all(head));
                while client.read(&mut request).is_ok_and(|count| count > 0) {}
            });
        }
    });
    host
}

#[test]
fn root_a_registry_that_says_nothing_is_given_up() {
    in_bed(|bed| {
        let heads = [
            &b""[..],
            b"HTTP/1.1 200 OK\r\nContent-Type: appl",
            b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"schemaVersion\"",
        ];
        let start = Instant::now();
        let pulls = heads.map(|head| {
            let host = silent(head);
            let image = format!("{host}/team/app:1");
            (host, bed.start(&["pull", "--registry-timeout", "300ms", &image]))
        });
        for (host, pull) in pulls {
            let error = pull.finish().check(1).stderr;
            says(&error, &[&host, "no answer in time; trying again"]);
            says(&error, &["team/app:1", "timeout", "what to do: ", "check the network"]);
        }
        assert!(start.elapsed() < Duration::from_secs(100), "{:?}", start.elapsed());
    });
}
