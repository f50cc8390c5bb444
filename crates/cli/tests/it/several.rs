//! Commands about several things, some of which are not possible: the others are done.

use serde_json::{Value, json};

use super::bad_input::says;
use super::bed::{Bed, eventually, in_bed};
use super::layout::TestImage;

fn names(bed: &Bed) -> Vec<Value> {
    let mut names: Vec<Value> = bed.containers().iter().map(|one| one["name"].clone()).collect();
    names.sort_by_key(|name| name.as_str().map(str::to_owned));
    names
}

/// Six containers, of which `stays` runs and the others have ended.
fn six(bed: &Bed) {
    bed.ok(&["run", "-d", "-n", "5", "--name", "web", "app", "--", "true"]);
    bed.ok(&["run", "-d", "--name", "stays", "app", "--", "sleep", "1000"]);
    eventually("five have ended", || {
        (bed.containers().iter().filter(|one| one["state"] == "exited").count() == 5).then_some(())
    });
}

/// One that runs, or a name that is none, kept all others.
#[test]
fn root_rm_removes_what_can_be_removed() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        six(bed);
        let done = bed.plywood(&["rm", "nosuch", "web-0", "web-0", "stays"]).check(1);
        assert_eq!(done.stdout.lines().count(), 1, "{}", done.stdout);
        says(&done.stderr, &["no container \"nosuch\"", "is running", "what to do: `plywood stop "]);
        assert_eq!(names(bed), ["stays", "web-1", "web-2", "web-3", "web-4"]);

        let report = bed.plywood(&["--json", "rm", "nosuch", "stays", "web-1"]).check(1).json();
        assert_eq!(report["removed"].as_array().unwrap().len(), 1, "{report}");
        assert_eq!(report["errors"].as_array().unwrap().len(), 2, "{report}");
        assert_eq!(report["error"], report["errors"][0]);
        says(report["error"]["message"].as_str().unwrap(), &["nosuch"]);

        let done = bed.plywood(&["rm", "--all"]).check(1);
        assert_eq!(done.stdout.lines().count(), 3, "{}", done.stdout);
        says(&done.stderr, &["is running"]);
        assert_eq!(names(bed), ["stays"]);
        assert_eq!(bed.ok(&["exec", "stays", "echo", "alive"]), "alive\n");

        let done = bed.plywood(&["stop", "--time", "0", "nosuch", "stays"]).check(1);
        assert_eq!(done.stdout.lines().count(), 1, "{}", done.stdout);
        says(&done.stderr, &["no container \"nosuch\""]);
        assert_eq!(bed.containers()[0]["state"], "exited");
        let report = bed.plywood(&["--json", "rm", "--force", "nosuch", "stays"]).check(1).json();
        assert_eq!(report["removed"].as_array().unwrap().len(), 1, "{report}");
    });
}

#[test]
fn root_rmi_removes_what_can_be_removed() {
    in_bed(|bed| {
        bed.import(&TestImage::new(), "app");
        bed.import(&TestImage::of_layers(6), "other");
        bed.import(&TestImage::of_layers(7), "used");
        bed.ok(&["run", "-d", "--name", "user", "used", "--", "sleep", "1000"]);
        let done = bed.plywood(&["rmi", "used", "app", "nosuch"]).check(1);
        says(&done.stdout, &["untagged docker.io/library/app:latest", "removed "]);
        says(&done.stderr, &["is used by", "no image \"nosuch\""]);
        let report = bed.plywood(&["--json", "rmi", "used", "nosuch", "other"]).check(1).json();
        assert_eq!(report["untagged"], json!(["docker.io/library/other:latest"]));
        assert_eq!(report["errors"].as_array().unwrap().len(), 2, "{report}");
        assert_eq!(bed.plywood(&["rmi", "nosuch"]).check(1).stdout, "");
        assert_eq!(bed.json(&["images"])["images"].as_array().unwrap().len(), 1);
        bed.ok(&["rm", "--force", "user"]);
        bed.ok(&["rmi", "used"]);
        assert_eq!(bed.listed("layers"), Vec::<String>::new());
    });
}
