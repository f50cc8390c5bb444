//! `pull`, and `run` of an image that is not there yet, from a real registry.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use super::bed::{Bed, eventually, in_bed};
use super::layout::{Layout, TestImage, text, tool};

/// The user `user` with the password `secret`, hashed by bcrypt.
const USER_SECRET: &str = "user:$2b$05$wS8ldOAiVFSM1e0a0htX4uzEu1bY9Lrj5rDnsvPBaFRgWykZKLIQq\n";

/// Debian's docker-registry on a free loopback port, gone with its handle.
struct Registry {
    child: Child,
    host: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Ours, by its own id.
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Registry {
    fn start(bed: &Bed, password: bool) -> Registry {
        let dir = bed.path("registry");
        fs::create_dir(&dir).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        // JSON is YAML.
        let mut config = json!({
            "version": 0.1,
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": dir.join("data")}},
            "http": {"addr": host},
        });
        if password {
            let htpasswd = dir.join("htpasswd");
            fs::write(&htpasswd, USER_SECRET).unwrap();
            config["auth"] = json!({"htpasswd": {"realm": "test", "path": htpasswd}});
        }
        let path = dir.join("config.yml");
        fs::write(&path, config.to_string()).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(File::create(dir.join("log")).unwrap())
            .spawn()
            .unwrap_or_else(|e| {
                panic!("cannot run docker-registry ({e}); type: apt-get install docker-registry")
            });
        let registry = Registry { child, host };
        eventually("the registry listens", || TcpStream::connect(&registry.host).ok());
        registry
    }

    fn push(&self, layout: &Layout, name: &str, more: &[&str]) -> String {
        let to = format!("{}/team/{name}:1", self.host);
        let from = format!("oci:{}:{name}", text(layout.path()));
        let args = ["copy", "--insecure-policy", "-q", "--dest-tls-verify=false"];
        tool("skopeo", "skopeo", &[&args, more, &[&from, &format!("docker://{to}")]].concat());
        to
    }
}

#[test]
fn root_pull_and_run_from_a_registry() {
    in_bed(|bed| {
        let registry = Registry::start(bed, false);
        let layout = TestImage::of_layers(12).write(&bed.path("layout"), "app");
        let name = registry.push(&layout, "app", &[]);

        let pulled = bed.json(&["pull", "--plain-http", &name])["images"][0].clone();
        assert_eq!((&pulled["layers"], &pulled["names"]), (&json!(12), &json!([name])));
        assert!(pulled["flat_entries"].as_u64().unwrap() > 12, "{pulled}");
        assert_eq!(bed.ok(&["run", &name, "--", "cat", "/srv/of-layer-11"]), "11");
        // By digest it is the same image under one more name.
        let digest =
            format!("{}@{}", name.trim_end_matches(":1"), pulled["manifest_digest"].as_str().unwrap());
        let again = bed.json(&["pull", &digest])["images"][0].clone();
        assert_eq!(again["manifest_digest"], pulled["manifest_digest"]);
        assert_eq!((&pulled["name"], &again["name"]), (&json!(name), &json!(digest)));

        // One object, however many there are, and what went wrong after some.
        let both = bed.json(&["pull", &name, &digest]);
        assert_eq!(both["images"].as_array().unwrap().len(), 2);
        let missing = format!("{}:2", name.trim_end_matches(":1"));
        let partly = bed.plywood(&["--json", "pull", &name, &missing]).check(1).json();
        assert_eq!(partly["images"][0]["name"], json!(name));
        assert!(partly["error"]["message"].as_str().unwrap().contains("has no"), "{partly}");

        // A run brings in what is missing.
        bed.ok(&["rmi", "--force", &name]);
        assert_eq!(bed.json(&["images"]), json!({ "images": [] }));
        let report = bed.json(&["run", &name, "--", "test", "-f", "/srv/of-layer-11"]);
        assert_eq!((&report["lower"], &report["flat_tree_built"]), (&json!("layers"), &json!(true)));
        bed.ok(&["run", "--pull", "always", &name, "--", "true"]);
    });
}

#[test]
fn root_images_a_registry_does_not_have() {
    in_bed(|bed| {
        let registry = Registry::start(bed, false);
        let layout = TestImage::new().write(&bed.path("layout"), "app");
        let name = registry.push(&layout, "app", &[]);
        let other_tag = format!("{}:2", name.trim_end_matches(":1"));
        let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let cases: [(&str, i32, &[&str]); 5] = [
            (&other_tag, 1, &["has no", "check the name and tag"]),
            (&format!("{}/team/nosuch:1", registry.host), 1, &["has no", "nosuch", "check the name and tag"]),
            (
                &format!("{unused}/team/app:1"),
                1,
                &["team/app", "refused", "check the registry's name and port"],
            ),
            ("Not A Name", 2, &["`Not A Name` is no image name"]),
            ("127.0.0.1:1/UPPER:1", 2, &["UPPER", "is no image name"]),
        ];
        for (name, code, expected) in cases {
            let error = bed.fails(code, &["pull", name]);
            for part in expected {
                assert!(error.contains(part), "{name}: {part:?} is not in {error}");
            }
            let error = bed.fails(code, &["run", "-n", "3", name, "--", "true"]);
            assert!(error.contains(expected[0]), "{error}");
        }
        assert_eq!(bed.json(&["images"]), json!({ "images": [] }));
        assert_eq!(bed.listed("layers"), Vec::<String>::new());
    });
}

#[test]
fn root_an_authfile_opens_the_registry() {
    in_bed(|bed| {
        let registry = Registry::start(bed, true);
        let layout = TestImage::new().write(&bed.path("layout"), "app");
        let name = registry.push(&layout, "app", &["--dest-creds", "user:secret"]);
        let error = bed.fails(1, &["pull", "--authfile", "/nonexistent", &name]);
        assert!(error.contains("/nonexistent") || error.contains("log in"), "{error}");

        let auth = |password: &str| {
            let file = bed.path(password);
            let tool_args =
                ["login", "--tls-verify=false", "-u", "user", "-p", password, "--authfile", text(&file)];
            if password == "secret" {
                tool("skopeo", "skopeo", &[&tool_args[..], &[&registry.host]].concat());
            } else {
                // "user:wrong"
                let content = json!({"auths": {&registry.host: {"auth": "dXNlcjp3cm9uZw=="}}});
                fs::write(&file, content.to_string()).unwrap();
            }
            file
        };
        let (right, wrong) = (auth("secret"), auth("wrong"));
        let error = bed.fails(1, &["pull", "--authfile", text(&wrong), &name]);
        assert!(error.contains("refuses access") && error.contains("check that the account"), "{error}");
        bed.ok(&["pull", "--authfile", text(&right), &name]);
        assert_eq!(bed.ok(&["run", &name]), "from the image\n");
    });
}
