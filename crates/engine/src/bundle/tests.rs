use std::collections::BTreeSet;

use oci_spec::runtime::Capability;
use plywood_kernel::IdRange;
use proptest::prelude::*;

use super::*;
use crate::cgroup::Cpusets;

fn image() -> ImageConfig {
    let json = br#"{"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}, "config": {
        "Env": ["PATH=/bin:/usr/bin", "LANG=C.UTF-8"], "Entrypoint": ["/entry"], "Cmd": ["serve", "--all"],
        "WorkingDir": "/srv", "User": "app"}}"#;
    plywood_image::config::parse(json).unwrap()
}

fn root() -> ContainerUser {
    ContainerUser {
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        home: "/root".to_owned(),
        name: Some("root".to_owned()),
    }
}

fn request(image: &ImageConfig) -> BundleRequest<'_> {
    let range = IdRange { start: 1_000_000, length: 65_536 };
    BundleRequest {
        image,
        overrides: Overrides { hostname: Some("c1".to_owned()), ..Overrides::default() },
        user: root(),
        id_map: IdMap::from_ranges(range, IdRange { start: 2_000_000, length: 65_536 }),
        user_namespace: Some(PathBuf::from("/proc/42/fd/7")),
        rootfs: PathBuf::from("/run/plywood/rootfs"),
        read_only: false,
        net: Net::None,
        cgroup_mount: CgroupMount::ReadOnly,
        volumes: Vec::new(),
        resources: Resources::default(),
        rlimits: Vec::new(),
        cgroups_path: PathBuf::from("/plywood/c1"),
        capabilities: CapabilityChange::default(),
        seccomp: SeccompProfile::Default,
    }
}

/// The document, the seccomp lists cut to their lengths.
fn shown(request: &BundleRequest<'_>) -> String {
    let bytes = to_json(&spec(request).unwrap()).unwrap();
    let mut value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    // Differs by architecture.
    if let Some(serde_json::Value::Object(seccomp)) = value.pointer_mut("/linux/seccomp") {
        seccomp.remove("architectures");
    }
    if let Some(serde_json::Value::Array(rules)) = value.pointer_mut("/linux/seccomp/syscalls") {
        for rule in rules {
            let names = rule["names"].as_array().unwrap();
            if names.len() > 30 {
                rule["names"] = format!("{} names", names.len()).into();
            }
        }
    }
    serde_json::to_string_pretty(&value).unwrap()
}

#[test]
fn the_spec_of_an_ordinary_container() {
    insta::assert_snapshot!(shown(&request(&image())));
}

#[test]
fn the_spec_of_a_container_with_everything() {
    let image = image();
    let mut request = request(&image);
    request.overrides = Overrides {
        command: Some(vec!["other".to_owned()]),
        entrypoint: None,
        env: vec!["LANG=de_DE".to_owned(), "NEW=a=b".to_owned()],
        user: None,
        workdir: Some("/srv".to_owned()),
        hostname: Some("web-1.example".to_owned()),
    };
    request.user =
        ContainerUser { uid: 1000, gid: 50, groups: vec![4, 27], home: "/srv/app".to_owned(), name: None };
    request.user_namespace = None;
    request.read_only = true;
    request.net = Net::Host {
        resolv_conf: Some(PathBuf::from("/run/plywood/bundles/c1/resolv.conf")),
        hosts: Some(PathBuf::from("/run/plywood/bundles/c1/hosts")),
    };
    request.cgroup_mount = CgroupMount::Absent;
    request.volumes = ["/a:/data/inner:ro", "/b:/data", "/c:/etc/hosts:noexec"]
        .iter()
        .enumerate()
        .map(|(index, text)| {
            Volume::parse(text).unwrap().mount(PathBuf::from(format!("/run/plywood/volumes/d{index}")))
        })
        .collect();
    request.resources = Resources {
        memory_bytes: Some(parse_bytes("64m").unwrap()),
        cpus: Some(1.5),
        pids: Some(100),
        cpuset_cpus: Some("0-1,3".to_owned()),
        cpuset_mems: Some("0".to_owned()),
    };
    request.rlimits =
        vec![Rlimit::parse("nofile=1024:4096").unwrap(), Rlimit::parse("core=unlimited").unwrap()];
    request.capabilities =
        CapabilityChange { add: vec!["sys_admin".to_owned()], drop: vec!["ALL".to_owned()] };
    insta::assert_snapshot!(shown(&request));
}

