//! The RPMs.

use std::fs;
use std::path::Path;

use crate::built::{ask, rpms};
use crate::installed;
use crate::rig::or_skip;
use crate::root::Root;

/// Features of rpm's format that the rpm 4.11 of XCP-ng 8.3 knows.
const OLD_FEATURES: [&str; 4] = [
    "CompressedFileNames",
    "FileDigests",
    "PayloadFilesHavePrefix",
    "PayloadIsXz",
];

/// Mode, owner, flags and name of each file; `c` is a configuration file,
/// `n` one that is kept if it was changed, `g` one that is not in the package.
fn files(package: &Path) -> String {
    let format = "[%{FILEMODES:perms} %{FILEUSERNAME}:%{FILEGROUPNAME} \
        %{FILEFLAGS:fflags} %{FILENAMES}\\n]";
    ask("rpm", &["-qp", "--qf", format], package)
}

#[test]
fn each_file_of_the_rpm_has_its_place_mode_and_owner() {
    let Some(rpms) = or_skip(rpms()) else { return };
    let listed = files(&rpms.main);
    for line in [
        "-rwxr-xr-x root:root  /usr/bin/vgpu-stub",
        "lrwxrwxrwx root:root  /usr/libexec/vgpu-stub/qemu-wrapper",
        "-rw-r--r-- root:root cn /etc/sysconfig/vgpu-stub",
        "-rw-r--r-- root:root cn /etc/logrotate.d/vgpu-stub",
        "-rw-r--r-- root:root  /usr/lib/systemd/system/vgpu-stub@.service",
        "-rw-r--r-- root:root  /usr/lib/systemd/system/vgpu-stub@.socket",
        "-rw-r--r-- root:root  /usr/lib/tmpfiles.d/vgpu-stub.conf",
        "-rw-r--r-- root:root  /usr/share/bash-completion/completions/vgpu-stub",
        "-rw-r--r-- root:root  /usr/share/zsh/site-functions/_vgpu-stub",
        "-rw-r--r-- root:root  /usr/share/fish/vendor_completions.d/vgpu-stub.fish",
        "-rw-r--r-- root:root d /usr/share/man/man1/vgpu-stub-serve.1.gz",
        "-rw-r--r-- root:root  /usr/share/vfio-user/50-vgpu-stub.json",
        "-rw-r--r-- root:root d /usr/share/doc/vgpu-stub/xcp-ng.md",
        "-rw-r--r-- root:root l /usr/share/licenses/vgpu-stub/LICENSE-MIT",
        "drwxr-x--- root:root  /var/log/vgpu-stub",
        "drwxr-xr-x root:root g /run/vgpu-stub",
    ] {
        assert!(
            listed.lines().any(|found| found == line),
            "{line}\n{listed}"
        );
    }
    assert!(!listed.contains("xenopsd"), "{listed}");
    for line in listed.lines() {
        assert!(line.contains(" root:root "), "{line}");
        let writable = line.as_bytes()[5] == b'w' || line.as_bytes()[8] == b'w';
        assert!(!writable || line.starts_with('l'), "{line}");
    }
    assert_eq!(
        files(&rpms.xenopsd).trim(),
        "-rw-r--r-- root:root  /etc/xenopsd.conf.d/vgpu-stub.conf"
    );
}

#[test]
fn the_rpm_requires_no_library_and_nothing_that_an_old_rpm_lacks() {
    let Some(rpms) = or_skip(rpms()) else { return };
    for (package, may) in [
        (
            &rpms.main,
            ["/usr/bin/getent", "/usr/sbin/groupadd", "/usr/sbin/useradd"].as_slice(),
        ),
        (
            &rpms.xenopsd,
            [
                concat!("vgpu-stub = ", env!("CARGO_PKG_VERSION"), "-1"),
                "xenopsd-xc",
            ]
            .as_slice(),
        ),
    ] {
        for line in ask("rpm", &["-qp", "--requires"], package).lines() {
            let feature = line
                .strip_prefix("rpmlib(")
                .and_then(|rest| rest.split_once(')'));
            let known = feature.is_some_and(|(name, _)| OLD_FEATURES.contains(&name));
            assert!(known || line == "/bin/sh" || may.contains(&line), "{line}");
        }
    }
}

#[test]
fn the_packages_have_the_programs_version_and_licence() {
    let Some(rpms) = or_skip(rpms()) else { return };
    let format = "%{VERSION} %{RELEASE} %{LICENSE} %{URL}\n";
    let expected = format!(
        "{} 1 {} {}",
        env!("CARGO_PKG_VERSION"),
        env!("CARGO_PKG_LICENSE"),
        env!("CARGO_PKG_REPOSITORY")
    );
    for package in [&rpms.main, &rpms.xenopsd] {
        let said = ask("rpm", &["-qp", "--qf", format], package);
        assert_eq!(said.trim(), expected);
    }
}

