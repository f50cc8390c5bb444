//! The layers of one image: downloaded and unpacked at the same time, settled bottom up, committed together.
//!
//! ```text
//! downloads ──┐                              ┌─> unpackers ──┐
//! (registry)  ├─> queue of layers to unpack ─┤   (threads)   ├─> this thread: settle in order, commit
//! local blobs ┘                              └─>             ┘
//! ```
//! The first failure stops everybody; staged layers are removed as they are dropped.

mod blob;

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, Scope};

use std::os::fd::AsFd as _;

use plywood_image::{ChainId, DiffId, Digest};

use super::error::FetchError;
use super::provider::Provider;
use super::{Cancel, Event, FetchRequest, Progress};
use crate::Store;
use crate::layers::{Basis, Layer, LayerId, LayerInfo, LayerStaging};
use crate::merged::MergedTree;
use crate::pins::Pins;
use crate::unpack::{self, Below, Lower, Memory, Settled, Unpacked};
use blob::Blob;

/// One layer of the image.
#[derive(Debug, Clone)]
pub(super) struct Job {
    /// Its place, lowest first.
    pub(super) index: usize,
    /// Of its blob.
    pub(super) digest: Digest,
    /// Of its blob, in bytes.
    pub(super) size: u64,
    pub(super) diff_id: DiffId,
    pub(super) chain_id: ChainId,
    /// The layer, if it is here already.
    pub(super) present: Option<Layer>,
}

/// A layer unpacked by itself.
struct Staged {
    staging: LayerStaging,
    unpacked: Unpacked,
}

type Outcome = (usize, Result<Staged, FetchError>);

/// What all threads share.
struct Shared<'a> {
    store: &'a Store,
    provider: &'a Provider,
    request: &'a FetchRequest,
    jobs: Vec<Job>,
    progress: Progress<'a>,
    memory: Memory,
    stop: &'a Cancel,
}

/// Brings in what is missing. Gives the layers, lowest first, pinned.
pub(super) fn run(
    store: &Store,
    pins: &Pins,
    provider: &Provider,
    request: &FetchRequest,
    jobs: Vec<Job>,
    progress: Progress<'_>,
    stop: &Cancel,
) -> Result<Vec<LayerId>, FetchError> {
    let missing: Vec<&Job> = jobs.iter().filter(|job| job.present.is_none()).collect();
    if missing.is_empty() {
        return Ok(jobs.iter().filter_map(|job| job.present.as_ref()).map(|layer| layer.id).collect());
    }
    // Layers may share a blob, an empty one for instance: it is downloaded once.
    let mut blobs: Vec<(Digest, Vec<usize>)> = Vec::new();
    let mut places: HashMap<Digest, usize> = HashMap::new();
    for job in missing {
        let place = *places.entry(job.digest).or_insert_with(|| {
            blobs.push((job.digest, Vec::new()));
            blobs.len() - 1
        });
        blobs[place].1.push(job.index);
    }
    if let Provider::Registry(_) = *provider {
        for (digest, _) in &blobs {
            pins.blob(digest)?;
        }
    }
    let downloaded: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
    let shared = Shared { store, provider, request, jobs, progress, memory: Memory::default(), stop };
    let result = std::thread::scope(|scope| {
        let outcome = shared.start(scope, blobs).and_then(|results| shared.collect(&results));
        if outcome.is_err() {
            // Also cuts connections, so that the scope ends soon.
            stop.cancel();
        }
        outcome
    });
    let staged = result?;
    progress(Event::Committing);
    let ids = shared.commit(pins, staged)?;
    if let Provider::Registry(_) = *provider {
        for digest in &downloaded {
            store.remove_blob(digest)?;
        }
    }
    Ok(ids)
}

