//! Generated images: real files in as many layers as wanted, the same bytes for the same parameters.
//!
//! ```text
//! layer 1       directories of a root file system, the two programs, its share of the files
//! layer n       its share of the files, spread over the directories images have them in; about every 160th file of the
//!               layers below is written anew, about every 50th of the layer below whited out
//! ```
//! A layer depends on the parameters and on its number, so the first layers of an image are those of every storm that
//! uses fewer of it. The image runs [`Program::Pause`] as `/bin/pause`; `/bin/exit` ends at once.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::str::FromStr;

use plywood_image::{Digest, Platform, limits};
use serde_json::{Value, json};

use super::PREFIX;
use super::program::{Program, elf};
use super::tar::Tar;

/// Which rules made the image; part of its name.
const RULES: u32 = 1;
/// The most bytes an image may have: a storm is not about unpacking.
const MAX_BYTES: u64 = 16 << 30;
const MAX_FILES: usize = 5_000_000;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const BLOBS: &str = "blobs/sha256";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Where containerd looks for a name first.
const FULL_NAME: &str = "io.containerd.image.name";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Where images keep most of their files, the fullest first.
const DIRS: [&str; 12] = [
    "usr/lib/python3/dist-packages",
    "usr/lib/x86_64-linux-gnu",
    "usr/share/doc",
    "opt/app/node_modules",
    "usr/lib/ruby/gems",
    "usr/share/locale",
    "usr/include/linux",
    "usr/bin",
    "var/lib/dpkg/info",
    "opt/app/src",
    "etc/conf.d",
    "srv/data",
];

/// Directories of every root file system.
const ROOT: [(&str, u32); 9] = [
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("proc", 0o755),
    ("root", 0o700),
    ("run", 0o755),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("var", 0o755),
];

/// What to generate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Parameters {
    /// Layers.
    pub layers: usize,
    /// Files of all layers together.
    pub files: usize,
    /// Bytes of each file.
    pub size: usize,
    /// Images of different seeds share nothing but directories and programs.
    pub seed: u64,
}

impl Default for Parameters {
    /// The incident's number of layers, small files: a storm is about their number.
    fn default() -> Self {
        Self { layers: 50, files: 500, size: 4096, seed: 7 }
    }
}

/// Parameters nobody can mean.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenerateError {
    /// No list of settings.
    #[error("`{0}` is no description of an image; one looks like layers=50,files=500,size=4096,seed=7")]
    Text(String),
    /// Too many, or none.
    #[error("{0} layers: an image has 1 to {max}", max = limits::LAYERS)]
    Layers(usize),
    /// Too much.
    #[error(
        "{files} files of {size} bytes are too much for a storm: at most {MAX_FILES} files and {MAX_BYTES} bytes"
    )]
    TooMuch {
        /// How many.
        files: usize,
        /// Of how many bytes each.
        size: usize,
    },
    /// Layers with nothing in them are one and the same, and merge.
    #[error(
        "{files} files in {layers} layers: each layer needs one of its own, or those without are all the same; at least \
         files={layers}"
    )]
    Sparse {
        /// How many files.
        files: usize,
        /// Of how many layers.
        layers: usize,
    },
    /// Nobody has written the program for it.
    #[error("there is no program for {0}; give an image of the store by --image")]
    Architecture(String),
}

impl FromStr for Parameters {
    type Err = GenerateError;

    /// `layers=50,files=500,size=4096,seed=7`; what is left out has its default.
    fn from_str(text: &str) -> Result<Self, GenerateError> {
        let wrong = || GenerateError::Text(text.to_owned());
        let mut parameters = Self::default();
        for setting in text.split(',').filter(|_| !text.is_empty()) {
            let (key, value) = setting.split_once('=').ok_or_else(wrong)?;
            let number: u64 = value.trim().parse().map_err(|_| wrong())?;
            let count = usize::try_from(number).map_err(|_| wrong())?;
            match key.trim() {
                "layers" => parameters.layers = count,
                "files" => parameters.files = count,
                "size" => parameters.size = count,
                "seed" => parameters.seed = number,
                _ => return Err(wrong()),
            }
        }
        parameters.check()?;
        Ok(parameters)
    }
}