#[test]
fn an_rpm_installs_starts_and_goes_without_a_trace() {
    let Some(rpms) = or_skip(rpms()) else { return };
    let Some(root) = or_skip(Root::new()) else {
        return;
    };
    let before = root.files();

    root.rpm(&["-i", "--nodeps"], &[&rpms.main]);
    let calls = root.calls();
    for call in [
        "groupadd -r vgpu-stub",
        "useradd -r -M -g vgpu-stub -d / -s /sbin/nologin -c vgpu-stub devices vgpu-stub",
        "systemd-tmpfiles --create /usr/lib/tmpfiles.d/vgpu-stub.conf",
        "systemctl daemon-reload",
    ] {
        assert!(calls.iter().any(|made| made == call), "{call} {calls:?}");
    }
    assert_eq!(calls.len(), 6, "{calls:?}");
    assert!(!root.path("etc/xenopsd.conf.d").exists());
    installed::works(&root, "etc/sysconfig/vgpu-stub");
    installed::bash_completes(&root);

    root.rpm(&["-e"], &[Path::new("vgpu-stub")]);
    // Of the devices only those of the package's own units are stopped.
    assert_eq!(
        root.calls(),
        [
            "systemctl --no-reload disable vgpu-stub@.socket",
            "systemctl stop vgpu-stub@*.socket vgpu-stub@*.service",
            "systemctl daemon-reload",
        ]
    );
    assert_eq!(root.files(), before);
    assert!(!root.path("var/log/vgpu-stub").exists());
}

#[test]
fn the_drop_in_comes_and_goes_alone_and_restarts_nothing() {
    let Some(rpms) = or_skip(rpms()) else { return };
    let Some(root) = or_skip(Root::new()) else {
        return;
    };
    root.rpm(&["-i", "--nodeps"], &[&rpms.main]);
    root.calls();
    let before = root.files();

    root.rpm(&["-i", "--nodeps"], &[&rpms.xenopsd]);
    let file = root.path("etc/xenopsd.conf.d/vgpu-stub.conf");
    let text = fs::read_to_string(&file).unwrap();
    let settings: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let wrapper = "usr/libexec/vgpu-stub/qemu-wrapper";
    assert_eq!(
        settings,
        [format!("upstream-compat-qemu-dm-wrapper=/{wrapper}")]
    );
    assert!(root.path(wrapper).is_file());

    // xenopsd reads every file there: even one that was changed must go.
    fs::write(&file, text + "# changed\n").unwrap();
    root.rpm(&["-e"], &[Path::new("vgpu-stub-xenopsd")]);
    assert_eq!(root.files(), before);
    assert_eq!(root.calls(), [""; 0]);
}

#[test]
fn what_was_set_outlives_an_update() {
    let Some(rpms) = or_skip(rpms()) else { return };
    let Some(root) = or_skip(Root::new()) else {
        return;
    };
    root.rpm(&["-i", "--nodeps"], &[&rpms.main]);
    let settings = root.path("etc/sysconfig/vgpu-stub");
    fs::write(&settings, "ON_FAILURE=continue\n").unwrap();
    root.calls();
    let again = ["-U", "--nodeps", "--replacepkgs", "--replacefiles"];
    root.rpm(&again, &[&rpms.main]);
    let kept = fs::read_to_string(&settings).unwrap();
    assert_eq!(kept, "ON_FAILURE=continue\n");
    let calls = root.calls();
    assert!(!calls.iter().any(|call| call.contains("stop")), "{calls:?}");
}

#[test]
fn the_guide_names_only_files_that_are_installed() {
    let Some(rpms) = or_skip(rpms()) else { return };
    let listed = files(&rpms.main) + &files(&rpms.xenopsd);
    let guide = include_str!("../../docs/xcp-ng.md");
    let words = guide.split(|letter: char| letter.is_whitespace() || "`;,():".contains(letter));
    let ours = words
        .map(|word| word.trim_end_matches('.'))
        .filter(|word| word.contains("vgpu-stub") && !word.ends_with(".rpmsave"))
        .filter(|word| word.starts_with("/usr/") || word.starts_with("/etc/"));
    let mut found = 0;
    for path in ours {
        let end = format!(" {path}");
        assert!(listed.lines().any(|line| line.ends_with(&end)), "{path}");
        found += 1;
    }
    assert!(found > 3, "{found}");
}
