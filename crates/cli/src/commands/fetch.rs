//! What `pull`, `import` and `run` share: bringing an image in, with progress, and merging it into a flat tree.

use std::collections::HashMap;
use std::fs::File;
use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use indicatif::ProgressBar;
use plywood_image::{Platform, Reference};
use plywood_store::transfer::{
    AuthFiles, Cancel, Event, FetchRequest, RegistryOptions, Source, Timeouts, fetch_image,
};
use plywood_store::unpack::LeftOut;
use plywood_store::{BuildFlat, Fetched, Flat, FlatOptions, Pins, Store};
use serde_json::json;

use crate::args::{FetchArgs, RegistryArgs};
use crate::context::Context;
use crate::output;
use crate::progress::Progress;
use crate::remedy::Usage;

/// How often a request to stop is looked for.
const POLL: Duration = Duration::from_millis(50);

/// Pulls from a registry.
pub fn pull(
    context: &Context,
    store: &Store,
    pins: &Pins,
    name: &str,
    fetch: &FetchArgs,
    registry: &RegistryArgs,
) -> anyhow::Result<Fetched> {
    let reference = reference(name)?;
    let mut options = RegistryOptions { plain_http: registry.plain_http, ..RegistryOptions::default() };
    options.tls.extra_ca.extend(registry.tls_ca.clone());
    if let Some(limit) = registry.registry_timeout {
        options.timeouts = Timeouts { connect: limit, response: limit, idle: limit, ..options.timeouts };
    }
    if let Some(file) = &registry.authfile {
        options.auth = AuthFiles::only(file.clone());
    }
    let mut request = FetchRequest::new(Source::Registry { reference, options: Box::new(options) });
    request.platform = platform(fetch)?;
    bring_in(context, store, pins, &request)
}

/// Imports from a layout directory, an archive, or an archive on standard input: `-`.
pub fn import(
    context: &Context,
    store: &Store,
    pins: &Pins,
    path: &Path,
    name: Option<&str>,
    fetch: &FetchArgs,
) -> anyhow::Result<Fetched> {
    let source = match path.to_str() {
        Some("-") => standard_input()?,
        _ if path.is_dir() => Source::Layout(path.to_owned()),
        _ => Source::Archive(path.to_owned()),
    };
    let mut request = FetchRequest::new(source);
    request.name = name.map(reference).transpose()?;
    request.platform = platform(fetch)?;
    bring_in(context, store, pins, &request)
}

fn standard_input() -> anyhow::Result<Source> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Err(
            Usage("`import -` reads an archive from standard input, which is a terminal".to_owned()).into()
        );
    }
    let file = File::from(stdin.as_fd().try_clone_to_owned().context("standard input cannot be read")?);
    Ok(Source::Stream { file: Arc::new(file), called: "standard input".into() })
}

/// The reference a user has typed.
pub fn reference(name: &str) -> Result<Reference, Usage> {
    name.parse().map_err(|error| Usage(format!("`{name}` is no image name: {error}")))
}

/// The platform asked for, or this machine's.
pub fn platform(fetch: &FetchArgs) -> Result<Platform, Usage> {
    match &fetch.platform {
        // A name alone would be taken for a system.
        Some(text) if !text.contains('/') => {
            Err(Usage(format!("--platform {text}: write it as os/architecture, for example linux/{text}")))
        }
        Some(text) => text.parse().map_err(|error| Usage(format!("--platform {text}: {error}"))),
        None => Ok(Platform::host()),
    }
}

fn bring_in(
    context: &Context,
    store: &Store,
    pins: &Pins,
    request: &FetchRequest,
) -> anyhow::Result<Fetched> {
    let cancel = Cancel::new();
    let done = AtomicBool::new(false);
    let bars = Bars::new(&context.progress);
    let fetched = std::thread::scope(|scope| {
        // A signal handler may only set a flag; this passes it on.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if context.cancel.requested() {
                    cancel.cancel();
                }
                std::thread::park_timeout(POLL);
            }
        });
        let fetched = fetch_image(store, pins, request, &|event| bars.take(&event), &cancel);
        done.store(true, Ordering::Relaxed);
        fetched
    });
    bars.clear();
    let fetched = fetched?;
    for (layer, what) in bars.left_out() {
        let layer = layer + 1;
        output::text_err(&format!("layer {layer}: left out, as containerd does: {what}\n"))?;
    }
    Ok(fetched)
}

