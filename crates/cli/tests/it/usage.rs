//! Wrong usage: exit code 2, before anything is touched.

use plywood_engine::lower::LowerSource;
use plywood_engine::mechanism::Mechanism;

use super::bed::in_bed;
use super::layout::TestImage;

#[test]
fn root_wrong_usage_is_exit_code_2() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let cases: [(&[&str], &str); 36] = [
            (&[], "Usage"),
            (&["nosuch"], "nosuch"),
            (&["run"], "<IMAGE>"),
            (&["run", "--nosuch", "app"], "--nosuch"),
            (&["run", "-n", "0", "app"], "--count"),
            (&["run", "-n", "x", "app"], "x"),
            (&["run", "-n", "100001", "app"], "100001"),
            (&["run", "--concurrency", "0", "app"], "--concurrency"),
            (&["run", "--mechanism", "magic", "app"], "magic"),
            (&["run", "--lower", "upper", "app"], "upper"),
            (&["explain", "--mechanism", "magic", "app"], "magic"),
            (&["run", "-v", "nocolon", "app"], "nocolon"),
            (&["run", "-v", "relative:/x", "app"], "relative"),
            (&["run", "-v", "/tmp:relative", "app"], "relative"),
            (&["run", "-v", "/tmp:/x:sideways", "app"], "sideways"),
            (&["run", "--memory", "lots", "app"], "--memory: a size of `lots`"),
            (&["run", "--cpus", "some", "app"], "--cpus"),
            (&["run", "--pids-limit", "few", "app"], "--pids-limit"),
            (&["run", "--cpuset-cpus", "3-1", "app"], "--cpuset-cpus: a list of CPUs of `3-1`"),
            (&["run", "--cpuset-mems", "all", "app"], "--cpuset-mems: a list of NUMA nodes of `all`"),
            (&["run", "--ulimit", "nosuch=1", "app"], "nosuch"),
            (
                &["run", "--ulimit", "nofile=99999999999", "app"],
                "no machine has more open files than 2147483584",
            ),
            (&["run", "--start-timeout", "0", "app"], "no time at all"),
            (&["run", "--cap-add", "NO_SUCH_CAP", "app"], "NO_SUCH_CAP"),
            (&["run", "--net", "bridge", "app"], "bridge"),
            (&["run", "--hostname", "two words", "app"], "two words"),
            (&["run", "--workdir", "relative", "app"], "relative"),
            (&["run", "--env", "=value", "app"], "=value"),
            (&["run", "--env", "", "app"], "`` is not of the form NAME=VALUE"),
            (&["run", "--name", ".bad name", "app"], ".bad name"),
            (
                &["import", "--platform", "amd64", "nosuch.tar"],
                "--platform amd64: write it as os/architecture",
            ),
            (&["run", "--platform", "foo", "app"], "--platform foo"),
            (&["pull", "app", "Not A Name"], "`Not A Name`"),
            (&["import", "--platform", "a/b/c/d", "nosuch.tar"], "a/b/c/d"),
            (&["run", "--id-range-length", "0", "app"], "0"),
            (&["run", "--user", "a:b:c", "app"], "--user: user `a:b:c`"),
        ];
        for (args, expected) in cases {
            let done = bed.plywood(args);
            assert_eq!(done.status.code(), Some(2), "{args:?}\n{}\n{}", done.stdout, done.stderr);
            assert!(done.stderr.contains(expected), "{args:?}: {}", done.stderr);
            assert_eq!(done.stdout, "", "{args:?}");
        }
        // As JSON the error is there, too, whoever finds it.
        let cases: [(&[&str], &str); 5] = [
            (&["--json", "run", "--mechanism", "magic", "app"], "magic"),
            (&["run", "--json", "--volume", "nocolon", "app"], "nocolon"),
            // Their output is the container's own.
            (&["--json", "logs", "x"], "`logs` prints what the container wrote"),
            (&["--json", "completions", "bash"], "`completions` prints a script"),
            (&["exec", "--json", "x", "true"], "`exec` prints what its command writes"),
        ];
        for (args, expected) in cases {
            let json = bed.plywood(args).check(2).json();
            assert!(json["error"]["message"].as_str().unwrap().contains(expected), "{json}");
            assert!(json["error"]["remedy"].as_str().unwrap().contains("--help"), "{json}");
        }
        // That `--json` is the container's.
        assert_eq!(bed.plywood(&["run", "--nosuch", "app", "--", "--json"]).check(2).stdout, "");
    });
}

/// Help, man pages and completions come from the same definition.
#[test]
fn root_help_is_everywhere() {
    in_bed(|bed| {
        for command in [
            "run",
            "pull",
            "import",
            "images",
            "rmi",
            "prune",
            "ps",
            "stop",
            "rm",
            "exec",
            "logs",
            "explain",
            "doctor",
            "lockbench",
            "storm",
        ] {
            let help = bed.ok(&[command, "--help"]);
            assert!(help.contains("Usage: plywood") && help.contains("--json"), "{command}: {help}");
            assert!(!help.contains("--supervise"), "{help}");
        }
        // What scripts rely on.
        for args in [&["--help"][..], &["run", "--help"], &["exec", "--help"]] {
            let help = bed.ok(args);
            for code in ["  0 ", "  1 ", "  2 ", "  130 ", " 127 "] {
                assert!(help.split_once("Exit codes:").unwrap().1.contains(code), "{code} {help}");
            }
        }
        // What can be forced is what the engine has.
        for command in ["run", "explain"] {
            let help = bed.ok(&[command, "--help"]);
            let mechanisms = Mechanism::ALL.map(Mechanism::name).join(", ");
            let lowers = LowerSource::ALL.map(LowerSource::name).join(", ");
            assert!(help.split_whitespace().collect::<Vec<_>>().join(" ").contains(&mechanisms), "{help}");
            assert!(help.contains(&format!("[possible values: {lowers}]")), "{help}");
        }
        let completions = bed.ok(&["completions", "bash"]);
        assert!(completions.contains(&Mechanism::ALL.map(Mechanism::name).join(" ")), "{completions}");
        assert!(bed.ok(&["--version"]).starts_with("plywood "));
        for shell in ["bash", "zsh", "fish"] {
            assert!(bed.ok(&["completions", shell]).contains("plywood"), "{shell}");
        }
        let man = bed.path("man");
        bed.ok(&["man", super::layout::text(&man)]);
        assert!(std::fs::read_to_string(man.join("plywood-run.1")).unwrap().contains(".TH"));
    });
}
