//! The device model: which binary runs, and whether it can do what is wanted.

use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use crate::host::config::DEVICE_MODELS;

use super::ask::Answer;
use super::elf::{self, Elf};
use super::findings::{Check, Findings, Severity};
use super::host::Host;
use super::repair::Fix;
use super::text::quoted;
use super::view::{Facts, Kind};
use super::{Group, backups};

const PRESENT: Check = Check::broken(
    "device-model.present",
    "the program that is started in the end",
);
const EXECUTABLE: Check = Check::broken("device-model.executable", "its permissions");
const BINARY: Check = Check::broken(
    "device-model.binary",
    "whether it is a whole x86-64 program, and no script",
);
const LIBRARIES: Check = Check::broken(
    "device-model.libraries",
    "the libraries it needs, as ldd would find them",
);
const XEN: Check = Check::broken("device-model.xen", "whether it was built for Xen");
const RUNS: Check = Check::broken("device-model.runs", "whether it starts at all: -version");
const DEVICE: Check = Check::broken(
    "device-model.device",
    "whether it knows vgpu-stub or vfio-user-pci",
);
const CLASS_INTERFACE: Check = Check::broken(
    "device-model.class-interface",
    "whether each PCI device in it lists its bus, without which QEMU aborts",
);

pub(super) const GROUP: Group = Group {
    name: "device model",
    checks: &[
        &PRESENT,
        &EXECUTABLE,
        &BINARY,
        &LIBRARIES,
        &XEN,
        &RUNS,
        &CLASS_INTERFACE,
        &DEVICE,
    ],
    look,
};

/// How long it may take to say what it is.
const LIMIT: Duration = Duration::from_secs(10);
/// What is searched of a binary. QEMU's have some 10 to 30 MB.
const MOST: u64 = 256 << 20;

/// The device's names: ours, and that of QEMU's own client.
const SHIM: &str = "vgpu-stub";
const CLIENT: &str = "vfio-user-pci";

/// What a file says without being run.
#[derive(Debug)]
pub(super) struct Program {
    pub facts: Facts,
    /// Its first two bytes: `#!` of a script.
    head: Vec<u8>,
    pub elf: Option<Elf>,
    pub missing: Vec<(String, std::path::PathBuf)>,
    pub knows_xen: bool,
    pub knows_shim: bool,
    pub knows_client: bool,
}

impl Program {
    pub(super) fn read(host: &Host, path: &Path) -> io::Result<Program> {
        let facts = host.view.facts(path)?;
        if facts.kind != Kind::File {
            return Err(io::Error::other("is not a regular file"));
        }
        let head = host.view.read(path, 2)?;
        let elf = elf::read(host.view.open(path)?);
        let inside = host.view.name(path)?;
        let missing = match &elf {
            Some(elf) if elf.is_x86_64 => elf::missing(&host.view, &inside, elf),
            _ => Vec::new(),
        };
        let words = [
            format!("{SHIM}\0"),
            format!("{CLIENT}\0"),
            "xen-domid-restrict".to_owned(),
        ];
        let [knows_shim, knows_client, restricts] = contains(host.view.open(path)?, &words)?;
        let needs_xen = elf.as_ref().is_some_and(|elf| elf.needs("libxen"));
        Ok(Program {
            facts,
            head,
            knows_xen: needs_xen || (restricts && elf.is_some()),
            elf,
            missing,
            knows_shim,
            knows_client,
        })
    }

    /// It could be started under Xen.
    pub(super) fn is_good(&self) -> bool {
        let native = self.elf.as_ref().is_some_and(|elf| elf.is_x86_64);
        native && self.missing.is_empty() && self.knows_xen
    }

    /// As `ls -lh` has it.
    pub(super) fn described(&self) -> String {
        let Facts { mode, size, .. } = self.facts;
        format!(
            "{}.{} MB, mode {mode:04o}",
            size / 1_000_000,
            size / 100_000 % 10
        )
    }
}

