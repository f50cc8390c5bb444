//! Pods, through the Container Runtime Interface: what the kubelet asks a node's containerd for. Each has a user namespace
//! of its own, where containerd can do that ([`Pods::map_ids`]), or the host's.
//!
//! Images have to be in containerd's namespace [`Pods::NAMESPACE`] beforehand (a [`Session`] there brings them in), and
//! containerd needs a pod network and its pause image, as on any node.
//!
//! [`Session`]: crate::Session

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use plywood_kernel::{IdMap, IdMapping, ProcessId};
use serde_json::Value;

use crate::client::{Client, patient};
use crate::error::{CallError, Kind, unless};
use crate::proto::runtime::v1::image_service_client::ImageServiceClient;
use crate::proto::runtime::v1::runtime_service_client::RuntimeServiceClient;
use crate::proto::runtime::v1::{
    ContainerConfig, ContainerMetadata, ContainerState, ContainerStatus, ContainerStatusRequest,
    CreateContainerRequest, IdMapping as WireMapping, ImageFsInfoRequest, ImageFsInfoResponse, ImageSpec,
    ImageStatusRequest, LinuxContainerConfig, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, ListPodSandboxRequest, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata, RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest, StatusRequest,
    StatusResponse, StopPodSandboxRequest, UserNamespace,
};
use crate::session::{OWNER, SESSION, SessionError, is_stale};
use crate::version::{Mounting, Version};

/// The kubelet's namespace for pods without one.
const POD_NAMESPACE: &str = "plywood-storm";

/// Where systemd makes control groups, slices are the parents; this one is always there.
const SLICE: &str = "system.slice";

/// What containerd names the directory of a snapshotter after.
const PLACE: &str = "io.containerd.snapshotter.v1.";

/// A process's pods. Any thread may use it.
#[derive(Debug)]
pub struct Pods {
    client: Client,
    /// Says whose pods are.
    labels: HashMap<String, String>,
    /// Whether there may be any.
    some: AtomicBool,
    /// Whether somebody has been told what is left.
    told: AtomicBool,
    cgroup_parent: &'static str,
    /// By what containerd says of its default runtime.
    user_namespaces: bool,
}

/// A pod, stopped and removed with its containers when it is dropped.
#[derive(Debug)]
pub struct Pod {
    pods: Arc<Pods>,
    id: String,
    config: PodSandboxConfig,
    removed: bool,
}

