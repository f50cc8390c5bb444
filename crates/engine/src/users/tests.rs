use super::*;
use proptest::prelude::*;

const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
    daemon:x:1:1::/usr/sbin:/usr/sbin/nologin\n\
    # a comment:x:9:9::/:\n\
    broken line\n\
    :x:5:5::/nobody:\n\
    huge:x:4294967295:1::/huge:\n\
    \xff\xfe:x:7:7::/:\n\
    app:x:1000:1000:App,,,:/srv/app:/bin/sh\n\
    1234:x:77:78::/number:\n\
    relative:x:90:90::home/x:\n\
    short:x:91:92\n\
    app:x:2000:2000::/second:\n";
const GROUP: &[u8] = b"root:x:0:\nadm:x:4:daemon,app\nstaff:x:50:app\nstaff2:x:50:app\napp:x:1000:app\n\
    bad:x:nan:app\nnogroup:x:65534:\n99:x:12:\n";

fn user(uid: u32, gid: u32, groups: &[u32], home: &str, name: Option<&str>) -> ContainerUser {
    ContainerUser { uid, gid, groups: groups.to_vec(), home: home.to_owned(), name: name.map(str::to_owned) }
}

#[test]
fn users_resolve_as_the_image_says() {
    let table = [
        ("", user(0, 0, &[], "/root", Some("root"))),
        ("root", user(0, 0, &[], "/root", Some("root"))),
        ("0", user(0, 0, &[], "/root", Some("root"))),
        ("daemon", user(1, 1, &[4], "/usr/sbin", Some("daemon"))),
        ("app", user(1000, 1000, &[4, 50], "/srv/app", Some("app"))),
        ("1000", user(1000, 1000, &[4, 50], "/srv/app", Some("app"))),
        ("app:staff", user(1000, 50, &[], "/srv/app", Some("app"))),
        ("app:12345", user(1000, 12345, &[], "/srv/app", Some("app"))),
        (":adm", user(0, 4, &[], "/root", Some("root"))),
        ("4242", user(4242, 0, &[], "/", None)),
        ("4242:4343", user(4242, 4343, &[], "/", None)),
        ("1234", user(77, 78, &[], "/number", Some("1234"))),
        ("0:99", user(0, 12, &[], "/root", Some("root"))),
        ("relative", user(90, 90, &[], "/", Some("relative"))),
        ("short", user(91, 92, &[], "/", Some("short"))),
    ];
    for (text, expected) in table {
        assert_eq!(resolve(text, PASSWD, GROUP).as_ref(), Ok(&expected), "{text:?}");
    }
}

#[test]
fn users_that_cannot_be_are_named() {
    let table = [
        ("nosuch", UserError::NoSuchUser("nosuch".into())),
        ("huge", UserError::NoSuchUser("huge".into())),
        ("-1", UserError::NoSuchUser("-1".into())),
        ("4294967296", UserError::OutOfRange("4294967296".into())),
        ("2147483648", UserError::OutOfRange("2147483648".into())),
        ("0:2147483648", UserError::OutOfRange("0:2147483648".into())),
        ("app:nosuch", UserError::NoSuchGroup { user: "app:nosuch".into(), group: "nosuch".into() }),
        ("app:", UserError::Malformed("app:".into())),
        ("a:b:c", UserError::Malformed("a:b:c".into())),
    ];
    for (text, expected) in table {
        assert_eq!(resolve(text, PASSWD, GROUP), Err(expected), "{text:?}");
    }
    let long = vec![b'\n'; MAX_TABLE_BYTES + 1];
    assert!(matches!(resolve("0", &long, b""), Err(UserError::TableTooLong { .. })));
    assert_eq!(resolve("0", b"", b""), Ok(user(0, 0, &[], "/", None)));
}

