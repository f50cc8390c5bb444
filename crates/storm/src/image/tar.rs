//! Writing the tar of a generated layer: plain ustar, the same bytes for the same entries.

const BLOCK: usize = 512;
/// Of every entry: the beginning of 2020, because a time of its own would make each layer another one.
const MTIME: u64 = 1_577_836_800;

/// A tar in the making.
#[derive(Debug, Default)]
pub(super) struct Tar(Vec<u8>);

impl Tar {
    pub(super) fn dir(&mut self, path: &str, mode: u32) {
        self.entry(b'5', path, mode, "", &[]);
    }

    pub(super) fn file(&mut self, path: &str, mode: u32, data: &[u8]) {
        self.entry(b'0', path, mode, "", data);
    }

    pub(super) fn symlink(&mut self, path: &str, target: &str) {
        self.entry(b'2', path, 0o777, target, &[]);
    }

    /// The file is not there from this layer on.
    pub(super) fn whiteout(&mut self, path: &str) {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let slash = if dir.is_empty() { "" } else { "/" };
        self.file(&format!("{dir}{slash}.wh.{name}"), 0o644, &[]);
    }

    /// Two zero blocks end it.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }

    /// Paths of generated images fit into the 100 bytes a header has.
    fn entry(&mut self, kind: u8, path: &str, mode: u32, target: &str, data: &[u8]) {
        let mut header = [0_u8; BLOCK];
        let mut put =
            |offset: usize, bytes: &[u8]| header[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(0, &path.as_bytes()[..path.len().min(100)]);
        put(100, format!("{mode:07o}\0").as_bytes());
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{:011o}\0", data.len()).as_bytes());
        put(136, format!("{MTIME:011o}\0").as_bytes());
        put(148, b"        ");
        put(156, &[kind]);
        put(157, &target.as_bytes()[..target.len().min(100)]);
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(header);
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
    }
}
