//! Real containerds, an old one and a new one, without installing any.
//!
//! Each Debian suite has another containerd. Its packages, and all they need, are downloaded through the apt root of
//! our own and unpacked into a tree, which is the root file system of that containerd while it runs: its own libc, its
//! own runc, its own network plugins. A running one has a mount and a network namespace and a control group of its own, so
//! that the machine's mount table never changes and all it has started can be found and killed.
//!
//! ```text
//! target/containerd/trees/sid/      what was unpacked
//!                        /packages  which packages that was, with their versions; written last
//!                  definitions/     of containerd's API and of CRI, in the language of protobuf
//! ```

use anyhow::Result;

use crate::apt;
use crate::proc::{say, step};

mod cgroup;
mod config;
mod definitions;
mod image;
mod server;
mod tree;

pub use definitions::Definitions;
pub use image::small as small_image;
pub use server::{Server, Settings};
pub use tree::{SUITES, Suite, Tree};

/// What is asked for on the command line.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Suites to take containerd from, comma-separated: bookworm (1.6), trixie (1.7), sid (2)
    #[arg(long, value_name = "SUITE", value_delimiter = ',')]
    suite: Vec<Suite>,
    /// Start the last of them, say where its socket is, and stop it when Enter is pressed
    #[arg(long)]
    start: bool,
    /// With `--start`: import this OCI layout directory into the namespaces `default`, `k8s.io` and `plywood-storm`
    #[arg(long, value_name = "DIR", requires = "start")]
    image: Option<std::path::PathBuf>,
    /// Look for newer packages, instead of using those unpacked before
    #[arg(long)]
    update: bool,
    /// The Debian mirror to download from [default: the one this machine's apt uses]
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
}

/// `cargo xtask containerd`; needs the programs of `cargo xtask setup`.
pub fn run(options: &Options) -> Result<()> {
    let suites = if options.suite.is_empty() { SUITES.to_vec() } else { options.suite.clone() };
    let trees = fetch(&suites, options.mirror.clone(), options.update)?;
    Definitions::fetch(&mut apt::Root::new(options.mirror.clone(), false), options.update)?;
    let Some(tree) = trees.into_iter().next_back().filter(|_| options.start) else { return Ok(()) };
    let server = step(&format!("Start containerd {}", tree.version()), || {
        let server = Server::start(tree, &Settings { pods: true, ..Settings::default() })?;
        if let Some(layout) = &options.image {
            for namespace in ["default", "k8s.io", "plywood-storm"] {
                server.import(layout, namespace)?;
            }
        }
        Ok(server)
    })?;
    say(format!("its socket is {}, its process {}; Enter stops it", server.socket().display(), server.pid()));
    std::io::stdin().read_line(&mut String::new())?;
    drop(server);
    Ok(())
}

/// Makes sure the trees of these suites are there.
pub fn fetch(suites: &[Suite], mirror: Option<String>, update: bool) -> Result<Vec<Tree>> {
    let mut apt = apt::Root::new(mirror, update);
    suites
        .iter()
        .map(|&suite| match Tree::open(suite) {
            Ok(tree) if !update => Ok(tree),
            _ => step(&format!("Unpack containerd of Debian {suite}"), || {
                let tree = Tree::unpack(suite, &mut apt)?;
                say(format!("containerd {}, runc {}", tree.version(), tree.version_of("runc")));
                Ok(tree)
            }),
        })
        .collect()
}
