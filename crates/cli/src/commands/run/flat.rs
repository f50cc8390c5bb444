//! The flat tree for the next launch, built while the containers of this one run, and after them if it takes longer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use plywood_engine::lower::LowerSource;
use plywood_store::{BuildFlat, FlatError, FlatOptions, Image, Store};

use super::settings::Settings;
use crate::context::Context;

/// A build in the background, or none.
#[derive(Debug)]
pub struct Builder {
    thread: Option<JoinHandle<Result<bool, FlatError>>>,
    entries: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Builder {
    /// Starts building unless there is a tree, nobody wants one, or one layer makes it pointless.
    pub fn start(
        context: &Context,
        store: &Store,
        image: &Image,
        settings: &Settings,
        used: LowerSource,
    ) -> Self {
        let entries = Arc::new(AtomicU64::new(0));
        let stop = context.cancel.shared();
        let wanted = used == LowerSource::Layers
            && settings.lower.is_none()
            && !settings.no_flat
            && image.layers.len() > 1;
        let thread = match (&image.chain_id, wanted) {
            (Some(chain_id), true) => {
                let (store, chain_id, layers) = (store.clone(), *chain_id, image.layer_ids());
                let (entries, stop) = (Arc::clone(&entries), Arc::clone(&stop));
                Some(std::thread::spawn(move || {
                    let pins = store.pins()?;
                    let progress = move |made| entries.store(made, Ordering::Relaxed);
                    let options = FlatOptions {
                        background: true,
                        progress: Some(&progress),
                        cancel: Some(&stop),
                        ..FlatOptions::default()
                    };
                    store
                        .build_flat(&pins, &chain_id, &layers, options)
                        .map(|built| matches!(built, BuildFlat::Built(_)))
                }))
            }
            _ => None,
        };
        Self { thread, entries, stop }
    }

    /// Waits for the build, if there is one; Ctrl-C gives it up. Answers whether it made a tree.
    pub fn finish(self, context: &Context) -> bool {
        let Some(thread) = self.thread else { return false };
        let bar = context.progress.spinner("flat tree");
        while !thread.is_finished() {
            bar.set_message(format!("{} entries, for the next launch", self.entries.load(Ordering::Relaxed)));
            std::thread::sleep(Duration::from_millis(20));
        }
        bar.finish_and_clear();
        match thread.join() {
            Ok(Ok(built)) => built,
            Ok(Err(FlatError::Cancelled)) if self.stop.load(Ordering::Relaxed) => false,
            // The containers ran all the same; the next launch tries again.
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "no flat tree for the next launch");
                false
            }
            Err(_) => {
                tracing::error!("the thread that builds the flat tree panicked");
                false
            }
        }
    }
}
