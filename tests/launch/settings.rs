//! Settings and configurations that mean nothing stop the VM with one line.

use super::host::Host;

#[test]
fn a_setting_that_means_nothing_is_refused_by_name() {
    let long = "a".repeat(4000);
    for (value, why) in [
        ("yes please", "has a character"),
        ("stub;touch /tmp/owned", "has a character"),
        ("$(touch /tmp/owned)", "has a character"),
        ("stub,vectors=\"2\"", "has a character"),
        ("stub\ntrue", "has a character"),
        ("true\0", "has a character"),
        ("gpu", "there is no device 'gpu'"),
        ("stub,colour=red", "'colour=red' is not known"),
        ("stub,socket-path=x", "'socket-path=x' is not known"),
        ("stub,vectors=65", "out of range"),
        ("stub,addr=0x99", "is not a PCI slot"),
        (&long, "has 4000 bytes"),
    ] {
        let host = Host::new();
        host.ask(7, value);
        let said = host.fails(7);
        let from = "domain 7: /local/domain/7/platform/vgpu-stub: ";
        assert!(said.contains(from), "{said}");
        assert!(said.contains(why), "{value:?}: {said}");
        assert!(said.len() < 400, "{said}");
        assert!(
            said.trim_end().chars().all(|c| (' '..='~').contains(&c)),
            "{said:?}"
        );
    }
}

#[test]
fn a_setting_that_is_no_text_is_refused() {
    let host = Host::new();
    let key = "/local/domain/7/vm-data/vgpu-stub";
    host.store.set(key, b"\xff\x1b[2J\xfe");
    let said = host.fails(7);
    assert!(said.contains(&format!("{key}: '")), "{said}");
    assert!(!said.contains('\x1b'), "{said:?}");
}

#[test]
fn where_the_host_says_so_a_bad_setting_means_no_device() {
    let mut host = Host::new();
    host.set("ON_FAILURE", "continue");
    host.ask(7, "gpu");
    assert_eq!(host.started(7).argv.len(), 4);
    assert!(host.log().contains("no device 'gpu'"), "{}", host.log());
}

#[test]
fn a_broken_configuration_stops_a_vm_with_the_device() {
    for (key, value, why) in [
        ("COLOUR", "red", "config:8: there is no key 'COLOUR'"),
        ("ADDR", "0x99", "config:8: ADDR=0x99 is not a PCI slot"),
        ("START_TIMEOUT", "4 ", "START_TIMEOUT=4 \n"),
        (
            "ON_FAILURE",
            "\"continue\"",
            "write the value without quotes",
        ),
    ] {
        let mut host = Host::new();
        host.set(key, value);
        host.ask(7, "true");
        if value.ends_with(' ') {
            // What nobody sees does not count.
            host.started(7);
            continue;
        }
        let said = host.fails(7);
        assert!(said.contains(why), "{said}");
    }
}
