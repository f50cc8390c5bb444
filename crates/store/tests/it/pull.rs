//! Pulling: from a registry of our own that misbehaves in every way, and from a real one.

#[path = "pull/real.rs"]
mod real;
#[path = "pull/server.rs"]
mod server;

use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use plywood_image::testing::TarBuilder;
use plywood_image::{Digest, Reference};
use plywood_kernel::testing::{in_private_mount_ns, require_root};
use plywood_store::transfer::{AuthFiles, RegistryError, RegistryOptions, RetryPolicy, Timeouts, TlsOptions};
use plywood_store::{Cancel, Event, FetchError, FetchRequest, Image, Pins, Source, Store, fetch_image};

use super::import_images::{LayerBlob, assert_untouched, chain, fetch, run};
use super::support::{listed, store};
use server::{Content, Request, Response, Server};

const FIVE: Duration = Duration::from_secs(5);

/// Impatient, anonymous, and blind to the machine's configuration.
fn options() -> RegistryOptions {
    RegistryOptions {
        plain_http: false,
        tls: TlsOptions { extra_ca: Vec::new(), certs_dirs: Vec::new() },
        auth: AuthFiles::none(),
        timeouts: Timeouts { connect: FIVE, response: FIVE, idle: FIVE, helper: FIVE },
        retry: RetryPolicy { base: Duration::from_millis(5), ..RetryPolicy::default() },
    }
}

fn request(host: &str, options: RegistryOptions) -> FetchRequest {
    let reference: Reference = format!("{host}/team/app:1").parse().unwrap();
    FetchRequest::new(Source::Registry { reference, options: Box::new(options) })
}

fn pull(store: &Store, pins: &Pins, server: &Server) -> Result<Image, FetchError> {
    fetch(store, pins, &request(&server.host(), options()))
}

/// About 400 KB that do not compress.
fn content() -> Content {
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    })
    .take(400_000)
    .collect();
    Content::of(LayerBlob::gzip(&TarBuilder::new().dir("etc", 0o755).file("etc/noise", noise).finish()))
}