#[test]
fn the_same_request_gives_the_same_bytes() {
    let image = image();
    let bytes = || to_json(&spec(&request(&image)).unwrap()).unwrap();
    let all: BTreeSet<_> = (0..8).map(|_| bytes()).collect();
    assert_eq!(all.len(), 1);
}

#[test]
fn a_container_always_has_its_own_user_namespace() {
    let image = image();
    for net in [Net::None, Net::Host { resolv_conf: None, hosts: None }] {
        let spec = spec(&BundleRequest { net, ..request(&image) }).unwrap();
        let linux = spec.linux().as_ref().unwrap();
        let kinds: Vec<_> = linux.namespaces().iter().flatten().map(LinuxNamespace::typ).collect();
        assert!(kinds.contains(&LinuxNamespaceType::User));
        assert_eq!(linux.uid_mappings().as_ref().unwrap()[0].host_id(), 1_000_000);
        assert_eq!(linux.gid_mappings().as_ref().unwrap()[0].host_id(), 2_000_000);
    }
}

#[test]
fn commands_come_from_the_image_or_the_caller() {
    let image = image();
    let with = |entrypoint: Option<&[&str]>, arguments: Option<&[&str]>| {
        let owned = |list: &[&str]| list.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
        let overrides = Overrides {
            entrypoint: entrypoint.map(owned),
            command: arguments.map(owned),
            ..Overrides::default()
        };
        command(&image, &overrides).map(|argv| argv.join(" ")).map_err(|error| error.to_string())
    };
    assert_eq!(with(None, None), Ok("/entry serve --all".to_owned()));
    assert_eq!(with(None, Some(&["x"])), Ok("/entry x".to_owned()));
    assert_eq!(with(Some(&["sh"]), None), Ok("sh".to_owned()));
    assert_eq!(with(Some(&["sh"]), Some(&["-c", "x"])), Ok("sh -c x".to_owned()));
    assert_eq!(with(Some(&[]), Some(&["x"])), Ok("x".to_owned()));
    assert!(with(Some(&[]), None).unwrap_err().contains("nothing to run"));
    assert!(with(Some(&["a\0b"]), None).unwrap_err().contains("NUL"));
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let image = image();
    type Change = fn(&mut BundleRequest<'_>);
    let table: [(Change, &str); 17] = [
        (
            |r| r.overrides.env = vec![format!("LONG={}", "x".repeat(32 << 16))],
            "environment variable `LONG`: ",
        ),
        (
            |r| r.overrides.command = Some(vec!["x".into(), "x".repeat(32 << 16)]),
            "argument 2 of the command: ",
        ),
        (|r| r.overrides.workdir = Some("/".repeat(4096)), "the working directory: 4096 bytes"),
        (
            |r| r.overrides.env = (0..400_000).map(|n| format!("V{n:06}=")).collect(),
            "400004 environment variables: 68",
        ),
        (|r| r.overrides.env = vec!["NOVALUE".into()], "`NOVALUE`"),
        (|r| r.overrides.env = vec!["=x".into()], "`=x`"),
        (|r| r.overrides.workdir = Some("srv".into()), "`srv`"),
        (|r| r.overrides.hostname = Some("a b".into()), "`a b`"),
        (|r| r.overrides.hostname = Some("x".repeat(65)), "1 to 64"),
        (|r| r.capabilities.add = vec!["CAP_FLY".into()], "`CAP_FLY`"),
        (|r| r.user.uid = 65_536, "user 65536, outside its 65536 ids"),
        (|r| r.user.groups = vec![70_000], "group 70000"),
        (|r| r.resources.memory_bytes = Some(4096), "6 MiB"),
        (|r| r.resources.pids = Some(0), "processes"),
        (|r| r.resources.cpuset_cpus = Some("3-1".into()), "`3-1`"),
        (|r| r.resources.cpus = Some(f64::NAN), "CPU limit"),
        (|r| r.volumes = vec![Volume::parse("/a:/proc/x").unwrap().mount(PathBuf::from("/v"))], "/proc/x"),
    ];
    for (change, expected) in table {
        let mut request = request(&image);
        change(&mut request);
        let error = spec(&request).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} should name {expected:?}");
    }
}