/// Why there can be no pods.
#[derive(Debug, thiserror::Error)]
pub enum PodsError {
    /// The CRI plugin is disabled, or failed to start.
    #[error(
        "containerd {version} answers no CRI calls on {socket}: its CRI plugin is disabled or could not start"
    )]
    NoCri {
        /// The version of containerd.
        version: Version,
        /// The socket.
        socket: String,
    },
    /// Something that has to be there on every node is not.
    #[error("containerd is not ready for pods: {reason}: {message}")]
    NotReady {
        /// In a word.
        reason: String,
        /// In containerd's words.
        message: String,
    },
    /// Before 2.0 there were no idmapped mounts.
    #[error("containerd {0} has no pods with user namespaces; 2.0 and newer have")]
    TooOld(Version),
    /// containerd could, but what it stands on cannot.
    #[error(
        "containerd {0} could run pods with user namespaces, but its OCI runtime (runc 1.2 or newer can) or the kernel (6.3 or newer can) cannot"
    )]
    Unsupported(Version),
    /// containerd refused.
    #[error(transparent)]
    Call(#[from] CallError),
    /// As for sessions.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl Pods {
    /// The namespace of containerd in which the CRI plugin has everything.
    pub const NAMESPACE: &'static str = "k8s.io";

    /// Asks whether containerd can run pods, and removes those that killed processes left.
    ///
    /// # Errors
    /// There is no CRI, or it is not ready.
    pub fn open(client: &Client) -> Result<Arc<Pods>, PodsError> {
        let status = status(client)?;
        check(&status)?;
        let owner = ProcessId::current().map_err(SessionError::Identity)?.to_string();
        let cgroup_parent = if uses_systemd(&status) { SLICE } else { "/" };
        let user_namespaces = has_user_namespaces(&status);
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let session = format!("pods-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let labels = HashMap::from([(OWNER.to_owned(), owner), (SESSION.to_owned(), session)]);
        let (some, told) = (AtomicBool::new(false), AtomicBool::new(false));
        let pods = Pods { client: client.clone(), labels, some, told, cgroup_parent, user_namespaces };
        pods.sweep()?;
        Ok(Arc::new(pods))
    }

    /// The snapshotter that pods have their root file systems from: the one the CRI plugin is configured with. None if
    /// containerd does not say.
    ///
    /// # Errors
    /// There is no CRI.
    pub fn snapshotter(client: &Client) -> Result<Option<String>, PodsError> {
        let status = status(client)?;
        let images = || {
            let mut images = ImageServiceClient::new(client.channel());
            client.wait(|| "Image file systems".into(), images.image_fs_info(patient(ImageFsInfoRequest {})))
        };
        Ok(configured(&config(&status), images)?)
    }

    /// Says whether pods can have user namespaces and id mappings of their own. Where they cannot, containerd ignores the
    /// mapping, copies the image or refuses the pod: asking first is the caller's.
    ///
    /// # Errors
    /// They cannot, and why not.
    pub fn map_ids(&self) -> Result<(), PodsError> {
        if self.user_namespaces { Ok(()) } else { Err(without_user_namespaces(self.client.version())) }
    }

    /// Whether the CRI plugin has an image.
    ///
    /// # Errors
    /// containerd does not answer.
    pub fn has_image(&self, name: &str) -> Result<bool, CallError> {
        let request = patient(ImageStatusRequest { image: Some(ImageSpec { image: name.to_owned() }) });
        let mut images = ImageServiceClient::new(self.client.channel());
        let answer =
            self.client.wait(|| format!("Status of image {name:?}"), images.image_status(request))?;
        Ok(answer.image.is_some())
    }

    /// Runs a pod's sandbox: its namespaces, its network, its pause container. Without a mapping it has the host's users.
    ///
    /// # Errors
    /// containerd refused.
    pub fn run(self: &Arc<Self>, name: &str, mapping: Option<&IdMap>) -> Result<Pod, CallError> {
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: name.to_owned(),
                namespace: POD_NAMESPACE.into(),
                attempt: 0,
            }),
            labels: self.labels.clone(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup_parent.into(),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces(mapping)),
                }),
            }),
            ..PodSandboxConfig::default()
        };
        let request =
            patient(RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() });
        let mut runtime = RuntimeServiceClient::new(self.client.channel());
        // Whatever becomes of the answer, there may be one from here on.
        self.some.store(true, Ordering::Relaxed);
        let answer = self.client.wait(|| format!("Run pod {name:?}"), runtime.run_pod_sandbox(request))?;
        Ok(Pod { pods: Arc::clone(self), id: answer.pod_sandbox_id, config, removed: false })
    }

    /// Removes all pods that were run here, whoever holds them or failed to remove them. Dropping does the same and logs
    /// what is left.
    ///
    /// # Errors
    /// containerd refused, after all was tried; [`left`](Self::left) says what may be there. Calling it again tries
    /// again, and so does the next session of any process.
    pub fn close(&self) -> Result<(), CallError> {
        if !self.some.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let mine = |labels: &HashMap<String, String>| {
            Ok::<_, CallError>(self.labels.iter().all(|(key, value)| labels.get(key) == Some(value)))
        };
        let closed = self.remove_all(mine);
        if closed.is_err() {
            self.told.store(true, Ordering::Relaxed);
            self.some.store(true, Ordering::Relaxed);
        }
        closed
    }

    /// What may be left in containerd where closing has failed, and what becomes of it.
    pub fn left(&self) -> String {
        let owner = self.labels.get(OWNER).map_or("", String::as_str);
        format!("pods labelled {OWNER}={owner} may be left in containerd; the next storm removes them")
    }

    /// Removes pods that killed processes left.
    fn sweep(&self) -> Result<(), PodsError> {
        self.remove_all(|labels| {
            let stale = is_stale(labels)?;
            if stale {
                self.client.go_on(|| "remove what a killed process left".into())?;
                tracing::info!(?labels, "removing what a killed process left");
            }
            Ok(stale)
        })
    }

    /// Removes pods with such labels: all that can be, and then the first error.
    fn remove_all<E: From<CallError>>(
        &self,
        whose: impl Fn(&HashMap<String, String>) -> Result<bool, E>,
    ) -> Result<(), E> {
        let request = patient(ListPodSandboxRequest { filter: None });
        let mut runtime = RuntimeServiceClient::new(self.client.channel());
        let answer = runtime.list_pod_sandbox(request);
        let mut failed = Ok(());
        for pod in self.client.see_through(|| "List pods".into(), answer)?.items {
            if whose(&pod.labels)?
                && let Err(error) = self.remove(&pod.id)
                && failed.is_ok()
            {
                failed = Err(error);
            }
        }
        Ok(failed?)
    }

    /// Stops and removes a pod with its containers.
    fn remove(&self, id: &str) -> Result<(), CallError> {
        let mut runtime = RuntimeServiceClient::new(self.client.channel());
        let answer =
            runtime.stop_pod_sandbox(patient(StopPodSandboxRequest { pod_sandbox_id: id.to_owned() }));
        self.client.see_through(|| format!("Stop pod {id:?}"), answer)?;
        let answer =
            runtime.remove_pod_sandbox(patient(RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() }));
        unless(&[Kind::Missing], self.client.see_through(|| format!("Remove pod {id:?}"), answer).map(drop))
    }
}

