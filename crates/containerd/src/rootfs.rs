//! What containerd would have mounted, read off the mounts a snapshotter answered with. Pure.

use std::path::PathBuf;

use plywood_kernel::{IdMap, IdMapping};

use crate::proto::containerd::types::Mount;

/// A root file system, as its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rootfs {
    /// An overlay.
    Overlay {
        /// Top layer first, as in the mount's options.
        lower: Vec<PathBuf>,
        /// Where changes go; none in a view.
        upper: Option<PathBuf>,
        /// Its companion.
        work: Option<PathBuf>,
        /// What the lower layers are to be idmapped with.
        mapping: Option<IdMap>,
        /// All other options.
        options: Vec<String>,
    },
    /// A directory: the snapshot of an image with one layer, or one that somebody else has assembled.
    Bind {
        /// The directory.
        source: PathBuf,
        /// What it is to be idmapped with.
        mapping: Option<IdMap>,
        /// All other options.
        options: Vec<String>,
    },
}

/// Why mounts are no root file system known here.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RootfsError {
    /// A snapshotter may answer with several; none of those known here does.
    #[error("the snapshotter answered with {0} mounts, not one")]
    Number(usize),
    /// Neither overlay nor bind.
    #[error("the snapshotter answered with a mount of the type {0:?}")]
    Type(String),
    /// An overlay without layers.
    #[error("the snapshotter answered with an overlay without a lower directory")]
    NoLower,
    /// `uidmap` or `gidmap`.
    #[error("{0:?} is no id mapping")]
    Mapping(String),
}

impl Rootfs {
    /// Reads the mounts of a snapshot.
    ///
    /// # Errors
    /// They are not one overlay or bind mount, or hold a mapping that is none.
    pub fn read(mounts: &[Mount]) -> Result<Rootfs, RootfsError> {
        let [mount] = mounts else { return Err(RootfsError::Number(mounts.len())) };
        let (mut lower, mut upper, mut work) = (Vec::new(), None, None);
        let (mut uid, mut gid, mut options) = (None, None, Vec::new());
        let overlay = mount.r#type == "overlay";
        for option in &mount.options {
            match option.split_once('=') {
                Some(("lowerdir", value)) if overlay => lower = value.split(':').map(PathBuf::from).collect(),
                Some(("upperdir", value)) if overlay => upper = Some(value.into()),
                Some(("workdir", value)) if overlay => work = Some(value.into()),
                Some(("uidmap", value)) => uid = Some(mappings(value)?),
                Some(("gidmap", value)) => gid = Some(mappings(value)?),
                _ => options.push(option.clone()),
            }
        }
        // containerd, too, maps both or none.
        let mapping = uid.zip(gid).map(|(uid, gid)| IdMap { uid, gid });
        match mount.r#type.as_str() {
            "overlay" if lower.is_empty() => Err(RootfsError::NoLower),
            "overlay" => Ok(Rootfs::Overlay { lower, upper, work, mapping, options }),
            "bind" => Ok(Rootfs::Bind { source: mount.source.clone().into(), mapping, options }),
            other => Err(RootfsError::Type(other.to_owned())),
        }
    }
}

/// `container:host:length[,...]`, as in containerd's labels and mount options.
pub(crate) fn label(mappings: &[IdMapping]) -> String {
    let one = |mapping: &IdMapping| format!("{}:{}:{}", mapping.inside, mapping.outside, mapping.length);
    mappings.iter().map(one).collect::<Vec<_>>().join(",")
}

fn mappings(text: &str) -> Result<Vec<IdMapping>, RootfsError> {
    let one = |text: &str| {
        let mut numbers = text.split(':').map(|number| number.parse().ok());
        let mapping =
            IdMapping { inside: numbers.next()??, outside: numbers.next()??, length: numbers.next()?? };
        numbers.next().is_none().then_some(mapping)
    };
    text.split(',').map(one).collect::<Option<_>>().ok_or_else(|| RootfsError::Mapping(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: &str, options: &[&str]) -> Mount {
        Mount {
            r#type: kind.into(),
            source: "/source".into(),
            options: options.iter().map(ToString::to_string).collect(),
            ..Mount::default()
        }
    }

    #[test]
    fn an_overlay_with_a_mapping() {
        let options = [
            "uidmap=0:1000:10,10:5000:1",
            "gidmap=0:2000:10",
            "workdir=/w",
            "upperdir=/u",
            "lowerdir=/b:/a",
            "index=off",
        ];
        let Rootfs::Overlay { lower, upper, work, mapping, options } =
            Rootfs::read(&[mount("overlay", &options)]).unwrap()
        else {
            panic!("no overlay")
        };
        assert_eq!(lower, [PathBuf::from("/b"), PathBuf::from("/a")]);
        assert_eq!((upper, work), (Some("/u".into()), Some("/w".into())));
        assert_eq!(options, ["index=off"]);
        let mapping = mapping.unwrap();
        assert_eq!(label(&mapping.uid), "0:1000:10,10:5000:1");
        assert_eq!(label(&mapping.gid), "0:2000:10");
    }

    #[test]
    fn a_bind_mount_without_one() {
        let rootfs = Rootfs::read(&[mount("bind", &["rbind", "rw"])]).unwrap();
        let options = vec!["rbind".to_owned(), "rw".to_owned()];
        assert_eq!(rootfs, Rootfs::Bind { source: "/source".into(), mapping: None, options });
    }

    #[test]
    fn what_is_none_is_refused() {
        let read = |mount: Mount| Rootfs::read(&[mount]).unwrap_err();
        assert_eq!(Rootfs::read(&[]).unwrap_err(), RootfsError::Number(0));
        assert_eq!(read(mount("erofs", &[])), RootfsError::Type("erofs".into()));
        assert_eq!(read(mount("overlay", &["upperdir=/u"])), RootfsError::NoLower);
        for text in ["", "0:1", "0:1:2:3", "0:-1:2", "a:b:c", "0:1:2,"] {
            assert_eq!(read(mount("bind", &[&format!("uidmap={text}")])), RootfsError::Mapping(text.into()));
        }
    }
}
