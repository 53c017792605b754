//! The device that the device model knows is the one that it gets, unless
//! another way is wanted or a better one works.

use std::fs;

use super::host::Host;

#[test]
fn a_device_model_is_asked_once_and_again_when_it_has_changed() {
    let host = Host::new();
    host.ask(7, "true");
    let model = |device: &str| {
        let text =
            format!("#!/bin/sh\necho \"$@\" >> \"$0.asked\"\necho 'name \"{device}\", bus PCI'\n");
        host.script("model", &text);
    };
    model("vfio-user-pci");
    for _ in 0..2 {
        let added = host.started(7).argv.pop().unwrap();
        assert!(
            added
                .to_str()
                .unwrap()
                .contains("\"driver\":\"vfio-user-pci\""),
            "{added:?}"
        );
    }
    let asked = fs::read_to_string(host.path("model.asked")).unwrap();
    assert_eq!(asked, "-device help\n");
    model("vgpu-stub");
    let added = host.started(7).argv.pop().unwrap();
    assert!(
        added.to_str().unwrap().starts_with("vgpu-stub,"),
        "{added:?}"
    );
}

#[test]
fn a_device_model_without_the_device_is_said_so() {
    let host = Host::new();
    host.ask(7, "true");
    host.script("model", "#!/bin/sh\necho 'name \"edu\", bus PCI'\n");
    let said = host.fails(7);
    assert!(
        said.contains("model knows neither vgpu-stub nor vfio-user-pci"),
        "{said}"
    );
    host.script(
        "model",
        "#!/bin/sh\necho 'libfoo.so.1: not found' >&2; exit 127\n",
    );
    let said = host.fails(7);
    assert!(
        said.contains("model -device help: libfoo.so.1: not found"),
        "{said}"
    );
}

#[test]
fn a_device_model_that_hangs_is_given_up() {
    let mut host = Host::new();
    host.ask(7, "true");
    host.set("START_TIMEOUT", "1");
    host.script("model", "#!/bin/sh\nexec sleep 600\n");
    let said = host.fails(7);
    assert!(said.contains("model -device help: timed out"), "{said}");
}

/// A device model with both devices.
const BOTH: &str =
    "#!/bin/sh\necho 'name \"vgpu-stub\", bus PCI'; echo 'name \"vfio-user-pci\", bus PCI'\n";

fn added(host: &Host) -> String {
    host.started(7).argv.pop().unwrap().into_string().unwrap()
}

#[test]
fn the_face_that_is_asked_for_is_taken_or_none() {
    let mut host = Host::new();
    host.script("model", BOTH);
    host.ask(7, "true");
    assert!(added(&host).starts_with("vgpu-stub,"));
    host.ask(7, "stub,face=vfio-user");
    assert!(added(&host).contains("\"driver\":\"vfio-user-pci\""));
    // The host's choice, and the VM's, which comes first.
    host.set("FACE", "vfio-user");
    host.ask(7, "true");
    assert!(added(&host).contains("\"driver\":\"vfio-user-pci\""));
    host.ask(7, "stub,face=auto");
    assert!(added(&host).starts_with("vgpu-stub,"));
    assert!(host.log().contains("; face vfio-user\n"), "{}", host.log());

    let host = Host::new();
    host.ask(7, "stub,face=vfio-user");
    let said = host.fails(7);
    assert!(said.contains("model does not know vfio-user-pci"), "{said}");
}

#[test]
fn past_qemu_or_not_at_all_is_said_in_one_line() {
    let host = Host::new();
    host.ask(7, "stub,face=ioreq");
    let said = host.fails(7);
    assert!(said.contains("/xen/privcmd: No such file"), "{said}");
    assert!(!host.domain(7).exists());
    // Nor was the device model asked.
    assert!(!host.path("run/face").exists());
    host.ask(7, "stub,face=ioreq,on-failure=continue");
    assert_eq!(host.started(7).argv.len(), 4);
}

#[test]
fn what_stands_in_the_way_past_qemu_is_in_the_log_and_the_vm_starts() {
    let host = Host::new();
    host.ask(7, "true");
    fs::create_dir(host.path("xen")).unwrap();
    for name in ["privcmd", "evtchn"] {
        fs::write(host.path("xen").join(name), "").unwrap();
    }
    let output = host.start(7);
    assert!(output.status.success());
    // It is no trouble to anyone.
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let why = "is not /dev/xen/privcmd";
    let log = host.log();
    let line = log.lines().find(|line| line.contains(why));
    let line = line.unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains("; face shim, not ioreq: "), "{line}");
    let argv = host.recorded().argv;
    assert!(
        argv.last()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("vgpu-stub,")
    );
    // The doctor reads it here.
    let face = fs::read_to_string(host.domain(7).join("face")).unwrap();
    assert!(face.starts_with("shim\n") && face.contains(why), "{face}");
}
