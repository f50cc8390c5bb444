//! Everything one process makes in one namespace of containerd, and how it is taken back.
//!
//! All of it carries labels with the identity of the process and of the session, and belongs to a lease, which garbage
//! collection respects. At the end whatever has the session's label is removed, so that nothing stays that could not be
//! removed when it was its turn, or whose making was given up; with the lease goes every blob and snapshot that nothing
//! else refers to. Where a process was killed before it could do that, the next session does: it removes what belongs to
//! processes that have ended, nothing else.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use plywood_kernel::{ProcessId, SyscallError};
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};

use crate::client::{Client, in_namespace};
use crate::error::{CallError, Kind, unless};
use crate::introspect::Snapshotter;
use crate::proto::containerd::services::containers::v1::ListContainersRequest;
use crate::proto::containerd::services::containers::v1::containers_client::ContainersClient;
use crate::proto::containerd::services::images::v1::images_client::ImagesClient;
use crate::proto::containerd::services::images::v1::{DeleteImageRequest, ListImagesRequest};
use crate::proto::containerd::services::leases::v1::leases_client::LeasesClient;
use crate::proto::containerd::services::leases::v1::{CreateRequest, DeleteRequest, ListRequest};
use crate::proto::containerd::services::namespaces::v1::namespaces_client::NamespacesClient;
use crate::proto::containerd::services::namespaces::v1::{
    CreateNamespaceRequest, DeleteNamespaceRequest, Namespace,
};

/// The namespace that is nobody else's.
pub const NAMESPACE: &str = "plywood-storm";

/// The label that says whose something is: a [`ProcessId`].
pub(crate) const OWNER: &str = "plywood.owner";

/// The label that says which of a process's sessions made it.
pub(crate) const SESSION: &str = "plywood.session";

/// The label, on an image, with a second name to remove: the CRI plugin gives each image it sees its config's digest for
/// a name, and keeps that when the image goes.
pub(crate) const ALIAS: &str = "plywood.alias";

/// A process's doings in one namespace, with one snapshotter. Any thread may use it.
#[derive(Debug)]
pub struct Session {
    client: Client,
    snapshotter: Snapshotter,
    namespace: MetadataValue<Ascii>,
    lease: MetadataValue<Ascii>,
    owner: String,
    /// Whether the namespace is to go, should nothing be left in it.
    own_namespace: bool,
    closed: AtomicBool,
    /// Whether somebody has been told what is left.
    told: AtomicBool,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// containerd has no such snapshotter, or could not start it.
    #[error("containerd has no snapshotter {name:?} that works; it has {}", there.join(", "))]
    Snapshotter {
        /// What was asked for.
        name: String,
        /// What there is.
        there: Vec<String>,
    },
    /// Only letters, digits, dots and dashes name a namespace.
    #[error("{0:?} is no name of a namespace")]
    Namespace(String),
    /// containerd refused.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The kernel did not say who this process is.
    #[error("cannot tell this process from others")]
    Identity(#[source] SyscallError),
}

impl Session {
    /// Opens one, [`NAMESPACE`] being the namespace where nothing speaks for another, and removes what killed ones left.
    ///
    /// # Errors
    /// There is no such snapshotter, or containerd does not do as asked.
    pub fn open(client: &Client, namespace: &str, snapshotter: &str) -> Result<Arc<Session>, SessionError> {
        let mut snapshotters = client.snapshotters()?;
        let Some(at) = snapshotters.iter().position(|found| found.name == snapshotter) else {
            let there = snapshotters.into_iter().map(|found| found.name).collect();
            return Err(SessionError::Snapshotter { name: snapshotter.to_owned(), there });
        };
        let owner = ProcessId::current().map_err(SessionError::Identity)?.to_string();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let lease = format!("plywood-{}-{}", owner.replace(':', "-"), NUMBER.fetch_add(1, Ordering::Relaxed));
        let metadata = |text: &str| text.parse().map_err(|_| SessionError::Namespace(namespace.to_owned()));
        let mut session = Session {
            client: client.clone(),
            snapshotter: snapshotters.swap_remove(at),
            namespace: metadata(namespace)?,
            lease: metadata(&lease)?,
            owner,
            own_namespace: namespace == NAMESPACE,
            closed: AtomicBool::new(true),
            told: AtomicBool::new(false),
        };
        session.begin(namespace, lease)?;
        Ok(Arc::new(session))
    }

