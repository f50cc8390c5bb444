//! From what was asked for to arms: every combination of what can be varied, or the reason why one cannot be.
//!
//! Pure. What does not apply to a launcher is left out of its arms (containerd knows no mechanisms), and what a
//! mechanism would ignore is set to what it does (only the comparison mechanisms know more than one pass), so no two
//! arms differ in name alone. It refuses a combination as a whole sweep: nobody waits an hour for the arm that fails.

use plywood_engine::capabilities::Capabilities;
use plywood_engine::lower::{LowerSource, MAX_LOWERS};
use plywood_engine::mechanism::Mechanism;

use crate::admission::Width;
use crate::arm::{Arm, LauncherKind, UserNs};

/// What was asked for. An empty list means the default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Who starts the containers; the engine alone by default.
    pub launchers: Vec<LauncherKind>,
    /// How root file systems are made; the best that works here by default.
    pub mechanisms: Vec<Mechanism>,
    /// What the lower directories are; by default the layers for the comparison mechanisms, the flat tree for others.
    pub lowers: Vec<LowerSource>,
    /// Of containerd; `overlayfs` by default, of pods the one that is configured.
    pub snapshotters: Vec<String>,
    /// Of containerd, whose ids containers have; their own by default.
    pub userns: Vec<UserNs>,
    /// Of containerd the root file systems only, no processes.
    pub rootfs_only: bool,
    /// Passes of the comparison mechanisms and of containerd's root file systems; 0 counts as 1.
    pub passes: u32,
    /// Layers of the image; all it has by default.
    pub layers: Vec<usize>,
    /// Containers of a round.
    pub containers: usize,
    /// Most of them starting at a time; all by default.
    pub concurrency: Vec<usize>,
    /// How many are admitted to the part that takes global locks; all by default.
    pub admission: Vec<Width>,
}

impl Sweep {
    /// Whether any container is to have ids of its own.
    pub fn maps_ids(&self) -> bool {
        let ours = or(&self.launchers, LauncherKind::Assembly).into_iter().any(is_ours);
        ours || or(&self.userns, UserNs::default()).contains(&UserNs::Private)
    }
}

/// What there is here.
#[derive(Debug, Clone, Copy)]
pub struct Here<'a> {
    /// What the kernel can do.
    pub capabilities: &'a Capabilities,
    /// Layers of the image.
    pub image_layers: usize,
    /// The snapshotter of pods, once containerd was asked.
    pub pods: Option<&'a str>,
}

/// A sweep that cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SweepError {
    /// Nothing is to be started.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    /// More at a time than there are.
    #[error("{concurrency} at once, but a round has only {containers} containers; give more of them")]
    Concurrency {
        /// How many at a time.
        concurrency: usize,
        /// How many there are.
        containers: usize,
    },
    /// The image has fewer layers.
    #[error("{wanted} layers, but the image has {has}; choose fewer, or generate an image of more")]
    Layers {
        /// What was asked for.
        wanted: usize,
        /// What there is.
        has: usize,
    },
    /// The kernel cannot.
    #[error("mechanism {mechanism} does not work here: {reason}")]
    Mechanism {
        /// The mechanism.
        mechanism: Mechanism,
        /// What it lacks.
        reason: String,
    },
    /// An extra pass has the writable directory as one more lower one.
    #[error(
        "{layers} layers and {passes} passes of {mechanism}: all passes but the last have one lower directory more \
         than the image has layers, and the kernel takes {MAX_LOWERS}; use one pass, fewer layers or the flat tree"
    )]
    NoRoomToLook {
        /// The mechanism.
        mechanism: Mechanism,
        /// Layers of the image.
        layers: usize,
        /// Passes asked for.
        passes: u32,
    },
    /// An option that none of the launchers knows.
    #[error("{option} is for {of}, and the storm has none of them")]
    NotOf {
        /// The option.
        option: &'static str,
        /// Whose it is.
        of: &'static str,
    },
    /// Pods have the snapshotter that the CRI plugin is configured with, whatever is asked for.
    #[error(
        "snapshotter {asked} with launcher cri: the CRI plugin of this containerd is configured with {configured}, and \
         no call asks it for another; leave --snapshotter out, or use launcher containerd"
    )]
    Pods {
        /// What was asked for.
        asked: String,
        /// What it would be.
        configured: String,
    },
    /// Admission is around the assembly alone.
    #[error("launcher {0} bounds what takes global locks by itself; admission is for launcher assembly")]
    Admission(LauncherKind),
}