/// One bar for the bytes downloaded, one for the bytes unpacked.
struct Bars<'a> {
    progress: &'a Progress,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    download: Option<ProgressBar>,
    unpack: Option<ProgressBar>,
    downloaded: HashMap<usize, u64>,
    unpacked: HashMap<usize, u64>,
    done: usize,
    left_out: Vec<(usize, LeftOut)>,
}

impl<'a> Bars<'a> {
    fn new(progress: &'a Progress) -> Self {
        Self { progress, state: Mutex::new(State::default()) }
    }

    fn take(&self, event: &Event) {
        // Progress is not worth a panic.
        let Ok(mut guard) = self.state.lock() else { return };
        let state = &mut *guard;
        match event {
            Event::Resolved { layers, .. } => {
                let missing = layers.iter().filter(|layer| !layer.present);
                let total = missing.map(|layer| layer.size).sum();
                state.done = layers.iter().filter(|layer| layer.present).count();
                state.download = Some(self.progress.bytes("downloading", total));
                state.unpack = Some(self.progress.bytes("unpacking", total));
            }
            Event::Downloaded { layer, bytes } => {
                state.downloaded.insert(*layer, *bytes);
                if let Some(bar) = &state.download {
                    bar.set_position(state.downloaded.values().sum());
                }
            }
            Event::Unpacked { layer, bytes } => {
                state.unpacked.insert(*layer, *bytes);
                if let Some(bar) = &state.unpack {
                    bar.set_position(state.unpacked.values().sum());
                }
            }
            Event::LeftOut { layer, what } => state.left_out.push((*layer, *what)),
            Event::LayerDone { .. } => {
                state.done += 1;
                if let Some(bar) = &state.unpack {
                    bar.set_message(format!("{} layers", state.done));
                }
            }
            Event::Committing => {
                if let Some(bar) = &state.unpack {
                    bar.set_message("making it durable");
                }
            }
            _ => {}
        }
    }

    fn clear(&self) {
        let Ok(state) = self.state.lock() else { return };
        for bar in [&state.download, &state.unpack].into_iter().flatten() {
            bar.finish_and_clear();
        }
    }

    fn left_out(&self) -> Vec<(usize, LeftOut)> {
        self.state.lock().map(|mut state| std::mem::take(&mut state.left_out)).unwrap_or_default()
    }
}

/// Merges the layers into a flat tree now, unless there is nothing to merge or nobody wants it.
pub fn flatten(
    context: &Context,
    store: &Store,
    pins: &Pins,
    fetched: &Fetched,
    fetch: &FetchArgs,
) -> anyhow::Result<Option<Flat>> {
    let Fetched { image, names } = fetched;
    let Some(chain_id) = image.chain_id.as_ref().filter(|_| !fetch.no_flat && image.layers.len() > 1) else {
        return Ok(None);
    };
    let bar = context.progress.spinner("flat tree");
    let progress = |entries: u64| bar.set_message(format!("{entries} entries"));
    let options = FlatOptions {
        progress: Some(&progress),
        cancel: Some(context.cancel.flag()),
        ..FlatOptions::default()
    };
    let built = store.build_flat(pins, chain_id, &image.layer_ids(), options);
    bar.finish_and_clear();
    let built = built.with_context(|| {
        format!("{} is in the store, but its flat tree could not be built", names.join(", "))
    })?;
    Ok(match built {
        BuildFlat::Built(flat) | BuildFlat::Found(flat) => Some(flat),
        BuildFlat::Busy => None,
    })
}

/// What was brought in, as JSON.
pub fn record(fetched: &Fetched, flat: Option<&Flat>) -> serde_json::Value {
    let Fetched { image, names } = fetched;
    json!({
        "name": names.first(),
        "id": image.config_digest.to_string(),
        "manifest_digest": image.manifest_digest.to_string(),
        "names": image.names,
        "platform": image.platform,
        "layers": image.layers.len(),
        "size_bytes": image.size_bytes(),
        "flat_entries": flat.map(|flat| flat.entries),
    })
}

/// What was brought in, for people.
pub fn describe(fetched: &Fetched, flat: Option<&Flat>) -> String {
    let Fetched { image, names } = fetched;
    let flat = match flat {
        None if image.layers.is_empty() => ", nothing to run".to_owned(),
        Some(flat) => format!(", flat tree of {}", output::count(flat.entries, "entry")),
        None => String::new(),
    };
    format!(
        "{}\n  {}, {}{flat}, {}\n",
        names.join("\n"),
        output::count(image.layers.len(), "layer"),
        output::size(image.size_bytes()),
        image.config_digest
    )
}
