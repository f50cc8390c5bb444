//! Versions of containerd, and what nothing but the version tells. Pure.

use std::fmt;

/// A version, as containerd says it: `1.7.24~ds1`, `v2.1.5`, `2.4.0-beta.0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    text: String,
    numbers: (u32, u32, u32),
}

/// How containerd's client and shims mount a root file system with an id mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mounting {
    /// They know no mappings: the client copies and chowns the image once per mapping, or refuses.
    Copies,
    /// Each layer is idmapped and attached, and detached again.
    PerLayer,
    /// The layers' common parent directory is.
    CommonParent,
}

impl Version {
    /// From what containerd says; a part that is no number counts as 0.
    pub fn parse(text: &str) -> Version {
        let plain = text.trim().trim_start_matches('v');
        let end = plain.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(plain.len());
        let mut numbers = plain[..end].split('.').map(|number| number.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        Version { text: text.trim().to_owned(), numbers: (next(), next(), next()) }
    }

    /// Major, minor, patch.
    pub fn numbers(&self) -> (u32, u32, u32) {
        self.numbers
    }

    /// Mappings came with 2.0.0, the common parent with 2.0.7, 2.1.5 and 2.2.0 (found in the source of its releases).
    pub fn mounting(&self) -> Mounting {
        match self.numbers {
            (0 | 1, ..) => Mounting::Copies,
            (2, 0, ..7) | (2, 1, ..5) => Mounting::PerLayer,
            _ => Mounting::CommonParent,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_distributions_write_them() {
        let cases = [
            ("1.6.20~ds1", (1, 6, 20), Mounting::Copies),
            ("1.7.24~ds1", (1, 7, 24), Mounting::Copies),
            ("v2.0.0", (2, 0, 0), Mounting::PerLayer),
            ("2.0.6", (2, 0, 6), Mounting::PerLayer),
            ("2.0.7", (2, 0, 7), Mounting::CommonParent),
            ("v2.1.4-k3s1", (2, 1, 4), Mounting::PerLayer),
            ("2.1.9+ds1", (2, 1, 9), Mounting::CommonParent),
            ("2.4.0-beta.0", (2, 4, 0), Mounting::CommonParent),
            ("3", (3, 0, 0), Mounting::CommonParent),
            ("devel", (0, 0, 0), Mounting::Copies),
        ];
        for (text, numbers, mounting) in cases {
            let version = Version::parse(text);
            assert_eq!((version.numbers(), version.mounting()), (numbers, mounting), "{text}");
            assert_eq!(version.to_string(), text);
        }
    }
}