    fn begin(&mut self, namespace: &str, lease: String) -> Result<(), SessionError> {
        let mut namespaces = NamespacesClient::new(self.client.channel());
        let new = Namespace { name: namespace.to_owned(), labels: HashMap::new() };
        // 1.x tells its subscribers of namespaces, too, in which namespace something happened.
        let request = self.unleased(CreateNamespaceRequest { namespace: Some(new) });
        let created =
            self.client.wait(|| format!("Create namespace {namespace:?}"), namespaces.create(request));
        self.own_namespace |= created.is_ok();
        unless(&[Kind::Exists], created.map(drop))?;
        self.remove_all(|labels| {
            let stale = is_stale(labels)?;
            if stale {
                self.client.go_on(|| "remove what a killed process left".into())?;
                tracing::info!(?labels, "removing what a killed process left");
            }
            Ok::<_, SessionError>(stale)
        })?;
        // Whatever becomes of the answer, there may be one from here on.
        self.closed.store(false, Ordering::Relaxed);
        let request = self.unleased(CreateRequest { id: lease, labels: self.labels() });
        self.client
            .wait(|| "Create lease".into(), LeasesClient::new(self.client.channel()).create(request))?;
        Ok(())
    }

    /// The client it works through.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The snapshotter it works with.
    pub fn snapshotter(&self) -> &Snapshotter {
        &self.snapshotter
    }

    /// Takes everything back: containers, whoever holds them or failed to remove them, images, and with the lease all
    /// snapshots and blobs. Nothing can be made afterwards. Dropping does the same and logs what is left.
    ///
    /// # Errors
    /// containerd refused, after all was tried; [`left`](Self::left) says what may be there. Calling it again tries
    /// again, and so does the next session of any process.
    pub fn close(&self) -> Result<(), CallError> {
        if self.closed.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let closed = self.take_back();
        if closed.is_err() {
            self.told.store(true, Ordering::Relaxed);
            self.closed.store(false, Ordering::Relaxed);
        }
        closed
    }

    /// What may be left in containerd where closing has failed, and what becomes of it.
    pub fn left(&self) -> String {
        let namespace = self.namespace.to_str().unwrap_or_default();
        format!(
            "what is labelled {SESSION}={} in containerd's namespace {namespace} may be left: containers, images, a lease \
             with its snapshots; the next storm removes it",
            self.name()
        )
    }

    fn take_back(&self) -> Result<(), CallError> {
        let mine = |labels: &HashMap<String, String>| {
            let session = labels.get(SESSION).is_some_and(|session| session == self.name());
            Ok::<_, CallError>(session && labels.get(OWNER) == Some(&self.owner))
        };
        self.remove_all(mine)?;
        if self.own_namespace {
            let name = self.namespace.to_str().unwrap_or_default().to_owned();
            let call = format!("Delete namespace {name:?}");
            let mut client = NamespacesClient::new(self.client.channel());
            let answer = client.delete(self.unleased(DeleteNamespaceRequest { name }));
            // Somebody else's images are in it, or another session.
            unless(&[Kind::Busy, Kind::Missing], self.client.see_through(|| call, answer))?;
        }
        Ok(())
    }

