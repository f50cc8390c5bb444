//! Containers: a snapshot with an id mapping, a container on it, a task in that. Each is removed before what it needs.

use std::sync::Arc;
use std::time::Duration;

use plywood_kernel::IdMap;

use crate::error::{CallError, Kind, unless};
use crate::image::Image;
use crate::proto::containerd::services::containers::v1::container::Runtime;
use crate::proto::containerd::services::containers::v1::containers_client::ContainersClient;
use crate::proto::containerd::services::containers::v1::{
    Container, CreateContainerRequest, DeleteContainerRequest,
};
use crate::proto::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use crate::proto::containerd::services::snapshots::v1::{PrepareSnapshotRequest, RemoveSnapshotRequest};
use crate::proto::containerd::services::tasks::v1::tasks_client::TasksClient;
use crate::proto::containerd::services::tasks::v1::{
    CreateTaskRequest, DeleteTaskRequest, KillRequest, StartRequest, WaitRequest,
};
use crate::proto::containerd::types::Mount;
use crate::rootfs::{Rootfs, RootfsError, label};
use crate::session::Session;
use crate::spec::spec;

const RUNTIME: &str = "io.containerd.runc.v2";

const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

const SIGKILL: u32 = 9;

/// A snapshot for one container, removed when it is dropped.
#[derive(Debug)]
pub struct Snapshot {
    session: Arc<Session>,
    key: String,
    mapping: Option<IdMap>,
    mounts: Vec<Mount>,
    removed: bool,
}

/// A container whose task was started, removed with its snapshot when it is dropped.
#[derive(Debug)]
pub struct Task {
    snapshot: Snapshot,
    pid: u32,
    removed: bool,
}

impl Session {
    /// A snapshot on the image, with an id mapping or without. What cannot map ids ([`Snapshotter::maps_ids`]) ignores
    /// the mapping: asking first is the caller's.
    ///
    /// [`Snapshotter::maps_ids`]: crate::Snapshotter::maps_ids
    ///
    /// # Errors
    /// containerd refused; there is one of that name.
    pub fn prepare(
        self: &Arc<Self>,
        id: &str,
        image: &Image,
        mapping: Option<&IdMap>,
    ) -> Result<Snapshot, CallError> {
        let mut labels = self.labels();
        if let Some(mapping) = mapping {
            labels.insert("containerd.io/snapshot/uidmapping".into(), label(&mapping.uid));
            labels.insert("containerd.io/snapshot/gidmapping".into(), label(&mapping.gid));
        }
        let request = self.request(PrepareSnapshotRequest {
            snapshotter: self.snapshotter().name.clone(),
            key: id.to_owned(),
            parent: image.chain.last().map(ToString::to_string).unwrap_or_default(),
            labels,
        });
        let mut client = SnapshotsClient::new(self.client().channel());
        let answer = self.client().wait(|| format!("Prepare snapshot {id:?}"), client.prepare(request))?;
        let (key, mapping) = (id.to_owned(), mapping.cloned());
        Ok(Snapshot { session: Arc::clone(self), key, mapping, mounts: answer.mounts, removed: false })
    }

    /// Kills and removes whatever there is of a container; nothing left of it is fine.
    pub(crate) fn remove_container(&self, id: &str) -> Result<(), CallError> {
        let mut tasks = TasksClient::new(self.client().channel());
        let kill = KillRequest { container_id: id.to_owned(), signal: SIGKILL, all: true };
        let answer = tasks.kill(self.unleased(kill));
        let killed = self.client().see_through(|| format!("Kill {id:?}"), answer);
        match killed {
            // Nothing runs that could be waited for.
            Err(error) if error.kind() == Kind::Missing => {}
            killed => {
                unless(&[Kind::Busy], killed)?;
                let wait = WaitRequest { container_id: id.to_owned() };
                let answer = tasks.wait(self.unleased(wait));
                let waited = self.client().see_through(|| format!("Wait for {id:?}"), answer);
                unless(&[Kind::Missing], waited.map(drop))?;
            }
        }
        let answer = tasks.delete(self.unleased(DeleteTaskRequest { container_id: id.to_owned() }));
        let deleted = self.client().see_through(|| format!("Delete task {id:?}"), answer);
        unless(&[Kind::Missing], deleted.map(drop))?;
        let mut containers = ContainersClient::new(self.client().channel());
        let answer = containers.delete(self.unleased(DeleteContainerRequest { id: id.to_owned() }));
        unless(&[Kind::Missing], self.client().see_through(|| format!("Delete container {id:?}"), answer))
    }
}

