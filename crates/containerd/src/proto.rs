//! Messages and clients, generated from `proto/`. Do not edit: `cargo xtask generate`.
//!
//! The definitions hold only what plywood uses; protobuf skips what a message has beyond them.

/// Packages of containerd.
pub mod containerd {
    /// What several services share.
    pub mod types {
        include!("proto/containerd.types.rs");
    }
    /// What several services share, of this version.
    pub mod v1 {
        /// Processes of tasks.
        pub mod types {
            include!("proto/containerd.v1.types.rs");
        }
    }
    /// The services.
    pub mod services {
        /// What is to run: its configuration and its snapshot.
        pub mod containers {
            /// This version.
            pub mod v1 {
                include!("proto/containerd.services.containers.v1.rs");
            }
        }
        /// Blobs.
        pub mod content {
            /// This version.
            pub mod v1 {
                include!("proto/containerd.services.content.v1.rs");
            }
        }
        /// Applying layers.
        pub mod diff {
            /// This version.
            pub mod v1 {
                include!("proto/containerd.services.diff.v1.rs");
            }
        }
        /// What happened.
        pub mod events {
            /// This version.
            pub mod v1 {
                include!("proto/containerd.services.events.v1.rs");
            }
        }
        /// Names of images.
        pub mod images {
            /// This version.
            pub mod v1 {
                include!("proto/containerd.services.images.v1.rs");
            }
        }
        /// Plugins and the server.
        pub mod introspection {
            /// This version.
            pub mod v1 {
                include!("proto/containerd.services.introspection.v1.rs");
            }
        }
        /// What garbage collection leaves alone.
        pub mod leases {
            /// This version.
            pub mod v1 {
                include!("proto/containerd.services.leases.v1.rs");
            }
        }
        /// Namespaces of names.
        pub mod namespaces {
            /// This version.
            pub mod v1 {
                include!("proto/containerd.services.namespaces.v1.rs");
            }
        }
        /// Root file systems.
        pub mod snapshots {
            /// This version.
            pub mod v1 {
                include!("proto/containerd.services.snapshots.v1.rs");
            }
        }
        /// What runs.
        pub mod tasks {
            /// This version.
            pub mod v1 {
                include!("proto/containerd.services.tasks.v1.rs");
            }
        }
        /// The version.
        pub mod version {
            /// This version.
            pub mod v1 {
                include!("proto/containerd.services.version.v1.rs");
            }
        }
    }
}

/// Packages of Google.
pub mod google {
    /// Errors in messages.
    pub mod rpc {
        include!("proto/google.rpc.rs");
    }
}

/// The Container Runtime Interface.
pub mod runtime {
    /// This version.
    pub mod v1 {
        include!("proto/runtime.v1.rs");
    }
}