#[test]
fn commands_are_found_in_path_order() {
    let lookup = |path: &str| match path {
        "/usr/bin/sh" | "/bin/sh" | "/srv/tool" | "/srv/sub/tool" => Lookup::Executable,
        "/usr/bin/data" => Lookup::NotExecutable,
        "/usr/bin/dir" | "/etc" => Lookup::NotAFile,
        _ => Lookup::Missing,
    };
    let find = |argv0| find_command(argv0, "/usr/bin:/bin::/opt", "/srv", &lookup);
    assert_eq!(find("sh"), Ok("/usr/bin/sh".into()));
    assert_eq!(find("tool"), Ok("/srv/tool".into()));
    assert_eq!(find("./tool"), Ok("/srv/tool".into()));
    assert_eq!(find("sub//./tool"), Ok("/srv/sub/tool".into()));
    assert_eq!(find("/bin/sh"), Ok("/bin/sh".into()));
    assert_eq!(find("data").map_err(|error| error.exit_code()), Err(126));
    assert_eq!(find("/etc").map_err(|error| error.exit_code()), Err(126));
    assert_eq!(find("dir").map_err(|error| error.exit_code()), Err(127));
    assert_eq!(find("/nosuch").map_err(|error| error.exit_code()), Err(127));
    let missing = find("nosuch").unwrap_err().to_string();
    assert_eq!(missing, "no command `nosuch` in the image: searched /usr/bin:/bin::/opt");
}

/// An image's `PATH` of 128 KiB, looked for in 500 layers, kept a launch busy for minutes.
#[test]
fn of_an_endless_path_the_beginning_is_searched() {
    let asked = std::cell::Cell::new(0);
    let nowhere = |_: &str| {
        asked.set(asked.get() + 1);
        Lookup::Missing
    };
    let path: Vec<String> = (0..30_000).map(|n| format!("/d{n}")).collect();
    let error = find_command("tool", &path.join(":"), "/", &nowhere).unwrap_err();
    assert_eq!((asked.take(), error.exit_code()), (MAX_DIRECTORIES, 127));
    assert!(error.to_string().contains("first 1024 directories of PATH"), "{error}");
    let found = find_command("tool", &path.join(":"), "/", &|file| match file {
        "/d1000/tool" => Lookup::Executable,
        _ => Lookup::Missing,
    });
    assert_eq!(found.as_deref(), Ok("/d1000/tool"));
    // The same again, and what no call would take, is not asked for.
    let odd = format!("/bin:{}:{}/x", "/bin:".repeat(30_000), "/long".repeat(1000));
    assert!(matches!(find_command("tool", &odd, "/", &nowhere), Err(CommandError::NotInPath { .. })));
    assert_eq!(asked.take(), 2);
}

#[test]
fn files_below_a_volume_are_not_judged() {
    assert!(needs_check("/data2/x", ["/data", "/proc"].into_iter()));
    assert!(!needs_check("/data/x", ["/data"].into_iter()));
    assert!(!needs_check("/data", ["/data"].into_iter()));
    assert!(!needs_check("/anything", ["/"].into_iter()));
}

proptest! {
    #[test]
    fn no_table_makes_an_id_out_of_range(
        wanted in "[a-z0-9:-]{0,12}",
        passwd in prop::collection::vec(any::<u8>(), 0..400),
        lines in prop::collection::vec("[a-c]{0,2}:x?:[0-9]{0,11}:[0-9]{0,11}:[a-z:/]{0,8}", 0..8),
        group in prop::collection::vec("[a-c]{0,2}:x?:[0-9]{0,11}:[a-c,]{0,6}", 0..8),
    ) {
        let mut table = passwd;
        table.push(b'\n');
        table.extend_from_slice(lines.join("\n").as_bytes());
        if let Ok(user) = resolve(&wanted, &table, group.join("\n").as_bytes()) {
            prop_assert!(user.uid <= MAX_ID && user.gid <= MAX_ID);
            prop_assert!(user.groups.iter().all(|&gid| gid <= MAX_ID && gid != user.gid));
            prop_assert!(user.groups.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(user.home.starts_with('/'));
        }
    }

    #[test]
    fn only_absolute_paths_are_looked_up(argv0 in ".{1,12}", path in "[a-z/:.]{0,20}", workdir in "/[a-z/.]{0,10}") {
        let lookup = |file: &str| {
            assert!(file.starts_with('/') && !file.contains("//"), "{file}");
            Lookup::Missing
        };
        prop_assert!(find_command(&argv0, &path, &workdir, &lookup).is_err());
    }
}
