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
use plywood_storm::image::StormImage;
use plywood_storm::launcher::assembly::{self, Ground, GroundConfig};
use plywood_storm::launcher::containerd::{self, Part, Source};
use plywood_storm::launcher::{Launcher, cri, run};
use plywood_storm::{Arm, LauncherKind};

use super::settings::Settings;
use crate::args::Storm;
use crate::context::Context;

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
    /// Host ids that may be leased.
    pub pool: &'a IdPool,
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
    /// Holds the host ids of launchers that do not.
    ground: Option<Arc<Ground>>,
    /// Of programs that launchers start and cannot ask themselves.
    versions: BTreeMap<String, String>,
}

impl Launchers {
    /// Opens them all.
    ///
    /// # Errors
    /// Ids, a flat tree, a runtime or a daemon is missing; what was opened before is closed.
    pub fn open(place: &Place<'_>, image: &mut StormImage) -> anyhow::Result<Self> {
        let mut launchers = Self { all: Vec::new(), ground: None, versions: BTreeMap::new() };
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
        let only_runs = place.arms.iter().all(|arm| arm.launcher == LauncherKind::Run);
        self.ground = if only_runs { None } else { Some(ground(place)?) };
        let ground = self.ground.clone();
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
                    }))
                }
                (LauncherKind::Containerd, Some(ground)) => Arc::new(containerd::open(containerd::Config {
                    socket: place.args.address.clone(),
                    snapshotter: snapshotter(arm),
                    image: source(place, image),
                    layers: Some(arm.layers),
                    command: place.args.command.clone(),
                    part: Part::Task,
                    mappings: ground.maps(),
                })?),
                (LauncherKind::Cri, Some(ground)) => {
                    if arm.layers < image.layers() {
                        anyhow::bail!(
                            "launcher cri starts whole images: of {} layers, not {}",
                            image.layers(),
                            arm.layers
                        );
                    }
                    Arc::new(cri::open(cri::Config {
                        socket: place.args.address.clone(),
                        snapshotter: snapshotter(arm),
                        image: source(place, image),
                        command: place.args.command.clone(),
                        mappings: ground.maps(),
                    })?)
                }
                (_, None) => anyhow::bail!("no host ids were leased"),
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

/// Host ids that may be leased: enough for a round if nobody else uses any.
pub fn pool(args: &Storm, containers: usize) -> anyhow::Result<IdPool> {
    let pool = IdPool::new(&EtcFiles::read(Path::new("/etc"))?, args.id_range_length)?;
    idrange::allocate(&pool, &IdsInUse::default(), containers)?;
    Ok(pool)
}

/// containerd's own default, and that of most distributions.
fn snapshotter(arm: &Arm) -> String {
    arm.snapshotter.clone().unwrap_or_else(|| "overlayfs".to_owned())
}

/// Where containerd gets the image from: generated ones are a layout; others it has, since the store keeps no layers as
/// they were pulled.
fn source(place: &Place<'_>, image: &StormImage) -> Source {
    match (image.layout(), &place.args.image) {
        (Some(layout), _) => Source::Layout(layout.to_owned(), None),
        (None, name) => Source::Name(name.clone().unwrap_or_else(|| image.name.clone())),
    }
}

fn ours(arm: &Arm) -> anyhow::Result<(Mechanism, LowerSource)> {
    arm.mechanism.zip(arm.lower).context("an arm of ours has a mechanism and a lower source")
}

fn ground(place: &Place<'_>) -> anyhow::Result<Arc<Ground>> {
    let directories = place.context.directories();
    directories.create()?;
    let ground = Ground::open(GroundConfig {
        store: place.store,
        capabilities: place.capabilities.clone(),
        pool: place.pool,
        register: &directories.ids(),
        containers: place.settings.sweep.containers,
    })?;
    Ok(Arc::new(ground))
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
    let cpus = if arm.one_cache { admission::one_cache(place.machine)? } else { CpuSet::EMPTY };
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