/// The arms, each once; those that differ in the last of these vary fastest: launcher, mechanism and lower source (or
/// snapshotter and users), layers, concurrency, admission.
///
/// # Errors
/// [`SweepError`], naming the combination.
pub fn arms(sweep: &Sweep, here: &Here<'_>) -> Result<Vec<Arm>, SweepError> {
    let launchers = or(&sweep.launchers, LauncherKind::Assembly);
    check(sweep, &launchers)?;
    let mut arms: Vec<Arm> = Vec::new();
    for &launcher in &launchers {
        for way in ways(sweep, launcher, here)? {
            for &layers in &or(&sweep.layers, here.image_layers) {
                for &concurrency in &or(&sweep.concurrency, sweep.containers) {
                    for &width in &or(&sweep.admission, Width::All) {
                        let arm = arm(sweep, launcher, &way, layers, concurrency, width);
                        possible(&arm, width, here)?;
                        if !arms.contains(&arm) {
                            arms.push(arm);
                        }
                    }
                }
            }
        }
    }
    Ok(arms)
}

/// How a launcher gets at root file systems.
enum Way {
    Ours(Mechanism, LowerSource),
    Theirs(String, UserNs),
}

fn is_ours(launcher: LauncherKind) -> bool {
    matches!(launcher, LauncherKind::Assembly | LauncherKind::Run)
}

fn counts_passes(sweep: &Sweep, launcher: LauncherKind) -> bool {
    match launcher {
        LauncherKind::Assembly => true,
        LauncherKind::Containerd => sweep.rootfs_only,
        LauncherKind::Run | LauncherKind::Cri => false,
    }
}

/// Whether more than one pass makes a difference.
fn is_comparison(mechanism: Mechanism) -> bool {
    matches!(mechanism, Mechanism::CommonParent | Mechanism::PerLayer)
}

fn or<T: Clone>(list: &[T], default: T) -> Vec<T> {
    if list.is_empty() { vec![default] } else { list.to_vec() }
}

fn check(sweep: &Sweep, launchers: &[LauncherKind]) -> Result<(), SweepError> {
    if sweep.containers == 0 {
        return Err(SweepError::Zero("the number of containers"));
    }
    let ours = launchers.iter().any(|&launcher| is_ours(launcher));
    let theirs = launchers.iter().any(|&launcher| !is_ours(launcher));
    let of = "launchers assembly and run";
    let refused = [
        (!sweep.mechanisms.is_empty() && !ours, "mechanism", of),
        (!sweep.lowers.is_empty() && !ours, "lower", of),
        (
            sweep.passes > 1 && !launchers.iter().any(|&launcher| counts_passes(sweep, launcher)),
            "passes",
            "launcher assembly, and launcher containerd for root file systems only",
        ),
        (
            sweep.rootfs_only && !launchers.contains(&LauncherKind::Containerd),
            "rootfs-only",
            "launcher containerd",
        ),
        (!sweep.snapshotters.is_empty() && !theirs, "snapshotter", "launchers containerd and cri"),
        (!sweep.userns.is_empty() && !theirs, "userns", "launchers containerd and cri"),
    ];
    match refused.into_iter().find(|(refused, ..)| *refused) {
        Some((_, option, of)) => Err(SweepError::NotOf { option, of }),
        None => Ok(()),
    }
}

fn ways(sweep: &Sweep, launcher: LauncherKind, here: &Here<'_>) -> Result<Vec<Way>, SweepError> {
    if !is_ours(launcher) {
        let configured = here.pods.filter(|_| launcher == LauncherKind::Cri);
        if let Some(configured) = configured
            && let Some(asked) = sweep.snapshotters.iter().find(|asked| *asked != configured)
        {
            return Err(SweepError::Pods { asked: asked.clone(), configured: configured.to_owned() });
        }
        let snapshotters = or(&sweep.snapshotters, configured.unwrap_or("overlayfs").to_owned());
        let userns = or(&sweep.userns, UserNs::default());
        let each =
            |name: &String| userns.iter().map(|users| Way::Theirs(name.clone(), *users)).collect::<Vec<_>>();
        return Ok(snapshotters.iter().flat_map(each).collect());
    }
    let mut ways = Vec::new();
    for mechanism in or(&sweep.mechanisms, here.capabilities.choose().mechanism) {
        mechanism
            .requires(here.capabilities)
            .map_err(|reason| SweepError::Mechanism { mechanism, reason })?;
        let usual = if is_comparison(mechanism) { LowerSource::Layers } else { LowerSource::Flat };
        ways.extend(or(&sweep.lowers, usual).into_iter().map(|lower| Way::Ours(mechanism, lower)));
    }
    Ok(ways)
}

