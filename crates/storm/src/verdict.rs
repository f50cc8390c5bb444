//! What one storm says about its node, in a sentence.
//!
//! Of the arms that differ only in how root file systems are mounted, at the heaviest load that has two of them, the one
//! that mounts most (`per-layer`, else `common-parent`; of containerd its own snapshotter) is held against the one that
//! mounts least (what plywood takes by itself; of containerd, plywood's snapshotter). Where all of them mount alike, but
//! some containers have ids of their own and some the host's, those are held against each other: then the subject is not
//! mounting but the mapping of ids, which is mounts and a user namespace. Then, in this order:
//!
//! | finding | when |
//! |---|---|
//! | `stalls` | with the one at least 1 % of launches come too late, or for 1 % of the time reading the mount table takes over a second, in more rounds than one, and with the other not |
//! | `slows` | no such thing, but a round takes at least 1.5 x as long, interval above 1 |
//! | `harmless` | the whole interval is below 1.1 x |
//! | `unclear` | anything else |
//! | `one_way` | there are no two arms that one program starts to hold against each other |
//!
//! Where containers are due at a given rate, a round takes as long as that says, and the launches' medians are compared.
//!
//! Ratios of fewer than four rounds a side promise less than 95 % and decide nothing.
//!
//! Slow is not the same as contended: per-layer mounts are work even for one container alone. Contention is what grows
//! with the number at once, so a sweep of `--concurrency` is needed to see it: a burst that takes at least 1.1 x as long
//! as with fewer at once, interval above 1, waits for something shared.

use std::cmp::Reverse;

use serde::Serialize;

use crate::arm::{Arm, LauncherKind, UserNs};
use crate::compare::failed;
use crate::record::{Launch, Line};
use crate::stats::{Quantiles, Ratio, median};
use crate::summary::build::{health_of, middle_count, over};
use crate::summary::gather::{Measured, Storm, gather};
use crate::summary::{SummaryError, show};

use plywood_engine::lower::LowerSource;
use plywood_engine::mechanism::Mechanism;

#[cfg(test)]
mod tests;

/// Share of launches that are too late, or of the time in which readings take over a second, that is a stall.
const STALLS: f64 = 0.01;
/// In milliseconds.
const SECOND: f64 = 1000.0;
/// As much longer is slow.
const SLOWS: f64 = 1.5;
/// As much longer is nothing.
const HARMLESS: f64 = 1.1;
/// Ratios that promise less decide nothing.
const SURE: f64 = 0.949;
/// As much longer with more at once is waiting.
const CONTENDS: f64 = 1.1;
/// Fewer CPUs cannot show what the incident's hundred did.
const FEW_CPUS: usize = 8;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Container starts fail or the node stops answering.
    Stalls,
    /// Container starts take longer.
    Slows,
    /// It makes no difference.
    Harmless,
    /// These rounds do not say.
    Unclear,
    /// One way of mounting was measured.
    OneWay,
}

/// What one storm says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// By the table above.
    pub finding: Finding,
    /// In a sentence.
    pub sentence: String,
    /// What supports it, and what it does not say.
    pub details: Vec<String>,
    /// How many times as long the one takes as the other.
    pub ratio: Option<f64>,
    /// Where that lies.
    pub ratio_interval: Option<crate::stats::Interval>,
}

/// Decides.
///
/// # Errors
/// If the lines are no storm's.
pub fn verdict(lines: &[Line]) -> Result<Verdict, SummaryError> {
    let storm = gather(lines)?;
    let pair = |common| heaviest_pair(&storm, common);
    let mut verdict = if let Some((most, least)) = pair(SAME_USERS).or_else(|| pair(SAME_LAUNCHER)) {
        compared(&storm, most, least)
    } else if let Some((most, least)) = pair(ANY_LAUNCHER) {
        other_programs(most, least)
    } else {
        one_way(&storm)
    };
    if let Some(reason) = &storm.partial {
        verdict
            .details
            .push(format!("The storm did not finish ({reason}); this is said by the rounds there are."));
    }
    let cpus = storm.run.host.cpus;
    if cpus > 0 && cpus < FEW_CPUS {
        verdict.details.push(format!(
            "{} cannot contend for a lock as the hundred of a large machine do: what is harmless here may stall there.",
            show::count(cpus, "CPU", "CPUs")
        ));
    }
    Ok(verdict)
}

