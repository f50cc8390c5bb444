//! One image, from its manifest to its record.

use plywood_image::digest::chain_ids;
use plywood_image::{Digest, Reference, config};

use super::error::FetchError;
use super::pipeline::{self, Job};
use super::provider::{Provider, platform_error};
use super::{Cancel, Event, FetchRequest, LayerProgress, Progress, Source};
use crate::Store;
use crate::images::{Image, NewImage};
use crate::pins::Pins;

/// An image brought in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The image, with all names it has now.
    pub image: Image,
    /// Those of them that it was brought in by, at least one.
    pub names: Vec<String>,
}

/// Brings an image into the store: its layers unpacked and committed, its name pointing to it. Image and layers are
/// pinned by `pins`.
///
/// # Errors
/// [`FetchError`]; partial blobs apart, the store is then as it was.
pub fn fetch_image(
    store: &Store,
    pins: &Pins,
    request: &FetchRequest,
    progress: Progress<'_>,
    cancel: &Cancel,
) -> Result<Fetched, FetchError> {
    // Ours, because a failed layer stops the others too.
    let stop = Cancel::new();
    let _relay = cancel.on_cancel({
        let stop = stop.clone();
        move || stop.cancel()
    });
    let result = fetch(store, pins, request, progress, &stop);
    match result {
        // What a cut connection or a stopped thread said is beside the point.
        Err(_) if cancel.is_cancelled() => Err(FetchError::Cancelled),
        result => result,
    }
}

fn fetch(
    store: &Store,
    pins: &Pins,
    request: &FetchRequest,
    progress: Progress<'_>,
    stop: &Cancel,
) -> Result<Fetched, FetchError> {
    let mut provider = Provider::open(store, request, stop)?;
    let _cut = provider.cut_on(stop);
    let resolved = provider.resolve(request)?;
    let names = names(request, &resolved.names)?;
    let manifest_digest = match &request.source {
        // The algorithm the reference names, if it names this very manifest.
        Source::Registry { reference, .. } => {
            reference.digest().filter(|digest| digest.matches(&resolved.bytes)).copied()
        }
        _ => None,
    };
    let manifest_digest = manifest_digest.unwrap_or_else(|| Digest::sha256(&resolved.bytes));

    let config_descriptor = &resolved.manifest.config;
    let config_failed = |source| FetchError::Config { digest: Box::new(config_descriptor.digest), source };
    let config_bytes = provider.config(config_descriptor)?;
    let config = config::parse(&config_bytes).map_err(config_failed)?;
    config::check_layers(&resolved.manifest, &config).map_err(config_failed)?;
    if let Some(error) = platform_error(&request.platform, &config.platform) {
        return Err(error);
    }

    let chain = chain_ids(&config.diff_ids);
    let mut jobs: Vec<Job> = Vec::with_capacity(chain.len());
    for (index, layer) in resolved.manifest.layers.iter().enumerate() {
        let (diff_id, chain_id) = (config.diff_ids[index], chain[index]);
        let root = pipeline::root_below(store, &jobs)?;
        let present = pins.find_layer(&diff_id, &chain_id, root.as_ref())?;
        let descriptor = &layer.descriptor;
        jobs.push(Job {
            index,
            digest: descriptor.digest,
            size: descriptor.size,
            diff_id,
            chain_id,
            present,
        });
    }
    let layers = jobs
        .iter()
        .map(|job| LayerProgress { digest: job.digest, size: job.size, present: job.present.is_some() })
        .collect();
    progress(Event::Resolved { manifest: manifest_digest, layers });

    let layers = pipeline::run(store, pins, &provider, request, jobs, progress, stop)?;
    let new = NewImage {
        manifest_digest,
        media_type: resolved.manifest.media_type.to_string(),
        manifest: resolved.bytes,
        config_digest: config_descriptor.digest,
        config: config_bytes,
        platform: config.platform.to_string(),
        layers,
        chain_id: chain.last().copied(),
    };
    let image = store.record_image(pins, &new, &names).map_err(FetchError::Record)?;
    Ok(Fetched { image, names })
}

/// The names the image will have, at least one.
fn names(request: &FetchRequest, found: &[String]) -> Result<Vec<String>, FetchError> {
    match (&request.name, &request.source, found) {
        (Some(name), ..) | (None, Source::Registry { reference: name, .. }, _) => Ok(vec![name.to_string()]),
        (None, _, []) => Err(FetchError::NoName),
        (None, _, found) => {
            let parsed = |name: &String| match name.parse::<Reference>() {
                Ok(reference) => Ok(reference.to_string()),
                Err(source) => Err(FetchError::Name { name: name.clone(), source }),
            };
            found.iter().map(parsed).collect()
        }
    }
}