fn arm(
    sweep: &Sweep,
    launcher: LauncherKind,
    way: &Way,
    layers: usize,
    concurrency: usize,
    width: Width,
) -> Arm {
    let (mechanism, lower, snapshotter, userns) = match way {
        Way::Ours(mechanism, lower) => (Some(*mechanism), Some(*lower), None, UserNs::Private),
        Way::Theirs(snapshotter, userns) => (None, None, Some(snapshotter.clone()), *userns),
    };
    let repeats = counts_passes(sweep, launcher) && mechanism.is_none_or(is_comparison);
    Arm {
        launcher,
        mechanism,
        lower,
        snapshotter,
        userns,
        passes: if repeats { sweep.passes.max(1) } else { 1 },
        layers,
        containers: sweep.containers,
        concurrency,
        admission: width.count(),
        one_cache: width.on_one_cache(),
    }
}

fn possible(arm: &Arm, width: Width, here: &Here<'_>) -> Result<(), SweepError> {
    if arm.concurrency == 0 {
        return Err(SweepError::Zero("concurrency"));
    }
    if arm.layers == 0 {
        return Err(SweepError::Zero("the number of layers"));
    }
    if arm.concurrency > arm.containers {
        return Err(SweepError::Concurrency { concurrency: arm.concurrency, containers: arm.containers });
    }
    if arm.layers > here.image_layers {
        return Err(SweepError::Layers { wanted: arm.layers, has: here.image_layers });
    }
    if width != Width::All && arm.launcher != LauncherKind::Assembly {
        return Err(SweepError::Admission(arm.launcher));
    }
    match (arm.mechanism, arm.lower) {
        (Some(mechanism), Some(LowerSource::Layers)) if arm.passes > 1 && arm.layers >= MAX_LOWERS => {
            Err(SweepError::NoRoomToLook { mechanism, layers: arm.layers, passes: arm.passes })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plywood_engine::capabilities::Answer;

    fn sweep() -> Sweep {
        Sweep { containers: 100, ..Sweep::default() }
    }

    fn swept(sweep: &Sweep) -> Result<Vec<String>, SweepError> {
        swept_with(sweep, None)
    }

    fn swept_with(sweep: &Sweep, pods: Option<&str>) -> Result<Vec<String>, SweepError> {
        let mut capabilities = Capabilities::assumed();
        capabilities.idmapped_overlay = Answer::No { reason: "the kernel is too old".into() };
        let here = Here { capabilities: &capabilities, image_layers: 500, pods };
        arms(sweep, &here).map(|arms| arms.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn nothing_asked_for_is_the_default_over_the_whole_image() {
        assert_eq!(swept(&sweep()).unwrap(), ["assembly detached over flat, 500 layers, 100 at once"]);
    }

    #[test]
    fn each_combination_is_an_arm() {
        let sweep = Sweep {
            mechanisms: vec![Mechanism::PerLayer, Mechanism::Detached],
            passes: 2,
            layers: vec![1, 50],
            concurrency: vec![10, 100],
            ..sweep()
        };
        assert_eq!(
            swept(&sweep).unwrap(),
            [
                "assembly per-layer over layers x 2, 1 layer, 10 at once",
                "assembly per-layer over layers x 2, 1 layer, 100 at once",
                "assembly per-layer over layers x 2, 50 layers, 10 at once",
                "assembly per-layer over layers x 2, 50 layers, 100 at once",
                "assembly detached over flat, 1 layer, 10 at once",
                "assembly detached over flat, 1 layer, 100 at once",
                "assembly detached over flat, 50 layers, 10 at once",
                "assembly detached over flat, 50 layers, 100 at once",
            ]
        );
    }

    #[test]
    fn users_are_varied_where_containerd_starts_the_containers() {
        let sweep = Sweep {
            launchers: LauncherKind::ALL.to_vec(),
            snapshotters: vec!["overlayfs".into(), "native".into()],
            userns: vec![UserNs::Private, UserNs::Host, UserNs::Host],
            ..sweep()
        };
        assert_eq!(
            swept(&sweep).unwrap(),
            [
                "assembly detached over flat, 500 layers, 100 at once",
                "run detached over flat, 500 layers, 100 at once",
                "containerd overlayfs, 500 layers, 100 at once",
                "containerd overlayfs with host users, 500 layers, 100 at once",
                "containerd native, 500 layers, 100 at once",
                "containerd native with host users, 500 layers, 100 at once",
                "cri overlayfs, 500 layers, 100 at once",
                "cri overlayfs with host users, 500 layers, 100 at once",
                "cri native, 500 layers, 100 at once",
                "cri native with host users, 500 layers, 100 at once",
            ]
        );
        assert!(sweep.maps_ids(), "those of ours do");
        let theirs = Sweep { launchers: vec![LauncherKind::Cri], ..sweep };
        assert!(theirs.maps_ids());
        assert!(!Sweep { userns: vec![UserNs::Host], ..theirs.clone() }.maps_ids());
        assert!(Sweep { userns: Vec::new(), ..theirs }.maps_ids());
    }

    #[test]
    fn pods_have_the_snapshotter_that_is_configured() {
        let asked = |launchers: &[LauncherKind], names: &[&str]| {
            let snapshotters = names.iter().map(|name| (*name).to_owned()).collect();
            swept_with(&Sweep { launchers: launchers.to_vec(), snapshotters, ..sweep() }, Some("native"))
        };
        let both = [LauncherKind::Containerd, LauncherKind::Cri];
        assert_eq!(
            asked(&both, &[]).unwrap(),
            ["containerd overlayfs, 500 layers, 100 at once", "cri native, 500 layers, 100 at once"]
        );
        assert_eq!(asked(&both[1..], &["native"]).unwrap(), ["cri native, 500 layers, 100 at once"]);
        let error = asked(&both, &["native", "overlayfs"]).unwrap_err().to_string();
        assert!(
            error.contains("snapshotter overlayfs") && error.contains("configured with native"),
            "{error}"
        );
        assert_eq!(asked(&both[..1], &["overlayfs"]).unwrap().len(), 1);
    }

    #[test]
    fn what_does_not_apply_is_left_out() {
        let sweep = Sweep {
            launchers: vec![LauncherKind::Run, LauncherKind::Containerd],
            mechanisms: vec![Mechanism::Detached],
            lowers: vec![LowerSource::Layers, LowerSource::Layers],
            snapshotters: vec!["overlayfs".into(), "plywood".into()],
            ..sweep()
        };
        assert_eq!(
            swept(&sweep).unwrap(),
            [
                "run detached over layers, 500 layers, 100 at once",
                "containerd overlayfs, 500 layers, 100 at once",
                "containerd plywood, 500 layers, 100 at once",
            ]
        );
        let containerd = Sweep {
            launchers: vec![LauncherKind::Containerd, LauncherKind::Cri],
            passes: 2,
            rootfs_only: true,
            ..self::sweep()
        };
        assert_eq!(
            swept(&containerd).unwrap(),
            ["containerd overlayfs x 2, 500 layers, 100 at once", "cri overlayfs, 500 layers, 100 at once",]
        );
        let flat_per_layer = Sweep {
            mechanisms: vec![Mechanism::PerLayer],
            lowers: vec![LowerSource::Flat],
            passes: 2,
            admission: vec![Width::All, Width::Threads(4), Width::OneCache(2)],
            ..self::sweep()
        };
        assert_eq!(
            swept(&flat_per_layer).unwrap(),
            [
                "assembly per-layer over flat x 2, 500 layers, 100 at once",
                "assembly per-layer over flat x 2, 500 layers, 100 at once, 4 admitted",
                "assembly per-layer over flat x 2, 500 layers, 100 at once, 2 admitted on one cache",
            ]
        );
    }

    #[test]
    fn the_impossible_is_refused_with_the_reason() {
        let refused = |sweep: Sweep, why: &str| {
            let error = swept(&sweep).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        };
        refused(Sweep { layers: vec![5, 501], ..sweep() }, "501 layers, but the image has 500");
        refused(Sweep { concurrency: vec![101], ..sweep() }, "only 100 containers");
        refused(Sweep { concurrency: vec![0], ..sweep() }, "at least 1");
        refused(Sweep { layers: vec![0], ..sweep() }, "at least 1");
        refused(Sweep { containers: 0, ..sweep() }, "at least 1");
        let mechanism = |mechanism| Sweep { mechanisms: vec![mechanism], ..sweep() };
        refused(mechanism(Mechanism::IdmappedOverlay), "does not work here: it needs");
        refused(Sweep { passes: 2, ..mechanism(Mechanism::PerLayer) }, "use one pass");
        let run = vec![LauncherKind::Run];
        refused(
            Sweep { passes: 2, launchers: run.clone(), ..sweep() },
            "passes is for launcher assembly, and",
        );
        let rootfs_only = Sweep { rootfs_only: true, ..sweep() };
        refused(rootfs_only, "rootfs-only is for launcher containerd");
        let one = vec![Width::Threads(1)];
        refused(Sweep { admission: one, launchers: run, ..sweep() }, "launcher run bounds");
        let cri = vec![LauncherKind::Cri];
        let detached = mechanism(Mechanism::Detached);
        refused(Sweep { launchers: cri, ..detached }, "mechanism is for launchers assembly and run");
        refused(Sweep { snapshotters: vec!["x".into()], ..sweep() }, "snapshotter is for launchers");
        let host = vec![UserNs::Host];
        refused(Sweep { userns: host, ..sweep() }, "userns is for launchers containerd and cri");
    }
}
