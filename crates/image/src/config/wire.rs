//! The document as it is written.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::History;

#[derive(Debug, Deserialize)]
pub(super) struct Document {
    pub(super) os: Option<String>,
    pub(super) architecture: Option<String>,
    pub(super) variant: Option<String>,
    pub(super) created: Option<String>,
    pub(super) config: Option<Inner>,
    pub(super) rootfs: Option<Rootfs>,
    pub(super) history: Option<Vec<Step>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Inner {
    #[serde(alias = "env")]
    pub(super) env: Option<Vec<String>>,
    #[serde(alias = "entrypoint")]
    pub(super) entrypoint: Option<Args>,
    #[serde(alias = "cmd")]
    pub(super) cmd: Option<Args>,
    #[serde(alias = "workingDir", alias = "workingdir")]
    pub(super) working_dir: Option<String>,
    #[serde(alias = "user")]
    pub(super) user: Option<String>,
    #[serde(alias = "volumes")]
    pub(super) volumes: Option<BTreeMap<String, IgnoredAny>>,
    #[serde(alias = "exposedPorts", alias = "exposedports")]
    pub(super) exposed_ports: Option<BTreeMap<String, IgnoredAny>>,
    #[serde(alias = "stopSignal", alias = "stopsignal")]
    pub(super) stop_signal: Option<String>,
    #[serde(alias = "labels")]
    pub(super) labels: Option<BTreeMap<String, String>>,
}

/// A list, or the string Docker once allowed in its place.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Args {
    List(Vec<String>),
    One(String),
}

impl Args {
    pub(super) fn into_vec(self) -> Vec<String> {
        match self {
            Args::List(list) => list,
            Args::One(one) => vec![one],
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Rootfs {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) diff_ids: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Step {
    created: Option<String>,
    created_by: Option<String>,
    comment: Option<String>,
    empty_layer: Option<bool>,
}

impl From<Step> for History {
    fn from(step: Step) -> History {
        History {
            created: step.created,
            created_by: step.created_by,
            comment: step.comment,
            empty_layer: step.empty_layer.unwrap_or(false),
        }
    }
}
