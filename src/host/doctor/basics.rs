//! What host this is.

use super::Group;
use super::findings::{Check, Findings};
use super::host::{Host, PROGRAM};

const DOM0: Check = Check::warning(
    "host.dom0",
    "whether this is a dom0: /proc/xen, /etc/xensource-inventory",
);
const PROGRAM_FILE: Check = Check::broken(
    "host.program",
    "the program itself, as units and wrapper name it",
);

pub(super) const GROUP: Group = Group {
    name: "host",
    checks: &[&DOM0, &PROGRAM_FILE],
    look,
};

fn look(host: &Host, findings: &mut Findings) {
    dom0(host, findings);
    program(host, findings);
}

fn dom0(host: &Host, findings: &mut Findings) {
    if let Ok(inventory) = host.view.text("/etc/xensource-inventory") {
        let value = |key: &str| {
            let line = inventory.lines().find_map(|line| line.strip_prefix(key))?;
            Some(line.trim_matches(['=', '\'', '"']).to_owned())
        };
        let brand = value("PRODUCT_BRAND").unwrap_or_else(|| "a host with xapi".to_owned());
        let version = value("PRODUCT_VERSION").unwrap_or_default();
        findings.ok(&DOM0, format!("{brand} {version}"));
    } else if host.view.exists("/proc/xen/capabilities") {
        let capabilities = host.view.text("/proc/xen/capabilities").unwrap_or_default();
        if capabilities.contains("control_d") || capabilities.is_empty() {
            findings.ok(&DOM0, "Xen without xapi (xl, libvirt)");
        } else {
            findings
                .found_in(&DOM0, "this is a guest on Xen, not its dom0")
                .advice("run the doctor on the host, or copy its /etc, /usr/lib64/xen, /usr/libexec/vgpu-stub and /var/log and use --root DIR");
        }
    } else if host.is_whole() {
        findings
            .found_in(
                &DOM0,
                "no /etc/xensource-inventory and no /proc/xen: not a dom0",
            )
            .remedy("ssh root@HOST vgpu-stub doctor");
    } else {
        findings.skip(&DOM0, "only logs are here");
    }
}

fn program(host: &Host, findings: &mut Findings) {
    match host.view.facts(PROGRAM) {
        Ok(facts) if facts.is_executable() => findings.ok(&PROGRAM_FILE, PROGRAM),
        Ok(_) => {
            findings
                .found_in(
                    &PROGRAM_FILE,
                    format!("{PROGRAM} is not an executable file"),
                )
                .remedy(format!("chmod 0755 {PROGRAM}"))
                .fix(super::Fix::Chmod {
                    path: PROGRAM.into(),
                });
        }
        Err(_) if !host.is_whole() => findings.skip(&PROGRAM_FILE, "only logs are here"),
        Err(error) => {
            findings
                .found_in(&PROGRAM_FILE, format!("{PROGRAM}: {error}"))
                .remedy("rpm -Uvh vgpu-stub-*.rpm   # Debian: apt install ./vgpu-stub_*.deb");
        }
    }
}