impl Pod {
    /// Creates the pod's container, with the mapping of the pod, and starts it. Returns its name in containerd.
    ///
    /// # Errors
    /// containerd or the OCI runtime refused; what was made goes with the pod.
    pub fn start(&self, image: &str, args: &[String]) -> Result<String, CallError> {
        let linux = self.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "container".into(), attempt: 0 }),
            image: Some(ImageSpec { image: image.to_owned() }),
            command: args.to_vec(),
            labels: self.config.labels.clone(),
            linux: Some(LinuxContainerConfig {
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: linux.and_then(|context| context.namespace_options.clone()),
                }),
            }),
            ..ContainerConfig::default()
        };
        let client = &self.pods.client;
        let mut runtime = RuntimeServiceClient::new(client.channel());
        let request = patient(CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        });
        let answer = runtime.create_container(request);
        let id = client.wait(|| format!("Create container in pod {:?}", self.id), answer)?.container_id;
        let answer = runtime.start_container(patient(StartContainerRequest { container_id: id.clone() }));
        client.wait(|| format!("Start container {id:?}"), answer)?;
        Ok(id)
    }

    /// The exit status of a container of it, `None` while it runs.
    ///
    /// # Errors
    /// containerd does not answer.
    pub fn exit_status(&self, container: &str) -> Result<Option<i32>, CallError> {
        let request = patient(ContainerStatusRequest { container_id: container.to_owned() });
        let mut runtime = RuntimeServiceClient::new(self.pods.client.channel());
        let answer = runtime.container_status(request);
        let answer = self.pods.client.wait(|| format!("Status of container {container:?}"), answer)?;
        let ended = |status: &ContainerStatus| status.state() == ContainerState::ContainerExited;
        Ok(answer.status.filter(ended).map(|status| status.exit_code))
    }

    /// Stops and removes it with its containers.
    ///
    /// # Errors
    /// containerd refused; closing tries again.
    pub fn remove(mut self) -> Result<(), CallError> {
        self.removed = true;
        self.pods.remove(&self.id)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if !self.removed
            && let Err(error) = self.pods.remove(&self.id)
        {
            tracing::debug!(%error, source = %error.message(), "a pod is left until all are closed");
        }
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        let told = self.told.load(Ordering::Relaxed);
        match self.close() {
            Err(error) if !told => {
                tracing::warn!(%error, source = %error.message(), "{}", self.left());
            }
            _ => {}
        }
    }
}

