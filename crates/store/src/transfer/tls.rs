//! The certificate authorities a registry connection trusts.
//!
//! The system's bundle, `--tls-ca` files, and the per-registry directories that podman and docker read:
//! `/etc/containers/certs.d/<host>/*.crt`, `/etc/docker/certs.d/<host>/*.crt`. Only where the system has no
//! bundle and nothing else is configured do the roots compiled in count.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

/// Where distributions keep all trusted roots in one PEM file.
const BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Directories with one directory a registry, named by its host (and port).
const CERTS_DIRS: &[&str] = &["/etc/containers/certs.d", "/etc/docker/certs.d"];

/// Which certificate authorities to trust besides the system's.
#[derive(Debug, Clone)]
pub struct TlsOptions {
    /// PEM files of additional roots.
    pub extra_ca: Vec<PathBuf>,
    /// Directories holding `<host>/*.crt`.
    pub certs_dirs: Vec<PathBuf>,
}

impl Default for TlsOptions {
    fn default() -> Self {
        Self { extra_ca: Vec::new(), certs_dirs: CERTS_DIRS.iter().map(PathBuf::from).collect() }
    }
}

/// A root certificate that could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The file or directory could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What reading it answered.
        #[source]
        source: std::io::Error,
    },
    /// No certificate in it.
    #[error("{} holds no PEM certificate", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// The files that configure roots for this very registry: a sign that it speaks TLS.
pub(super) fn configured_files(options: &TlsOptions, host: &str) -> Result<Vec<PathBuf>, TlsError> {
    let mut files = options.extra_ca.clone();
    // Registry hosts never hold a slash; nothing leaves the directory even if one did.
    if host.contains('/') || host.starts_with('.') {
        return Ok(files);
    }
    for dir in &options.certs_dirs {
        let dir = dir.join(host);
        let failed = |source| TlsError::Read { path: dir.clone(), source };
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(failed(e)),
        };
        let mut found: Vec<PathBuf> =
            entries.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>().map_err(failed)?;
        if found.iter().any(|path| path.extension().is_some_and(|e| e == "cert")) {
            tracing::warn!(dir = %dir.display(), "client certificates are not supported and not sent");
        }
        found.retain(|path| path.extension().is_some_and(|e| e == "crt"));
        found.sort();
        files.append(&mut found);
    }
    Ok(files)
}

/// The TLS configuration for connections to a registry.
pub(super) fn config(configured: &[PathBuf]) -> Result<TlsConfig, TlsError> {
    let mut roots = system_roots();
    for path in configured {
        let pem = read(path)?;
        let before = roots.len();
        roots.extend(certificates(&pem));
        if roots.len() == before {
            return Err(TlsError::Empty { path: path.clone() });
        }
    }
    let roots = if roots.is_empty() { RootCerts::WebPki } else { RootCerts::Specific(Arc::new(roots)) };
    Ok(TlsConfig::builder().root_certs(roots).build())
}

fn system_roots() -> Vec<Certificate<'static>> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    for path in named.into_iter().chain(BUNDLES.iter().map(PathBuf::from)) {
        match std::fs::read(&path) {
            Ok(pem) => return certificates(&pem).collect(),
            Err(error) => tracing::trace!(path = %path.display(), %error, "no root bundle"),
        }
    }
    Vec::new()
}

/// What is not a certificate in a bundle is passed over, as every TLS library does.
fn certificates(pem: &[u8]) -> impl Iterator<Item = Certificate<'static>> {
    parse_pem(pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_host_and_only_those() {
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join("reg.corp:5000");
        std::fs::create_dir(&host).unwrap();
        for name in ["b.crt", "a.crt", "client.key", "readme"] {
            std::fs::write(host.join(name), "").unwrap();
        }
        let extra = PathBuf::from("/x.pem");
        let options = TlsOptions { extra_ca: vec![extra.clone()], certs_dirs: vec![dir.path().into()] };
        let expected = vec![extra.clone(), host.join("a.crt"), host.join("b.crt")];
        assert_eq!(configured_files(&options, "reg.corp:5000").unwrap(), expected);
        assert_eq!(configured_files(&options, "reg.corp").unwrap(), vec![extra.clone()]);
        assert_eq!(configured_files(&options, "../reg.corp:5000").unwrap(), vec![extra]);
        assert!(matches!(config(&[host.join("a.crt")]), Err(TlsError::Empty { .. })));
        assert!(matches!(config(&["/nonexistent.pem".into()]), Err(TlsError::Read { .. })));
    }
}
