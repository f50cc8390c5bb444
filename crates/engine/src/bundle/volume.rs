//! Volumes: `SOURCE:DESTINATION[:OPTIONS]`.
//!
//! A volume is a clone of the host's directory or file that is never attached in the host's namespace. Its owners are
//! mapped to the container's range, so what the host calls user 1000 the container calls user 1000, unless `noidmap`.
//! Mounts below the source are not carried along.

use std::path::PathBuf;

use plywood_kernel::MountAttrs;

/// One `-v`, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Absolute path on the host.
    pub source: PathBuf,
    /// Absolute path in the container, without `.`, `..` or a slash at the end.
    pub destination: String,
    /// The container cannot write it.
    pub read_only: bool,
    /// Owners are mapped to the container's range.
    pub idmap: bool,
    /// `nosuid`, `nodev`, `noexec` as given.
    pub attrs: MountAttrs,
}

/// A volume as the runtime finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeMount {
    /// Path in the runtime's mount namespace.
    pub source: PathBuf,
    /// Absolute path in the container.
    pub destination: String,
    /// Mount options besides `bind`.
    pub options: Vec<String>,
}

/// Why a volume cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    /// Not of the right form.
    #[error("volume `{0}` is not of the form SOURCE:DESTINATION[:OPTIONS]")]
    Malformed(String),
    /// A relative source.
    #[error("volume source `{0}` is not an absolute path")]
    RelativeSource(String),
    /// A relative destination, or one that climbs.
    #[error("volume destination `{0}` is not an absolute path without `..`")]
    BadDestination(String),
    /// An option nobody knows.
    #[error("volume option `{0}` is none of ro, rw, nosuid, nodev, noexec, noidmap")]
    BadOption(String),
}

impl Volume {
    /// Reads `SOURCE:DESTINATION[:OPTION[,OPTION]...]`.
    pub fn parse(text: &str) -> Result<Volume, VolumeError> {
        let mut parts = text.splitn(3, ':');
        let (Some(source), Some(destination)) = (parts.next(), parts.next()) else {
            return Err(VolumeError::Malformed(text.to_owned()));
        };
        if source.is_empty() || destination.is_empty() || text.contains('\0') {
            return Err(VolumeError::Malformed(text.to_owned()));
        }
        if !source.starts_with('/') {
            return Err(VolumeError::RelativeSource(source.to_owned()));
        }
        let mut volume = Volume {
            source: PathBuf::from(source),
            destination: clean(destination)?,
            read_only: false,
            idmap: true,
            attrs: MountAttrs::NONE,
        };
        for option in parts.next().into_iter().flat_map(|options| options.split(',')) {
            match option {
                "ro" => volume.read_only = true,
                "rw" => volume.read_only = false,
                "noidmap" => volume.idmap = false,
                "nosuid" => volume.attrs = volume.attrs | MountAttrs::NOSUID,
                "nodev" => volume.attrs = volume.attrs | MountAttrs::NODEV,
                "noexec" => volume.attrs = volume.attrs | MountAttrs::NOEXEC,
                _ => return Err(VolumeError::BadOption(option.to_owned())),
            }
        }
        Ok(volume)
    }

    /// How the spec mounts it from `source`, where its clone is attached.
    pub fn mount(&self, source: PathBuf) -> VolumeMount {
        let flags = [
            (self.read_only, "ro"),
            (self.attrs.contains(MountAttrs::NOSUID), "nosuid"),
            (self.attrs.contains(MountAttrs::NODEV), "nodev"),
            (self.attrs.contains(MountAttrs::NOEXEC), "noexec"),
        ];
        let options = flags.iter().filter(|(set, _)| *set).map(|(_, name)| (*name).to_owned()).collect();
        VolumeMount { source, destination: self.destination.clone(), options }
    }
}

fn clean(destination: &str) -> Result<String, VolumeError> {
    let parts: Vec<&str> = destination.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if !destination.starts_with('/') || parts.is_empty() || parts.contains(&"..") {
        return Err(VolumeError::BadDestination(destination.to_owned()));
    }
    Ok(format!("/{}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn volumes_are_read() {
        let volume = Volume::parse("/srv/data:/data//x/.:ro,nodev").unwrap();
        assert_eq!(volume.source, PathBuf::from("/srv/data"));
        assert_eq!(volume.destination, "/data/x");
        assert!(volume.read_only && volume.idmap);
        assert_eq!(volume.mount(PathBuf::from("/anchor")).options, ["ro", "nodev"]);
        assert!(!Volume::parse("/a:/b:noidmap").unwrap().idmap);
    }

    #[test]
    fn volumes_that_cannot_be_are_refused() {
        let table = [
            ("", VolumeError::Malformed(String::new())),
            ("/a", VolumeError::Malformed("/a".into())),
            (":/b", VolumeError::Malformed(":/b".into())),
            ("/a:", VolumeError::Malformed("/a:".into())),
            ("data:/b", VolumeError::RelativeSource("data".into())),
            ("./data:/b", VolumeError::RelativeSource("./data".into())),
            ("/a:b", VolumeError::BadDestination("b".into())),
            ("/a:/", VolumeError::BadDestination("/".into())),
            ("/a:/b/../c", VolumeError::BadDestination("/b/../c".into())),
            ("/a:/b:rx", VolumeError::BadOption("rx".into())),
            ("/a:/b:", VolumeError::BadOption(String::new())),
        ];
        for (text, expected) in table {
            assert_eq!(Volume::parse(text), Err(expected), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_absolute_and_does_not_climb(text in "[a-z./:,]{0,24}") {
            if let Ok(volume) = Volume::parse(&text) {
                prop_assert!(volume.source.is_absolute());
                prop_assert!(volume.destination.starts_with('/') && volume.destination.len() > 1);
                prop_assert!(!volume.destination.split('/').any(|part| part == ".." || part == "."));
            }
        }
    }
}
