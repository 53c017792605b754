//! The .deb.

use std::path::Path;

use crate::built::{ask, deb};
use crate::installed;
use crate::rig::or_skip;
use crate::root::Root;

#[test]
fn each_file_of_the_deb_has_its_place_mode_and_owner() {
    let Some(deb) = or_skip(deb()) else { return };
    let listed = ask("dpkg-deb", &["-c"], &deb);
    for (mode, name) in [
        ("-rwxr-xr-x", "./usr/bin/vgpu-stub"),
        ("-rw-r--r--", "./etc/default/vgpu-stub"),
        ("-rw-r--r--", "./etc/logrotate.d/vgpu-stub"),
        ("-rw-r--r--", "./usr/lib/systemd/system/vgpu-stub@.service"),
        ("-rw-r--r--", "./usr/lib/systemd/system/vgpu-stub@.socket"),
        ("-rw-r--r--", "./usr/lib/tmpfiles.d/vgpu-stub.conf"),
        (
            "-rw-r--r--",
            "./usr/share/zsh/vendor-completions/_vgpu-stub",
        ),
        ("-rw-r--r--", "./usr/share/vfio-user/50-vgpu-stub.json"),
        ("-rw-r--r--", "./usr/share/doc/vgpu-stub/copyright"),
        ("-rw-r--r--", "./usr/share/doc/vgpu-stub/launch.md"),
        ("drwxr-x---", "./var/log/vgpu-stub/"),
    ] {
        let found = listed
            .lines()
            .find(|line| line.split_whitespace().last() == Some(name));
        assert!(
            found.is_some_and(|line| line.starts_with(mode)),
            "{name}\n{listed}"
        );
    }
    let link = "./usr/libexec/vgpu-stub/qemu-wrapper -> ../../bin/vgpu-stub";
    assert!(listed.contains(link), "{listed}");
    for line in listed.lines() {
        assert!(line.contains(" root/root "), "{line}");
    }
    assert!(!listed.contains("xenopsd"), "{listed}");
}

#[test]
fn the_deb_says_what_it_is_and_needs() {
    let Some(deb) = or_skip(deb()) else { return };
    let field = |name: &str| {
        ask("dpkg-deb", &["-f"], &deb)
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned))
    };
    let version = concat!(env!("CARGO_PKG_VERSION"), "-1");
    assert_eq!(field("Version").as_deref(), Some(version));
    assert_eq!(field("Depends").as_deref(), Some("adduser"));
    assert_eq!(
        field("Homepage").as_deref(),
        Some(env!("CARGO_PKG_REPOSITORY"))
    );
    let size: u32 = field("Installed-Size").unwrap().parse().unwrap();
    assert!((1_000..10_000).contains(&size), "{size}");
}

#[test]
fn a_deb_installs_starts_and_goes_without_a_trace() {
    let Some(deb) = or_skip(deb()) else { return };
    let Some(root) = or_skip(Root::new()) else {
        return;
    };
    let before = root.files();

    root.dpkg(&["-i"], &[&deb]);
    assert_eq!(
        root.calls(),
        [
            "adduser --quiet --system --group --no-create-home --home /nonexistent \
             --gecos vgpu-stub devices vgpu-stub",
            "systemd-tmpfiles --create vgpu-stub.conf",
            "systemctl daemon-reload",
        ]
    );
    installed::works(&root, "etc/default/vgpu-stub");
    installed::bash_completes(&root);

    root.dpkg(&["-P"], &[Path::new("vgpu-stub")]);
    assert_eq!(
        root.calls(),
        [
            "systemctl --no-reload disable vgpu-stub@.socket",
            "systemctl stop vgpu-stub@*.socket vgpu-stub@*.service",
            "systemctl daemon-reload",
            "rm -rf /var/log/vgpu-stub",
            "systemctl daemon-reload",
        ]
    );
    assert_eq!(root.files(), before);
}