/// How much a way of mounting is like the incident: the highest is held against the lowest.
fn weight(arm: &Arm) -> Option<u32> {
    let ours = arm.mechanism.zip(arm.lower).map(|(mechanism, lower)| {
        let mechanism = match mechanism {
            Mechanism::PerLayer => 500,
            Mechanism::CommonParent => 400,
            Mechanism::Copy => return None,
            Mechanism::Private => 30,
            Mechanism::Detached => 20,
            Mechanism::IdmappedOverlay => 10,
        };
        Some(mechanism + 50 * (arm.passes.clamp(1, 2) - 1) + u32::from(lower == LowerSource::Layers))
    });
    // Without a mapping there is less to mount, whoever does it.
    let mapping = if arm.userns == UserNs::Private { 10 } else { 0 };
    match (ours, arm.snapshotter.as_deref()) {
        (Some(ours), _) => ours,
        (None, Some("plywood")) => Some(90 + mapping),
        (None, _) => Some(440 + mapping),
    }
}

/// What two arms that are held against each other have in common.
type Common = fn(&Arm) -> (usize, usize, usize, Option<LauncherKind>, Option<Reverse<UserNs>>);

/// The same load, launcher and users (private ones first: they mount more): they differ in the mounting.
const SAME_USERS: Common =
    |arm| (arm.containers, arm.layers, arm.concurrency, Some(arm.launcher), Some(Reverse(arm.userns)));
/// The same load and launcher: where there is nothing else, they differ in the mapping of ids.
const SAME_LAUNCHER: Common = |arm| (arm.containers, arm.layers, arm.concurrency, Some(arm.launcher), None);
/// The same load alone.
const ANY_LAUNCHER: Common = |arm| (arm.containers, arm.layers, arm.concurrency, None, None);

/// The two arms, at the heaviest load that has two.
fn heaviest_pair<'a>(storm: &'a Storm<'a>, common: Common) -> Option<(&'a Measured<'a>, &'a Measured<'a>)> {
    let mut usable: Vec<&Measured<'_>> = storm.arms.iter().filter(|arm| !arm.rounds.is_empty()).collect();
    usable.sort_by_key(|arm| Reverse(common(arm.arm)));
    usable
        .chunk_by(|a, b| common(a.arm) == common(b.arm))
        .filter_map(|group| {
            let weighed = || group.iter().filter_map(|arm| Some((weight(arm.arm)?, *arm)));
            // Of arms that differ in admission alone, the first asked for.
            let most = weighed().rev().max_by_key(|(weight, _)| *weight)?;
            let least = weighed().min_by_key(|(weight, _)| *weight)?;
            (most.0 >= 100 && least.0 < most.0).then_some((most.1, least.1))
        })
        .next()
}

/// The way of an arm, without its load.
fn way(arm: &Arm) -> String {
    let text = arm.to_string();
    text.split_once(", ").map_or(text.clone(), |(way, _)| way.to_owned())
}

fn load(arm: &Arm) -> String {
    format!(
        "{} with {}, {} at once",
        show::count(arm.containers, "container", "containers"),
        show::count(arm.layers, "layer", "layers"),
        show::whole(arm.concurrency as u64)
    )
}

