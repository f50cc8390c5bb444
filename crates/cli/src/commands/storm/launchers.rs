//! One launcher an arm, opened before the first round.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use plywood_engine::capabilities::Capabilities;
use plywood_engine::cgroup::Cgroups;
use plywood_engine::idrange::{self, EtcFiles, IdPool, IdsInUse};
use plywood_engine::lower::{LowerSource, Lowers};
use plywood_engine::mechanism::Mechanism;
use plywood_engine::runtime;
use plywood_node::{CpuSet, Topology};
use plywood_store::Store;
use plywood_storm::admission::{self, Admission};
use plywood_storm::harness::Seats;
use plywood_storm::image::StormImage;
use plywood_storm::launcher::assembly::{self, Ground, GroundConfig};
use plywood_storm::launcher::containerd::{self, Source};
use plywood_storm::launcher::ids::Ids;
use plywood_storm::launcher::{Launcher, cri, run};
use plywood_storm::sweep::Sweep;
use plywood_storm::{Arm, LauncherKind, UserNs};

use super::settings::Settings;
use crate::args::Storm;
use crate::context::Context;
use crate::remedy::Advised;

/// What launchers are opened with.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The command's.
    pub context: &'a Context,
    /// As given.
    pub args: &'a Storm,
    /// As read.
    pub settings: &'a Settings,
    /// The processors.
    pub machine: &'a Topology,
    /// Host ids that may be leased, if any container is to have ids of its own.
    pub pool: Option<&'a IdPool>,
    /// The images.
    pub store: &'a Store,
    /// What the kernel can do.
    pub capabilities: &'a Capabilities,
    /// What is compared.
    pub arms: &'a [Arm],
}

/// The launchers of all arms, in their order.
pub struct Launchers {
    all: Vec<Arc<dyn Launcher>>,
    /// Of programs that launchers start and cannot ask themselves.
    versions: BTreeMap<String, String>,
    /// Of all launchers but `run`, where containers have ids of their own.
    ids: Option<Arc<Ids>>,
}

impl Launchers {
    /// Opens them all.
    ///
    /// # Errors
    /// Ids, a flat tree, a runtime or a daemon is missing; what was opened before is closed.
    pub fn open(place: &Place<'_>, image: &mut StormImage) -> anyhow::Result<Self> {
        let mut launchers = Self { all: Vec::new(), versions: BTreeMap::new(), ids: None };
        let opened = launchers.open_all(place, image);
        if opened.is_err() {
            for launcher in &launchers.all {
                if let Err(error) = launcher.close() {
                    tracing::error!(error = &error as &dyn std::error::Error, "closing a launcher");
                }
            }
        }
        opened.map(|()| launchers)
    }

    fn open_all(&mut self, place: &Place<'_>, image: &mut StormImage) -> anyhow::Result<()> {
        let of = |kind| place.arms.iter().any(|arm| arm.launcher == kind);
        // `plywood run` leases its own.
        let leased = |arm: &Arm| arm.launcher != LauncherKind::Run && arm.userns == UserNs::Private;
        if place.arms.iter().any(leased) {
            self.ids = Some(ids(place)?);
        }
        let ground = match &self.ids {
            Some(ids) if of(LauncherKind::Assembly) => Some(ground(place, ids)?),
            _ => None,
        };
        if of(LauncherKind::Run) {
            self.versions.extend(runtime_version(place)?);
        }
        for arm in place.arms {
            let launcher: Arc<dyn Launcher> = match (arm.launcher, &ground) {
                (LauncherKind::Assembly, Some(ground)) => {
                    let (mechanism, source) = ours(arm)?;
                    Arc::new(assembly::open(assembly::Config {
                        ground: Arc::clone(ground),
                        lowers: lowers(place, image, arm.layers, source)?,
                        mechanism,
                        passes: arm.passes,
                        admission: admission(place, arm)?,
                    })?)
                }
                (LauncherKind::Run, _) => {
                    let (mechanism, source) = ours(arm)?;
                    if source == LowerSource::Flat {
                        lowers(place, image, arm.layers, source)?;
                    }
                    Arc::new(run::open(run::Config {
                        program: std::env::current_exe().context("finding this program's file")?,
                        root: place.context.root.clone(),
                        image: image.name_of(arm.layers)?,
                        mechanism,
                        lower: source,
                        concurrency: arm.concurrency,
                        runtime: place.args.runtime.clone(),
                        id_range_length: place.args.id_range_length,
                        command: place.args.command.clone(),
                    })?)
                }
                (LauncherKind::Containerd | LauncherKind::Cri, _) => {
                    theirs(place, image, arm, self.ids.as_deref())?
                }
                (LauncherKind::Assembly, None) => anyhow::bail!("no ids were leased for launcher assembly"),
            };
            self.all.push(launcher);
        }
        Ok(())
    }

    /// In the order of the arms.
    pub fn all(&self) -> &[Arc<dyn Launcher>] {
        &self.all
    }

    /// Programs that bear on the figures.
    pub fn versions(&self) -> BTreeMap<String, String> {
        let mut versions = self.versions.clone();
        versions.extend(self.all.iter().flat_map(|launcher| launcher.versions()));
        versions
    }
}