impl fmt::Display for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { layers, files, size, seed } = self;
        write!(f, "layers={layers},files={files},size={size},seed={seed}")
    }
}

impl Parameters {
    /// Whether such an image can be.
    ///
    /// # Errors
    /// [`GenerateError`]
    pub fn check(&self) -> Result<(), GenerateError> {
        if self.layers == 0 || self.layers > limits::LAYERS {
            return Err(GenerateError::Layers(self.layers));
        }
        let bytes = (self.files as u64).checked_mul(self.size as u64);
        if self.files > MAX_FILES || bytes.is_none_or(|bytes| bytes > MAX_BYTES) {
            return Err(GenerateError::TooMuch { files: self.files, size: self.size });
        }
        if self.files < self.layers {
            return Err(GenerateError::Sparse { files: self.files, layers: self.layers });
        }
        let platform = Platform::host();
        match elf(Program::Pause, platform.architecture()) {
            Some(_) => Ok(()),
            None => Err(GenerateError::Architecture(platform.architecture().to_owned())),
        }
    }

    /// The image's name: the same parameters, the same name.
    pub fn name(&self) -> String {
        let text = format!("{self},rules={RULES},{}", Platform::host().architecture());
        format!("{PREFIX}/generated:{}", &Digest::sha256(text.as_bytes()).hex()[..12])
    }

    /// Files that this layer adds, by their numbers.
    fn share(&self, layer: usize) -> std::ops::Range<usize> {
        let upto = |layers: usize| self.files * layers / self.layers;
        upto(layer - 1)..upto(layer)
    }

    fn path(&self, file: usize) -> String {
        let noise = mix(self.seed ^ mix(file as u64));
        // Half of all in the fullest two directories.
        let spread = (noise >> 32) as usize % 100;
        let dir = match spread {
            0..30 => DIRS[0],
            30..50 => DIRS[1],
            other => DIRS[2 + other % (DIRS.len() - 2)],
        };
        format!("{dir}/d{}/f{file}", noise % 16)
    }

    fn content(&self, file: usize, layer: usize) -> Vec<u8> {
        let mut state = mix(self.seed.wrapping_mul(31) ^ mix((file as u64) << 16 | layer as u64));
        let mut bytes = Vec::with_capacity(self.size + 8);
        while bytes.len() < self.size {
            state = mix(state);
            bytes.extend(state.to_le_bytes());
        }
        bytes.truncate(self.size);
        bytes
    }

    /// The uncompressed tar of a layer, counted from 1.
    pub fn layer(&self, layer: usize) -> Vec<u8> {
        let mut tar = Tar::default();
        let mut made = BTreeSet::new();
        if layer == 1 {
            base(&mut tar, &mut made);
        }
        let earlier = 0..self.share(layer).start;
        let falls_on = |file: usize, every: usize| file % every == layer % every;
        for file in
            earlier.filter(|&file| falls_on(file, 20) && mix(file as u64 ^ self.seed).is_multiple_of(8))
        {
            let path = self.path(file);
            parents(&mut tar, &mut made, &path);
            tar.file(&path, 0o644, &self.content(file, layer));
        }
        if layer > 1 {
            // Of the layer below, and none of those just written.
            for file in self.share(layer - 1).filter(|&file| falls_on(file, 50) && !falls_on(file, 20)) {
                let path = self.path(file);
                parents(&mut tar, &mut made, &path);
                tar.whiteout(&path);
            }
        }
        for file in self.share(layer) {
            let path = self.path(file);
            parents(&mut tar, &mut made, &path);
            tar.file(&path, 0o644, &self.content(file, layer));
        }
        tar.finish()
    }
}

