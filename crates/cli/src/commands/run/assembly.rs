//! How the root file systems of this run are made: mechanism, lower directories, and what all containers share.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use plywood_engine::apply::{self, PrivateWorker, Rootfs};
use plywood_engine::capabilities::{Answer, Capabilities};
use plywood_engine::idrange::{EtcFiles, IdPool, UserNsPool};
use plywood_engine::lower::{LowerRef, LowerSource, Lowers};
use plywood_engine::mechanism::{Choice, Mechanism};
use plywood_engine::plan::{self, Request};
use plywood_kernel::{IdMap, Reaper};
use plywood_store::{FlatOptions, Image, Pins, Snapshot, Store};

use super::settings::Settings;
use crate::context::Context;
use crate::remedy::Advised;

/// Shared by all containers of a run.
#[derive(Debug)]
pub struct Assembly {
    capabilities: Capabilities,
    mechanism: Mechanism,
    lowers: Lowers,
    scratch: PathBuf,
    reaper: Reaper,
    worker: Option<PrivateWorker>,
    /// User namespaces by mapping.
    pub user_namespaces: UserNsPool,
    /// Host ids that may be leased.
    pub ids: IdPool,
}

impl Assembly {
    /// Chooses, and starts what all containers share.
    pub fn new(
        context: &Context,
        store: &Store,
        pins: &Pins,
        image: &Image,
        settings: &Settings,
        capabilities: Capabilities,
    ) -> anyhow::Result<Self> {
        let ids = IdPool::new(&EtcFiles::read(Path::new("/etc"))?, settings.id_range_length)?;
        ids_suffice(image, settings.id_range_length)?;
        let mechanism = match settings.mechanism {
            Some(mechanism) => mechanism,
            None => automatic(&capabilities)?,
        };
        let source = pick_lower(context, store, pins, image, settings.lower)?;
        let lowers = lower_names(store, image, source)?;
        let worker = (mechanism == Mechanism::Private)
            .then(|| PrivateWorker::start(&[store.root().path()]))
            .transpose()
            .context("starting the worker with a private mount namespace")?;
        let scratch = scratch(store);
        Ok(Self {
            capabilities,
            mechanism,
            lowers,
            scratch,
            reaper: Reaper::start().context("starting the thread that closes mounts")?,
            worker,
            user_namespaces: UserNsPool::new(),
            ids,
        })
    }

    /// The mechanism.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// What the lower directories are.
    pub fn lower(&self) -> LowerSource {
        self.lowers.source()
    }

    /// The topmost lower directory, whose owner and mode the containers' root directory takes.
    pub fn topmost(&self) -> PathBuf {
        self.lowers.topmost()
    }

    /// Plans and makes one root file system.
    pub fn assemble(&self, id: &str, map: &IdMap, snapshot: &Snapshot) -> anyhow::Result<Rootfs> {
        let mut request = Request::new(
            self.lowers.clone(),
            map.clone(),
            snapshot.upper(),
            snapshot.work(),
            self.scratch.join(id),
        );
        request.choice = Choice::Forced(self.mechanism);
        let plan = plan::plan(&request, &self.capabilities)?;
        let user_ns = self.user_namespaces.get(map)?;
        let context =
            apply::Context { user_ns: &user_ns, reaper: &self.reaper, worker: self.worker.as_ref() };
        Ok(apply::apply(&plan, &context)?)
    }

    /// Whether a plan of this run's mechanism is possible at all, before containers are recorded.
    pub fn check(&self) -> anyhow::Result<()> {
        self.mechanism.requires(&self.capabilities).map_err(|reason| {
            Advised::new(
                format!("mechanism {} does not work here: {reason}", self.mechanism),
                "leave --mechanism out, or see `plywood doctor` for those that work",
            )
            .into()
        })
    }
}

