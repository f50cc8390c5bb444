//! What to do about an image that cannot be brought in.

use plywood_image::config::ConfigError;
use plywood_image::digest::DigestError;
use plywood_image::limits;
use plywood_image::manifest::ManifestError;
use plywood_image::tar::TarErrorKind;
use plywood_store::BlobError;
use plywood_store::FetchError;
use plywood_store::transfer::{ArchiveError, AuthError, HttpError, HttpErrorKind, LocalError, RegistryError};
use plywood_store::unpack::{RoomError, UnpackError};

const AGAIN: &str = "the image's bytes are damaged: make or push it again, then import or pull it again (skopeo copy moves images \
     between registries, layouts and archives, and checks them)";
const REBUILD: &str = "no image may hold that: build it again with a current builder, which writes other layers, or ask \
                       whoever built it; docs/state.md lists what layers may hold";
const MADE_SO: &str = "the image is whole, but made as plywood supports none: build it again with a current builder, or ask whoever \
                       built it";
const LAYER_TYPES: &str = "plywood reads layers of tar, alone or compressed by gzip or zstd: decrypt the image (skopeo copy \
                           --decryption-key) or convert it (skopeo copy --dest-compress-format gzip) first";
const NO_ATTRIBUTE: &str = "the kernel, or the state root's file system, has no such attributes: build the image without them, or choose a \
                            state root by --root on a file system that has them";
const FORMATS: &str = "name a directory in the OCI image layout, or a tar file of one or of docker save; \
                       `skopeo copy docker://IMAGE oci:DIR:TAG` makes one";
const LARGE_ATTRIBUTES: &str = "choose a state root by --root on a file system that holds large extended attributes: ext4 made with \
                                -O ea_inode, xfs or btrfs; or build the image without them";
/// Whatever of the state root can be given up.
pub const FREE_SPACE: &str = "free space on the state root's file system, or files if `df -i` shows no inodes left: \
                              `plywood rmi IMAGE` and `plywood prune` remove what is not needed; or choose a state root elsewhere by --root";

/// None where the cause below says more.
pub fn of(error: &FetchError) -> Option<String> {
    let text = match error {
        FetchError::Registry(error) => return of_registry(error),
        FetchError::Local(error) => return of_local(error),
        FetchError::Manifest { source, .. } => return Some(of_manifest(source)),
        FetchError::Config { source: ConfigError::TooManyLayers { .. }, .. } => return Some(squash()),
        FetchError::Blob { source: BlobError::Room(_), .. } => FREE_SPACE,
        FetchError::Config { source: ConfigError::DiffId { source, .. }, .. } => of_digest(source),
        // Its digest is right: this is how it was made.
        FetchError::Config { .. } => MADE_SO,
        FetchError::Nesting { .. } | FetchError::Blob { .. } => AGAIN,
        FetchError::NoMatch(error) => match error.available.as_slice() {
            [] => "build or push the image for this platform",
            some => {
                let linux = some.iter().find(|found| found.os() == "linux");
                return Some(linux.map_or_else(|| no_linux(&some[0]), platform));
            }
        },
        FetchError::Platform { found, .. } if found.os() == "linux" => return Some(platform(found)),
        FetchError::Platform { found, .. } => return Some(no_linux(found)),
        FetchError::Unpack { source, .. } => return of_unpack(source),
        FetchError::NoName | FetchError::Name { .. } => {
            "give the image a name by --name, for example --name team/app:1.2"
        }
        FetchError::Thread(_) => "raise the limit of processes (`ulimit -u`), or run less at once",
        _ => return None,
    };
    Some(text.to_owned())
}

fn platform(found: &plywood_image::Platform) -> String {
    format!("if you mean that one, add --platform {found}; else get the image built for this machine")
}

fn no_linux(found: &plywood_image::Platform) -> String {
    format!("get an image built for Linux: this one is for {found}, and cannot run here")
}

fn squash() -> String {
    format!(
        "squash the image to at most {} layers: build it again with `podman build --squash-all` or from fewer \
         instructions",
        limits::LAYERS
    )
}