fn one_way(storm: &Storm<'_>) -> Verdict {
    let measured: Vec<&Measured<'_>> = storm.arms.iter().filter(|arm| !arm.rounds.is_empty()).collect();
    let what = match measured.first() {
        None => "no round was finished".to_owned(),
        Some(arm) => {
            let wall = median(&arm.times()).map_or_else(|| show::NOTHING.to_owned(), show::ms);
            let more = if measured.len() > 1 { ", the first of several arms that mount alike," } else { "" };
            let failing = failed(arm);
            let failing = if failing > 0.0 {
                format!("; {} of launches failed", show::percent(failing))
            } else {
                String::new()
            };
            format!("`{}`{more} takes {wall} for {}{failing}", way(arm.arm), load(arm.arm))
        }
    };
    let several = storm.arms.len() > 1 && measured.is_empty();
    Verdict {
        finding: Finding::OneWay,
        sentence: format!(
            "Whether mounting stalls container starts on this node cannot be said, since nothing was there to compare \
             with: {what}."
        ),
        details: (!several).then(|| to_find_out(storm).to_owned()).into_iter().collect(),
        ratio: None,
        ratio_interval: None,
    }
}

/// Which ways to name where there was but one.
fn to_find_out(storm: &Storm<'_>) -> &'static str {
    if storm.arms.iter().all(|arm| arm.arm.mechanism.is_none()) {
        return "To find out, name a second way: `--userns private,host` shows what mapping ids costs (containerd 2.0 and \
                newer); with launcher containerd, `--snapshotter` takes several.";
    }
    "To find out, name at least two ways to mount: `--mechanism per-layer,detached --passes 2` beside the layers and the \
     concurrency of your bursts."
}

/// Two arms that differ in who starts the containers, too: a ratio, and no judgement on mounting.
fn other_programs(most: &Measured<'_>, least: &Measured<'_>) -> Verdict {
    let ratio = Ratio::of(&most.times(), &least.times());
    Verdict {
        finding: Finding::OneWay,
        sentence: format!(
            "What mounting costs on this node cannot be told from ways that differ in the program that starts the \
             containers, too: {}.",
            took(most, least, ratio.as_ref())
        ),
        details: operations(most, least).into_iter().chain(bystanders(most, least)).collect(),
        ratio: ratio.map(|r| r.value),
        ratio_interval: ratio.and_then(|r| r.interval),
    }
}

/// How long both take, and how many times as long the one.
fn took(most: &Measured<'_>, least: &Measured<'_>, ratio: Option<&Ratio>) -> String {
    let wall = |arm: &Measured<'_>| median(&arm.times()).map_or_else(|| show::NOTHING.to_owned(), show::ms);
    let times = ratio.map_or_else(|| show::NOTHING.to_owned(), |ratio| show::times(ratio.value));
    let range = ratio
        .and_then(|ratio| ratio.interval)
        .map(|i| format!(" ({})", show::interval(&i, show::times)))
        .unwrap_or_default();
    let (what, takes) =
        if most.paced { (format!("each of {}", load(most.arm)), "takes") } else { (load(most.arm), "take") };
    format!(
        "{what} {takes} {} by `{}` and {} by `{}`, {times}{range}",
        wall(most),
        way(most.arm),
        wall(least),
        way(least.arm)
    )
}

fn compared(storm: &Storm<'_>, most: &Measured<'_>, least: &Measured<'_>) -> Verdict {
    let ratio = Ratio::of(&most.times(), &least.times());
    let interval = ratio.and_then(|ratio| ratio.interval);
    let sure = interval.is_some_and(|i| i.confidence >= SURE);
    let above = interval.is_some_and(|i| i.lo > 1.0);
    let finding = match ratio {
        _ if stalls(most) && !stalls(least) => Finding::Stalls,
        Some(ratio) if sure && above && ratio.value >= SLOWS => Finding::Slows,
        Some(_) if sure && interval.is_some_and(|i| i.hi < HARMLESS) => Finding::Harmless,
        _ => Finding::Unclear,
    };
    let took = took(most, least, ratio.as_ref());
    let maps = most.arm.userns != least.arm.userns;
    let (what, choice) = if maps {
        ("mapping ids", "Whether ids are mapped")
    } else {
        ("mounting", "How root file systems are mounted")
    };
    let sentence = match finding {
        Finding::Stalls => {
            format!("{} stalls container starts on this node: {}; {took}.", capital(what), stalled(most))
        }
        Finding::Slows => {
            let more = if stalls(most) { ", which stall either way" } else { " and stalls none" };
            format!("{} slows container starts on this node{more}: {took}.", capital(what))
        }
        Finding::Harmless => format!("{choice} matters little on this node: {took}."),
        Finding::Unclear | Finding::OneWay => {
            format!("Whether {what} slows container starts on this node these rounds do not say: {took}.")
        }
    };
    let mut details = Vec::new();
    if !sure {
        details.push("These are too few rounds to be sure of a ratio: `--repeat 4` is the least.".to_owned());
    }
    details.extend(operations(most, least));
    details.extend(bystanders(most, least));
    details.extend([most, least].into_iter().filter_map(broken));
    details.push(at_once(storm, most, least));
    if stalls(most) && stalls(least) {
        details.push(format!(
            "Both stall ({}; {}): something other than {what} holds them up.",
            stalled(most),
            stalled(least)
        ));
    }
    if matches!(most.arm.launcher, LauncherKind::Assembly) {
        details.push(
            "Only root file systems were made; the rest of a start, the runtime and the program, adds what it adds to \
             both (`--launcher run`)."
                .to_owned(),
        );
    }
    Verdict { finding, sentence, details, ratio: ratio.map(|r| r.value), ratio_interval: interval }
}

/// At the beginning of a sentence.
fn capital(words: &str) -> String {
    let mut letters = words.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

/// A share of the launches, and of the readings of the mount table, weighed by the time they stand for.
struct Stalls {
    late: f64,
    slow: f64,
}

/// How much stalls, as far as it is more than one event: a single round of several is chance, named elsewhere.
fn stalling(arm: &Measured<'_>) -> Stalls {
    let more_than_one = |shares: &[f64]| {
        let rounds = shares.iter().filter(|share| **share > 0.0).count();
        rounds >= arm.rounds.len().min(2)
    };
    let late: Vec<f64> =
        arm.rounds.iter().map(|(_, launches)| late_share(launches.iter().copied())).collect();
    let slow: Vec<f64> = arm
        .rounds
        .iter()
        .map(|(round, _)| over(&health_of(round).collect::<Vec<_>>(), SECOND).unwrap_or(0.0))
        .collect();
    let readings: Vec<(f64, u64)> = arm.rounds.iter().flat_map(|(round, _)| health_of(round)).collect();
    Stalls {
        late: if more_than_one(&late) { late_share(arm.launches()) } else { 0.0 },
        slow: if more_than_one(&slow) { over(&readings, SECOND).unwrap_or(0.0) } else { 0.0 },
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share")]
fn late_share<'a>(launches: impl Iterator<Item = &'a Launch>) -> f64 {
    let (late, all) =
        launches.fold((0, 0), |(late, all), launch| (late + u64::from(launch.late), all + 1_u64));
    late as f64 / all.max(1) as f64
}

fn stalls(arm: &Measured<'_>) -> bool {
    let Stalls { late, slow } = stalling(arm);
    late >= STALLS || slow >= STALLS
}

/// What is past its bound.
fn stalled(arm: &Measured<'_>) -> String {
    let Stalls { late, slow } = stalling(arm);
    let launches = format!("{} of launches come too late", show::percent(late));
    let readings =
        format!("for {} of the time reading the mount table takes over a second", show::percent(slow));
    let what = match (late >= STALLS, slow >= STALLS) {
        (true, false) => launches,
        (false, true) => readings,
        _ => format!("{launches} and {readings}"),
    };
    format!("by `{}` {what}", way(arm.arm))
}

/// Launches that failed for another reason than time say nothing of mounting.
fn broken(arm: &Measured<'_>) -> Option<String> {
    let other = failed(arm) - late_share(arm.launches());
    (other > 0.0).then(|| {
        format!(
            "By `{}` {} of launches fail for reasons other than time.",
            way(arm.arm),
            show::percent(other)
        )
    })
}

/// Mounts attached a container, in any namespace and the host's.
#[expect(clippy::cast_precision_loss, reason = "counts of mounts")]
fn operations(most: &Measured<'_>, least: &Measured<'_>) -> Option<String> {
    // As the summary has them: medians of what came, and of what went.
    let middle = |arm: &Measured<'_>, count: &dyn Fn(&crate::record::MountOps) -> Option<u64>| {
        let containers = arm.arm.containers.max(1) as f64;
        middle_count(arm, |round| count(&round.mount_ops)).map(|count| count as f64 / containers)
    };
    let host = |arm| {
        let came = middle(arm, &|ops| Some(ops.host_attach))?;
        Some(show::each(came + middle(arm, &|ops| Some(ops.host_detach))?))
    };
    let any = |arm: &Measured<'_>| {
        Some(show::each(middle(arm, &|ops| ops.attach)? + middle(arm, &|ops| ops.detach)?))
    };
    let (host_most, host_least) = (host(most)?, host(least)?);
    let all = any(most).zip(any(least));
    let all = all.map(|(a, b)| format!(", and {a} and {b} anywhere")).unwrap_or_default();
    Some(format!(
        "A container changes the host's mount table {host_most} times with the one and {host_least} times with the \
         other{all}."
    ))
}

fn bystanders(most: &Measured<'_>, least: &Measured<'_>) -> Option<String> {
    let health = |arm: &Measured<'_>| {
        let readings: Vec<(f64, u64)> = arm.rounds.iter().flat_map(|(round, _)| health_of(round)).collect();
        Quantiles::weighted(&readings).map(|q| show::ms(q.p99))
    };
    let walk = |arm: &Measured<'_>| {
        let bins: Vec<(f64, u64)> =
            arm.rounds.iter().flat_map(|(round, _)| &round.path_walk_us).copied().collect();
        Quantiles::weighted(&bins).map(|q| show::us(q.p99))
    };
    let mut parts = Vec::new();
    if let Some((a, b)) = health(most).zip(health(least)) {
        parts.push(format!("reading the mount table takes at most {a} with the one and {b} with the other"));
    }
    if let Some((a, b)) = walk(most).zip(walk(least)) {
        parts.push(format!("looking up a path {a} and {b}"));
    }
    (!parts.is_empty()).then(|| format!("Meanwhile, for all but 1 % of the time, {}.", parts.join(", ")))
}

