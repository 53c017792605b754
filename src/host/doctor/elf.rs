//! What a program needs before its first instruction, as `ldd` finds out,
//! without running it.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::path::{Path, PathBuf};

use object::read::ReadCache;
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::{Endianness, ReadRef, elf};

use super::view::View;

/// Where the loader looks after `/etc/ld.so.conf`.
const USUAL: [&str; 6] = [
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
];
/// How many objects are looked at.
const MOST_OBJECTS: usize = 512;
/// How many dynamic entries and search directories one object may have.
const MOST_ENTRIES: usize = 4096;

type Header = elf::FileHeader64<Endianness>;

/// What an ELF file says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Elf {
    /// Its machine is x86-64.
    pub is_x86_64: bool,
    /// The program loader it asks for.
    pub interpreter: Option<String>,
    /// The libraries it names.
    pub needed: Vec<String>,
    /// Where it wants them looked for.
    pub search: Vec<String>,
}

/// Reads a file's headers. `None` if it is not a 64-bit ELF file, or is cut.
pub(super) fn read(file: File) -> Option<Elf> {
    let cache = ReadCache::new(file);
    let data = &cache;
    let header = Header::parse(data).ok()?;
    let endian = header.endian().ok()?;
    let mut found = Elf {
        is_x86_64: header.e_machine(endian) == elf::EM_X86_64,
        ..Elf::default()
    };
    let segments = header.program_headers(endian, data).ok()?;
    for segment in segments {
        if let Ok(Some(path)) = segment.interpreter(endian, data) {
            found.interpreter = Some(text(path));
        }
        if let Ok(Some(entries)) = segment.dynamic(endian, data) {
            found.add(endian, data, segments, entries);
        }
    }
    // A program whose segments end behind the file's end was cut short.
    let end = |segment: &elf::ProgramHeader64<Endianness>| {
        let (offset, size) = segment.file_range(endian);
        offset.checked_add(size)
    };
    let size = data.len().ok()?;
    let whole = segments
        .iter()
        .filter(|segment| segment.p_type(endian) == elf::PT_LOAD)
        .all(|segment| end(segment).is_some_and(|end| end <= size));
    whole.then_some(found)
}

impl Elf {
    /// It names a library whose name starts so.
    pub(super) fn needs(&self, prefix: &str) -> bool {
        self.needed.iter().any(|name| name.starts_with(prefix))
    }

    fn add<'data, R: ReadRef<'data>>(
        &mut self,
        endian: Endianness,
        data: R,
        segments: &'data [elf::ProgramHeader64<Endianness>],
        entries: &'data [elf::Dyn64<Endianness>],
    ) {
        let entries = &entries[..entries.len().min(MOST_ENTRIES)];
        let value = |tag| {
            let entry = entries.iter().find(|entry| entry.d_tag(endian) == tag)?;
            Some(entry.d_val(endian))
        };
        let (Some(address), Some(size)) = (value(elf::DT_STRTAB), value(elf::DT_STRSZ)) else {
            return;
        };
        let strings = segments
            .iter()
            .find_map(|segment| segment.data_range(endian, data, address, size).ok()?);
        let Some(strings) = strings else { return };
        let string = |offset: u64| {
            let rest = strings.get(usize::try_from(offset).ok()?..)?;
            Some(text(rest.split(|byte| *byte == 0).next()?))
        };
        for entry in entries {
            let Some(value) = string(entry.d_val(endian)) else {
                continue;
            };
            match entry.d_tag(endian) {
                elf::DT_NEEDED => self.needed.push(value),
                elf::DT_RPATH | elf::DT_RUNPATH => {
                    self.search.extend(value.split(':').map(str::to_owned));
                }
                _ => {}
            }
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The libraries that the loader would not find for a program, its libraries'
/// libraries among them; each once, with who asks for it.
pub(super) fn missing(view: &View, program: &Path, elf: &Elf) -> Vec<(String, PathBuf)> {
    let configured = configured(view);
    let mut missing = Vec::new();
    let mut seen = BTreeSet::new();
    let mut ahead = VecDeque::from([(program.to_owned(), elf.clone())]);
    while let Some((object, elf)) = ahead.pop_front() {
        if let Some(interpreter) = &elf.interpreter
            && !view.exists(interpreter)
        {
            missing.push((interpreter.clone(), object.clone()));
        }
        let origin = object.parent().unwrap_or(Path::new("/"));
        let own = elf.search.iter().map(|place| {
            let origin = origin.display().to_string();
            let place = place.replace("${ORIGIN}", &origin);
            place.replace("$ORIGIN", &origin)
        });
        let places: Vec<String> = own
            .chain(configured.iter().cloned())
            .chain(USUAL.map(str::to_owned))
            .collect();
        for name in &elf.needed {
            if seen.len() >= MOST_OBJECTS || !seen.insert(name.clone()) {
                continue;
            }
            match find(view, &places, name) {
                Some((path, elf)) => ahead.push_back((path, elf)),
                None => missing.push((name.clone(), object.clone())),
            }
        }
    }
    missing
}

fn find(view: &View, places: &[String], name: &str) -> Option<(PathBuf, Elf)> {
    let at = |path: PathBuf| {
        let elf = read(view.open(&path).ok()?)?;
        elf.is_x86_64.then_some((path, elf))
    };
    if name.contains('/') {
        return at(PathBuf::from(name));
    }
    places
        .iter()
        .find_map(|place| at(Path::new(place).join(name)))
}

/// The directories of `/etc/ld.so.conf` and what it includes.
fn configured(view: &View) -> Vec<String> {
    let fragments = view.list("/etc/ld.so.conf.d");
    let fragments = fragments
        .iter()
        .filter(|name| name.strip_suffix(".conf").is_some())
        .map(|name| format!("/etc/ld.so.conf.d/{name}"));
    let files = ["/etc/ld.so.conf".to_owned()].into_iter().chain(fragments);
    let texts = files.filter_map(|file| view.text(file).ok());
    let lines = texts.flat_map(|text| {
        let lines = text.lines().map(|line| line.trim().to_owned());
        lines.collect::<Vec<String>>()
    });
    lines
        .filter(|line| line.starts_with('/'))
        .take(MOST_ENTRIES)
        .collect()
}
