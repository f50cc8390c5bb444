//! The page as text; what a browser makes of it is in the integration tests.

use plywood_engine::mechanism::Mechanism;
use proptest::prelude::*;

use super::chart::Scale;
use super::html::{cut, esc};
use super::*;
use crate::arm::Arm;
use crate::record::End;
use crate::summary::tests::{arm, run, storm};

fn arms() -> Vec<Arm> {
    vec![arm(Mechanism::PerLayer, 2, 20), arm(Mechanism::Detached, 1, 20)]
}

fn page(lines: &[Line]) -> String {
    let html = render(lines).unwrap();
    for element in
        ["html", "head", "body", "main", "header", "footer", "section", "figure", "svg", "table", "g", "dl"]
    {
        let opened =
            html.matches(&format!("<{element}>")).count() + html.matches(&format!("<{element} ")).count();
        assert_eq!(opened, html.matches(&format!("</{element}>")).count(), "{element}");
    }
    html
}

#[test]
fn the_verdict_comes_first_and_every_arm_is_in_the_table() {
    let html = page(&storm(arms(), 7, |arm, round| [800.0, 40.0][arm] + f64::from(round % 3)));
    let (verdict, chart) =
        (html.find("class=\"sentence\"").unwrap(), html.find("<svg class=\"chart\"").unwrap());
    assert!(verdict < chart);
    assert!(html.contains("<p class=\"big\">19.5 x"), "{}", &html[verdict - 300..verdict]);
    assert_eq!(html.matches("data-figure=\"/wall_ms\"").count(), 2);
    assert!(html.contains("data-json=\"801.0\">801 ms</td>"));
    assert!(!html.contains("Partial."));
}

/// One concurrency, one layer count: no lines to draw, all the rest.
#[test]
fn pictures_are_those_there_is_something_for() {
    let html = page(&storm(arms(), 7, |_, _| 1.0));
    assert!(!html.contains("id=\"latency-") && html.contains("id=\"success-t\""));
    assert!(html.contains("id=\"operations-t\"") && html.contains("id=\"walk-t\""));
    assert!(!html.contains("contended lock costs"));
    let mut at_once = arms();
    at_once.extend([arm(Mechanism::PerLayer, 2, 5), arm(Mechanism::Detached, 1, 5)]);
    let html = page(&storm(at_once, 7, |_, _| 1.0));
    assert!(html.contains("id=\"latency-concurrency-50-20-t\"") && html.contains("id=\"success-50-20-t\""));
}

#[test]
fn storms_that_were_cut_off_say_so() {
    let lines = storm(arms(), 7, |_, _| 10.0);
    let html = page(&lines[..lines.len() - 1]);
    assert!(html.contains("<strong>Partial.</strong>"));
    assert_eq!(
        html.matches("the storm did not finish (it was cut off)").count(),
        1 + 2,
        "once, and in the JSON of both"
    );
    let html = page(&lines[..2]);
    assert!(html.contains("No round was finished") && html.contains("cannot be said"));
    let mut stopped = lines;
    *stopped.last_mut().unwrap() = Line::End(End { complete: false, reason: Some("<interrupted>".into()) });
    assert!(page(&stopped).contains("(&lt;interrupted&gt;)"));
    assert_eq!(render(&[]).unwrap_err(), SummaryError::Empty);
}

#[test]
fn text_from_elsewhere_is_made_safe() {
    let shown = esc("<a href=\"x\" id='y'>&\u{202e}\u{0}\n</a>").to_string();
    assert_eq!(shown, "&lt;a href=&quot;x&quot; id=&#39;y&#39;&gt;&amp;\u{fffd}\u{fffd}\n&lt;/a&gt;");
    assert_eq!(ticks("a `<b>` c"), "a <code>&lt;b&gt;</code> c");
    assert_eq!((cut("täglich", 3), cut("neu", 3)), ("täg...".to_owned(), "neu".to_owned()));
    let mut run = run(arms(), 1);
    run.command = ["plywood", "storm", "--image", "it's $(here)", ""].map(str::to_owned).to_vec();
    assert_eq!(command(&run.command), r"plywood storm --image 'it'\''s $(here)' ''");
}

#[test]
fn moments_are_dates() {
    assert_eq!(moment(0), "1970-01-01 00:00 UTC");
    assert_eq!(moment(951_782_340_000), "2000-02-28 23:59 UTC");
    assert_eq!(moment(951_868_800_000), "2000-03-01 00:00 UTC");
    assert_eq!(moment(1_763_726_400_000), "2025-11-21 12:00 UTC");
    let _ = moment(u64::MAX);
}

#[test]
fn axes_are_logarithmic_where_a_linear_one_would_hide_the_small() {
    let wide = Scale::of([0.5, 300.0].into_iter(), 0.0, 100.0);
    assert!(wide.log);
    assert_eq!(wide.ticks().iter().map(|t| format!("{t}")).collect::<Vec<_>>(), ["0.1", "1", "10", "100"]);
    let narrow = Scale::of([50.0, 300.0].into_iter(), 0.0, 100.0);
    assert!(!narrow.log);
    assert_eq!(narrow.at(0.0), 0.0);
    assert_eq!(narrow.ticks(), [0.0, 100.0, 200.0, 300.0]);
    assert!(Scale::along(&[1.0, 8.0, 100.0], 0.0, 1.0).log && !Scale::along(&[1.0, 2.0, 4.0], 0.0, 1.0).log);
    assert_eq!(Scale::along(&[7.0], 0.0, 100.0).at(7.0), 50.0);
}

proptest! {
    /// Axes of any values have few marks, all on them, and no place that is no number.
    #[test]
    fn axes_of_any_values(values in prop::collection::vec(any::<f64>(), 0..8)) {
        let scale = Scale::of(values.iter().copied(), 0.0, 300.0);
        prop_assert!(scale.ticks().len() <= 24);
        for value in values.into_iter().chain(scale.ticks()) {
            let place = scale.at(value);
            prop_assert!(value.is_nan() || (0.0..=300.0).contains(&place), "{} at {}", value, place);
        }
    }

    /// Whatever text a record holds, none of it becomes an element.
    #[test]
    fn no_text_becomes_an_element(text in "\\PC{0,40}") {
        let mut lines = storm(arms(), 2, |_, _| 1.0);
        let plain = render(&lines).unwrap().matches('<').count();
        let Line::Run(run) = &mut lines[0] else { unreachable!() };
        run.image = text.clone();
        run.host.cpu_model = text.clone();
        run.command = vec![text];
        prop_assert_eq!(render(&lines).unwrap().matches('<').count(), plain);
    }
}
