//! Programs that are never executed: an ELF header, what the loader reads,
//! and some strings.

/// What a program is to need and to have in it.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) machine: u16,
    pub(crate) interpreter: Option<&'static str>,
    pub(crate) needed: Vec<&'static str>,
    pub(crate) search: Option<&'static str>,
    pub(crate) strings: Vec<&'static str>,
}

const X86_64: u16 = 62;

impl Program {
    /// A device model as XCP-ng's package builds it, with the shim.
    pub(crate) fn device_model() -> Self {
        Program {
            machine: X86_64,
            interpreter: Some("/lib64/ld-linux-x86-64.so.2"),
            needed: vec!["libxenctrl.so.4.17", "libc.so.6"],
            search: None,
            strings: vec!["xen-domid-restrict", "cirrus-vga", "vgpu-stub"],
        }
    }

    /// A library that needs nothing.
    pub(crate) fn library() -> Self {
        Program {
            interpreter: None,
            needed: Vec::new(),
            strings: Vec::new(),
            ..Self::device_model()
        }
    }

    /// The file: gABI, "ELF Header", "Program Header" and "Dynamic Section".
    pub(crate) fn bytes(&self) -> Vec<u8> {
        const HEADERS: usize = 64 + 3 * 56;
        let mut strings = vec![0];
        let mut string = |text: &str| {
            let at = strings.len() as u64;
            strings.extend_from_slice(text.as_bytes());
            strings.push(0);
            at
        };
        // DT_NEEDED 1, DT_STRTAB 5, DT_STRSZ 10, DT_RUNPATH 29.
        let needed = self.needed.iter().map(|name| (1, string(name)));
        let mut dynamic: Vec<(u64, u64)> = needed.collect();
        dynamic.extend(self.search.map(|path| (29, string(path))));
        let interpreter = string(self.interpreter.unwrap_or_default());
        for text in &self.strings {
            string(text);
        }
        let strings_at = HEADERS as u64;
        let dynamic_at = (HEADERS + strings.len()).next_multiple_of(8) as u64;
        dynamic.extend([(5, strings_at), (10, strings.len() as u64), (0, 0)]);
        let dynamic_size = dynamic.len() as u64 * 16;
        let size = dynamic_at + dynamic_size;

        let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
        file.resize(16, 0);
        file.extend(3u16.to_le_bytes());
        file.extend(self.machine.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        for word in [0u64, 64, 0] {
            file.extend(word.to_le_bytes());
        }
        file.extend(0u32.to_le_bytes());
        for half in [64u16, 56, 3, 64, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        let length = self.interpreter.map_or(0, |path| path.len() as u64 + 1);
        // PT_LOAD 1, PT_DYNAMIC 2, PT_INTERP 3; PT_NULL 0 for none.
        let interpreter_type = if length == 0 { 0 } else { 3 };
        for (kind, offset, size) in [
            (1u32, 0, size),
            (2, dynamic_at, dynamic_size),
            (interpreter_type, strings_at + interpreter, length),
        ] {
            file.extend(kind.to_le_bytes());
            file.extend(4u32.to_le_bytes());
            for word in [offset, offset, offset, size, size, 8] {
                file.extend(word.to_le_bytes());
            }
        }
        file.extend(&strings);
        file.resize(usize::try_from(dynamic_at).unwrap(), 0);
        for (tag, value) in dynamic {
            file.extend(tag.to_le_bytes());
            file.extend(value.to_le_bytes());
        }
        file
    }
}