    /// Removes containers, images and leases with such labels: all that can be, and then the first error.
    fn remove_all<E: From<CallError>>(
        &self,
        whose: impl Fn(&HashMap<String, String>) -> Result<bool, E>,
    ) -> Result<(), E> {
        let filters = || vec![format!("labels.{OWNER:?}")];
        let channel = || self.client.channel();
        let mut failed = Ok(());
        let mut note = |removed: Result<(), CallError>| {
            if let (Err(error), true) = (removed, failed.is_ok()) {
                failed = Err(error);
            }
        };
        let mut containers = ContainersClient::new(channel());
        let answer = containers.list(self.unleased(ListContainersRequest { filters: filters() }));
        for container in self.client.see_through(|| "List containers".into(), answer)?.containers {
            if whose(&container.labels)? {
                note(self.remove_container(&container.id));
            }
        }
        let mut images = ImagesClient::new(channel());
        let answer = images.list(self.unleased(ListImagesRequest { filters: filters() }));
        for image in self.client.see_through(|| "List images".into(), answer)?.images {
            if whose(&image.labels)? {
                note(self.remove_image(image.name, &image.labels));
            }
        }
        let mut leases = LeasesClient::new(channel());
        let answer = leases.list(self.unleased(ListRequest { filters: filters() }));
        for lease in self.client.see_through(|| "List leases".into(), answer)?.leases {
            if whose(&lease.labels)? {
                note(self.remove_lease(lease.id));
            }
        }
        Ok(failed?)
    }

    fn remove_image(&self, name: String, labels: &HashMap<String, String>) -> Result<(), CallError> {
        for name in labels.get(ALIAS).cloned().into_iter().chain([name]) {
            let call = format!("Delete image {name:?}");
            let request = self.unleased(DeleteImageRequest { name, sync: true });
            let mut images = ImagesClient::new(self.client.channel());
            let answer = images.delete(request);
            unless(&[Kind::Missing], self.client.see_through(|| call, answer))?;
        }
        Ok(())
    }

    /// Waits until garbage collection has taken what only the lease held.
    fn remove_lease(&self, id: String) -> Result<(), CallError> {
        let call = format!("Delete lease {id:?}");
        let request = self.unleased(DeleteRequest { id, sync: true });
        let mut leases = LeasesClient::new(self.client.channel());
        let answer = leases.delete(request);
        unless(&[Kind::Missing], self.client.see_through(|| call, answer))
    }

    /// Says whose something is.
    pub(crate) fn labels(&self) -> HashMap<String, String> {
        let session = self.name().to_owned();
        HashMap::from([(OWNER.to_owned(), self.owner.clone()), (SESSION.to_owned(), session)])
    }

    /// Its own, which its lease has as well.
    fn name(&self) -> &str {
        self.lease.to_str().unwrap_or_default()
    }

    /// A name that no other session uses.
    pub(crate) fn unique(&self, what: &str) -> String {
        format!("{}-{what}", self.name())
    }

    pub(crate) fn namespace(&self) -> &MetadataValue<Ascii> {
        &self.namespace
    }

    /// A request in the namespace; what it makes belongs to the lease.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        in_namespace(&self.namespace, Some(&self.lease), message)
    }

    /// A request in the namespace that makes nothing.
    pub(crate) fn unleased<T>(&self, message: T) -> Request<T> {
        in_namespace(&self.namespace, None, message)
    }
}

impl Drop for Session {
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

/// Whether something belongs to a process that has ended. What cannot be read is nobody's business here.
pub(crate) fn is_stale(labels: &HashMap<String, String>) -> Result<bool, SessionError> {
    match labels.get(OWNER).and_then(|owner| owner.parse::<ProcessId>().ok()) {
        Some(owner) => Ok(!owner.is_alive().map_err(SessionError::Identity)?),
        None => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ended_processes_own_is_stale() {
        let owner = |owner: &str| HashMap::from([(OWNER.to_owned(), owner.to_owned())]);
        let me = ProcessId::current().unwrap();
        assert!(!is_stale(&owner(&me.to_string())).unwrap());
        let ended = ProcessId { start_time: me.start_time + 1, ..me };
        assert!(is_stale(&owner(&ended.to_string())).unwrap());
        assert!(!is_stale(&owner("somebody")).unwrap() && !is_stale(&HashMap::new()).unwrap());
    }
}
