//! What a contended lock costs on these CPUs: in a storm's page, where its record has a lock benchmark, and as a page of
//! its own. Both have the same pictures and tables.

use plywood_node::lockbench::{CurveFit, LockKind, Matrix, Point};

use super::html::{cut, esc, put};
use super::ways::Ways;
use super::{head, machine, moment, where_and_how};
use crate::record::{Host, Line, LockRun};
use crate::summary::show;

mod figures;
mod pictures;

/// The lines of a lock benchmark, in order.
struct Locks<'a> {
    run: Option<&'a LockRun>,
    points: Vec<&'a Point>,
    fits: Vec<&'a CurveFit>,
    matrices: Vec<&'a Matrix>,
}

impl<'a> Locks<'a> {
    fn of(record: &'a [Line]) -> Self {
        let mut locks = Self { run: None, points: Vec::new(), fits: Vec::new(), matrices: Vec::new() };
        for line in record {
            match line {
                Line::LockRun(run) => locks.run = Some(run),
                Line::LockPoint(point) => locks.points.push(point),
                Line::LockFit(fit) => locks.fits.push(fit),
                Line::Matrix(matrix) => locks.matrices.push(matrix),
                _ => {}
            }
        }
        locks
    }
}

/// Adds pictures and figures to a storm's page; nothing without points.
pub(super) fn add(page: &mut String, record: &[Line], host: &Host) {
    let locks = Locks::of(record);
    if locks.points.is_empty() && locks.matrices.is_empty() {
        return;
    }
    put!(page, "<section>\n<h2>What a contended lock costs on these CPUs</h2>\n");
    if let Some(run) = locks.run {
        let same = (&run.host.cpu_model, run.host.cpus) == (&host.cpu_model, host.cpus);
        let other = if same {
            ""
        } else {
            " That is <strong>another machine</strong> than this storm's, or a part of it."
        };
        put!(
            page,
            "<p>Measured by <code>plywood lockbench</code> on {}, with {}, at {}.{other}</p>\n",
            esc(&cut(&run.host.cpu_model, 100)),
            show::count(run.host.cpus, "CPU", "CPUs"),
            moment(run.started_at_ms)
        );
    }
    all(page, &locks);
    put!(page, "</section>\n");
}

/// The page of a lock benchmark; none without one.
pub(super) fn page(record: &[Line]) -> Option<String> {
    let locks = Locks::of(record);
    let run = locks.run?;
    let mut page = String::with_capacity(64 << 10);
    let title = "What a contended lock costs on these CPUs";
    head(&mut page, &run.plywood, title);
    put!(
        page,
        "<header>\n<p class=\"over\">plywood lockbench <span>{}</span> <time>{}</time></p>\n<h1>{title}</h1>\n</header>\n\
         <main>\n",
        esc(&cut(&run.host.cpu_model, 100)),
        moment(run.started_at_ms)
    );
    let end =
        record.iter().rev().find_map(|line| if let Line::LockEnd(end) = line { Some(end) } else { None });
    if !end.is_some_and(|end| end.complete) {
        put!(
            page,
            "<p class=\"partial\" role=\"note\"><strong>Partial.</strong> Not all was measured that was asked for.</p>\n"
        );
    }
    put!(page, "<section>\n");
    all(&mut page, &locks);
    put!(page, "</section>\n<section>\n<h2>How far to trust this</h2>\n<dl class=\"notes\">\n");
    for note in end.iter().flat_map(|end| &end.notes) {
        put!(page, "<div><dd>{}</dd></div>\n", esc(note));
    }
    for left_out in end.iter().flat_map(|end| &end.left_out) {
        let threads: Vec<String> = left_out.threads.iter().map(ToString::to_string).collect();
        let (threads, placement) = (threads.join(", "), esc(&left_out.placement));
        put!(
            page,
            "<div><dd>Left out: {threads} threads on {placement}, which has {} CPUs.</dd></div>\n",
            left_out.cpus
        );
    }
    put!(
        page,
        "</dl>\n<p class=\"fine\">Figures are medians over rounds; all points of a round are measured in turn, in an order \
         that is shuffled. An operation is thinking, acquiring, holding, releasing.</p>\n</section>\n"
    );
    let mut rows = machine(&run.host);
    rows.extend([
        ("Held", pictures::ns(run.section_ns as f64)),
        ("Between operations", pictures::ns(run.think_ns as f64)),
        ("Rounds", format!("{} of {}", run.rounds, show::ms(run.duration_ms))),
        ("plywood", run.plywood.clone()),
    ]);
    where_and_how(&mut page, &rows, &run.command);
    put!(
        page,
        "</main>\n<footer><p>Made by plywood {} from the measured points; the same figures as <code>--json</code> are in this \
         page's <code>#locks</code>.</p></footer>\n",
        esc(&run.plywood)
    );
    // No less-than sign: nothing in here can end the element.
    let shown = |line: &&Line| line.is_of_locks() && !matches!(line, Line::LockSample(_));
    let json: Vec<String> =
        record.iter().filter(shown).filter_map(|line| serde_json::to_string(line).ok()).collect();
    put!(
        page,
        "<script type=\"application/json\" id=\"locks\">[{}]</script>\n</body>\n</html>\n",
        json.join(",\n").replace('<', "\\u003c")
    );
    Some(page)
}

/// A key, pictures, tables.
fn all(page: &mut String, locks: &Locks<'_>) {
    let placements = Ways::named(locks.points.iter().map(|point| point.placement.clone()));
    if placements.count() > 0 {
        put!(page, "<p>Letters and markers stand for where the threads ran:</p>\n");
        placements.legend(page, "Key to the pictures of locks");
    }
    put!(page, "<div class=\"grid\">\n");
    for lock in LockKind::ALL {
        let of: Vec<&Point> = locks.points.iter().copied().filter(|point| point.lock == lock).collect();
        if !of.is_empty() {
            pictures::latency(page, lock, &of, &placements);
            pictures::throughput(page, lock, &of, &placements);
        }
    }
    for (at, matrix) in locks.matrices.iter().take(4).enumerate() {
        pictures::cores(page, at, matrix);
    }
    put!(page, "</div>\n");
    figures::points(page, &locks.points, &placements);
    figures::fits(page, &locks.fits);
}