fn namespaces(mapping: Option<&IdMap>) -> NamespaceOption {
    let lines = |mappings: &[IdMapping]| {
        let line =
            |m: &IdMapping| WireMapping { host_id: m.outside, container_id: m.inside, length: m.length };
        mappings.iter().map(line).collect()
    };
    let user = mapping.map(|mapping| UserNamespace {
        mode: NamespaceMode::Pod.into(),
        uids: lines(&mapping.uid),
        gids: lines(&mapping.gid),
    });
    NamespaceOption {
        pid: NamespaceMode::Container.into(),
        userns_options: user,
        ..NamespaceOption::default()
    }
}

/// Asks for it.
fn status(client: &Client) -> Result<StatusResponse, PodsError> {
    let request = patient(StatusRequest { verbose: true });
    let mut runtime = RuntimeServiceClient::new(client.channel());
    match client.wait(|| "Status of CRI".into(), runtime.status(request)) {
        Err(error) if error.kind() == Kind::Unsupported => {
            let socket = client.socket().display().to_string();
            Err(PodsError::NoCri { version: client.version().clone(), socket })
        }
        answer => Ok(answer?),
    }
}

/// Of the default runtime, else of all, as the plugin shows its configuration; newer ones show no more than where images
/// are, those of the configured snapshotter first.
fn configured(
    config: &Value,
    images: impl FnOnce() -> Result<ImageFsInfoResponse, CallError>,
) -> Result<Option<String>, CallError> {
    let containerd = &config["containerd"];
    let of_runtime = &containerd["runtimes"][default_runtime(containerd)]["snapshotter"];
    let named = |value: &Value| value.as_str().filter(|name| !name.is_empty()).map(str::to_owned);
    if let Some(name) = named(of_runtime).or_else(|| named(&containerd["snapshotter"])) {
        return Ok(Some(name));
    }
    let first = images()?.image_filesystems.into_iter().next().and_then(|usage| usage.fs_id);
    let place = first.unwrap_or_default().mountpoint;
    let name = place.rsplit('/').next().and_then(|last| last.strip_prefix(PLACE));
    Ok(name.filter(|name| !name.is_empty()).map(str::to_owned))
}