/// What every layer above stands on.
fn base(tar: &mut Tar, made: &mut BTreeSet<String>) {
    for (dir, mode) in ROOT {
        tar.dir(dir, mode);
        made.insert(dir.to_owned());
    }
    let architecture = Platform::host();
    for (name, program) in [("bin/exit", Program::Exit), ("bin/pause", Program::Pause)] {
        if let Some(file) = elf(program, architecture.architecture()) {
            tar.file(name, 0o755, &file);
        }
    }
    tar.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/pause\n");
    tar.file("etc/group", 0o644, b"root:x:0:\n");
    tar.symlink("etc/mtab", "/proc/self/mounts");
}

/// As image builders do, a layer lists the directories of its files.
fn parents(tar: &mut Tar, made: &mut BTreeSet<String>, path: &str) {
    for (at, _) in path.match_indices('/') {
        if made.insert(path[..at].to_owned()) {
            tar.dir(&path[..at], 0o755);
        }
    }
}

/// The finaliser of splitmix64: every bit of the result depends on every bit given.
fn mix(seed: u64) -> u64 {
    let mut bits = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Writes an OCI image layout that holds the image by its name.
///
/// # Errors
/// The file system's.
pub fn write(parameters: &Parameters, dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir.join(BLOBS))?;
    let layers = (1..=parameters.layers)
        .map(|n| blob(dir, LAYER, &parameters.layer(n)))
        .collect::<io::Result<Vec<_>>>()?;
    // Uncompressed layers are their own diff.
    let diff_ids: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
    let platform = Platform::host();
    let config = json!({
        "architecture": platform.architecture(),
        "os": "linux",
        "variant": platform.variant(),
        "config": {"Cmd": ["/bin/pause"], "Env": ["PATH=/bin:/usr/bin"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": blob(dir, CONFIG, &config)?, "layers": layers,
    });
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    add(dir, &parameters.name(), manifest.to_string().as_bytes(), &config)
}

/// Adds an image whose layers are there already to a layout, unless it has one of that name.
pub(super) fn add(dir: &Path, name: &str, manifest: &[u8], config: &[u8]) -> io::Result<()> {
    let index = dir.join("index.json");
    let mut entries: Vec<Value> = match fs::read(&index) {
        Ok(bytes) => {
            serde_json::from_slice::<Value>(&bytes)?["manifests"].as_array().cloned().unwrap_or_default()
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    if entries.iter().any(|entry| entry["annotations"][REF_NAME] == name) {
        return Ok(());
    }
    blob(dir, CONFIG, config)?;
    let mut entry = blob(dir, MANIFEST, manifest)?;
    entry["annotations"] = json!({REF_NAME: name, FULL_NAME: name});
    entries.push(entry);
    fs::write(index, json!({"schemaVersion": 2, "manifests": entries}).to_string())
}

/// Writes it; answers its descriptor.
fn blob(dir: &Path, media_type: &str, bytes: &[u8]) -> io::Result<Value> {
    let digest = Digest::sha256(bytes);
    fs::write(dir.join(BLOBS).join(digest.hex()), bytes)?;
    Ok(json!({"mediaType": media_type, "digest": digest, "size": bytes.len()}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(parameters: Parameters) -> Vec<String> {
        (1..=parameters.layers).map(|n| Digest::sha256(&parameters.layer(n)).to_string()).collect()
    }

    fn of(text: &str) -> Parameters {
        text.parse().unwrap()
    }

    #[test]
    fn the_same_parameters_make_the_same_bytes_and_others_do_not() {
        let parameters = of("layers=8,files=100,size=100,seed=7");
        assert_eq!(digests(parameters), digests(parameters));
        let all: BTreeSet<String> = digests(parameters).into_iter().collect();
        assert_eq!(all.len(), 8, "each layer is one of its own");
        let others = digests(Parameters { seed: 8, ..parameters });
        assert!(others.iter().all(|other| !all.contains(other)));
        // What was generated once stays what it was: names and layers are shared between machines.
        if Platform::host().architecture() == "amd64" {
            assert_eq!(parameters.name(), EXPECTED_NAME);
            assert_eq!(Digest::sha256(digests(parameters).concat().as_bytes()).hex()[..12], *EXPECTED_LAYERS);
        }
    }

    const EXPECTED_NAME: &str = "plywood.storm/generated:659e9dcb2ea4";
    const EXPECTED_LAYERS: &str = "074fbd905d8e";

    #[test]
    fn a_layout_is_the_same_to_the_byte_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let parameters = of("layers=3,files=30,size=10");
        for name in ["a", "b"] {
            write(&parameters, &dir.path().join(name)).unwrap();
        }
        let list = |name: &str| {
            let dir = dir.path().join(name);
            let blobs = fs::read_dir(dir.join("blobs/sha256")).unwrap();
            let mut names: Vec<_> = blobs.map(|blob| blob.unwrap().file_name()).collect();
            names.sort();
            (names, fs::read(dir.join("index.json")).unwrap())
        };
        assert_eq!(list("a"), list("b"));
        assert_eq!(list("a").0.len(), 3 + 2);
    }

    #[test]
    fn each_layer_is_one_of_its_own() {
        for text in ["layers=50,files=50,size=0", "layers=100,files=101,size=1", "layers=7,files=13,size=0"] {
            let parameters = of(text);
            let different: BTreeSet<String> = digests(parameters).into_iter().collect();
            assert_eq!(different.len(), parameters.layers, "{text}");
        }
    }

    #[test]
    fn files_are_spread_some_written_anew_and_some_gone() {
        let parameters = of("layers=50,files=2000,size=1");
        let mut seen = BTreeSet::new();
        let (mut anew, mut gone) = (0, 0);
        for layer in 1..=50 {
            let tar = parameters.layer(layer);
            for header in tar.chunks(512).filter(|block| block.get(257..262) == Some(b"ustar")) {
                let name = String::from_utf8_lossy(&header[..100]).trim_end_matches('\0').to_owned();
                match header[156] {
                    b'0' if name.contains(".wh.") => {
                        assert!(seen.contains(&name.replace(".wh.", "")), "{name} was never there");
                        gone += 1;
                    }
                    b'0' if !seen.insert(name) => anew += 1,
                    _ => {}
                }
            }
        }
        assert!(seen.len() >= 2000 && anew > 20 && gone > 10, "{} {anew} {gone}", seen.len());
        let dirs: BTreeSet<&str> =
            seen.iter().filter_map(|name| name.rsplit_once('/')).map(|n| n.0).collect();
        assert!(dirs.len() > 100, "{}", dirs.len());
    }

    #[test]
    fn parameters_read_as_they_are_written() {
        let parameters = of("layers=3,seed=18446744073709551615,size=0,files=3");
        assert_eq!(of(&parameters.to_string()), parameters);
        assert_eq!(of("layers=9"), Parameters { layers: 9, ..Parameters::default() });
        for text in
            ["layers", "layers=", "layers=-1", "layers=x", "colour=red", "layers=1,", "layers=1;files=2"]
        {
            assert!(matches!(text.parse::<Parameters>(), Err(GenerateError::Text(_))), "{text}");
        }
        for text in ["layers=50,files=1", "layers=3,files=0", "files=49"] {
            assert!(matches!(text.parse::<Parameters>(), Err(GenerateError::Sparse { .. })), "{text}");
        }
        for text in ["layers=0", "layers=501"] {
            assert!(matches!(text.parse::<Parameters>(), Err(GenerateError::Layers(_))), "{text}");
        }
        for text in ["files=9999999", "size=99999999999", "files=5000000,size=18446744073709551615"] {
            assert!(matches!(text.parse::<Parameters>(), Err(GenerateError::TooMuch { .. })), "{text}");
        }
    }
}
