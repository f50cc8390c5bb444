use super::*;

fn report(checks: &[(&str, &str, &str)], chosen: &str) -> Report {
    let mut lines = vec![
        r#"{"check":"kernel","release":"7.2.1-cloud-amd64"}"#.to_owned(),
        format!(r#"{{"check":"capabilities","chosen":"{chosen}"}}"#),
    ];
    for (mechanism, case, outcome) in checks {
        lines.push(format!(
            r#"{{"check":"rootfs","mechanism":"{mechanism}","case":"{case}","outcome":"{outcome}","detail":"because"}}"#
        ));
    }
    lines.push(r#"{"check":"end"}"#.to_owned());
    lines.push(r#"{"check":"exit","status":0}"#.to_owned());
    Report::parse(&lines).unwrap()
}

const GOOD: [(&str, &str, &str); 6] = [
    ("idmapped-overlay", "flat", "unavailable"),
    ("detached", "flat", "passed"),
    ("private", "flat", "passed"),
    ("common-parent", "limit", "refused"),
    ("per-layer", "flat", "passed"),
    ("copy", "flat", "passed"),
];

#[test]
fn a_good_report_has_no_complaints() {
    let report = report(&GOOD, "detached");
    assert!(report.is_complete());
    assert_eq!(report.complaints("detached"), Vec::<String>::new());
    let table = table(&[("7.2", &report)]);
    let cells: Vec<&str> =
        table.lines().nth(1).unwrap().split("  ").map(str::trim).filter(|c| !c.is_empty()).collect();
    assert_eq!(cells, ["7.2.1-cloud-amd64", "-", "1 ok*", "1 ok", "0 ok, 1 refused", "1 ok", "1 ok"]);
}

#[test]
fn another_rung_than_expected_is_a_complaint() {
    let complaints = report(&GOOD, "detached").complaints("idmapped-overlay");
    assert_eq!(
        complaints,
        ["detached was chosen, not idmapped-overlay", "idmapped-overlay should work: because"]
    );
    let complaints = report(&GOOD[2..], "detached").complaints("detached");
    assert_eq!(complaints, ["detached was not run"]);
}

#[test]
fn failed_checks_and_a_broken_kernel_are_complaints() {
    let mut bad = GOOD;
    bad[2].2 = "failed";
    let mut report = report(&bad, "detached");
    report.add_console("[    1.0] all is well\n[    2.0] BUG: unable to handle page fault\n");
    let complaints = report.complaints("detached");
    assert_eq!(
        complaints,
        ["private flat: because", "the kernel said: [    2.0] BUG: unable to handle page fault"]
    );
    assert!(table(&[("7.2", &report)]).contains("1 FAILED of 1"));
}

#[test]
fn a_report_that_breaks_off_is_not_complete() {
    let lines = [r#"{"check":"kernel","release":"7.2"}"#.to_owned(), r#"{"check":"capab"#.to_owned()];
    let report = Report::parse(&lines).unwrap();
    assert!(!report.is_complete());
    assert!(report.complaints("detached").iter().any(|complaint| complaint.contains("nothing was chosen")));
}
