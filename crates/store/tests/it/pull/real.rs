//! A real registry, Debian's docker-registry, and images that skopeo pushes to it: over plain HTTP, TLS with a CA of its
//! own, and with a password.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use plywood_image::testing::TarBuilder;
use plywood_kernel::testing::require_root;
use plywood_store::transfer::{Event, HttpErrorKind, RegistryError, RegistryOptions, TlsOptions};
use plywood_store::{Cancel, FetchError, FetchRequest, Source, fetch_image};

use super::super::import_images::{LayerBlob, Layout, chain, fetch, run};
use super::super::support::store;
use super::{auth_file, options};

/// The user `user` with the password `secret`, hashed by bcrypt.
const USER_SECRET: &str = "user:$2b$05$wS8ldOAiVFSM1e0a0htX4uzEu1bY9Lrj5rDnsvPBaFRgWykZKLIQq\n";

struct Registry {
    child: Child,
    host: String,
    dir: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        // By its own id, and only this process.
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Registry {
    /// `extra` goes into the `http` section of its configuration or below it.
    fn start(configure: impl FnOnce(&Path) -> (String, String)) -> Registry {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (http, rest) = configure(dir.path());
        let config = dir.path().join("config.yml");
        let root = dir.path().join("data");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n\
                 http:\n  addr: 127.0.0.1:{port}\n{http}{rest}",
                root.display()
            ),
        )
        .unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| {
                panic!("cannot run docker-registry ({e}); type: apt-get install docker-registry")
            });
        let registry = Registry { child, host: format!("127.0.0.1:{port}"), dir };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&registry.host).is_err() {
            let log = || fs::read_to_string(registry.dir.path().join("log")).unwrap();
            assert!(Instant::now() < deadline, "docker-registry does not listen: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    fn push(&self, layout: &Layout, name: &str, more: &[&str]) {
        let from = format!("oci:{}:{name}", layout.path().display());
        let to = format!("docker://{}/team/{name}:1", self.host);
        let mut args = vec!["copy", "--insecure-policy", "-q", "--dest-tls-verify=false"];
        args.extend(more);
        run("skopeo", "skopeo", &[&args[..], &[&from, &to]].concat());
    }

    fn request(&self, name: &str, options: RegistryOptions) -> FetchRequest {
        let reference = format!("{}/team/{name}:1", self.host).parse().unwrap();
        FetchRequest::new(Source::Registry { reference, options: Box::new(options) })
    }
}

fn layers() -> Vec<LayerBlob> {
    (0..7)
        .map(|n| {
            let tar = TarBuilder::new().dir("etc", 0o755).file(format!("etc/{n}"), vec![n; 100_000]).finish();
            if n % 2 == 0 { LayerBlob::gzip(&tar) } else { LayerBlob::zstd(&tar) }
        })
        .collect()
}

#[test]
fn root_images_pushed_by_skopeo() {
    require_root();
    let registry = Registry::start(|_| Default::default());
    let layout = Layout::of("seven", &layers());
    registry.push(&layout, "seven", &[]);
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let events = std::sync::Mutex::new(Vec::new());
    let request = registry.request("seven", options());
    let image = fetch_image(&store, &pins, &request, &|e| events.lock().unwrap().push(e), &Cancel::new());
    let image = image.unwrap_or_else(|e| panic!("{}", chain(&e))).image;
    assert_eq!(image.layers.len(), 7);
    let tree = store.merged(&image.layer_ids()).unwrap();
    assert_eq!(tree.read_dir("etc").unwrap().unwrap().len(), 7);

    let events = events.into_inner().unwrap();
    let Event::Resolved { layers, .. } = &events[0] else { panic!("{:?}", events[0]) };
    let sizes: Vec<u64> = layers.iter().map(|layer| layer.size).collect();
    for (layer, size) in sizes.iter().enumerate() {
        let bytes = *size;
        for expected in
            [Event::Downloaded { layer, bytes }, Event::Unpacked { layer, bytes }, Event::LayerDone { layer }]
        {
            assert!(events.contains(&expected), "{expected:?}");
        }
    }
    // By digest, nothing is unpacked again, and the name is another.
    let name = format!("{}/team/seven@{}", registry.host, image.manifest_digest);
    let source = Source::Registry { reference: name.parse().unwrap(), options: Box::new(options()) };
    let by_digest = fetch(&store, &pins, &FetchRequest::new(source)).unwrap();
    assert_eq!(by_digest.layer_ids(), image.layer_ids());
    assert!(by_digest.names.contains(&name));
}

