//! The database refuses to be written to while containers run: they run on, and what became of them is written once it
//! can be.

use std::time::{Duration, Instant};

use rusqlite::Connection;
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use super::bed::{Bed, eventually, in_bed};
use super::layout::TestImage;

/// Makes every change of a container's record fail at once, as a database that is locked for too long does after its
/// thirty seconds.
struct Refusal(Connection);

impl Refusal {
    fn start(bed: &Bed) -> Refusal {
        let database = Connection::open(bed.root().join("plywood.db")).unwrap();
        database
            .execute_batch(
                "CREATE TRIGGER refuse_update BEFORE UPDATE ON containers
                 BEGIN SELECT RAISE(ABORT, 'refused by a test'); END;
                 CREATE TRIGGER refuse_delete BEFORE DELETE ON containers
                 BEGIN SELECT RAISE(ABORT, 'refused by a test'); END;",
            )
            .unwrap();
        Refusal(database)
    }

    fn end(self) {
        self.0.execute_batch("DROP TRIGGER refuse_update; DROP TRIGGER refuse_delete").unwrap();
    }
}

fn states(bed: &Bed) -> Vec<Value> {
    bed.containers().iter().map(|one| one["state"].clone()).collect()
}

fn supervisor_log(bed: &Bed) -> String {
    std::fs::read_to_string(bed.root().join("run/supervisor.log")).unwrap()
}

/// One write that failed killed every detached container of a run and deleted its data.
#[test]
fn root_a_failed_write_costs_no_detached_container() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        bed.ok(&["run", "-d", "-n", "4", "app", "--", "sh", "-c", "echo kept > /kept; sleep 1000"]);
        let refusal = Refusal::start(bed);
        let first = bed.containers().remove(0);
        let pid = Pid::from_raw(i32::try_from(first["pid"].as_i64().unwrap()).unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
        eventually("the refusal is logged", || {
            supervisor_log(bed).contains("it is tried again").then_some(())
        });
        // Some more tries.
        std::thread::sleep(Duration::from_millis(1200));
        assert_eq!(states(bed), vec![json!("running"); 4]);
        let others: Vec<Value> =
            bed.containers().into_iter().filter(|one| one["id"] != first["id"]).collect();
        for other in &others {
            assert_eq!(bed.ok(&["exec", other["id"].as_str().unwrap(), "cat", "/kept"]), "kept\n");
        }
        assert_eq!(supervisor_log(bed).matches("it is tried again").count(), 1, "{}", supervisor_log(bed));
        assert!(!supervisor_log(bed).contains('\x1b'), "a log has no colours: {}", supervisor_log(bed));

        refusal.end();
        let ended = eventually("the exit is recorded", || {
            bed.containers().into_iter().find(|one| one["state"] == "exited")
        });
        assert_eq!((&ended["id"], &ended["exit_code"]), (&first["id"], &json!(137)));
        assert_eq!(states(bed).iter().filter(|&state| state == "running").count(), 3);
        bed.ok(&["rm", "--force", "--all"]);
    });
}

/// Whoever has been told that containers run finds them recorded: until they are, the caller waits.
#[test]
fn root_a_caller_is_told_of_recorded_containers_alone() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let refusal = Refusal::start(bed);
        let mut run = bed.start(&["run", "-d", "-n", "2", "app", "--", "sleep", "1000"]);
        let recorded = || bed.containers().len();
        eventually("they are launched", || (recorded() == 2).then_some(()));
        std::thread::sleep(Duration::from_millis(1500));
        assert!(run.is_running(), "{}", run.stdout());
        refusal.end();
        assert_eq!(run.finish().ok().lines().count(), 2);
        assert_eq!(states(bed), vec![json!("running"); 2]);
        bed.ok(&["rm", "--force", "--all"]);

        // Given up by the caller, they are gone.
        let refusal = Refusal::start(bed);
        let run = bed.start(&["run", "-d", "app", "--", "sleep", "1000"]).ready();
        eventually("it is launched", || (recorded() == 1).then_some(()));
        std::thread::sleep(Duration::from_millis(800));
        assert_eq!(run.interrupt(Signal::INT).check(130).stdout, "");
        refusal.end();
        assert_eq!(bed.json(&["ps"]), json!({ "containers": [] }));
        bed.expect_empty();
    });
}

/// In the foreground the caller wants the exit codes; what cannot be removed now goes with the next command.
#[test]
fn root_a_failed_write_costs_no_run_in_the_foreground() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let refusal = Refusal::start(bed);
        let done =
            bed.plywood(&["--json", "run", "-n", "3", "app", "--", "sh", "-c", "sleep 1; echo ran; exit 7"]);
        let done = done.check(1);
        let report = done.json();
        assert_eq!((&report["started"], &report["failed"]), (&json!(3), &json!(0)));
        for container in report["containers"].as_array().unwrap() {
            assert_eq!(container["exit_code"], 7);
        }
        assert_eq!(done.stderr.matches("ran\n").count(), 3, "{}", done.stderr);
        assert!(done.stderr.contains("it is tried again"), "{}", done.stderr);
        refusal.end();
        assert_eq!(bed.json(&["ps"]), json!({ "containers": [] }));
        bed.expect_empty();
    });
}

/// Ctrl-C waited for the database, for thirty seconds, and nothing said for what.
#[test]
fn root_whoever_waits_for_the_database_says_so_and_heeds_ctrl_c() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        let database = Connection::open(bed.root().join("plywood.db")).unwrap();
        let waiting = |args: &[&str]| {
            let command = bed.start(args);
            eventually("it says what it waits for", || {
                command.stderr().contains("waiting for another process, which holds").then_some(())
            });
            assert!(command.stderr().contains("plywood.db` names it"), "{}", command.stderr());
            command
        };
        for args in [&["run", "app"][..], &["run", "-d", "app", "--", "sleep", "1000"], &["rmi", "app"]] {
            database.execute_batch("BEGIN IMMEDIATE").unwrap();
            let start = Instant::now();
            let command = waiting(args);
            command.signal(Signal::INT);
            let done = command.finish().check(130);
            assert!(start.elapsed() < Duration::from_secs(15), "{args:?}: {:?}", start.elapsed());
            assert!(done.stderr.contains("stopped while another process held it"), "{}", done.stderr);
            database.execute_batch("COMMIT").unwrap();
            bed.expect_empty();
        }
        // Who waits goes on.
        database.execute_batch("BEGIN IMMEDIATE").unwrap();
        let run = waiting(&["run", "app"]);
        database.execute_batch("COMMIT").unwrap();
        assert_eq!(run.finish().ok(), "from the image\n");
    });
}
