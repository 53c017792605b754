//! An initramfs archive: cpio in its "newc" form, as the kernel's
//! Documentation/driver-api/early-userspace/buffer-format.rst describes it.

const MAGIC: &str = "070701";
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;
const LINK: u32 = 0o120_777;
const TRAILER: &str = "TRAILER!!!";

/// An archive that grows in memory; all belongs to root.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    directories: Vec<String>,
}

impl Archive {
    /// Adds a file with mode 0755, and the directories above it.
    pub(crate) fn program(&mut self, path: &str, contents: &[u8]) {
        self.above(path);
        self.entry(path, PROGRAM, (0, 0), contents);
    }

    /// Adds an empty directory, and those above it.
    pub(crate) fn directory(&mut self, path: &str) {
        if !self.directories.iter().any(|known| known == path) {
            self.above(path);
            self.entry(path, DIRECTORY, (0, 0), &[]);
            self.directories.push(path.to_owned());
        }
    }

    /// Adds a character device, and the directories above it.
    pub(crate) fn character_device(&mut self, path: &str, major: u32, minor: u32) {
        self.above(path);
        self.entry(path, CHARACTER_DEVICE, (major, minor), &[]);
    }

    /// Adds a symbolic link, and the directories above it.
    pub(crate) fn link(&mut self, path: &str, target: &str) {
        self.above(path);
        self.entry(path, LINK, (0, 0), target.as_bytes());
    }

    /// The whole archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, (0, 0), &[]);
        self.bytes
    }

    fn above(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), contents: &[u8]) {
        self.entries += 1;
        let size = |length: usize| {
            u32::try_from(length).expect("the rig puts no file of 4 GiB into an initramfs")
        };
        let fields = [
            self.entries, // inode
            mode,
            0, // owner
            0, // group
            1, // links
            0, // modification time
            size(contents.len()),
            0, // device of the archive
            0,
            device.0,
            device.1,
            size(path.len() + 1),
            0, // checksum, unused in this form
        ];
        self.bytes.extend(MAGIC.bytes());
        for field in fields {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(contents);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