/// Docker's own kind of manifest.
#[test]
fn root_docker_schema_2() {
    require_root();
    let registry = Registry::start(|_| Default::default());
    let tar = TarBuilder::new().dir("etc", 0o755).file("etc/text", "schema 2").finish();
    registry.push(&Layout::of("docker", &[LayerBlob::gzip(&tar)]), "docker", &["--format", "v2s2"]);
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let image = fetch(&store, &pins, &registry.request("docker", options())).unwrap();
    assert_eq!(image.media_type, "application/vnd.docker.distribution.manifest.v2+json");
    let text = store.merged(&image.layer_ids()).unwrap().read_file("etc/text", 100).unwrap();
    assert_eq!(text.unwrap(), b"schema 2");
}

fn openssl(args: &[&str]) {
    run("openssl", "openssl", args);
}

/// A certificate authority and a certificate for 127.0.0.1 by it: `ca.pem`, `cert.pem`, `key.pem`.
fn certificates(dir: &Path) -> PathBuf {
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (ca, ca_key, cert, key, csr, ext) =
        (path("ca.pem"), path("ca.key"), path("cert.pem"), path("key.pem"), path("csr"), path("ext"));
    let new = ["req", "-newkey", "rsa:2048", "-nodes", "-subj"];
    let make_ca = ["/CN=test ca", "-x509", "-days", "2", "-keyout", &ca_key, "-out", &ca];
    openssl(&[&new[..], &make_ca, &["-addext", "basicConstraints=critical,CA:TRUE"]].concat());
    openssl(&[&new[..], &["/CN=registry", "-keyout", &key, "-out", &csr]].concat());
    fs::write(&ext, "subjectAltName=IP:127.0.0.1\n").unwrap();
    let sign = ["x509", "-req", "-days", "2", "-CAcreateserial", "-in", &csr, "-CA", &ca, "-CAkey", &ca_key];
    openssl(&[&sign[..], &["-extfile", &ext, "-out", &cert]].concat());
    ca.into()
}

#[test]
fn root_a_company_registry_with_its_own_ca_and_a_password() {
    require_root();
    let mut ca = PathBuf::new();
    let registry = Registry::start(|dir| {
        ca = certificates(dir);
        let htpasswd = dir.join("htpasswd");
        fs::write(&htpasswd, USER_SECRET).unwrap();
        let tls = format!(
            "  tls: {{certificate: {}, key: {}}}\n",
            dir.join("cert.pem").display(),
            dir.join("key.pem").display()
        );
        (tls, format!("auth:\n  htpasswd: {{realm: x, path: {}}}\n", htpasswd.display()))
    });
    let layout = Layout::of("secret", &layers());
    registry.push(&layout, "secret", &["--dest-creds", "user:secret"]);
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let auth = auth_file(registry.dir.path(), &registry.host, "user", "secret");

    // An unrelated CA makes it speak TLS, and is not the right one.
    let other = tempfile::tempdir().unwrap();
    let wrong = TlsOptions { extra_ca: vec![certificates(other.path())], certs_dirs: vec![] };
    let request = registry.request("secret", RegistryOptions { auth: auth.clone(), tls: wrong, ..options() });
    let error = fetch(&store, &pins, &request).unwrap_err();
    assert!(chain(&error).to_lowercase().contains("certificate"), "{}", chain(&error));
    let FetchError::Registry(error) = error else { panic!("{error:?}") };
    let RegistryError::Http { source, .. } = *error else { panic!("{error:?}") };
    assert_eq!(source.kind(), HttpErrorKind::Tls);

    let right = TlsOptions { extra_ca: vec![ca.clone()], certs_dirs: vec![] };
    let anonymous = registry.request("secret", RegistryOptions { tls: right.clone(), ..options() });
    let error = chain(&fetch(&store, &pins, &anonymous).unwrap_err());
    assert!(error.contains("refuses access"), "{error}");

    let certs_dir = registry.dir.path().join("certs.d");
    fs::create_dir_all(certs_dir.join(&registry.host)).unwrap();
    fs::copy(&ca, certs_dir.join(&registry.host).join("ca.crt")).unwrap();
    let by_dir = TlsOptions { extra_ca: vec![], certs_dirs: vec![certs_dir] };
    for tls in [right, by_dir] {
        let request = registry.request("secret", RegistryOptions { auth: auth.clone(), tls, ..options() });
        let image = fetch(&store, &pins, &request).unwrap_or_else(|e| panic!("{}", chain(&e)));
        assert_eq!(image.layers.len(), 7);
    }
}
