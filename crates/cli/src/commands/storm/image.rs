//! The image of a storm: found or generated, with a spinner, and given up on Ctrl-C.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use plywood_store::{Cancel, Store};
use plywood_storm::image::StormImage;

use super::settings::Settings;
use crate::args::Storm;
use crate::context::Context;
use crate::remedy::Advised;

/// How often a request to stop is looked for.
const POLL: Duration = Duration::from_millis(50);

/// Finds or generates it.
pub fn open(
    context: &Context,
    store: &Store,
    args: &Storm,
    settings: &Settings,
) -> anyhow::Result<StormImage> {
    let image = match (&args.image, settings.generate) {
        (Some(name), _) => StormImage::of_store(store, name)?,
        (None, Some(parameters)) => {
            let bar = context.progress.spinner("image");
            bar.set_message(format!("generating {parameters}"));
            let image =
                stoppable(context, |cancel| StormImage::generate(store, parameters, args.keep_image, cancel));
            bar.finish_and_clear();
            image?
        }
        (None, None) => anyhow::bail!("neither an image nor how to generate one"),
    };
    let (highest, length) = (image.highest_id(), args.id_range_length);
    if highest >= length {
        let enough = (u64::from(highest) + 1).next_multiple_of(65_536);
        let what =
            format!("the image has files of user or group {highest}, but each container gets {length} ids");
        let error = Advised::new(what, format!("give it more: --id-range-length {enough}"));
        image.close().context("removing the storm's image")?;
        return Err(error.into());
    }
    Ok(image)
}

/// A signal handler may only set a flag; this passes it on.
fn stoppable<T>(context: &Context, work: impl FnOnce(&Cancel) -> T) -> T {
    let (cancel, done) = (Cancel::new(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if context.cancel.requested() {
                    cancel.cancel();
                }
                std::thread::park_timeout(POLL);
            }
        });
        let made = work(&cancel);
        done.store(true, Ordering::Relaxed);
        made
    })
}
