//! QEMU with the shim builds, from whatever source it comes.

mod rig;

use rig::shim_qemu::{Version, needs, obtain};
use rig::{RigError, or_skip};

#[test]
fn the_qemu_under_test_has_the_shim_and_what_tests_use() {
    let Some(qemu) = or_skip(obtain(Version::under_test())) else {
        return;
    };
    for device in ["vgpu-stub", "edu", "pci-testdev", "isa-debug-exit"] {
        assert!(qemu.has_device(device).unwrap(), "{device}");
    }
    assert!(qemu.has_machine("pc").unwrap());
}

#[test]
fn the_device_model_of_debian_13_has_the_shim() {
    let Some(qemu) = or_skip(obtain(Version::Debian10_0Xen)) else {
        return;
    };
    assert!(qemu.has_device("vgpu-stub").unwrap());
    assert!(qemu.version() >= (10, 0, 0));
}

#[test]
fn what_is_missing_is_named_with_its_package() {
    let reason = needs::check(&[("no-such-library", "libno-such-dev")]).unwrap_err();
    assert!(matches!(reason, RigError::Missing { .. }), "{reason}");
    let text = reason.to_string();
    assert!(text.starts_with("cannot build QEMU: "), "{text}");
    assert!(text.contains("apt-get install"), "{text}");
    assert!(text.ends_with("libno-such-dev"), "{text}");
}
