//! Which packages hold a kernel. Pure.
//!
//! Up to 6.18 one package has it all: `linux-image-6.1.0-50-cloud-amd64`. Later ones are split into `linux-binary-*`
//! and `linux-modules-*`, and `linux-image-*` only depends on both.

use std::cmp::Reverse;

const FLAVOUR: &str = "-cloud-amd64";

/// A kernel that can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Release {
    /// As in the packages' names, without the flavour: `6.1.0-50`.
    pub(super) name: String,
    /// The packages to unpack.
    pub(super) packages: Vec<String>,
}

/// The newest release of `version` (`6.1`) all packages of which are there.
pub(super) fn newest(version: &str, names: &[String]) -> Option<Release> {
    let there = |name: &String| names.contains(name);
    let package = |kind: &str, release: &str| format!("linux-{kind}-{release}{FLAVOUR}");
    let mut releases: Vec<&str> = names.iter().filter_map(|name| release_of(name, version)).collect();
    releases.sort_by_key(|release| Reverse(numbers(release)));
    releases.dedup();
    releases.into_iter().find_map(|release| {
        let [binary, modules, image] = ["binary", "modules", "image"].map(|kind| package(kind, release));
        let packages = match (there(&binary), there(&modules), there(&image)) {
            (true, true, _) => vec![binary, modules],
            (false, false, true) => vec![image],
            // Half of a kernel: a mirror that is being filled, or a release whose signature is still missing.
            _ => return None,
        };
        Some(Release { name: release.to_owned(), packages })
    })
}

fn release_of<'a>(name: &'a str, version: &str) -> Option<&'a str> {
    let release = ["linux-image-", "linux-binary-"].iter().find_map(|kind| name.strip_prefix(kind))?;
    let release = release.strip_suffix(FLAVOUR)?;
    let rest = release.strip_prefix(version)?;
    (!rest.starts_with(|c: char| c.is_ascii_digit())).then_some(release)
}

fn numbers(release: &str) -> Vec<u64> {
    release.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(version: &str, names: &[&str]) -> Option<(String, Vec<String>)> {
        let names: Vec<String> = names.iter().map(|name| format!("linux-{name}")).collect();
        newest(version, &names).map(|release| (release.name, release.packages))
    }

    #[test]
    fn the_newest_whole_release_is_taken() {
        let old =
            ["image-6.1.0-9-cloud-amd64", "image-6.1.0-50-cloud-amd64", "image-6.12.94+deb13-cloud-amd64"];
        let one =
            |release: &str| Some((release.to_owned(), vec![format!("linux-image-{release}-cloud-amd64")]));
        assert_eq!(found("6.1", &old), one("6.1.0-50"));
        assert_eq!(found("6.12", &old), one("6.12.94+deb13"));
        assert_eq!(found("6.18", &old), None);
    }

    #[test]
    fn split_packages_go_together() {
        let split = [
            "image-7.3-cloud-amd64",
            "binary-7.3-cloud-amd64",
            "modules-7.3-cloud-amd64",
            "modules-7.3.4+deb13-cloud-amd64",
            "image-7.3.5+deb13-cloud-amd64-dbg",
            "binary-7.3.5+deb13-cloud-amd64",
        ];
        let (name, packages) = found("7.3", &split).unwrap();
        assert_eq!(name, "7.3");
        assert_eq!(packages, ["linux-binary-7.3-cloud-amd64", "linux-modules-7.3-cloud-amd64"]);
    }

    #[test]
    fn other_flavours_and_debug_symbols_are_not_kernels() {
        let names =
            ["image-6.1.0-50-amd64", "image-6.1.0-50-cloud-amd64-dbg", "image-6.1.0-50-cloud-amd64-unsigned"];
        assert_eq!(found("6.1", &names), None);
    }
}
