//! Bare-metal guests: 32-bit multiboot images that `-kernel` boots.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::{NamedTempFile, TempDir, TempPath};

use super::cache::{self, io_failed};
use super::qemu::{DEBUG_PORT, EXIT_PORT};
use super::{RigError, process};

const COMPILE_LIMIT: Duration = Duration::from_secs(60);
const COMPILER_REMEDY: &str = "install the package gcc";

/// Without the host's headers, libraries, start files or defaults.
const FLAGS: [&str; 17] = [
    "-m32",
    "-march=i686",
    "-mgeneral-regs-only",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-ffreestanding",
    "-fno-pic",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-fcf-protection=none",
    "-nostdlib",
    "-static",
    "-no-pie",
    "-Wl,--build-id=none",
    "-Wl,-z,noexecstack",
];

/// A compiled guest.
#[derive(Debug, Clone)]
pub(crate) struct Guest(PathBuf);

impl Guest {
    /// Compiles all `.c` and `.S` files of a directory of this repository,
    /// such as `tests/guest`, with its one linker script (`*.ld`).
    pub(crate) fn build(directory: &str) -> Result<Self, RigError> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
        let mut files: Vec<PathBuf> = fs::read_dir(&directory)
            .map_err(io_failed("cannot read", &directory))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.is_file())
            .collect();
        files.sort();
        let mut arguments: Vec<String> = FLAGS.map(str::to_owned).to_vec();
        for path in &files {
            match path.extension().and_then(|kind| kind.to_str()) {
                Some("c" | "S") => arguments.push(path.display().to_string()),
                Some("ld") => arguments.push(format!("-Wl,-T,{}", path.display())),
                _ => {}
            }
        }
        compile("guest.elf", &arguments, &files).map(Self)
    }

    /// The image.
    pub(crate) fn image(&self) -> &Path {
        &self.0
    }
}

/// Compiles a program into the cache, unless the same files were compiled
/// with the same compiler and arguments before.
pub(crate) fn compile(
    name: &str,
    arguments: &[String],
    files: &[PathBuf],
) -> Result<PathBuf, RigError> {
    let mut version = Command::new("cc");
    let version = process::run(version.arg("--version"), COMPILE_LIMIT, COMPILER_REMEDY)?;
    let contents = files
        .iter()
        .map(|path| fs::read(path).map_err(io_failed("cannot read", path)))
        .collect::<Result<Vec<_>, _>>()?;
    let home = cache::directory()?.join("compiled");
    let kept = home.join(cache::key((version, arguments, files, contents)));
    let program = kept.join(name);
    if program.exists() {
        return Ok(program);
    }
    fs::create_dir_all(&home).map_err(io_failed("cannot make", &home))?;
    let work = TempDir::new_in(&home).map_err(io_failed("cannot make a directory in", &home))?;
    let mut cc = Command::new("cc");
    cc.args(arguments).arg("-o").arg(work.path().join(name));
    process::run(&mut cc, COMPILE_LIMIT, COMPILER_REMEDY)?;
    // Renamed as a whole. If another process was faster, its result will do.
    let renamed = fs::rename(work.path(), &kept);
    if program.exists() {
        return Ok(program);
    }
    renamed.map_err(io_failed("cannot rename to", &kept))?;
    Ok(program)
}

/// What the trivial guest writes to isa-debug-exit.
pub(crate) const TRIVIAL_CODE: u8 = 0x2a;

/// What the trivial guest writes to the debug console.
pub(crate) const TRIVIAL_TEXT: &str = "up";

/// The smallest guest: it says [`TRIVIAL_TEXT`] and exits. It shows that an
/// accelerator works, without a compiler.
pub(crate) fn trivial() -> Result<TempPath, RigError> {
    let failed = |error| RigError::failed("cannot write the trivial guest", error);
    let mut file = NamedTempFile::new().map_err(failed)?;
    file.write_all(&trivial_image()).map_err(failed)?;
    Ok(file.into_temp_path())
}

/// A flat image whose multiboot header tells where to load it
/// (Multiboot 0.6.96, 3.1).
fn trivial_image() -> Vec<u8> {
    const MAGIC: u32 = 0x1bad_b002;
    const ADDRESSES_GIVEN: u32 = 1 << 16;
    const LOAD: u32 = 0x10_0000;
    const HEADER: u32 = 32;
    let mut code = Vec::new();
    for byte in format!("{TRIVIAL_TEXT}\n").bytes() {
        code.extend([0xb0, byte, 0xe6, DEBUG_PORT]); // mov al, byte; out port, al
    }
    code.extend([0xb0, TRIVIAL_CODE, 0xe6, EXIT_PORT]);
    code.extend([0xf4, 0xeb, 0xfd]); // hlt; jmp to it
    let checksum = 0u32.wrapping_sub(MAGIC.wrapping_add(ADDRESSES_GIVEN));
    let header = [MAGIC, ADDRESSES_GIVEN, checksum, LOAD, LOAD, 0, 0];
    let header = header.into_iter().chain([LOAD + HEADER]);
    header.flat_map(u32::to_le_bytes).chain(code).collect()
}
