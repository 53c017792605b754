//! Just enough of QEMU 4.2.1 with XCP-ng's patches, and of its package, for
//! our patches to find their places.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The files that our patches change, and the lines around the places.
pub(crate) const FILES: [(&str, &str); 5] = [
    (
        "MAINTAINERS",
        "M: Jiri Slaby <jslaby@suse.cz>\nS: Maintained\nF: hw/misc/edu.c\n\n\
         IDE\nM: John Snow <jsnow@redhat.com>\nL: qemu-block@nongnu.org\nS: Supported\n",
    ),
    (
        "hw/misc/Kconfig",
        "config PCA9552\n    bool\n    depends on I2C\n\n\
         config PL310\n    bool\n\nconfig INTEGRATOR_DEBUG\n    bool\n",
    ),
    (
        "hw/misc/Makefile.objs",
        "common-obj-$(CONFIG_PCI_TESTDEV) += pci-testdev.o\n\
         common-obj-$(CONFIG_EDU) += edu.o\n\
         common-obj-$(CONFIG_PCA9552) += pca9552.o\n\n\
         common-obj-$(CONFIG_UNIMP) += unimp.o\n\
         common-obj-$(CONFIG_FW_CFG_DMA) += vmcoreinfo.o\n",
    ),
    (
        "hw/misc/trace-events",
        concat!(
            "bcm2835_mbox_read(unsigned int size, uint64_t addr, uint64_t value) ",
            "\"mbox read sz:%u addr:0x%\"PRIx64\" data:0x%\"PRIx64\n",
            "bcm2835_mbox_irq(unsigned level) \"mbox irq:ARM level:%u\"\n",
            "bcm2835_mbox_property(uint32_t tag, uint32_t bufsize, size_t resplen) ",
            "\"mbox property tag:0x%08x in_sz:%u out_sz:%zu\"\n",
        ),
    ),
    (
        "default-configs/i386-softmmu.mak",
        "CONFIG_USB_TABLET_WACOM=y\nCONFIG_USB_UHCI=y\nCONFIG_VGA_CIRRUS=y\nCONFIG_VGA_PCI=y\n",
    ),
];

/// A spec file whose lines that the change touches are XCP-ng's.
const SPEC: &str = "\
%global xsver 5.2.15
%global xsrel %{xsver}%{?xscount}%{?xshash}

Summary: qemu-dm device model
Name: qemu
Epoch: 2
Version: 4.2.1
Release: %{?xsrel}.2%{?dist}
License: GPL
Source0: qemu-4.2.1.tar.gz

# XCP-ng patches
Patch1007: 0007-apic-disable-reentrancy-detection-for-apic-msi.patch

BuildRequires: gcc

%description
This package contains Qemu.

%prep
%autosetup -p1

%build

%changelog
* Thu Jan 08 2026 Thierry Escande <thierry.escande@vates.tech> - 4.2.1-5.2.15.2
- Backport fixes for CVE-2021-3929
";

/// Stands for all of XCP-ng's patches.
const LAST_PATCH: &str = "--- /dev/null\n+++ b/last\n@@ -0,0 +1 @@\n+last\n";

/// Writes `SPECS` and `SOURCES` of the package into a directory.
pub(crate) fn write_package(top: &Path) {
    let [sources, specs, tree] = ["SOURCES", "SPECS", "qemu-4.2.1"].map(|name| top.join(name));
    for directory in [&sources, &specs] {
        fs::create_dir(directory).unwrap();
    }
    fs::write(specs.join("qemu.spec"), SPEC).unwrap();
    let last = SPEC
        .lines()
        .find_map(|line| line.strip_prefix("Patch1007: "));
    fs::write(sources.join(last.unwrap()), LAST_PATCH).unwrap();
    for (file, lines) in FILES {
        let path = tree.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, lines).unwrap();
    }
    let mut pack = Command::new("tar");
    pack.arg("-czf").arg(sources.join("qemu-4.2.1.tar.gz"));
    let status = pack.arg("-C").arg(top).arg("qemu-4.2.1").status();
    assert!(status.unwrap().success());
}