/// Host ids that may be leased: enough for a round if nobody else uses any. None where all containers have the host's.
pub fn pool(args: &Storm, sweep: &Sweep) -> anyhow::Result<Option<IdPool>> {
    if !sweep.maps_ids() {
        return Ok(None);
    }
    let pool = IdPool::new(&EtcFiles::read(Path::new("/etc"))?, args.id_range_length)?;
    idrange::allocate(&pool, &IdsInUse::default(), sweep.containers)?;
    Ok(Some(pool))
}

/// The snapshotter of pods, if any are to be started: nobody can choose it.
pub fn snapshotter_of_pods(context: &Context, args: &Storm) -> anyhow::Result<Option<String>> {
    if !args.launcher.contains(&LauncherKind::Cri) {
        return Ok(None);
    }
    let configured = cri::snapshotter(&args.address, context.cancel.shared())?;
    if configured.is_none() && args.snapshotter.is_empty() {
        let what = "containerd does not say which snapshotter its CRI plugin is configured with";
        return Err(Advised::new(what, "name it: --snapshotter").into());
    }
    Ok(configured)
}

fn ours(arm: &Arm) -> anyhow::Result<(Mechanism, LowerSource)> {
    arm.mechanism.zip(arm.lower).context("an arm of ours has a mechanism and a lower source")
}

fn ids(place: &Place<'_>) -> anyhow::Result<Arc<Ids>> {
    let directories = place.context.directories();
    directories.create()?;
    let count = place.settings.sweep.containers;
    let pool = place.pool.context("a storm with ids of its own has a pool of them")?;
    Ok(Arc::new(Ids::lease(place.store, &directories.ids(), pool, count, place.context.cancel.flag())?))
}

fn ground(place: &Place<'_>, ids: &Arc<Ids>) -> anyhow::Result<Arc<Ground>> {
    let (capabilities, ids) = (place.capabilities.clone(), Arc::clone(ids));
    Ok(Arc::new(Ground::open(GroundConfig { store: place.store, capabilities, ids })?))
}

/// A launcher of containerd's, by its socket.
fn theirs(
    place: &Place<'_>,
    image: &mut StormImage,
    arm: &Arm,
    ids: Option<&Ids>,
) -> anyhow::Result<Arc<dyn Launcher>> {
    let socket = place.args.address.clone();
    let snapshotter = arm.snapshotter.clone().context("an arm of containerd has a snapshotter")?;
    let pods = arm.launcher == LauncherKind::Cri;
    // Pods start whole images; containers start from the snapshot of any layer.
    let image = match image.in_layout(if pods { arm.layers } else { image.layers() })? {
        Some((layout, name)) => Source::Layout(layout, Some(name)),
        // One of the store is looked for under the same name.
        None => Source::Name(image.name.clone()),
    };
    let command = place.args.command.clone();
    let cancel = place.context.cancel.shared();
    let mappings = match arm.userns {
        UserNs::Host => None,
        UserNs::Private => Some(ids.context("no ids were leased for containerd")?.maps().to_vec()),
    };
    let (launcher, layers): (Arc<dyn Launcher>, usize) = if pods {
        let opened = cri::open(cri::Config { socket, snapshotter, image, command, mappings, cancel })?;
        let layers = opened.layers();
        (Arc::new(opened), layers)
    } else {
        let rootfs = containerd::Part::Rootfs { passes: arm.passes };
        let part = if place.args.rootfs_only { rootfs } else { containerd::Part::Task };
        let config = containerd::Config {
            socket,
            snapshotter,
            image,
            layers: Some(arm.layers),
            command,
            part,
            mappings,
            cancel,
        };
        let opened = containerd::open(config)?;
        let layers = opened.layers();
        (Arc::new(opened), layers)
    };
    if layers != arm.layers {
        launcher.close()?;
        let what = format!("containerd has the image with {layers} layers, not {}", arm.layers);
        return Err(Advised::new(what, "use a generated image, or all layers of the same image").into());
    }
    Ok(launcher)
}

fn lowers(
    place: &Place<'_>,
    image: &mut StormImage,
    layers: usize,
    source: LowerSource,
) -> anyhow::Result<Lowers> {
    let bar = place.context.progress.spinner("lower directories");
    bar.set_message(format!("{source} of {layers}"));
    let lowers = image.lowers(layers, source, place.context.cancel.flag());
    bar.finish_and_clear();
    Ok(lowers?)
}

fn admission(place: &Place<'_>, arm: &Arm) -> anyhow::Result<Admission> {
    let Some(width) = arm.admission else { return Ok(Admission::unbounded()) };
    // Where they are confined, those that are admitted do the work.
    let cpus = match &place.settings.seats {
        _ if arm.one_cache => admission::one_cache(place.machine)?,
        Seats::On(cpus) => cpus.clone(),
        Seats::Anywhere | Seats::InTurns(_) => CpuSet::EMPTY,
    };
    Ok(Admission::bounded(width, &cpus)?)
}

/// The runtime that `plywood run` will use.
fn runtime_version(place: &Place<'_>) -> anyhow::Result<Option<(String, String)>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let layout = Cgroups::detect()?.layout();
    let run = place.context.directories().run;
    let runtime = runtime::find(place.args.runtime.as_deref(), &path, layout, &run)?;
    let name = runtime.path().file_name().map(|name| name.to_string_lossy().into_owned());
    Ok(name.map(|name| (name, runtime.version().to_owned())))
}