/// An image may be nothing but a configuration: it can be kept, not launched.
pub fn require_layers(image: &Image, name: &str) -> Result<(), Advised> {
    if image.layers.is_empty() {
        let what = format!("image {name} has no layers: there is nothing in it to run");
        return Err(Advised::new(what, "choose another one: `plywood images` shows the layers of each"));
    }
    Ok(())
}

/// The best mechanism that works. That others could not even be tried is no reason to copy every file in silence.
fn automatic(capabilities: &Capabilities) -> Result<Mechanism, Advised> {
    match (capabilities.choose().mechanism, &capabilities.private) {
        (Mechanism::Copy, Answer::Error { message }) => Err(Advised::new(
            format!("mechanisms that need not copy every file could not be tried: {message}"),
            "mend that, or accept the copies: --mechanism copy",
        )),
        (mechanism, _) => Ok(mechanism),
    }
}

/// The lower source to use: the flat tree where there is one, otherwise the layers. Only a forced `flat` waits for
/// the tree to be built.
pub fn pick_lower(
    context: &Context,
    store: &Store,
    pins: &Pins,
    image: &Image,
    forced: Option<LowerSource>,
) -> anyhow::Result<LowerSource> {
    let Some(chain_id) = &image.chain_id else { return Ok(LowerSource::Layers) };
    match forced {
        Some(LowerSource::Layers) => Ok(LowerSource::Layers),
        Some(LowerSource::Flat) => {
            let bar = context.progress.spinner("flat tree");
            let progress = |entries: u64| bar.set_message(format!("{entries} entries"));
            let options = FlatOptions {
                wait: true,
                progress: Some(&progress),
                cancel: Some(context.cancel.flag()),
                ..FlatOptions::default()
            };
            let built = store.build_flat(pins, chain_id, &image.layer_ids(), options);
            bar.finish_and_clear();
            built?;
            Ok(LowerSource::Flat)
        }
        None if pins.find_flat(chain_id)?.is_some() => Ok(LowerSource::Flat),
        None => Ok(LowerSource::Layers),
    }
}

/// Where mount points and trials that end with their command are made; recovery sweeps it.
pub fn scratch(store: &Store) -> PathBuf {
    store.root().path().join("scratch")
}

/// The lower directories of an image, each once: overlayfs refuses to have one twice.
pub fn lower_names(store: &Store, image: &Image, source: LowerSource) -> anyhow::Result<Lowers> {
    let root = store.root().path();
    let name = |id: &dyn std::fmt::Display| LowerRef::new(format!("{id}/fs"));
    if source == LowerSource::Flat {
        let chain_id = image.chain_id.as_ref().context("the image has no layers")?;
        let flat = store.find_flat(chain_id)?.context("the flat tree is gone")?;
        return Ok(Lowers::flat(root.join("flat"), name(&flat.id)?)?);
    }
    let names = image.layer_ids().iter().rev().map(|id| name(id)).collect::<Result<_, _>>()?;
    Ok(Lowers::layers(root.join("layers"), names)?)
}

/// Files of an owner beyond the range would belong to nobody.
fn ids_suffice(image: &Image, length: u32) -> Result<(), Advised> {
    let (uid, gid) = image.max_ids();
    let highest = uid.max(gid);
    if highest < length {
        return Ok(());
    }
    Err(Advised::new(
        format!("the image has files of user or group {highest}, but each container gets {length} ids"),
        format!("give it more: --id-range-length {}", (u64::from(highest) + 1).next_multiple_of(65_536)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_could_not_be_asked_is_no_machine_that_must_copy() {
        let no = Answer::No { reason: "old".to_owned() };
        let mut able =
            Capabilities { detached: no.clone(), idmapped_overlay: no.clone(), ..Capabilities::assumed() };
        assert_eq!(automatic(&able).unwrap(), Mechanism::Private);
        able.private = no;
        assert_eq!(automatic(&able).unwrap(), Mechanism::Copy);
        able.private = Answer::Error { message: "a comma".to_owned() };
        assert!(automatic(&able).unwrap_err().to_string().contains("a comma"));
    }
}