/// Which of the words are in a stream; not more of it is held than a window.
fn contains<const N: usize>(mut stream: impl Read, words: &[String; N]) -> io::Result<[bool; N]> {
    const WINDOW: u64 = 1 << 20;
    let longest = words.iter().map(String::len).max().unwrap_or(0);
    let mut found = [false; N];
    let mut window = Vec::new();
    let mut read = 0;
    while read < MOST {
        let more = stream.by_ref().take(WINDOW).read_to_end(&mut window)?;
        if more == 0 {
            break;
        }
        read += WINDOW;
        for (word, found) in words.iter().zip(&mut found) {
            *found = *found || position(&window, word.as_bytes());
        }
        // A word may be across the edge.
        let keep = window.len().saturating_sub(longest);
        window.drain(..keep);
    }
    Ok(found)
}

fn position(bytes: &[u8], word: &[u8]) -> bool {
    let Some(first) = word.first() else {
        return true;
    };
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        if rest[at..].starts_with(word) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

fn look(host: &Host, findings: &mut Findings) {
    let path = host.device_model();
    let shown = path.display().to_string();
    if !host.is_whole() {
        for check in GROUP.checks {
            findings.skip(check, "only logs are here");
        }
        return;
    }
    let program = match Program::read(host, &path) {
        Ok(program) => program,
        Err(error) => {
            let finding = findings.found_in(&PRESENT, format!("{shown}: {error}"));
            backups::put_back(host, &path, finding);
            return;
        }
    };
    findings.ok(&PRESENT, format!("{shown}: {}", program.described()));
    executable(&path, &program, findings);
    binary(host, &path, &program, findings);
    let works = findings.worst_of("device-model.") < Some(Severity::Broken);
    let said = if works {
        ask(host, &path, findings)
    } else {
        None
    };
    device(host, &path, &program, said.as_deref(), findings);
}

fn executable(path: &Path, program: &Program, findings: &mut Findings) {
    if program.facts.is_executable() {
        findings.ok(&EXECUTABLE, format!("mode {:04o}", program.facts.mode));
        return;
    }
    let shown = path.display();
    let mode = program.facts.mode;
    findings
        .found_in(
            &EXECUTABLE,
            format!("{shown} has mode {mode:04o}: nobody may execute it"),
        )
        .remedy(format!("chmod 0755 {}", quoted(&path.to_string_lossy())))
        .fix(Fix::Chmod {
            path: path.to_owned(),
        });
}

fn binary(host: &Host, path: &Path, program: &Program, findings: &mut Findings) {
    let shown = path.display();
    let wrong = match &program.elf {
        _ if program.facts.size == 0 => Some("is empty"),
        _ if program.head == b"#!" => Some(
            "is a script: the wrapper executes a binary here, and scripts belong in front of it (upstream-compat-qemu-dm-wrapper)",
        ),
        None => Some(
            "is not a whole 64-bit ELF program: it was cut while it was copied, or is something else",
        ),
        Some(elf) if !elf.is_x86_64 => Some("is a program for another machine than x86-64"),
        Some(_) => None,
    };
    if let Some(wrong) = wrong {
        let finding = findings.found_in(&BINARY, format!("{shown} {wrong}"));
        backups::put_back(host, path, finding);
        return;
    }
    findings.ok(&BINARY, "ELF, x86-64");
    for (library, wanted_by) in &program.missing {
        let by = wanted_by.display();
        let finding = findings.found_in(
            &LIBRARIES,
            format!("{by} needs {library}, which is not found"),
        );
        let any = quoted(&format!("*/{library}"));
        finding
            .remedy(format!("yum provides {any}"))
            .advice("install what it names, or put the stock binary back:");
        backups::put_back(host, path, finding);
    }
    findings.ok(&LIBRARIES, "all found");
    if program.knows_xen {
        findings.ok(&XEN, "built for Xen");
    } else {
        let what = format!(
            "{shown} was built without Xen (it needs no libxen*): a generic QEMU cannot run a Xen guest"
        );
        backups::put_back(host, path, findings.found_in(&XEN, what));
    }
}

/// Runs it, with an end, and returns its devices.
fn ask(host: &Host, path: &Path, findings: &mut Findings) -> Option<String> {
    let shown = path.display();
    let version = host.ask.ask(path, &["-version"], LIMIT)?;
    let first = version.said.lines().next().unwrap_or_default().to_owned();
    if version.succeeded {
        findings.ok(&RUNS, &first);
    } else {
        let last = version.said.lines().last().unwrap_or("it said nothing");
        let what = format!("{shown} -version: {}: {last}", version.ended);
        backups::put_back(host, path, findings.found_in(&RUNS, what));
    }
    if let Some(accelerators) = host.ask.ask(path, &["-accel", "help"], LIMIT)
        && accelerators.succeeded
        && !accelerators.said.lines().any(|line| line.trim() == "xen")
    {
        let what = format!("{shown} -accel help does not name xen");
        backups::put_back(host, path, findings.found_in(&XEN, what));
    }
    // Classes are made only now.
    let devices = host.ask.ask(path, &["-device", "help"], LIMIT)?;
    if aborted_on_interface(&devices) {
        let what = format!(
            "{shown} aborts when it makes its devices: a PCI device in it lists neither INTERFACE_CONVENTIONAL_PCI_DEVICE nor INTERFACE_PCIE_DEVICE"
        );
        let finding = findings.found_in(&CLASS_INTERFACE, what);
        finding.advice("add to the device's TypeInfo: .interfaces = (InterfaceInfo[]) { { INTERFACE_CONVENTIONAL_PCI_DEVICE }, { } }, and build again; until then:");
        backups::put_back(host, path, finding);
    } else if devices.succeeded {
        findings.ok(&CLASS_INTERFACE, "-device help lists its devices");
        return Some(devices.said);
    } else {
        let what = format!("{shown} -device help: {}", devices.ended);
        backups::put_back(host, path, findings.found_in(&RUNS, what));
    }
    None
}

fn aborted_on_interface(answer: &Answer) -> bool {
    !answer.succeeded && answer.said.contains("conventional || pcie")
}

fn device(
    host: &Host,
    path: &Path,
    program: &Program,
    said: Option<&str>,
    findings: &mut Findings,
) {
    let (shim, client, how) = match said {
        Some(devices) => (
            devices.contains(&format!("name \"{SHIM}\"")),
            devices.contains(&format!("name \"{CLIENT}\"")),
            "-device help lists",
        ),
        None => (program.knows_shim, program.knows_client, "its strings have"),
    };
    if shim || client {
        let name = if shim { SHIM } else { CLIENT };
        findings.ok(&DEVICE, format!("{how} {name}"));
        return;
    }
    let severity = if host.is_wanted() {
        Severity::Broken
    } else {
        Severity::Warning
    };
    let shown = path.display();
    let finding = findings
        .found_in(&DEVICE, format!("{shown} knows neither {SHIM} nor {CLIENT}: a VM with the setting cannot have its device"));
    finding.severity(severity);
    if path == Path::new(DEVICE_MODELS[0]) {
        finding
            .remedy("rpm -Uvh --replacepkgs --replacefiles qemu-*vgpustub*.rpm   # built from qemu-patches/")
            .remedy(format!("{} -device help | grep vgpu-stub   # must print: name \"vgpu-stub\", bus PCI", quoted(&path.to_string_lossy())));
    } else {
        finding.advice("install a QEMU that has the vgpu-stub device (qemu-patches/) or vfio-user-pci (QEMU 10.1 or later)");
    }
    finding.remedy("xe vm-param-remove uuid=UUID param-name=platform param-key=vgpu-stub   # to start the VM without it");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_found_across_the_edge_of_a_window() {
        let mut bytes = vec![0; (1 << 20) - 4];
        bytes.extend_from_slice(b"vgpu-stub\0");
        let words = ["vgpu-stub\0".to_owned(), "absent".to_owned()];
        assert_eq!(contains(&bytes[..], &words).unwrap(), [true, false]);
    }
}
