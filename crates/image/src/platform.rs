//! Platforms: which one this is, and which entry of an index fits.
//!
//! Names are normalised as container tools do: `x86_64` is `amd64`, `aarch64` is `arm64`, and the variants that say
//! nothing (`arm64/v8`, `amd64/v1`) are dropped, so that two names of one platform compare equal.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::manifest::{Descriptor, Index};
use crate::printable::{Printable, printable};

/// Operating system, architecture and variant, normalised. Displayed as `os/architecture[/variant]`, printable whatever an
/// image has written there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

/// Why a text is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no platform; write it as os/architecture[/variant], for example linux/arm64")]
pub struct PlatformError(String);

/// No entry of an index fits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the image is not available for {wanted}; it is for {}", list(available))]
pub struct NoMatch {
    /// What was looked for.
    pub wanted: Platform,
    /// What there is, sorted, each once.
    pub available: Vec<Platform>,
}

fn list(platforms: &[Platform]) -> String {
    match platforms {
        [] => "no platform at all".to_owned(),
        _ => platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

impl Platform {
    /// Normalises the three names. Empty names stay empty and match nothing.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Platform {
        let os = match os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let given = variant.unwrap_or_default().to_ascii_lowercase();
        let (architecture, variant) = match (architecture.to_ascii_lowercase().as_str(), given.as_str()) {
            ("x86_64" | "x86-64" | "amd64", "" | "v1") => ("amd64".to_owned(), ""),
            ("x86_64" | "x86-64" | "amd64", variant) => ("amd64".to_owned(), variant),
            ("i386" | "i486" | "i586" | "i686" | "386", _) => ("386".to_owned(), ""),
            ("aarch64" | "arm64", "" | "8" | "v8" | "v8.0") => ("arm64".to_owned(), ""),
            ("aarch64" | "arm64", variant) => ("arm64".to_owned(), variant),
            ("armhf", _) | ("arm", "" | "7") => ("arm".to_owned(), "v7"),
            ("armel", _) | ("arm", "6") => ("arm".to_owned(), "v6"),
            ("arm", "5") => ("arm".to_owned(), "v5"),
            ("arm", "8") => ("arm".to_owned(), "v8"),
            (other, variant) => (other.to_owned(), variant),
        };
        Platform { os, architecture, variant: (!variant.is_empty()).then(|| variant.to_owned()) }
    }

    /// The machine this runs on. On x86-64 the variant is the level of the processor (`v2` to `v4`), so that an image
    /// made for it can be chosen.
    pub fn host() -> Platform {
        let variant = match std::env::consts::ARCH {
            "x86_64" => x86_64_level(),
            "arm" => Some("v7"),
            _ => None,
        };
        let architecture = match std::env::consts::ARCH {
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "loongarch64" => "loong64",
            "x86" => "386",
            other => other,
        };
        Platform::new(std::env::consts::OS, architecture, variant)
    }

    /// Operating system, `linux` for all plywood can run.
    pub fn os(&self) -> &str {
        &self.os
    }

    /// Architecture by its Go name.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Variant, if it says anything.
    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }

    /// Whether a machine of this platform runs what was made for `image`.
    pub fn accepts(&self, image: &Platform) -> bool {
        self.rank(image).is_some()
    }

    /// How well `image` fits: the higher the better, `None` if not at all.
    fn rank(&self, image: &Platform) -> Option<u32> {
        if self.os != image.os || self.os.is_empty() || self.architecture.is_empty() {
            return None;
        }
        let (mine, other) = (self.variant(), image.variant());
        match (self.architecture.as_str(), image.architecture.as_str()) {
            ("arm64", "arm64") => descending(mine.or(Some("v8")), other.or(Some("v8"))),
            ("amd64", "amd64") => descending(mine.or(Some("v1")), other.or(Some("v1"))),
            ("arm", "arm") => descending(mine, other),
            (mine_arch, other_arch) if mine_arch == other_arch && mine == other => Some(0),
            _ => None,
        }
    }
}