fn of_manifest(error: &ManifestError) -> String {
    match error {
        ManifestError::TooManyLayers { .. } => squash(),
        ManifestError::Schema1 => {
            "push the image again with a current tool, or convert it: skopeo copy --format oci".to_owned()
        }
        ManifestError::Artifact(_) => "name an image; this is something else that registries keep".to_owned(),
        ManifestError::ForeignLayer { .. } => "such layers lie outside of registries, mostly those of Windows, which cannot run here; \
                                               have the image pushed with all its layers, or built on another base"
            .to_owned(),
        ManifestError::LayerType { .. } => LAYER_TYPES.to_owned(),
        ManifestError::Digest { source, .. } => of_digest(source).to_owned(),
        ManifestError::Json(_) | ManifestError::Missing(_) => AGAIN.to_owned(),
        _ => MADE_SO.to_owned(),
    }
}

fn of_digest(error: &DigestError) -> &'static str {
    match error {
        DigestError::UnknownAlgorithm(_) => {
            "make the image again with digests of sha256 or sha512: skopeo copy --format oci does; no other is supported"
        }
        _ => AGAIN,
    }
}

fn of_unpack(error: &UnpackError) -> Option<String> {
    let text = match error {
        UnpackError::Room(RoomError::DiskFull { .. }) => FREE_SPACE,
        UnpackError::Room(_) => "if the image is what you think it is, build it again with smaller layers",
        UnpackError::Memory(_) => {
            "if the image is what you think it is, build it again with smaller layers, compressed by gzip or by zstd without \
             --long and --ultra"
        }
        // A file that cannot be read says so itself.
        UnpackError::Stream(io) if io.raw_os_error().is_some() => return None,
        UnpackError::Tar(error) if is_sound(error.kind()) => REBUILD,
        UnpackError::Stream(_) | UnpackError::Tar(_) | UnpackError::DiffId { .. } => AGAIN,
        UnpackError::Entry { call, source, .. }
            if call.contains("setxattr") && source.kind() == std::io::ErrorKind::InvalidInput =>
        {
            REBUILD
        }
        UnpackError::Entry { call, source, .. }
            if call.contains("setxattr") && source.kind() == std::io::ErrorKind::Unsupported =>
        {
            NO_ATTRIBUTE
        }
        UnpackError::Rule(_)
        | UnpackError::LinkTarget { .. }
        | UnpackError::LinkDirectory { .. }
        | UnpackError::BelowNonDirectory { .. } => REBUILD,
        UnpackError::Attribute { .. } => LARGE_ATTRIBUTES,
        _ => return None,
    };
    Some(text.to_owned())
}

/// Whether the archive came as it was written: what is wrong with it, the builder has put there.
fn is_sound(kind: &TarErrorKind) -> bool {
    use TarErrorKind as K;
    matches!(
        kind,
        K::Pax(_)
            | K::Number(_)
            | K::GlobalPax(_)
            | K::TooLarge { .. }
            | K::Sparse(_)
            | K::Ambiguous(_)
            | K::Disputed(_)
    )
}

fn of_local(error: &LocalError) -> Option<String> {
    let text = match error {
        LocalError::Missing { .. } | LocalError::Size { .. } | LocalError::Digest { .. } => {
            "the image is damaged or was copied in part: copy or export it again (`skopeo copy` checks what it copies)"
        }
        LocalError::Index { source, .. } => return Some(of_manifest(source)),
        LocalError::Several { .. } | LocalError::NoSuchImage { .. } => "choose one of these by --name",
        LocalError::Archive(ArchiveError::Room { source: RoomError::DiskFull { .. }, .. }) => FREE_SPACE,
        LocalError::Archive(ArchiveError::Spool { .. }) => return None,
        // It began as an archive.
        LocalError::Archive(ArchiveError::Tar { source, .. }) if source.offset() > 0 => AGAIN,
        LocalError::Open { source, .. }
        | LocalError::File { source, .. }
        | LocalError::Archive(ArchiveError::Read { source, .. })
            if source.raw_os_error().is_some() && source.kind() != std::io::ErrorKind::NotFound =>
        {
            return None;
        }
        LocalError::Archive(ArchiveError::Read { source, .. })
            if source.kind() != std::io::ErrorKind::NotFound =>
        {
            AGAIN
        }
        _ => FORMATS,
    };
    Some(text.to_owned())
}

