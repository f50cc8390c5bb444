//! What is compared: an arm is one combination of everything that can be varied.

use std::fmt;
use std::str::FromStr;

use plywood_engine::lower::LowerSource;
use plywood_engine::mechanism::Mechanism;
use serde::{Deserialize, Serialize};

/// Who starts the containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LauncherKind {
    /// The engine alone: root file systems, no process.
    Assembly,
    /// `plywood run`: the whole launch with the OCI runtime.
    Run,
    /// A containerd by its socket.
    Containerd,
    /// Pods by the CRI socket of a containerd.
    Cri,
}

impl LauncherKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Assembly, Self::Run, Self::Containerd, Self::Cri];

    /// The name people type.
    pub fn name(self) -> &'static str {
        match self {
            Self::Assembly => "assembly",
            Self::Run => "run",
            Self::Containerd => "containerd",
            Self::Cri => "cri",
        }
    }
}

impl fmt::Display for LauncherKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for LauncherKind {
    type Err = plywood_engine::lower::UnknownName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| Self::Err { name: name.to_owned(), known: Self::ALL.map(Self::name).join(", ") })
    }
}

/// Whose ids the containers of a containerd have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UserNs {
    /// Their own: a user namespace and an id mapping each. So have all containers of ours.
    #[default]
    Private,
    /// The host's: no user namespace, no mapping.
    Host,
}

impl UserNs {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Private, Self::Host];

    /// The name people type.
    pub fn name(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Host => "host",
        }
    }
}

impl fmt::Display for UserNs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for UserNs {
    type Err = plywood_engine::lower::UnknownName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|users| users.name() == name)
            .ok_or_else(|| Self::Err { name: name.to_owned(), known: Self::ALL.map(Self::name).join(", ") })
    }
}

/// One combination. What does not apply to its launcher is none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Arm {
    /// Who starts the containers.
    pub launcher: LauncherKind,
    /// How root file systems are made; of ours only.
    pub mechanism: Option<Mechanism>,
    /// What the lower directories are; of ours only.
    pub lower: Option<LowerSource>,
    /// Which snapshotter; of containerd's only.
    pub snapshotter: Option<String>,
    /// Whose ids they have; the host's with containerd only.
    #[serde(default)]
    pub userns: UserNs,
    /// How often each root file system is assembled; 2 is the incident.
    pub passes: u32,
    /// Layers of the image.
    pub layers: usize,
    /// Containers of one round.
    pub containers: usize,
    /// Most of them starting at a time.
    pub concurrency: usize,
    /// Most of them in the part that takes global locks at a time; none: as many as start.
    pub admission: Option<usize>,
    /// Whether those that are admitted keep to the CPUs of one last-level cache.
    #[serde(default)]
    pub one_cache: bool,
}

impl fmt::Display for Arm {
    /// `assembly detached over flat, 50 layers, 100 at once`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.launcher)?;
        if let Some(mechanism) = self.mechanism {
            write!(f, " {mechanism}")?;
        }
        if let Some(lower) = self.lower {
            write!(f, " over {lower}")?;
        }
        if let Some(snapshotter) = &self.snapshotter {
            write!(f, " {snapshotter}")?;
        }
        if self.passes != 1 {
            write!(f, " x {}", self.passes)?;
        }
        if self.userns == UserNs::Host {
            write!(f, " with host users")?;
        }
        let plural = if self.layers == 1 { "" } else { "s" };
        write!(f, ", {} layer{plural}, {} at once", self.layers, self.concurrency)?;
        if let Some(admission) = self.admission {
            write!(f, ", {admission} admitted")?;
        }
        if self.one_cache {
            write!(f, " on one cache")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arm_says_what_it_is() {
        let mut arm = Arm {
            launcher: LauncherKind::Assembly,
            mechanism: Some(Mechanism::PerLayer),
            lower: Some(LowerSource::Layers),
            snapshotter: None,
            userns: UserNs::Private,
            passes: 2,
            layers: 50,
            containers: 100,
            concurrency: 100,
            admission: None,
            one_cache: false,
        };
        assert_eq!(arm.to_string(), "assembly per-layer over layers x 2, 50 layers, 100 at once");
        arm = Arm {
            launcher: LauncherKind::Containerd,
            mechanism: None,
            lower: None,
            snapshotter: Some("overlayfs".into()),
            passes: 1,
            layers: 1,
            admission: Some(4),
            ..arm
        };
        assert_eq!(arm.to_string(), "containerd overlayfs, 1 layer, 100 at once, 4 admitted");
        arm.one_cache = true;
        assert_eq!(arm.to_string(), "containerd overlayfs, 1 layer, 100 at once, 4 admitted on one cache");
        arm = Arm { userns: UserNs::Host, passes: 2, admission: None, one_cache: false, ..arm };
        assert_eq!(arm.to_string(), "containerd overlayfs x 2 with host users, 1 layer, 100 at once");
    }

    /// Saved before there was a choice, when all had their own.
    #[test]
    fn arms_of_older_files_have_private_users() {
        let mut arm = serde_json::json!({
            "launcher": "containerd", "mechanism": null, "lower": null, "snapshotter": "overlayfs", "passes": 1,
            "layers": 50, "containers": 100, "concurrency": 100, "admission": null,
        });
        assert_eq!(serde_json::from_value::<Arm>(arm.clone()).unwrap().userns, UserNs::Private);
        arm["userns"] = "host".into();
        assert_eq!(serde_json::from_value::<Arm>(arm).unwrap().userns, UserNs::Host);
    }

    #[test]
    fn launchers_are_read_by_the_names_people_type() {
        for kind in LauncherKind::ALL {
            assert_eq!(kind.name().parse::<LauncherKind>().unwrap(), kind);
        }
        let error = "docker".parse::<LauncherKind>().unwrap_err();
        assert_eq!(error.to_string(), "`docker` is none of assembly, run, containerd, cri");
    }
}