fn auth_file(dir: &Path, host: &str, user: &str, password: &str) -> AuthFiles {
    use base64::Engine as _;
    let auth = base64::prelude::BASE64_STANDARD.encode(format!("{user}:{password}"));
    let path = dir.join("auth.json");
    std::fs::write(&path, format!(r#"{{"auths": {{"{host}": {{"auth": "{auth}"}}}}}}"#)).unwrap();
    AuthFiles::only(path)
}

/// Counts calls for which `matches` holds and lets `misbehave` answer the first ones.
fn sometimes(
    content: Content,
    matches: impl Fn(&Content, &Request) -> bool + Send + Sync + 'static,
    misbehave: impl Fn(usize, &Content, &Request) -> Option<Response> + Send + Sync + 'static,
) -> Server {
    let calls = AtomicUsize::new(0);
    Server::start(move |request| {
        if matches(&content, request) {
            let call = calls.fetch_add(1, Ordering::SeqCst);
            if let Some(response) = misbehave(call, &content, request) {
                return response;
            }
        }
        content.answer(request)
    })
}

#[test]
fn root_a_cut_blob_is_resumed_where_it_ended() {
    require_root();
    let content = content();
    let (digest, size) = (content.layer_digest(), content.layer.bytes.len());
    // Eight cuts are more than the tries allowed without progress.
    let server = sometimes(content, Content::is_layer, move |call, content, request| {
        (call < 8).then(|| Response::blob(request, &content.layer.bytes).cut(size / 10))
    });
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let image = pull(&store, &pins, &server).unwrap_or_else(|e| panic!("{}", chain(&e)));
    assert_eq!(image.names, [format!("{}/team/app:1", server.host())]);
    let requests = server.requests_for(&digest);
    assert_eq!(requests.len(), 9);
    assert_eq!(requests[0].header("range"), None);
    let starts: Vec<usize> = requests[1..]
        .iter()
        .map(|r| {
            r.header("range").unwrap().trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap()
        })
        .collect();
    assert!(starts.is_sorted() && starts[0] > 0, "{starts:?}");
    // A cache: gone when its layer is unpacked.
    assert!(store.open_blob(&digest.parse().unwrap()).unwrap().is_none());
}

#[test]
fn root_a_partial_blob_outlives_the_fetch() {
    require_root();
    let content = content();
    let digest = content.layer_digest();
    let broken = sometimes(content.clone(), Content::is_layer, |call, content, request| {
        Some(match call {
            0 => Response::blob(request, &content.layer.bytes).cut(100_000),
            _ => Response::new(404),
        })
    });
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let error = pull(&store, &pins, &broken).unwrap_err();
    assert!(chain(&error).contains(&digest), "{}", chain(&error));
    assert_eq!(listed(&store, "blobs/ingest").len(), 1);
    assert!(listed(&store, "layers").is_empty());

    let whole = Server::start(move |request| content.answer(request));
    pull(&store, &pins, &whole).unwrap();
    assert_eq!(whole.requests_for(&digest)[0].header("range"), Some("bytes=100000-"));
    assert!(listed(&store, "blobs/ingest").is_empty());
}

/// Each attempt went further than the one before it had begun, so a server that cannot resume and cuts now here, now there
/// was asked for ever.
#[test]
fn root_a_server_that_never_gets_further_is_given_up() {
    require_root();
    let content = content();
    let digest = content.layer_digest();
    // After a hundred times it gives in: a pull that works was not given up.
    let server = sometimes(content, Content::is_layer, |call, content, _| {
        let at = if call % 2 == 0 { 200_000 } else { 100_000 };
        (call < 100).then(|| Response::ok(content.layer.bytes.clone()).cut(at))
    });
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let error = chain(&pull(&store, &pins, &server).unwrap_err());
    assert!(error.contains(&format!("blob {digest} cannot be fetched")), "{error}");
    let policy = RetryPolicy::default();
    assert_eq!(server.requests_for(&digest).len(), policy.attempts as usize);
    assert!(listed(&store, "layers").is_empty());
}

/// The damaged half is thrown away and fetched anew.
#[test]
fn root_a_damaged_partial_blob_is_fetched_anew() {
    require_root();
    let content = content();
    let digest = content.layer_digest();
    let (_scratch, store) = store();
    let name = format!("blobs/ingest/{}", digest.replace(':', "-"));
    std::fs::write(store.root().path().join(name), vec![0; 5000]).unwrap();
    let server = Server::start(move |request| content.answer(request));
    let pins = store.pins().unwrap();
    pull(&store, &pins, &server).unwrap_or_else(|e| panic!("{}", chain(&e)));
    let ranges: Vec<_> =
        server.requests_for(&digest).iter().map(|r| r.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, [Some("bytes=5000-".to_owned()), None]);
}

/// The blob of an earlier fetch was damaged on disk, by a power cut for instance.
#[test]
fn root_a_damaged_cached_blob_is_fetched_anew() {
    require_root();
    let content = content();
    let digest: Digest = content.layer_digest().parse().unwrap();
    let (_scratch, store) = store();
    let path = store.root().path().join(format!("blobs/sha256/{}", digest.hex()));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut damaged = content.layer.bytes.clone();
    damaged[200_000..].fill(0);
    std::fs::write(path, damaged).unwrap();
    let server = Server::start(move |request| content.answer(request));
    let pins = store.pins().unwrap();
    pull(&store, &pins, &server).unwrap_or_else(|e| panic!("{}", chain(&e)));
    assert_eq!(server.requests_for(&digest.to_string()).len(), 1);
}

#[test]
fn root_a_server_that_cannot_resume_sends_it_whole() {
    require_root();
    let content = content();
    let digest = content.layer_digest();
    let server = sometimes(content, Content::is_layer, |call, content, _| {
        let whole = Response::ok(content.layer.bytes.clone());
        Some(if call == 0 { whole.cut(50_000) } else { whole })
    });
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    pull(&store, &pins, &server).unwrap();
    assert_eq!(server.requests_for(&digest).len(), 2);
}

#[test]
fn root_a_busy_server_is_given_the_time_it_asks_for() {
    require_root();
    let server = sometimes(
        content(),
        |_, r| r.path.contains("/manifests/"),
        |call, _, _| match call {
            0 => Some(Response::new(429).header("Retry-After", "1")),
            1 => Some(Response::new(503)),
            _ => None,
        },
    );
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let start = Instant::now();
    pull(&store, &pins, &server).unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(server.requests_for("/manifests/").len(), 3);
}

/// What a server does, and parts of the error that says so.
#[test]
fn root_misbehaving_servers_are_reported() {
    require_root();
    type Misbehave = fn(&Content, &Request) -> Option<Response>;
    let cases: &[(&str, Misbehave, &[&str])] = &[
        (
            "no such image",
            |_, r| {
                r.path.contains("/manifests/").then(|| Response {
                    body: br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest \u001bunknown"}]}"#
                        .to_vec(),
                    ..Response::new(404)
                })
            },
            &["has no manifest team/app:1", r"manifest \u{1b}unknown"],
        ),
        ("never available", |_, _| Some(Response::new(503)), &["answered 503"]),
        ("forbidden", |_, _| Some(Response::new(403)), &["refuses access", "403"]),
        ("401 without a challenge", |_, _| Some(Response::new(401)), &["no challenge"]),
        (
            "an unknown scheme",
            |_, _| Some(Response::new(401).header("WWW-Authenticate", "Negotiate")),
            &["negotiate"],
        ),
        (
            "a digest it does not mean",
            |c, r| {
                r.path.contains("/manifests/").then(|| {
                    Response::ok(c.manifest.clone())
                        .header("Docker-Content-Digest", Digest::sha256(b"").to_string())
                })
            },
            &["has digest", "expected"],
        ),
        (
            "no manifest",
            |_, r| r.path.contains("/manifests/").then(|| Response::ok("<html>")),
            &["cannot be parsed"],
        ),
        (
            "an endless manifest",
            |_, r| r.path.contains("/manifests/").then(|| Response::ok(vec![b' '; 5 << 20])),
            &["largest accepted"],
        ),
        (
            "another config",
            |c, r| {
                (r.path.contains("/blobs/") && !c.is_layer(r))
                    .then(|| Response::ok(vec![b' '; c.config.len()]))
            },
            &["blob sha256:", "has digest"],
        ),
        (
            "other bytes",
            |c, r| c.is_layer(r).then(|| Response::ok(vec![7; c.layer.bytes.len()])),
            &["digest mismatch"],
        ),
        (
            "more bytes",
            |c, r| c.is_layer(r).then(|| Response::ok([&c.layer.bytes[..], b"x"].concat())),
            &["its descriptor announces"],
        ),
        (
            "fewer bytes",
            |c, r| c.is_layer(r).then(|| Response::ok(&c.layer.bytes[1..])),
            &["its descriptor announces"],
        ),
        (
            "unannounced bytes",
            |c, r| {
                c.is_layer(r).then(|| {
                    Response::ok([&c.layer.bytes[..], b"x"].concat())
                        .header("Transfer-Encoding", "identity")
                        .header("Content-Length", format!("{}", c.layer.bytes.len() + 1))
                })
            },
            &["its descriptor announces"],
        ),
        (
            "always cut at the start",
            |c, r| c.is_layer(r).then(|| Response::ok(c.layer.bytes.clone()).cut(0)),
            &["cannot be fetched"],
        ),
        (
            "the rest, announced beyond all numbers",
            |c, r| {
                c.is_layer(r).then(|| match r.header("range") {
                    None => Response::ok(c.layer.bytes.clone()).cut(1000),
                    Some(_) => Response { body: c.layer.bytes[1000..].to_vec(), ..Response::new(206) }
                        .header("Content-Range", "bytes 1000-2/3")
                        .header("Content-Length", u64::MAX.to_string()),
                })
            },
            &["its descriptor announces"],
        ),
        (
            "the wrong range",
            |c, r| {
                c.is_layer(r).then(|| match r.header("range") {
                    None => Response::ok(c.layer.bytes.clone()).cut(1000),
                    Some(_) => Response { body: c.layer.bytes[1..].to_vec(), ..Response::new(206) }
                        .header("Content-Range", "bytes 1-2/3"),
                })
            },
            &["not the range asked for"],
        ),
        (
            "a redirect in circles",
            |_, r| Some(Response::new(307).header("Location", r.path.clone())),
            &["too many redirects"],
        ),
        (
            "a redirect to FTP",
            |_, _| Some(Response::new(307).header("Location", "ftp://127.0.0.1/x")),
            &["not HTTP"],
        ),
    ];
    for (what, misbehave, expected) in cases {
        let content = content();
        let misbehave = *misbehave;
        let server = Server::start(move |r| misbehave(&content, r).unwrap_or_else(|| content.answer(r)));
        let (_scratch, store) = store();
        let pins = store.pins().unwrap();
        let error = chain(&pull(&store, &pins, &server).unwrap_err());
        for part in *expected {
            assert!(error.contains(part), "{what}: {error}");
        }
        assert!(!error.contains('\u{1b}'), "{what}: {error}");
        assert!(listed(&store, "layers").is_empty() && store.images().unwrap().is_empty(), "{what}");
    }
}

#[test]
fn nobody_listens() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let host = format!("127.0.0.1:{free}");
    let start = Instant::now();
    let error = chain(&fetch(&store, &pins, &request(&host, options())).unwrap_err());
    assert!(error.contains(&host) && error.contains("refused"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_untouched(&store);
}

#[test]
fn root_basic_authentication() {
    require_root();
    let content = content();
    let server = Server::start(move |request| match request.header("authorization") {
        Some("Basic dXNlcjpzZWNyZXQ=") => content.answer(request),
        _ => Response::new(401).header("WWW-Authenticate", "Basic realm=\"x\""),
    });
    let scratch = tempfile::tempdir().unwrap();
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let error = pull(&store, &pins, &server).unwrap_err();
    assert!(chain(&error).contains("refuses access"), "{}", chain(&error));
    let FetchError::Registry(error) = error else { panic!("{error:?}") };
    assert!(matches!(*error, RegistryError::Denied { anonymous: true, .. }), "{error:?}");

    let wrong = auth_file(scratch.path(), &server.host(), "user", "guess");
    let error = fetch(&store, &pins, &request(&server.host(), RegistryOptions { auth: wrong, ..options() }));
    let error = error.unwrap_err();
    assert!(chain(&error).contains("401") && !chain(&error).contains("guess"), "{}", chain(&error));

    let right = auth_file(scratch.path(), &server.host(), "user", "secret");
    fetch(&store, &pins, &request(&server.host(), RegistryOptions { auth: right, ..options() })).unwrap();
}

/// A helper that waits for a locked key chain held the pull, and Ctrl-C did nothing.
#[test]
fn root_a_helper_ends_with_the_pull() {
    require_root();
    let server = Server::start(|_| Response::new(401).header("WWW-Authenticate", "Basic realm=\"x\""));
    let scratch = tempfile::tempdir().unwrap();
    let started = scratch.path().join("started");
    // By way of PATH, so in a process of its own.
    let helper = scratch.path().join("docker-credential-waiting");
    std::fs::write(&helper, format!("#!/bin/sh\ntouch {}\nexec sleep 60\n", started.display())).unwrap();
    std::fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let file = scratch.path().join("auth.json");
    std::fs::write(&file, r#"{"credsStore": "waiting"}"#).unwrap();
    let path = format!("{}:{}", scratch.path().display(), std::env::var("PATH").unwrap());
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "pull::child_that_pulls", "--ignored", "--nocapture"])
        .envs([("PATH", path.as_str()), ("PLYWOOD_TEST_HOST", &server.host())])
        .env("REGISTRY_AUTH_FILE", &file)
        .env("PLYWOOD_TEST_STARTED", &started)
        .spawn()
        .unwrap();
    assert!(child.wait().unwrap().success());
    assert!(started.exists());
}

#[test]
#[ignore = "a child of root_a_helper_ends_with_the_pull"]
fn child_that_pulls() {
    let var = |name| std::env::var(name).unwrap();
    let (host, started) = (var("PLYWOOD_TEST_HOST"), var("PLYWOOD_TEST_STARTED"));
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let mut options = RegistryOptions { auth: AuthFiles::from_env(), ..options() };
    options.timeouts.helper = Duration::from_secs(50);
    let cancel = Cancel::new();
    let canceller = std::thread::spawn({
        let cancel = cancel.clone();
        move || {
            let start = Instant::now();
            while !Path::new(&started).exists() && start.elapsed() < Duration::from_secs(30) {
                std::thread::sleep(Duration::from_millis(10));
            }
            cancel.cancel();
        }
    });
    let start = Instant::now();
    let result = fetch_image(&store, &pins, &request(&host, options), &|_| {}, &cancel);
    assert!(matches!(result, Err(FetchError::Cancelled)), "{result:?}");
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
    canceller.join().unwrap();
}

#[test]
fn root_token_authentication_asks_once() {
    require_root();
    let content = content();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    let realm = format!("http://{host}/token?x=1");
    let server = Server::on(listener, move |request| {
        if request.path.starts_with("/token") {
            return match request.header("authorization") {
                Some("Basic dXNlcjpzZWNyZXQ=") => Response::ok(r#"{"access_token": "abc", "expires_in": 1}"#),
                _ => Response::new(401),
            };
        }
        match request.header("authorization") {
            Some("Bearer abc") => content.answer(request),
            _ => Response::new(401).header(
                "WWW-Authenticate",
                format!(r#"Bearer realm="{realm}",service="reg",scope="repository:team/app:pull""#),
            ),
        }
    });
    let scratch = tempfile::tempdir().unwrap();
    let auth = auth_file(scratch.path(), &host, "user", "secret");
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let result = fetch(&store, &pins, &request(&host, RegistryOptions { auth, ..options() }));
    result.unwrap_or_else(|e| panic!("{}", chain(&e)));
    let tokens: Vec<_> = server.requests_for("/token");
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens[0].path, "/token?x=1&service=reg&scope=repository:team/app:pull&account=user");
    let error = chain(&fetch(&store, &pins, &request(&host, options())).unwrap_err());
    assert!(error.contains("token service") && error.contains("401"), "{error}");
}

#[test]
fn root_an_expired_token_is_renewed() {
    require_root();
    let content = content();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let realm = format!("http://{}/token", listener.local_addr().unwrap());
    let tokens = AtomicUsize::new(0);
    let server = Server::on(listener, move |request| {
        if request.path.starts_with("/token") {
            let n = tokens.fetch_add(1, Ordering::SeqCst);
            return Response::ok(format!(r#"{{"token": "t{n}", "expires_in": 300}}"#));
        }
        // The first token ends before the layer.
        let good = if content.is_layer(request) { "Bearer t1" } else { "Bearer t0" };
        match request.header("authorization") {
            Some(sent) if sent == good => content.answer(request),
            _ => Response::new(401).header("WWW-Authenticate", format!("Bearer realm=\"{realm}\"")),
        }
    });
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    pull(&store, &pins, &server).unwrap_or_else(|e| panic!("{}", chain(&e)));
    assert_eq!(server.requests_for("/token").len(), 2);
}

/// A storage service is not the registry: what proves who we are is not for it.
#[test]
fn root_authorization_stays_with_the_registry() {
    require_root();
    let content = content();
    let storage = Server::start({
        let content = content.clone();
        move |request| content.answer(request)
    });
    let elsewhere = format!("http://{}", storage.host());
    let server = Server::start({
        let content = content.clone();
        move |request| match request.header("authorization") {
            Some("Basic dXNlcjpzZWNyZXQ=") if content.is_layer(request) => Response::new(307)
                .header("Location", format!("{elsewhere}/signed/{}", content.layer_digest())),
            Some("Basic dXNlcjpzZWNyZXQ=") => content.answer(request),
            _ => Response::new(401).header("WWW-Authenticate", "Basic realm=\"x\""),
        }
    });
    let scratch = tempfile::tempdir().unwrap();
    let auth = auth_file(scratch.path(), &server.host(), "user", "secret");
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    fetch(&store, &pins, &request(&server.host(), RegistryOptions { auth, ..options() })).unwrap();
    let seen = storage.log();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].header("authorization"), None);
}

/// Downloads were not told from what fits: a blob filled the disk for everybody before its layer was refused.
#[test]
fn root_downloads_leave_the_file_system_its_last_bytes() {
    require_root();
    in_private_mount_ns(|| {
        let scratch = tempfile::tempdir().unwrap();
        let at = scratch.path().to_str().unwrap();
        run("mount", "mount", &["-t", "tmpfs", "-o", "size=64m,mode=0700", "tmpfs", at]);
        let store = Store::open(&scratch.path().join("root")).unwrap();
        let pins = store.pins().unwrap();
        let serve = |mebibytes: usize| {
            let tar = TarBuilder::new().file("zeros", vec![0; mebibytes << 20]).finish();
            let content = Content::of(LayerBlob::plain(tar));
            let digest = content.layer_digest();
            (Server::start(move |request| content.answer(request)), digest)
        };
        // Known before anything is asked for.
        let (server, digest) = serve(70);
        let error = chain(&pull(&store, &pins, &server).unwrap_err());
        assert!(
            error.contains("there is no room for the download") && error.contains("are kept free"),
            "{error}"
        );
        assert!(server.requests_for(&digest).is_empty());
        // Others fill the disk meanwhile.
        let (server, digest) = serve(40);
        let filler = scratch.path().join("filler");
        let fill = |event| {
            if matches!(event, Event::Downloaded { .. }) && !filler.exists() {
                std::fs::write(&filler, vec![1; 30 << 20]).unwrap();
            }
        };
        let request = request(&server.host(), options());
        let error = chain(&fetch_image(&store, &pins, &request, &fill, &Cancel::new()).unwrap_err());
        assert!(
            error.contains("there is no room for the download") && error.contains("are kept free"),
            "{error}"
        );
        assert_eq!(server.requests_for(&digest).len(), 1);
        let stat = rustix::fs::statvfs(scratch.path()).unwrap();
        assert!(stat.f_bavail * stat.f_frsize > 2 << 20, "{}", stat.f_bavail * stat.f_frsize);
        drop((pins, store));
        run("umount", "mount", &[at]);
    });
}

/// A relative redirect with a URL in its query is none to that URL.
#[test]
fn root_a_relative_redirect_stays_with_the_registry() {
    require_root();
    let content = content();
    let digest = content.layer_digest();
    let server = Server::start(move |request| {
        if content.is_layer(request) && !request.path.contains("?signed") {
            let to = format!("{}?signed-for=ftp://nowhere/{}", request.path, content.layer_digest());
            return Response::new(307).header("Location", to);
        }
        content.answer(request)
    });
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    pull(&store, &pins, &server).unwrap_or_else(|e| panic!("{}", chain(&e)));
    assert_eq!(server.requests_for(&digest).len(), 2);
}

#[test]
fn root_a_stalled_server_times_out_and_cancelling_cuts_it() {
    require_root();
    let content = content();
    let stall = move |request: &Request| {
        if content.is_layer(request) {
            std::thread::sleep(Duration::from_secs(30));
        }
        content.answer(request)
    };
    let server = Server::start(stall);
    let (_scratch, store) = store();
    let pins = store.pins().unwrap();
    let mut impatient = options();
    impatient.timeouts.idle = Duration::from_millis(200);
    impatient.retry.attempts = 2;
    let start = Instant::now();
    let error = chain(&fetch(&store, &pins, &request(&server.host(), impatient)).unwrap_err());
    assert!(error.contains("timeout"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());

    let cancel = Cancel::new();
    let canceller = std::thread::spawn({
        let cancel = cancel.clone();
        move || {
            std::thread::sleep(Duration::from_millis(300));
            cancel.cancel();
        }
    });
    let mut patient = options();
    patient.timeouts.idle = Duration::from_secs(25);
    let start = Instant::now();
    let result = fetch_image(&store, &pins, &request(&server.host(), patient), &|_| {}, &cancel);
    assert!(matches!(result, Err(FetchError::Cancelled)), "{result:?}");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    canceller.join().unwrap();
    assert!(listed(&store, "layers").is_empty());
}

/// Two processes pull the same image: each blob is downloaded once.
#[test]
fn root_two_pulls_at_once_share_the_download() {
    require_root();
    let content = content();
    let digest = content.layer_digest();
    let slow = move |request: &Request| {
        if content.is_layer(request) {
            std::thread::sleep(Duration::from_millis(300));
        }
        content.answer(request)
    };
    let server = Server::start(slow);
    let (_scratch, store) = store();
    let other = Store::open(store.root().path()).unwrap();
    std::thread::scope(|scope| {
        for store in [&store, &other] {
            let server = &server;
            scope.spawn(move || {
                let pins = store.pins().unwrap();
                pull(store, &pins, server).unwrap_or_else(|e| panic!("{}", chain(&e)));
            });
        }
    });
    assert!(server.requests_for(&digest).len() <= 2);
    assert_eq!(listed(&store, "layers").len(), 1);
    assert_eq!(store.images().unwrap().len(), 1);
}
