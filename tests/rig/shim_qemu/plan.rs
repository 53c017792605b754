//! How each QEMU is made.

use std::fs;
use std::path::PathBuf;

use vgpu_stub::debian::Source;

use super::super::cache::io_failed;
use super::super::{RigError, process};
use super::libraries::Libraries;
use super::{OWN_TREE, Version, needs};

/// Everything that makes one QEMU.
pub(super) struct Plan {
    /// Its name in the cache, without a dot.
    pub(super) name: &'static str,
    /// The program that comes out.
    pub(super) program: &'static str,
    /// Arguments of `configure`.
    pub(super) options: Vec<&'static str>,
    /// Devices of QEMU's own to switch on.
    pub(super) devices: &'static [&'static str],
    /// Where the source comes from.
    pub(super) tree: Tree,
    /// What it is built with, if not with what this machine has.
    pub(super) libraries: Option<Libraries>,
}

/// A source tree before it is unpacked or copied.
pub(super) enum Tree {
    Debian(Source),
    Own(PathBuf),
}

/// The devices that tests of the rig and of the shim use.
const TEST_DEVICES: &[&str] = &["EDU", "ISA_DEBUG", "ISA_TESTDEV", "PCI_TESTDEV"];

/// And the speaker, which XCP-ng's lacks: no `pc` starts without it but under
/// Xen.
const OWN_TREE_DEVICES: &[&str] = &["EDU", "ISA_DEBUG", "ISA_TESTDEV", "PCI_TESTDEV", "PCSPK"];

impl Plan {
    pub(super) fn of(version: Version) -> Result<Self, RigError> {
        match version {
            Version::Debian5_2 => Self::debian_5_2(),
            Version::Debian10_0Xen => Self::debian_10_0_xen(),
            Version::Own => Self::own(),
        }
    }

    fn debian_5_2() -> Result<Self, RigError> {
        needs::check(&needs::LIBRARIES)?;
        Ok(Self {
            name: "bullseye",
            program: "qemu-system-x86_64",
            options: OPTIONS_5_2.to_vec(),
            devices: TEST_DEVICES,
            tree: Tree::Debian(Source::obtain("qemu", "bullseye", process::NEVER)?),
            libraries: None,
        })
    }

    fn debian_10_0_xen() -> Result<Self, RigError> {
        needs::check(&[])?;
        Ok(Self {
            name: "trixie-xen",
            program: "qemu-system-i386",
            options: OPTIONS_10_0_XEN.to_vec(),
            devices: &["I440FX"],
            tree: Tree::Debian(Source::obtain("qemu", "trixie", process::NEVER)?),
            libraries: Some(Libraries::obtain()?),
        })
    }

    fn own() -> Result<Self, RigError> {
        needs::check(&needs::LIBRARIES)?;
        let tree = std::env::var_os(OWN_TREE).map(PathBuf::from);
        let Some(tree) = tree.and_then(|tree| fs::canonicalize(tree).ok()) else {
            return Err(RigError::missing(
                "there is no tree of one's own",
                format!("{OWN_TREE} names no directory"),
                format!("set {OWN_TREE} to a source tree of QEMU"),
            ));
        };
        if tree.join("config-host.mak").exists() {
            return Err(RigError::failed(
                tree.display(),
                "was built in place; `make distclean` there, or give another",
            ));
        }
        let configure = tree.join("configure");
        let configure =
            fs::read_to_string(&configure).map_err(io_failed("cannot read", &configure))?;
        let mut options = OPTIONS_4_2.to_vec();
        if configure.contains(XCP_NG_ONLY) {
            needs::check(&[("xencontrol", "libxen-dev")])?;
            options.extend([XCP_NG_ONLY, "--enable-xen"]);
        } else {
            options.push("--disable-xen");
        }
        Ok(Self {
            name: "own",
            program: "qemu-system-i386",
            options,
            devices: OWN_TREE_DEVICES,
            tree: Tree::Own(tree),
            libraries: None,
        })
    }
}