/// What the plugin says of its configuration.
fn config(status: &StatusResponse) -> Value {
    status.info.get("config").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

fn default_runtime(containerd: &Value) -> &str {
    containerd["defaultRuntimeName"].as_str().unwrap_or("runc")
}

/// Whether pods can run, by what containerd says of itself.
fn check(status: &StatusResponse) -> Result<(), PodsError> {
    let conditions = status.status.iter().flat_map(|status| &status.conditions);
    // The kubelet goes by the first; the second says whether pods can have networks.
    let needed = |kind: &str| ["RuntimeReady", "NetworkReady"].contains(&kind);
    match conditions.into_iter().find(|condition| needed(&condition.r#type) && !condition.status) {
        Some(bad) => Err(PodsError::NotReady { reason: bad.reason.clone(), message: bad.message.clone() }),
        None => Ok(()),
    }
}

/// Whether the default runtime, the one without a name, can do user namespaces.
fn has_user_namespaces(status: &StatusResponse) -> bool {
    let features = status.runtime_handlers.iter().filter(|handler| handler.name.is_empty());
    features.filter_map(|handler| handler.features).any(|features| features.user_namespaces)
}

/// Why it cannot.
fn without_user_namespaces(version: &Version) -> PodsError {
    match version.mounting() {
        Mounting::Copies => PodsError::TooOld(version.clone()),
        _ => PodsError::Unsupported(version.clone()),
    }
}

/// Whether the default runtime has systemd make control groups: the plugin shows its configuration.
fn uses_systemd(status: &StatusResponse) -> bool {
    let config = config(status);
    let containerd = &config["containerd"];
    let runtime = &containerd["runtimes"][default_runtime(containerd)];
    runtime["options"]["SystemdCgroup"].as_bool().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use crate::proto::runtime::v1::{
        RuntimeCondition, RuntimeHandler, RuntimeHandlerFeatures, RuntimeStatus,
    };

    use super::*;

    fn status(ready: bool, user_namespaces: Option<bool>) -> StatusResponse {
        let condition = |kind: &str, status| RuntimeCondition {
            r#type: kind.into(),
            status,
            reason: "NetworkPluginNotReady".into(),
            message: "no network".into(),
        };
        let handler = |user_namespaces| RuntimeHandler {
            name: String::new(),
            features: Some(RuntimeHandlerFeatures { user_namespaces, ..RuntimeHandlerFeatures::default() }),
        };
        StatusResponse {
            status: Some(RuntimeStatus {
                conditions: vec![condition("RuntimeReady", true), condition("NetworkReady", ready)],
            }),
            runtime_handlers: user_namespaces.map(handler).into_iter().collect(),
            ..StatusResponse::default()
        }
    }

    #[test]
    fn what_keeps_pods_from_running_is_named() {
        assert!(check(&status(true, None)).is_ok());
        assert!(matches!(check(&status(false, Some(true))), Err(PodsError::NotReady { .. })));
        assert!(has_user_namespaces(&status(true, Some(true))));
        assert!(
            !has_user_namespaces(&status(true, Some(false))) && !has_user_namespaces(&status(true, None))
        );
        let without = |version| without_user_namespaces(&Version::parse(version));
        assert!(matches!(without("1.7.24"), PodsError::TooOld(_)));
        assert!(matches!(without("2.1.9"), PodsError::Unsupported(_)));
    }

    #[test]
    fn the_snapshotter_of_pods_is_the_configured_one() {
        use crate::proto::runtime::v1::{FilesystemIdentifier, FilesystemUsage};
        let runtimes = |of_runtime: &str| serde_json::json!({ "other": { "snapshotter": of_runtime }, "runc": { "snapshotter": "wrong" } });
        let place = |place: &str| {
            let fs_id = Some(FilesystemIdentifier { mountpoint: place.to_owned() });
            ImageFsInfoResponse {
                image_filesystems: vec![FilesystemUsage { fs_id }, FilesystemUsage::default()],
            }
        };
        let of = |of_runtime: &str, of_all: &str, at: &str| {
            let config = serde_json::json!({ "containerd": {
                "defaultRuntimeName": "other", "snapshotter": of_all, "runtimes": runtimes(of_runtime),
            } });
            configured(&config, || Ok(place(at))).unwrap()
        };
        let native = "/var/lib/containerd/io.containerd.snapshotter.v1.native";
        assert_eq!(of("stargz", "overlayfs", native).unwrap(), "stargz");
        assert_eq!(of("", "overlayfs", native).unwrap(), "overlayfs");
        assert_eq!(of("", "", native).unwrap(), "native");
        assert_eq!(of("", "", "/somewhere/else"), None);
    }

    #[test]
    fn the_default_runtime_says_who_makes_control_groups() {
        let config = |systemd: bool| {
            let config = serde_json::json!({ "containerd": {
                "defaultRuntimeName": "other",
                "runtimes": { "other": { "options": { "SystemdCgroup": systemd } }, "runc": {} },
            } });
            let info = HashMap::from([("config".to_owned(), config.to_string())]);
            StatusResponse { info, ..StatusResponse::default() }
        };
        assert!(uses_systemd(&config(true)) && !uses_systemd(&config(false)));
        assert!(!uses_systemd(&StatusResponse::default()));
    }
}
