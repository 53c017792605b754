//! The device that the device model knows is the one that it gets.

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