/// Versions `v1` or `v8.2`: every lower or equal one runs, the nearest is best.
fn descending(mine: Option<&str>, other: Option<&str>) -> Option<u32> {
    let version = |variant: Option<&str>| -> Option<u32> {
        let text = variant?.strip_prefix('v')?;
        let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
        Some(major.parse::<u16>().ok()? as u32 * 1000 + minor.parse::<u16>().ok()?.min(999) as u32)
    };
    if mine == other {
        return Some(version(other).unwrap_or(0));
    }
    let (mine, other) = (version(mine)?, version(other)?);
    (other <= mine).then_some(other)
}

#[cfg(target_arch = "x86_64")]
fn x86_64_level() -> Option<&'static str> {
    use std::arch::is_x86_feature_detected as has;
    // The levels of the x86-64 psABI, by the features std can ask for that tell them apart.
    let v2 = has!("sse3") && has!("ssse3") && has!("sse4.1") && has!("sse4.2") && has!("popcnt");
    let v3 = v2
        && has!("avx")
        && has!("avx2")
        && has!("bmi1")
        && has!("bmi2")
        && has!("f16c")
        && has!("fma")
        && has!("lzcnt")
        && has!("movbe");
    let v4 =
        v3 && has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
    match (v2, v3, v4) {
        (_, _, true) => Some("v4"),
        (_, true, _) => Some("v3"),
        (true, ..) => Some("v2"),
        _ => None,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn x86_64_level() -> Option<&'static str> {
    None
}

/// The entry of `index` that fits `wanted` best; the first of equals. An entry without a platform (as image layouts have
/// them) is taken if none with one fits and it is the only one: its config must then be checked. Attestations and other
/// entries that are no images are passed over.
pub fn choose<'a>(index: &'a Index, wanted: &Platform) -> Result<&'a Descriptor, NoMatch> {
    let images = || index.manifests.iter().filter(|entry| entry.kind().is_some());
    let mut best: Option<(u32, &Descriptor)> = None;
    for entry in images() {
        let rank = entry.platform.as_ref().and_then(|platform| wanted.rank(platform));
        match (rank, best) {
            (Some(rank), None) => best = Some((rank, entry)),
            (Some(rank), Some((other, _))) if rank > other => best = Some((rank, entry)),
            _ => {}
        }
    }
    let mut unnamed = images().filter(|entry| entry.platform.is_none());
    let only = match (unnamed.next(), unnamed.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    };
    best.map(|(_, entry)| entry).or(only).ok_or_else(|| {
        let mut available: Vec<Platform> = images().filter_map(|entry| entry.platform.clone()).collect();
        available.retain(|platform| platform.os() != "unknown");
        available.sort();
        available.dedup();
        NoMatch { wanted: wanted.clone(), available }
    })
}

impl FromStr for Platform {
    type Err = PlatformError;

    /// `os/architecture[/variant]`, or an architecture alone for Linux.
    fn from_str(text: &str) -> Result<Platform, PlatformError> {
        let bad = || PlatformError(text.chars().take(160).collect());
        let plain = |part: &&str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(plain) {
            return Err(bad());
        }
        match parts[..] {
            ["linux" | "darwin" | "windows" | "freebsd"] => Err(bad()),
            [architecture] => Ok(Platform::new("linux", architecture, None)),
            [os, architecture] => Ok(Platform::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Platform::new(os, architecture, Some(variant))),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn known(text: &str) -> Printable<'_> {
            printable(if text.is_empty() { "unknown" } else { text })
        }
        write!(f, "{}/{}", known(&self.os), known(&self.architecture))?;
        match &self.variant {
            Some(variant) => write!(f, "/{}", printable(variant)),
            None => Ok(()),
        }
    }
}

impl Serialize for Platform {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Platform {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Platform, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
