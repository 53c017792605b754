//! What goes wrong, as the logs say it, and what it means.

use super::findings::Check;

pub(super) const CLASS_INTERFACE: Check = Check::broken(
    "log.class-interface",
    "QEMU aborts: a PCI device that lists no bus",
);
pub(super) const CLASS_WIDTH: Check =
    Check::warning("log.class-width", "a class_id of 24 bits in a field of 16");
const UNKNOWN_DEVICE: Check = Check::broken("log.unknown-device", "QEMU does not know the device");
const PROPERTY: Check = Check::broken(
    "log.property",
    "QEMU does not know a property of the device, or not its value",
);
const SLOT: Check = Check::broken("log.slot", "the device's PCI slot is taken");
const LIBRARY: Check = Check::broken("log.library", "the device model lacks a library");
const ACCELERATOR: Check = Check::broken("log.accelerator", "the device model cannot do Xen");
const SANDBOX: Check = Check::broken("log.sandbox", "QEMU's sandbox killed it (SIGSYS)");
const MEMORY: Check = Check::broken("log.out-of-memory", "dom0 ran out of memory");
const CRASH: Check = Check::broken("log.crash", "QEMU or the server crashed");
const PERMISSION: Check =
    Check::broken("log.permission", "something may not be opened or executed");
const SERVER: Check = Check::broken(
    "log.server",
    "the wrapper or the shim could not reach a server",
);
const FILE: Check = Check::broken("log.file", "a file is missing");
const DRIVE: Check = Check::broken("log.drive", "a drive's userdevice is refused");
const WRAPPER: Check = Check::broken("log.wrapper", "the stock wrapper failed");
const TOOLSTACK: Check = Check::broken("log.toolstack", "xenopsd does not find what it executes");