fn of_registry(error: &RegistryError) -> Option<String> {
    let text = match error {
        RegistryError::Denied { registry, anonymous: true, .. } => {
            return Some(format!("if the image is private, log in first: {}", log_in(registry)));
        }
        RegistryError::Denied { registry, .. } => {
            return Some(format!("check that the account you logged in to {registry} with may pull it"));
        }
        RegistryError::NotFound { registry, .. } => {
            return Some(format!("check the name and tag; a private image may need: {}", log_in(registry)));
        }
        RegistryError::Status { status: 429, .. } => {
            "wait; registries allow more to those who log in (skopeo login)"
        }
        RegistryError::Status { status: 500.., .. } => "the registry has trouble: try again later",
        RegistryError::Status { .. } => "check the registry's name, and that it is a container registry",
        RegistryError::Http { source, .. } => return Some(of_http(source)),
        RegistryError::Auth { source, .. } => return of_auth(source),
        RegistryError::Tls { .. } => "name a readable PEM file by --tls-ca, or mend the directory",
        RegistryError::Truncated { .. } => "try again: what came is kept, and the rest is fetched",
        RegistryError::Size { .. } | RegistryError::TooLarge { .. } | RegistryError::Digest { .. } => {
            "the registry, or a proxy on the way, delivers other bytes than the image's manifest names: try again, \
             then have the image pushed again"
        }
        _ => return None,
    };
    Some(text.to_owned())
}

fn log_in(registry: &str) -> String {
    format!("skopeo login {registry} (or podman login, docker login)")
}

fn of_auth(error: &AuthError) -> Option<String> {
    Some(match error {
        AuthError::Http { source, .. } => of_http(source),
        AuthError::Refused { origin, status: 400..500, .. } => {
            format!("check user and password; log in again: skopeo login (the token service is {origin})")
        }
        AuthError::Credentials { registry, .. } => {
            format!("mend that file, name another by --authfile, or log in again: {}", log_in(registry))
        }
        _ => "the registry has trouble, or asks for what plywood does not know: try again later, or copy the image by \
              skopeo and import it"
            .to_owned(),
    })
}

fn of_http(error: &HttpError) -> String {
    match error.kind() {
        HttpErrorKind::UnknownHost => {
            "check the registry's name, and that this machine can resolve names (/etc/resolv.conf)"
        }
        HttpErrorKind::Refused => "check the registry's name and port, and that it runs",
        HttpErrorKind::Unreachable => {
            "check the network and its proxy (HTTPS_PROXY), then try again: what came is kept"
        }
        HttpErrorKind::Tls => {
            "if the registry's certificate comes from a CA of your own, name it by --tls-ca FILE; if the registry \
             speaks plain HTTP, use --plain-http"
        }
        HttpErrorKind::Other => "check the registry's name and port, then try again",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use std::io;

    use plywood_image::layer::EntryPath;

    use super::*;

    /// ENOSPC from setting an attribute was answered with advice to free space.
    #[test]
    fn an_attribute_too_large_is_no_full_disk() {
        let error = |unpack| {
            let digest = Box::new(plywood_image::Digest::sha256(b""));
            FetchError::Unpack { layer: 1, digest, source: Box::new(unpack) }
        };
        let (path, call) = (EntryPath::root(), "fsetxattr(fd, \"user.a\", 9000 bytes)".to_owned());
        let full = || io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error());
        let attribute = anyhow::Error::new(error(UnpackError::Attribute {
            path: path.clone(),
            call: call.clone(),
            source: full(),
        }));
        let remedy = crate::remedy::remedy(&attribute).unwrap();
        assert!(remedy.contains("ea_inode") && !remedy.contains("prune"), "{remedy}");
        // A disk that is full stays one.
        let entry = anyhow::Error::new(error(UnpackError::Entry { path, call, source: full() }));
        assert_eq!(crate::remedy::remedy(&entry).unwrap(), FREE_SPACE);
    }
}
