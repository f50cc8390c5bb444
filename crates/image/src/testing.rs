//! A tar writer for tests, of this crate and others: writes any header, sane or not.

/// One header block, initially a valid ustar header of an empty file without a name. The setters cut off or wrap what
/// does not fit, as hostile archives would.
#[derive(Debug, Clone)]
pub struct RawHeader(pub [u8; 512]);

impl Default for RawHeader {
    fn default() -> RawHeader {
        RawHeader::new(b'0')
    }
}

impl RawHeader {
    /// An empty ustar header of the type `flag`.
    pub fn new(flag: u8) -> RawHeader {
        let mut header = RawHeader([0; 512]);
        header.0[156] = flag;
        header
            .bytes(257, b"ustar\x0000")
            .octal(100, 8, 0o644)
            .octal(108, 8, 0)
            .octal(116, 8, 0)
            .octal(124, 12, 0);
        header.octal(136, 12, 0);
        header
    }

    /// Overwrites from `offset`.
    pub fn bytes(&mut self, offset: usize, bytes: &[u8]) -> &mut RawHeader {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// A zero-padded octal number with a final NUL.
    pub fn octal(&mut self, offset: usize, width: usize, value: u64) -> &mut RawHeader {
        let digits = format!("{value:0>width$o}\0", width = width - 1);
        self.bytes(offset, &digits.as_bytes()[digits.len() - width..])
    }

    /// A base-256 number.
    pub fn binary(&mut self, offset: usize, width: usize, value: i64) -> &mut RawHeader {
        let fill = if value < 0 { 0xff } else { 0 };
        self.0[offset..offset + width].fill(fill);
        let bytes = value.to_be_bytes();
        let tail = width.min(8);
        self.bytes(offset + width - tail, &bytes[8 - tail..]);
        self.0[offset] |= 0x80;
        self
    }

    /// The name field, cut to 100 bytes.
    pub fn name(&mut self, name: impl AsRef<[u8]>) -> &mut RawHeader {
        let name = name.as_ref();
        self.0[..100].fill(0);
        self.bytes(0, &name[..name.len().min(100)])
    }

    /// The link field, cut to 100 bytes.
    pub fn link(&mut self, link: impl AsRef<[u8]>) -> &mut RawHeader {
        let link = link.as_ref();
        self.0[157..257].fill(0);
        self.bytes(157, &link[..link.len().min(100)])
    }

    /// Permission bits.
    pub fn mode(&mut self, mode: u64) -> &mut RawHeader {
        self.octal(100, 8, mode)
    }

    /// Owner and group; base-256 where octal does not reach.
    pub fn owner(&mut self, uid: u64, gid: u64) -> &mut RawHeader {
        for (offset, id) in [(108, uid), (116, gid)] {
            if id < 1 << 21 {
                self.octal(offset, 8, id)
            } else {
                self.binary(offset, 8, id as i64)
            };
        }
        self
    }

    /// Size of the data, whatever is written after it.
    pub fn size(&mut self, size: u64) -> &mut RawHeader {
        if size < 1 << 33 { self.octal(124, 12, size) } else { self.binary(124, 12, size as i64) }
    }

    /// Modification time in seconds.
    pub fn mtime(&mut self, mtime: i64) -> &mut RawHeader {
        if (0..1 << 33).contains(&mtime) {
            self.octal(136, 12, mtime as u64)
        } else {
            self.binary(136, 12, mtime)
        }
    }

    /// Device number.
    pub fn device(&mut self, major: u64, minor: u64) -> &mut RawHeader {
        self.octal(329, 8, major).octal(337, 8, minor)
    }

    /// Turns it into a GNU header.
    pub fn gnu(&mut self) -> &mut RawHeader {
        self.bytes(257, b"ustar  \0")
    }

    /// The block with its checksum.
    pub fn seal(&self) -> [u8; 512] {
        let mut block = self.0;
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

/// An archive in the making. Names too long for ustar get PAX records.
#[derive(Debug, Clone, Default)]
pub struct TarBuilder {
    bytes: Vec<u8>,
    records: Vec<u8>,
}

impl TarBuilder {
    /// An empty archive.
    pub fn new() -> TarBuilder {
        TarBuilder::default()
    }

    /// Bytes as they are.
    pub fn raw(mut self, bytes: &[u8]) -> TarBuilder {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// A sealed header and `data` after it, padded to a block. The size field is left as it is.
    pub fn entry(mut self, header: &RawHeader, data: &[u8]) -> TarBuilder {
        if !self.records.is_empty() {
            let records = std::mem::take(&mut self.records);
            self = self.extension(b'x', &records);
        }
        self.raw(&header.seal()).data(data)
    }

    /// Bytes padded to a block.
    pub fn data(mut self, data: &[u8]) -> TarBuilder {
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    /// An extension header (`x`, `g`, `L`, `K`) of the right size.
    pub fn extension(self, flag: u8, data: &[u8]) -> TarBuilder {
        let mut header = RawHeader::new(flag);
        header.name("extension").size(data.len() as u64);
        self.raw(&header.seal()).data(data)
    }

    /// A PAX record for the next entry.
    pub fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> TarBuilder {
        self.records.extend_from_slice(&pax_record(key, value.as_ref()));
        self
    }

    /// An extended attribute of the next entry.
    pub fn xattr(self, name: &str, value: impl AsRef<[u8]>) -> TarBuilder {
        self.pax(&format!("SCHILY.xattr.{name}"), value)
    }

    /// A directory owned by root.
    pub fn dir(self, name: impl AsRef<[u8]>, mode: u64) -> TarBuilder {
        self.node(b'5', name.as_ref(), b"", mode, b"")
    }

    /// A file owned by root, mode 0644.
    pub fn file(self, name: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> TarBuilder {
        self.node(b'0', name.as_ref(), b"", 0o644, data.as_ref())
    }

    /// A symbolic link.
    pub fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> TarBuilder {
        self.node(b'2', name.as_ref(), target.as_ref(), 0o777, b"")
    }

    /// A hard link.
    pub fn hard_link(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> TarBuilder {
        self.node(b'1', name.as_ref(), target.as_ref(), 0o644, b"")
    }

    /// A fifo.
    pub fn fifo(self, name: impl AsRef<[u8]>) -> TarBuilder {
        self.node(b'6', name.as_ref(), b"", 0o644, b"")
    }

    /// A character device.
    pub fn char_device(self, name: impl AsRef<[u8]>, major: u64, minor: u64) -> TarBuilder {
        let mut header = RawHeader::new(b'3');
        header.name(name).device(major, minor);
        self.entry(&header, b"")
    }

    /// A whiteout of `name` in `dir` (empty for the root).
    pub fn whiteout(self, dir: &str, name: &str) -> TarBuilder {
        let slash = if dir.is_empty() { "" } else { "/" };
        self.file(format!("{dir}{slash}.wh.{name}"), b"")
    }

    /// An opaque mark in `dir` (empty for the root).
    pub fn opaque(self, dir: &str) -> TarBuilder {
        self.whiteout(dir, ".wh..opq")
    }

    fn node(mut self, flag: u8, name: &[u8], link: &[u8], mode: u64, data: &[u8]) -> TarBuilder {
        if name.len() > 100 {
            self = self.pax("path", name);
        }
        if link.len() > 100 {
            self = self.pax("linkpath", link);
        }
        let mut header = RawHeader::new(flag);
        header.name(name).link(link).mode(mode).size(data.len() as u64);
        self.entry(&header, data)
    }

    /// The archive without its end, for truncated and appended ones.
    pub fn unfinished(self) -> Vec<u8> {
        self.bytes
    }

    /// The archive with its two zero blocks.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes
    }
}

/// One PAX record, with its own length worked out.
pub fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}