/// Whether a burst waits for something shared: the same burst with more at once, and with as many as it is fastest with.
fn at_once(storm: &Storm<'_>, most: &Measured<'_>, least: &Measured<'_>) -> String {
    let best = |this: &Measured<'_>| {
        let alike = |arm: &Arm| Arm { concurrency: this.arm.concurrency, ..arm.clone() } == *this.arm;
        let fewer = storm.arms.iter().filter(|a| a.arm.concurrency < this.arm.concurrency && alike(a.arm));
        let wall = |arm: &&Measured<'_>| median(&arm.times());
        let fastest = fewer
            .filter(|a| wall(a).is_some())
            .min_by(|a, b| wall(a).unwrap_or(f64::INFINITY).total_cmp(&wall(b).unwrap_or(f64::INFINITY)))?;
        Some((fastest.arm.concurrency, Ratio::of(&this.times(), &fastest.times())?))
    };
    let said = |this: &Measured<'_>| {
        let (fewer, ratio) = best(this)?;
        let means = match ratio.interval {
            Some(i) if ratio.value >= CONTENDS && i.lo > 1.0 => "it waits for something shared",
            Some(i) if i.hi < CONTENDS => "no sign of waiting",
            _ => "these rounds do not say whether it waits",
        };
        let range =
            ratio.interval.map(|i| format!(" ({})", show::interval(&i, show::times))).unwrap_or_default();
        Some(format!(
            "`{}` takes {} as long{range} with {} at once as with {fewer}: {means}",
            way(this.arm),
            show::times(ratio.value),
            this.arm.concurrency
        ))
    };
    let both: Vec<String> = [most, least].into_iter().filter_map(said).collect();
    if both.is_empty() {
        return "Whether they wait for each other or just have more to do is not told apart here; a sweep is \
                (`--concurrency 1,8,...`)."
            .to_owned();
    }
    format!("The same burst, {}.", both.join("; "))
}