/// Whatever would be found on this machine is switched off, so that the result
/// is the same everywhere and little is built.
const OPTIONS_5_2: &[&str] = &[
    "--target-list=x86_64-softmmu",
    "--without-default-devices",
    "--enable-tcg",
    "--enable-kvm",
    "--enable-seccomp",
    "--enable-vnc",
    "--disable-werror",
    "--disable-docs",
    "--disable-tools",
    "--disable-user",
    "--disable-guest-agent",
    "--disable-slirp",
    "--disable-capstone",
    "--disable-fdt",
    "--disable-gnutls",
    "--disable-nettle",
    "--disable-gcrypt",
    "--disable-curl",
    "--disable-bzip2",
    "--disable-lzo",
    "--disable-snappy",
    "--disable-zstd",
    "--disable-libusb",
    "--disable-usb-redir",
    "--disable-smartcard",
    "--disable-spice",
    "--disable-sdl",
    "--disable-gtk",
    "--disable-vte",
    "--disable-curses",
    "--disable-iconv",
    "--disable-opengl",
    "--disable-virglrenderer",
    "--disable-brlapi",
    "--disable-cap-ng",
    "--disable-attr",
    "--disable-virtfs",
    "--disable-vhost-net",
    "--disable-vhost-vsock",
    "--disable-vhost-scsi",
    "--disable-vhost-crypto",
    "--disable-vhost-kernel",
    "--disable-vhost-user",
    "--disable-rdma",
    "--disable-pvrdma",
    "--disable-libiscsi",
    "--disable-libnfs",
    "--disable-rbd",
    "--disable-glusterfs",
    "--disable-libssh",
    "--disable-libpmem",
    "--disable-libxml2",
    "--disable-linux-aio",
    "--disable-linux-io-uring",
    "--disable-numa",
    "--disable-tpm",
    "--disable-xen",
    "--disable-mpath",
    "--disable-live-block-migration",
    "--disable-replication",
    "--disable-vnc-sasl",
    "--disable-vnc-jpeg",
    "--disable-vnc-png",
    "--disable-bochs",
    "--disable-cloop",
    "--disable-dmg",
    "--disable-qcow1",
    "--disable-vdi",
    "--disable-vvfat",
    "--disable-qed",
    "--disable-parallels",
    "--disable-sheepdog",
    "--disable-crypto-afalg",
    "--disable-auth-pam",
    "--enable-trace-backends=log",
    "--audio-drv-list=",
    "--disable-libudev",
    "--disable-u2f",
    "--disable-libdaxctl",
    "--disable-keyring",
    "--disable-xkbcommon",
    "--disable-netmap",
    "--disable-vde",
    "--disable-debug-info",
    "--disable-vhost-vdpa",
    "--disable-membarrier",
    "--disable-malloc-trim",
];

/// As little as `xl` can start a guest with.
const OPTIONS_10_0_XEN: &[&str] = &[
    "--target-list=i386-softmmu",
    "--without-default-features",
    "--without-default-devices",
    "--enable-system",
    "--enable-xen",
    "--disable-tcg",
    "--enable-pixman",
    "--enable-vnc",
    "--enable-trace-backends=log",
    "--disable-werror",
    "--disable-docs",
    "--disable-debug-info",
    "--disable-install-blobs",
];

/// Only XCP-ng's QEMU has this option; and it does not compile without Xen.
const XCP_NG_ONLY: &str = "--disable-vgt";

/// XCP-ng's package with TCG, and without the libraries that a test does not
/// need. Its compiler was older: what it complains about is not looked at,
/// save in the shim.
const OPTIONS_4_2: &[&str] = &[
    "--target-list=i386-softmmu",
    "--without-default-devices",
    "--enable-tcg",
    "--enable-seccomp",
    "--enable-trace-backend=log",
    "--disable-werror",
    "--disable-kvm",
    "--disable-docs",
    "--disable-tools",
    "--disable-user",
    "--disable-guest-agent",
    "--disable-sdl",
    "--disable-curses",
    "--disable-curl",
    "--disable-gtk",
    "--disable-bzip2",
    "--disable-strip",
    "--disable-debug-info",
    "--disable-gnutls",
    "--disable-nettle",
    "--disable-gcrypt",
    "--disable-libusb",
    "--disable-vhost-net",
    "--disable-vhost-scsi",
    "--disable-vhost-vsock",
    "--disable-vhost-user",
    "--disable-vnc-sasl",
    "--disable-vnc-jpeg",
    "--disable-vnc-png",
    "--disable-lzo",
    "--disable-virtfs",
    "--disable-replication",
    "--disable-qom-cast-debug",
    "--disable-slirp",
    "--audio-drv-list=",
    "--disable-coroutine-pool",
    "--disable-live-block-migration",
    "--disable-bochs",
    "--disable-cloop",
    "--disable-dmg",
    "--disable-vvfat",
    "--disable-qed",
    "--disable-parallels",
    "--disable-sheepdog",
    "--disable-capstone",
    "--disable-fdt",
];
