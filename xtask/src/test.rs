//! All tests: the plain tier, which runs anywhere, and the `root_` tier, which mounts.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::proc::{cargo, is_root, output, say, shown, step};
use crate::{apt, containerd, setup};

/// How many tests did what.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    left_out: u64,
}

impl Counts {
    fn add(&mut self, more: Counts) {
        self.passed += more.passed;
        self.failed += more.failed;
        self.left_out += more.left_out;
    }
}

/// `cargo xtask test`.
pub(crate) fn run(no_root: bool, filter: Option<&str>) -> Result<()> {
    setup::ensure()?;
    setup::ensure_for_tests()?;
    containerd::Definitions::fetch(&mut apt::Root::new(None, false), false)?;
    let root = is_root() && !no_root;
    if root {
        containerd::fetch(&containerd::SUITES, None, false)?;
    }
    let tiers = if root { "plain and root_" } else { "plain" };
    let nextest = output(cargo().args(["nextest", "--version"])).is_ok();
    let with = if nextest { "cargo nextest" } else { "cargo test" };
    let mut counts = step(&format!("Run the tests ({tiers} tiers) with {with}"), || {
        let mut command = if nextest { nextest_command(root, filter) } else { libtest_command(root, filter) };
        counted(&mut command)
    })?;
    // nextest counts what a filter leaves out together with what needs root.
    let without_root = if root { 0 } else { counts.left_out };
    if filter.is_none() {
        counts.add(step("Run the examples in the documentation", || {
            counted(cargo().args(["test", "--workspace", "--locked", "--doc"]))
        })?);
    }
    println!("==> {} tests passed, {} failed, {} left out", counts.passed, counts.failed, counts.left_out);
    if counts.passed == 0 {
        bail!("no test ran{}", filter.map(|f| format!(": none is called like {f:?}")).unwrap_or_default());
    }
    if without_root > 0 && !no_root {
        bail!(
            "{without_root} tests need root and did not run; type:\n\n    sudo env \"PATH=$PATH\" cargo xtask test\n\n\
             or say that this is meant: cargo xtask test --no-root"
        );
    }
    Ok(())
}

fn nextest_command(root: bool, filter: Option<&str>) -> Command {
    let mut command = cargo();
    command.args(["nextest", "run", "--workspace", "--locked", "--profile", "ci", "--no-tests=pass"]);
    if !root {
        command.args(["--filter-expr", "not test(/(^|::)root_/)"]);
    }
    command.args(filter);
    command
}

fn libtest_command(root: bool, filter: Option<&str>) -> Command {
    let mut command = cargo();
    command.args(["test", "--workspace", "--locked", "--no-fail-fast", "--lib", "--bins", "--tests"]);
    command.args(filter).arg("--");
    if !root {
        command.args(["--skip", "root_"]);
    }
    command
}

/// Runs a test command, showing what it prints, and counts.
fn counted(command: &mut Command) -> Result<Counts> {
    say(format!("$ {}", shown(command)));
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let counts = std::thread::scope(|scope| {
        let readers =
            [stdout.map(|pipe| scope.spawn(|| tee(pipe))), stderr.map(|pipe| scope.spawn(|| tee(pipe)))];
        let mut counts = Counts::default();
        for reader in readers.into_iter().flatten() {
            counts.add(reader.join().map_err(|_| anyhow::anyhow!("a reading thread panicked"))??);
        }
        anyhow::Ok(counts)
    })?;
    let status = child.wait()?;
    if !status.success() {
        bail!("{status} from: {} ({} passed, {} failed)", shown(command), counts.passed, counts.failed);
    }
    Ok(counts)
}

/// Passes lines on to the person and counts in those that count.
fn tee(pipe: impl Read) -> Result<Counts> {
    let mut counts = Counts::default();
    let mut lines = BufReader::new(pipe);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        std::io::stdout().write_all(&line)?;
        counts.add(count(&String::from_utf8_lossy(&line)));
        line.clear();
    }
    Ok(counts)
}

/// What a line of nextest's or libtest's summary counts.
fn count(line: &str) -> Counts {
    let number_before = |text: &str, word: &str| {
        let end = text.find(word)?;
        text[..end].trim_end().rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    let mut counts = Counts::default();
    let line = line.trim();
    if let Some((_, rest)) = line.split_once("test result: ") {
        counts.passed = number_before(rest, " passed").unwrap_or(0);
        counts.failed = number_before(rest, " failed").unwrap_or(0);
        counts.left_out =
            number_before(rest, " ignored").unwrap_or(0) + number_before(rest, " filtered").unwrap_or(0);
    } else if line.starts_with("Summary [") {
        counts.passed = number_before(line, " passed").unwrap_or(0);
        counts.failed =
            number_before(line, " failed").unwrap_or(0) + number_before(line, " timed out").unwrap_or(0);
        counts.left_out = number_before(line, " skipped").unwrap_or(0);
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_counted() {
        let cases = [
            ("     Summary [   0.012s] 12 tests run: 11 passed, 1 failed, 4 skipped\n", (11, 1, 4)),
            ("     Summary [  61.2s] 3 tests run: 2 passed (1 slow), 1 timed out, 0 skipped", (2, 1, 0)),
            (
                "test result: ok. 7 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s",
                (7, 0, 4),
            ),
            ("test root_mounts ... ok", (0, 0, 0)),
        ];
        for (line, (passed, failed, left_out)) in cases {
            assert_eq!(count(line), Counts { passed, failed, left_out }, "{line}");
        }
    }

    #[test]
    fn without_root_both_runners_leave_the_same_tests_out() {
        assert!(shown(&nextest_command(false, Some("mount"))).ends_with("'not test(/(^|::)root_/)' mount"));
        assert!(shown(&libtest_command(false, Some("mount"))).ends_with("mount -- --skip root_"));
        assert!(!shown(&nextest_command(true, None)).contains("root_"));
    }
}