impl Snapshot {
    /// What containerd would mount for a task.
    ///
    /// # Errors
    /// The snapshotter's answer is nothing known here.
    pub fn rootfs(&self) -> Result<Rootfs, RootfsError> {
        Rootfs::read(&self.mounts)
    }

    /// Makes a container of it and starts its task: containerd's shim mounts the root file system and has the OCI runtime
    /// start `args` as root of the container, its standard streams being `/dev/null`.
    ///
    /// # Errors
    /// containerd, its shim or the OCI runtime refused; what was made until then is removed.
    pub fn start(self, args: &[String]) -> Result<Task, CallError> {
        let session = Arc::clone(&self.session);
        let id = self.key.clone();
        let container = Container {
            id: id.clone(),
            labels: session.labels(),
            runtime: Some(Runtime { name: RUNTIME.into(), options: None }),
            spec: Some(prost_types::Any {
                type_url: SPEC_TYPE.into(),
                value: spec(&id, args, self.mapping.as_ref()).to_string().into_bytes(),
            }),
            snapshotter: session.snapshotter().name.clone(),
            snapshot_key: id.clone(),
            ..Container::default()
        };
        let client = session.client();
        let mut containers = ContainersClient::new(client.channel());
        let request = session.request(CreateContainerRequest { container: Some(container) });
        client.wait(|| format!("Create container {id:?}"), containers.create(request))?;
        // From here on dropping it removes everything.
        let mut task = Task { snapshot: self, pid: 0, removed: false };
        let rootfs = task.snapshot.mounts.clone();
        let request = session.request(CreateTaskRequest {
            container_id: id.clone(),
            rootfs,
            ..CreateTaskRequest::default()
        });
        let mut tasks = TasksClient::new(client.channel());
        task.pid = client.wait(|| format!("Create task {id:?}"), tasks.create(request))?.pid;
        let request = session.request(StartRequest { container_id: id.clone() });
        client.wait(|| format!("Start task {id:?}"), tasks.start(request))?;
        Ok(task)
    }

    /// Removes it, and says so if it cannot be.
    ///
    /// # Errors
    /// containerd refused.
    pub fn remove(mut self) -> Result<(), CallError> {
        self.take_back()
    }

    fn take_back(&mut self) -> Result<(), CallError> {
        if std::mem::replace(&mut self.removed, true) {
            return Ok(());
        }
        let (snapshotter, key) = (self.session.snapshotter().name.clone(), self.key.clone());
        let request = self.session.unleased(RemoveSnapshotRequest { snapshotter, key });
        let mut client = SnapshotsClient::new(self.session.client().channel());
        let answer = client.remove(request);
        unless(
            &[Kind::Missing],
            self.session.client().see_through(|| format!("Remove snapshot {:?}", self.key), answer),
        )
    }
}

impl Task {
    /// The number of its first process in containerd's PID namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until it has ended, and returns its exit status.
    ///
    /// # Errors
    /// Kind `Late` if it runs for longer than `patience`.
    pub fn wait(&self, patience: Duration) -> Result<u32, CallError> {
        let session = &self.snapshot.session;
        let mut request = session.unleased(WaitRequest { container_id: self.snapshot.key.clone() });
        request.set_timeout(patience);
        let mut client = TasksClient::new(session.client().channel());
        let answer =
            session.client().wait(|| format!("Wait for {:?}", self.snapshot.key), client.wait(request))?;
        Ok(answer.exit_status)
    }

    /// Kills it if it still runs, and removes task, container and snapshot.
    ///
    /// # Errors
    /// containerd refused; closing the session tries again.
    pub fn remove(mut self) -> Result<(), CallError> {
        self.take_back()
    }

    fn take_back(&mut self) -> Result<(), CallError> {
        if std::mem::replace(&mut self.removed, true) {
            return Ok(());
        }
        self.snapshot.session.remove_container(&self.snapshot.key)?;
        self.snapshot.take_back()
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Err(error) = self.take_back() {
            tracing::debug!(%error, source = %error.message(), "a container is left until its session is closed");
        }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if let Err(error) = self.take_back() {
            tracing::debug!(%error, source = %error.message(), "a snapshot is left until its session is closed");
        }
    }
}