impl<'a> Shared<'a> {
    fn start<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        blobs: Vec<(Digest, Vec<usize>)>,
    ) -> Result<Receiver<Outcome>, FetchError> {
        let (results, collected) = channel();
        let (ready, to_unpack) = channel::<(usize, Blob)>();
        let to_unpack = Arc::new(Mutex::new(to_unpack));
        let layers: usize = blobs.iter().map(|(_, layers)| layers.len()).sum();
        let downloads = self.request.downloads.clamp(1, blobs.len());
        let unpackers = self.request.unpackers.clamp(1, layers);
        let queue = Arc::new(Mutex::new(VecDeque::from(blobs)));
        let spawn = |name: String, work: Box<dyn FnOnce() + Send + 'scope>| {
            Builder::new().name(name).spawn_scoped(scope, work).map(drop).map_err(FetchError::Thread)
        };
        for n in 0..downloads {
            let (queue, ready, results) = (queue.clone(), ready.clone(), results.clone());
            spawn(format!("download-{n}"), Box::new(move || self.download(&queue, &ready, &results)))?;
        }
        for n in 0..unpackers {
            let (to_unpack, results) = (to_unpack.clone(), results.clone());
            spawn(format!("unpack-{n}"), Box::new(move || self.unpack_all(&to_unpack, &results)))?;
        }
        Ok(collected)
    }

    /// Makes blobs available until none is left.
    fn download(
        &self,
        queue: &Mutex<VecDeque<(Digest, Vec<usize>)>>,
        ready: &Sender<(usize, Blob)>,
        results: &Sender<Outcome>,
    ) {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some((_, layers)) = next else { return };
            for &layer in &layers {
                // The second and further ones find the blob there.
                match Blob::obtain(self, &self.jobs[layer]) {
                    Ok(blob) => {
                        if ready.send((layer, blob)).is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        // Nobody listens: another failure was first.
                        let _ = results.send((layer, Err(error)));
                        return;
                    }
                }
            }
        }
    }

    fn unpack_all(&self, to_unpack: &Mutex<Receiver<(usize, Blob)>>, results: &Sender<Outcome>) {
        loop {
            // The lock is held while waiting: whoever holds it gets the next one.
            let next = to_unpack.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok((layer, blob)) = next else { return };
            if self.stop.is_cancelled() {
                return;
            }
            let result = self.unpack(&self.jobs[layer], blob, None);
            let failed = result.is_err();
            if results.send((layer, result)).is_err() || failed {
                return;
            }
        }
    }

    /// Unpacks one layer into a staging of its own.
    fn unpack(&self, job: &Job, blob: Blob, below: Option<&Below<'_>>) -> Result<Staged, FetchError> {
        let mut blob = blob;
        loop {
            let staging = self.store.new_layer_staging()?;
            let reader = blob.reader(self, job)?;
            let (limits, memory) = (&self.request.limits, &self.memory);
            let unpacked =
                unpack::unpack(reader, &job.diff_id, staging.as_fd(), below, limits, memory, self.stop);
            match unpacked {
                Ok(unpacked) => return Ok(Staged { staging, unpacked }),
                Err(error) => {
                    drop(staging);
                    // A cached blob that turns out damaged is fetched again, once.
                    blob = blob.after_failure(self, job, error)?;
                }
            }
        }
    }

    /// Takes results as they come and settles them from the lowest up.
    fn collect(&self, results: &Receiver<Outcome>) -> Result<Vec<(LayerStaging, LayerInfo)>, FetchError> {
        let mut waiting: HashMap<usize, Staged> = HashMap::new();
        let mut done: Vec<(LayerStaging, LayerInfo)> = Vec::new();
        let mut stack: Vec<LayerId> = Vec::with_capacity(self.jobs.len());
        for job in &self.jobs {
            if let Some(layer) = &job.present {
                stack.push(layer.id);
                continue;
            }
            let staged = loop {
                if let Some(staged) = waiting.remove(&job.index) {
                    break staged;
                }
                // All threads are gone without a result only if they were stopped.
                let (index, result) = results.recv().map_err(|_| FetchError::Cancelled)?;
                waiting.insert(index, result?);
            };
            let (staging, info) = self.settle(job, staged, &stack)?;
            stack.push(staging.id());
            done.push((staging, info));
            (self.progress)(Event::LayerDone { layer: job.index });
        }
        Ok(done)
    }

    fn settle(
        &self,
        job: &Job,
        staged: Staged,
        stack: &[LayerId],
    ) -> Result<(LayerStaging, LayerInfo), FetchError> {
        let failed = |source| unpack_failed(job, source);
        let mut staged = staged;
        let lower = match stack.last() {
            Some(top) => {
                let tree = self.merged(stack)?;
                Some(Lower { tree, top: self.store.open_layer(*top)? })
            }
            None => None,
        };
        // Set by the first round only: a layer unpacked with its lower layers known has no such path any more.
        let mut redirected = false;
        loop {
            let Staged { staging, unpacked } = &staged;
            let settled =
                unpack::settle(unpacked, staging.as_fd(), lower.as_ref(), &self.request.limits, self.stop);
            match settled.map_err(failed)? {
                Settled::Done { basis, counts } => {
                    if !counts.left_out.is_empty() {
                        (self.progress)(Event::LeftOut { layer: job.index, what: counts.left_out });
                    }
                    let info = LayerInfo {
                        diff_id: job.diff_id,
                        chain_id: job.chain_id,
                        basis: if redirected { Basis::Chain } else { basis },
                        size_bytes: counts.size_bytes,
                        entries: counts.entries,
                        max_uid: counts.max_uid,
                        max_gid: counts.max_gid,
                        compressed: job.digest,
                    };
                    return Ok((staged.staging, info));
                }
                Settled::Redirected { opaque, path } => {
                    let tree = match &lower {
                        Some(lower) if !redirected => &lower.tree,
                        _ => {
                            let kind = "symbolic link that cannot be followed";
                            return Err(failed(unpack::UnpackError::BelowNonDirectory { path, kind }));
                        }
                    };
                    redirected = true;
                    tracing::debug!(
                        layer = job.index,
                        "leads through a link of a lower layer: unpacking again"
                    );
                    let charged = unpacked.charged;
                    // Not held twice: what is charged is one layer's.
                    drop(staged);
                    let blob = Blob::obtain(self, job)?;
                    staged = self.unpack(job, blob, Some(&Below { tree, opaque, charged }))?;
                }
            }
        }
    }

    /// Staged and committed layers alike: all lie in one directory.
    fn merged(&self, stack: &[LayerId]) -> Result<MergedTree, FetchError> {
        let base = self.store.root().layers().try_clone_to_owned();
        let base =
            base.map_err(|e| FetchError::State(crate::error::FileError::from_io("dup", "layers", e).into()))?;
        Ok(MergedTree::new(base, stack.iter().map(|id| PathBuf::from(format!("{id}/fs"))).collect()))
    }

    fn commit(
        &self,
        pins: &Pins,
        staged: Vec<(LayerStaging, LayerInfo)>,
    ) -> Result<Vec<LayerId>, FetchError> {
        if self.stop.is_cancelled() {
            return Err(FetchError::Cancelled);
        }
        let mut committed = self.store.commit_layers(pins, staged)?.into_iter().map(|layer| layer.id);
        let ids = self.jobs.iter().filter_map(|job| match &job.present {
            Some(layer) => Some(layer.id),
            None => committed.next(),
        });
        Ok(ids.collect())
    }
}

/// The root that the layers below the next one show; not known before the topmost of them is here.
pub(super) fn root_below(store: &Store, jobs: &[Job]) -> Result<Option<Digest>, FetchError> {
    let Some(job) = jobs.last() else { return Ok(Some(unpack::root_of_nothing())) };
    let Some(layer) = &job.present else { return Ok(None) };
    let root = unpack::root_shown_by(&store.open_layer(layer.id)?);
    root.map(Some).map_err(|source| unpack_failed(job, source))
}

fn unpack_failed(job: &Job, source: unpack::UnpackError) -> FetchError {
    match source {
        unpack::UnpackError::Cancelled => FetchError::Cancelled,
        source => FetchError::Unpack {
            layer: job.index + 1,
            digest: Box::new(job.digest),
            source: Box::new(source),
        },
    }
}