/// What to do about it; UUID is the VM's.
pub(super) enum Remedy {
    Type(&'static str),
    Do(&'static str),
}

use Remedy::{Do, Type};

/// A way to fail.
pub(super) struct Cause {
    pub check: &'static Check,
    /// It explains itself; others are what follows from something.
    pub strong: bool,
    /// One of these, with all its words.
    words: &'static [&'static [&'static str]],
    pub means: &'static str,
    pub remedy: &'static [Remedy],
}

/// The rows of the causes.
pub(super) const CHECKS: [&Check; 16] = [
    &CLASS_INTERFACE,
    &CLASS_WIDTH,
    &UNKNOWN_DEVICE,
    &PROPERTY,
    &SLOT,
    &LIBRARY,
    &ACCELERATOR,
    &SANDBOX,
    &MEMORY,
    &CRASH,
    &PERMISSION,
    &SERVER,
    &FILE,
    &DRIVE,
    &WRAPPER,
    &TOOLSTACK,
];

/// The first that fits a line counts.
const CAUSES: [Cause; 17] = [
    Cause {
        check: &CLASS_INTERFACE,
        strong: true,
        words: &[
            &["conventional || pcie"],
            &["INTERFACE_CONVENTIONAL_PCI_DEVICE"],
        ],
        means: "a PCI device in this QEMU lists neither INTERFACE_CONVENTIONAL_PCI_DEVICE nor INTERFACE_PCIE_DEVICE in its TypeInfo, so that QEMU aborts before it does anything",
        remedy: &[
            Do(
                "add to the device's TypeInfo: .interfaces = (InterfaceInfo[]) { { INTERFACE_CONVENTIONAL_PCI_DEVICE }, { } }, and build again",
            ),
            Do(
                "until then put the stock binary back: see device-model.class-interface and backup.found",
            ),
        ],
    },
    Cause {
        check: &CLASS_WIDTH,
        strong: false,
        words: &[
            &["class_id", "overflow"],
            &["class_id", "truncated"],
            &["class_id", "changes value"],
            &["0x120000", "overflow"],
            &["0x120000", "truncated"],
            &["0x120000", "changes value"],
            &["[0000]", "[1af4:1111]"],
        ],
        means: "class_id has 16 bits: the class and the subclass, without the programming interface",
        remedy: &[Do(
            "write k->class_id = 0x1200 (not 0x120000) in the device, and build again",
        )],
    },
    Cause {
        check: &UNKNOWN_DEVICE,
        strong: true,
        words: &[
            &["is not a valid device model name"],
            &["is not a valid device model"],
        ],
        means: "the QEMU that runs was built without the device",
        remedy: &[
            Type("rpm -q qemu; /usr/lib64/xen/bin/qemu-system-i386 -device help | grep vgpu-stub"),
            Type("rpm -Uvh --replacepkgs --replacefiles qemu-*vgpustub*.rpm"),
        ],
    },
    Cause {
        check: &SLOT,
        strong: true,
        words: &[
            &["PCI: slot", "not available for"],
            &["PCI: no slot/function available"],
            &["is taken by QEMU's"],
        ],
        means: "another device has this PCI slot",
        remedy: &[
            Do("choose a free slot from 0xc on:"),
            Type("xe vm-param-set uuid=UUID platform:vgpu-stub=stub,addr=0xd"),
        ],
    },
    Cause {
        check: &PROPERTY,
        strong: true,
        words: &[
            &["Property", "vgpu-stub", "not found"],
            &["Property", "doesn't take value"],
            &["vgpu-stub", "Parameter", "expects"],
        ],
        means: "wrapper and shim are of different versions, or a -device was written by hand",
        remedy: &[Type(
            "rpm -q vgpu-stub qemu   # install both of one release",
        )],
    },
    Cause {
        check: &LIBRARY,
        strong: true,
        words: &[
            &["error while loading shared libraries"],
            &["symbol lookup error"],
            &["version `GLIBC", "not found"],
        ],
        means: "the device model was built for another host",
        remedy: &[
            Do("put the stock binary back: see backup.found"),
            Do("or build it in XCP-ng's build environment: qemu-patches/README.md"),
        ],
    },
    Cause {
        check: &ACCELERATOR,
        strong: true,
        words: &[
            &["invalid accelerator xen"],
            &["No accelerator found"],
            &["unsupported machine type"],
            &["invalid option", "xen-domid"],
            &["Option not supported for this target"],
        ],
        means: "a generic QEMU without Xen, or with other machine types, was put in the place of the stock one",
        remedy: &[Do("put the stock binary back: see backup.found")],
    },
    Cause {
        check: &SANDBOX,
        strong: true,
        words: &[
            &["type=SECCOMP", "qemu"],
            &["type=1326", "qemu"],
            &["type=SECCOMP", "sig=31"],
            &["type=1326", "sig=31"],
            &["qemu-dm", "detected signal=31"],
            &["Bad system call"],
        ],
        means: "QEMU made a system call that its sandbox (-sandbox) forbids; syscall= in the line is its number",
        remedy: &[
            Do("report it with this line; until then, without the device:"),
            Type("xe vm-param-remove uuid=UUID param-name=platform param-key=vgpu-stub"),
        ],
    },
    Cause {
        check: &MEMORY,
        strong: true,
        words: &[
            &["Out of memory: Kill"],
            &["Memory cgroup out of memory"],
            &["oom-kill", "qemu"],
            &["oom-kill", "vgpu-stub"],
            &["cannot set up guest memory"],
        ],
        means: "the kernel killed a process for memory",
        remedy: &[
            Do("if it was vgpu-stub: raise MEMORY_MAX in /etc/sysconfig/vgpu-stub"),
            Do("else give dom0 more, and reboot the host:"),
            Type("/opt/xensource/libexec/xen-cmdline --set-xen dom0_mem=8192M,max:8192M"),
        ],
    },
    Cause {
        check: &CRASH,
        strong: true,
        words: &[
            &["Assertion `", "failed"],
            &["qemu", "segfault at"],
            &["vgpu-stub", "segfault at"],
            &["qemu", "general protection"],
            &["panicked at"],
        ],
        means: "a program crashed",
        remedy: &[
            Do("start the VM once without the device, to see whose it is:"),
            Type("xe vm-param-remove uuid=UUID param-name=platform param-key=vgpu-stub"),
        ],
    },
    Cause {
        check: &TOOLSTACK,
        strong: true,
        words: &[&["Cannot access /"], &["Failed to find", "search_path"]],
        means: "the path in xenopsd's configuration is wrong",
        remedy: &[
            Do("put right what wrapper.path says, then:"),
            Type("xe-toolstack-restart"),
        ],
    },
    Cause {
        check: &DRIVE,
        strong: true,
        words: &[
            &["INVALID_DEVICE"],
            &["invalid_device"],
            &["Unknown device number"],
        ],
        means: "a drive's userdevice is not one that xapi knows",
        remedy: &[
            Type("xe vbd-list vm-uuid=UUID params=uuid,type,userdevice"),
            Type("xe vm-cd-add uuid=UUID cd-name=ISO device=3   # a CD drive's is a number"),
        ],
    },
    Cause {
        check: &PERMISSION,
        strong: true,
        words: &[
            &["PermissionError"],
            &["qemu", "Permission denied"],
            &["vgpu-stub", "Permission denied"],
            &["Exec format error"],
        ],
        means: "a program or a socket is there, but may not be used",
        remedy: &[Type(
            "ls -lZ PATH   # what the line names; a program has mode 0755",
        )],
    },
    Cause {
        check: &SERVER,
        strong: true,
        words: &[
            &["vgpu-stub: "],
            // The wrapper's log.
            &["vgpu-stub[", "]: domain "],
            &["vgpu-stub[", "]: no domain"],
            &["vfio-user-pci", "ailed"],
            &["failed to connect", "vgpu-stub"],
            &["Failed to connect", "vgpu-stub"],
        ],
        means: "the device's own words",
        remedy: &[Type("journalctl -u 'vgpu-stub-dom-*'")],
    },
    Cause {
        check: &FILE,
        strong: true,
        words: &[
            &["FileNotFoundError"],
            &["Could not open"],
            &["could not open"],
            &["could not load"],
            &["ailed to connect"],
            &["ailed to get \"write\" lock"],
        ],
        means: "something that the VM needs is not there",
        remedy: &[Type(
            "xe vbd-list vm-uuid=UUID   # an ISO that is gone: xe vm-cd-eject uuid=UUID",
        )],
    },
    Cause {
        check: &WRAPPER,
        strong: false,
        words: &[
            &["qemu-dm", "Traceback (most recent call last)"],
            &["qemu-wrapper", "Traceback"],
            &["qemu-dm", "Error: "],
        ],
        means: "the stock wrapper, a Python script, ended with an error",
        remedy: &[Do("the lines after this one say which")],
    },
    Cause {
        check: &CRASH,
        strong: false,
        words: &[
            &["qemu-pid=", "detected signal="],
            &["qemu-pid=", "detected exit=1"],
            &["qemu-dm", "unexpected exit with code"],
        ],
        means: "QEMU ended by itself",
        remedy: &[Do(
            "the newest /var/log/xen/qemu-dm-*.log and daemon.log may say why",
        )],
    },
];

/// The way to fail that a line tells of.
pub(super) fn of(text: &str) -> Option<&'static Cause> {
    // What is about to be started has many words of many kinds in it; and all
    // is well with a server that is ready.
    const WELL: [&str; 5] = [
        "Starting daemon: ",
        "qemu args: [",
        "]: Arguments: ",
        "]: Exec: ",
        "server ready after",
    ];
    if WELL.iter().any(|words| text.contains(words)) {
        return None;
    }
    let says = |words: &&[&str]| words.iter().all(|word| text.contains(word));
    CAUSES.iter().find(|cause| cause.words.iter().any(says))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_has_a_cause_and_each_cause_a_row() {
        for check in CHECKS {
            assert!(
                CAUSES.iter().any(|cause| cause.check == check),
                "{}",
                check.id
            );
        }
        for cause in &CAUSES {
            assert!(CHECKS.contains(&cause.check), "{}", cause.check.id);
        }
    }
}
