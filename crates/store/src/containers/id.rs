//! Container ids: 64 hex digits at random, of which people see the first twelve.

use std::fmt;
use std::str::FromStr;

use crate::error::{FileError, OnFile};

const DIGITS: usize = 64;
const SHORT: usize = 12;

/// Id of a container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(String);

/// The text is no container id.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no container id: it takes {DIGITS} lower-case hex digits")]
pub struct ContainerIdError(String);

impl ContainerId {
    /// A fresh one, from the kernel's random numbers.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn random() -> Result<ContainerId, FileError> {
        let mut bytes = [0u8; DIGITS / 2];
        let mut filled = 0;
        while filled < bytes.len() {
            filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
                .on_file("getrandom", "")?;
        }
        Ok(ContainerId(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// All 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits.
    pub fn short(&self) -> &str {
        &self.0[..SHORT]
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ContainerId {
    type Err = ContainerIdError;

    fn from_str(text: &str) -> Result<ContainerId, ContainerIdError> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() == DIGITS && text.bytes().all(hex) {
            Ok(ContainerId(text.to_owned()))
        } else {
            Err(ContainerIdError(text.chars().take(DIGITS).collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_hex_and_differ() {
        let (one, two) = (ContainerId::random().unwrap(), ContainerId::random().unwrap());
        assert_ne!(one, two);
        assert_eq!(one.as_str().parse::<ContainerId>().unwrap(), one);
        assert_eq!(one.short().len(), 12);
    }

    #[test]
    fn other_texts_are_none() {
        for text in ["", "abc", &"g".repeat(64), &"A".repeat(64), &"é".repeat(32)] {
            assert!(text.parse::<ContainerId>().is_err(), "{text}");
        }
    }
}
