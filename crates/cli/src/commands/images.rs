//! `plywood images`.

use std::process::ExitCode;

use serde::Serialize;

use crate::context::Context;
use crate::output;

/// Digits of an id, for people.
const SHORT: usize = 12;

#[derive(Serialize)]
struct Record {
    id: String,
    manifest_digest: String,
    names: Vec<String>,
    platform: String,
    layers: usize,
    size_bytes: u64,
    flat: bool,
    recorded_ms: u64,
}

/// Lists the images of the store: as JSON one object an image, for people a line a name.
pub fn run(context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.store()?;
    let mut records = Vec::new();
    for image in store.images()? {
        let flat = match &image.chain_id {
            Some(chain_id) => store.find_flat(chain_id)?.is_some(),
            None => false,
        };
        records.push(Record {
            id: image.config_digest.to_string(),
            manifest_digest: image.manifest_digest.to_string(),
            size_bytes: image.size_bytes(),
            layers: image.layers.len(),
            names: image.names,
            platform: image.platform,
            recorded_ms: image.recorded_ms,
            flat,
        });
    }
    if context.json {
        output::json(&serde_json::json!({ "images": records }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows = records.iter().flat_map(|record| {
        let names: Vec<String> = match record.names.as_slice() {
            [] => vec!["<none>".to_owned()],
            names => names.iter().map(|name| short(name)).collect(),
        };
        names.into_iter().map(|name| {
            [
                name,
                record.id.trim_start_matches("sha256:").chars().take(SHORT).collect(),
                record.platform.clone(),
                record.layers.to_string(),
                output::size(record.size_bytes),
                if record.flat { "ready" } else { "-" }.to_owned(),
                output::ago_ms(record.recorded_ms),
            ]
        })
    });
    let rows: Vec<_> = rows.collect();
    output::text_out(&output::table(
        ["NAME", "ID", "PLATFORM", "LAYERS", "SIZE", "FLAT TREE", "RECORDED"],
        rows,
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// A name by digest with as many digits as an id has, which is enough to name it.
fn short(name: &str) -> String {
    match name.split_once("@sha256:") {
        Some((repository, digits)) => {
            format!("{repository}@sha256:{}", digits.get(..SHORT).unwrap_or(digits))
        }
        None => name.to_owned(),
    }
}