#[test]
fn limits_are_read() {
    assert_eq!(parse_bytes("123").ok(), Some(123));
    assert_eq!(parse_bytes("64M").ok(), Some(64 << 20));
    assert_eq!(parse_bytes("2GiB").ok(), Some(2 << 30));
    for bad in ["", "m", "1.5g", "-1", "1x", "99999999999g"] {
        assert!(parse_bytes(bad).is_err(), "{bad:?}");
    }
    assert_eq!(Rlimit::parse("nofile=5").ok(), Some(Rlimit { name: "nofile".into(), soft: 5, hard: 5 }));
    for bad in ["nofile", "nofile=", "nofile=9:5", "nosuch=1", "=1"] {
        assert!(Rlimit::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn processors_and_nodes_are_those_of_the_host() {
    let sets = Cpusets { cpus: Some("0-3,8".to_owned()), mems: Some("0".to_owned()) };
    let asks = |cpus: Option<&str>, mems: Option<&str>| {
        let limits = Resources {
            cpuset_cpus: cpus.map(str::to_owned),
            cpuset_mems: mems.map(str::to_owned),
            ..Resources::default()
        };
        limits.within(&sets).map_err(|error| error.to_string())
    };
    for good in ["0", "0-3", "3,8", "8-8"] {
        assert_eq!(asks(Some(good), Some("0")), Ok(()), "{good}");
    }
    for bad in ["4", "0-8", "2-4", "65535"] {
        let error = asks(Some(bad), None).unwrap_err();
        assert!(error.contains(bad) && error.contains("0-3,8"), "{error}");
    }
    assert!(asks(None, Some("0-1")).unwrap_err().contains("a list of NUMA nodes of `0-1`"));
    // A host that does not tell.
    let limits = Resources { cpuset_cpus: Some("77".to_owned()), ..Resources::default() };
    assert!(limits.within(&Cpusets::default()).is_ok());
}

#[test]
fn capabilities_follow_drops_then_adds() {
    let held = |add: &[&str], drop: &[&str]| {
        let owned = |list: &[&str]| list.iter().map(|item| (*item).to_owned()).collect();
        process::capabilities(&CapabilityChange { add: owned(add), drop: owned(drop) }).unwrap()
    };
    assert_eq!(held(&[], &[]).len(), 14);
    assert!(!held(&[], &["cap_net_raw"]).contains(&Capability::NetRaw));
    assert_eq!(held(&["KILL"], &["ALL"]).into_iter().collect::<Vec<_>>(), [Capability::Kill]);
    assert_eq!(held(&["all"], &[]).len(), 41);
}

#[test]
fn a_bundle_is_written_once() {
    let directory = tempfile::tempdir().unwrap();
    let image = image();
    let spec = spec(&request(&image)).unwrap();
    let bundle = directory.path().join("c1");
    write(&bundle, &spec).unwrap();
    assert_eq!(std::fs::read(bundle.join("config.json")).unwrap(), to_json(&spec).unwrap());
    assert_eq!(write(&bundle, &spec).unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
}

/// A configuration of 4 MB with 400,000 variables kept a launch busy for minutes: each was looked for among all others.
#[test]
fn many_variables_take_no_longer_than_it_takes_to_read_them() {
    let mut image = image();
    image.env = (0..400_000).chain(0..400_000).map(|n| format!("V{n}={n}")).collect();
    let (done, made) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let environment = environment(&image, &Overrides::default(), &root()).unwrap();
        done.send((environment.len(), environment[400_001].clone())).unwrap();
    });
    let made = made.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
    assert_eq!(made, (400_002, "V399999=399999".to_owned()));
}

proptest! {
    #[test]
    fn every_variable_has_one_value_and_the_last_one_wins(
        from_image in prop::collection::vec("[A-C]{0,2}=?[a-z=]{0,3}", 0..6),
        from_caller in prop::collection::vec("[A-C]{1,2}=[a-z=]{0,3}", 0..6),
    ) {
        let mut image = image();
        image.env = from_image;
        let overrides = Overrides { env: from_caller.clone(), ..Overrides::default() };
        let environment = environment(&image, &overrides, &root()).unwrap();
        let names: Vec<&str> = environment.iter().map(|variable| variable.split_once('=').unwrap().0).collect();
        prop_assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        prop_assert!(names.contains(&"PATH") && names.contains(&"HOME"));
        for (index, variable) in from_caller.iter().enumerate() {
            let name = variable.split_once('=').unwrap().0;
            let later = from_caller[index + 1..].iter().any(|other| other.split_once('=').unwrap().0 == name);
            prop_assert!(later || environment.contains(variable));
        }
    }

    #[test]
    fn limits_never_panic(text in ".{0,12}") {
        let _ = parse_bytes(&text);
        let _ = check_id_list(Limit::CpusetCpus, &text);
        let _ = Rlimit::parse(&text);
    }
}
