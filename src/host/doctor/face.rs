//! How guests come to the device: whether they can past QEMU, and how they do.

use std::path::Path;

use crate::host::face::{Face, Wanted};
use crate::host::launch::{self, MAX_SERVERS};
use crate::host::setting::Setting;

use super::Group;
use super::findings::{Check, Findings, Severity};
use super::host::{Host, RUN};
use super::text::quoted;

const DEVICES: Check = Check::broken(
    "face.devices",
    "Xen's privcmd and evtchn, which the face ioreq needs",
);
const KERNEL: Check = Check::broken(
    "face.kernel",
    "whether the kernel has what the face ioreq needs: 4.18 or later",
);
const XEN: Check = Check::broken(
    "face.xen",
    "whether Xen has what the face ioreq needs: 4.13 or later",
);
const SERVERS: Check = Check::warning(
    "face.servers",
    "how many of the 8 ioreq servers that Xen allows a domain are taken",
);
const CHOSEN: Check = Check::note("face.chosen", "which face a VM has, and why");

pub(super) const GROUP: Group = Group {
    name: "face",
    checks: &[&DEVICES, &KERNEL, &XEN, &SERVERS, &CHOSEN],
    look,
};

/// Linux with `IOCTL_PRIVCMD_MMAP_RESOURCE`.
const LINUX: (u32, u32) = (4, 18);
/// Xen whose device model's operations are as ours.
const OLDEST: (u32, u32) = (4, 13);
const RELEASE: &str = "/proc/sys/kernel/osrelease";
const VERSION: &str = "/sys/hypervisor/version";

fn look(host: &Host, findings: &mut Findings) {
    match severity(host) {
        Some(severity) => ioreq(host, severity, findings),
        None => {
            for check in [&DEVICES, &KERNEL, &XEN] {
                findings.skip(check, "FACE= asks for another face than ioreq");
            }
        }
    }
    for domain in domains(host) {
        chosen(host, domain, findings);
        servers(host, domain, findings);
    }
    findings.skip(&CHOSEN, "no VM with the device runs");
    findings.skip(&SERVERS, "no VM with the face ioreq runs");
}

fn domains(host: &Host) -> Vec<u32> {
    host.domain()
        .map_or_else(|| host.wanting(), |one| vec![one])
}

/// The face that a domain's setting asks for.
fn wanted(host: &Host, domain: Option<u32>) -> Wanted {
    let setting = domain.and_then(|domain| host.setting(domain));
    let setting = setting.and_then(|text| Setting::parse(text.as_bytes()).ok()?);
    let all = host.config().map_or(Wanted::Best, |config| config.face);
    setting.and_then(|setting| setting.face).unwrap_or(all)
}

/// How bad it is if nobody can have the face: not at all if nobody wants it.
fn severity(host: &Host) -> Option<Severity> {
    let all = domains(host).into_iter().map(Some).chain([None]);
    let bad = all.filter_map(|domain| match wanted(host, domain) {
        Wanted::Only(Face::Ioreq) => Some(Severity::Broken),
        // There are others.
        Wanted::Best => Some(Severity::Note),
        Wanted::Only(_) => None,
    });
    bad.max()
}

/// What another face costs nobody.
const OTHERWISE: &str = "with FACE=auto a VM gets the device through QEMU instead";

fn ioreq(host: &Host, severity: Severity, findings: &mut Findings) {
    let capabilities = host.view.text("/proc/xen/capabilities");
    if !capabilities.is_ok_and(|text| text.contains("control_d")) {
        for check in [&DEVICES, &KERNEL, &XEN] {
            findings.skip(check, "no dom0 runs here");
        }
        return;
    }
    devices(host, severity, findings);
    match version(host.view.text(RELEASE).ok().as_deref()) {
        None => findings.skip(&KERNEL, format!("no {RELEASE} here")),
        Some(kernel) if kernel >= LINUX => findings.ok(&KERNEL, shown(kernel)),
        Some(kernel) => {
            let what = format!("the kernel is {}", shown(kernel));
            let finding = findings.found_in(&KERNEL, what).severity(severity);
            finding.advice("update dom0's kernel").advice(OTHERWISE);
        }
    }
    let part = |name: &str| host.view.text(format!("{VERSION}/{name}")).ok();
    let parts = part("major").zip(part("minor"));
    let text = parts.map(|(major, minor)| format!("{}.{}", major.trim(), minor.trim()));
    match version(text.as_deref()) {
        None => findings.skip(&XEN, format!("no {VERSION} here")),
        Some(xen) if xen >= OLDEST => findings.ok(&XEN, shown(xen)),
        Some(xen) => {
            let what = format!("Xen is {}", shown(xen));
            let finding = findings.found_in(&XEN, what).severity(severity);
            finding.advice("update the host").advice(OTHERWISE);
        }
    }
}

fn devices(host: &Host, severity: Severity, findings: &mut Findings) {
    let directory = host.config().map_or_else(
        |_| "/dev/xen".into(),
        |config| config.xen_devices.display().to_string(),
    );
    if !host.view.exists("/dev") {
        findings.skip(&DEVICES, "no /dev here");
        return;
    }
    for (name, module) in [("privcmd", "xen-privcmd"), ("evtchn", "xen-evtchn")] {
        let path = format!("{directory}/{name}");
        if !host.view.exists(&path) {
            findings
                .found_in(&DEVICES, format!("{path} is not there"))
                .severity(severity)
                .remedy(format!("modprobe {module}   # and each time: echo {module} > /etc/modules-load.d/{module}.conf"))
                .advice(OTHERWISE);
        }
    }
    findings.ok(&DEVICES, format!("{directory}/privcmd and evtchn"));
}

/// The face that the launcher chose is in the server's directory.
fn chosen(host: &Host, domain: u32, findings: &mut Findings) {
    let Ok(text) = host.view.text(format!("{RUN}/{domain}/{}", launch::FACE)) else {
        return;
    };
    let mut lines = text.lines();
    let face = lines.next().unwrap_or_default();
    let instead = lines.next().unwrap_or_default();
    if instead.is_empty() {
        findings.ok(&CHOSEN, format!("domain {domain}: {face}"));
        return;
    }
    findings
        .found_in(
            &CHOSEN,
            format!("domain {domain} has the face {face}, not ioreq: {instead}"),
        )
        .advice("the device works; past QEMU its accesses take less time (docs/xen.md)");
}

/// Whether a domain is past QEMU.
pub(super) fn is_past_qemu(host: &Host, domain: u32) -> bool {
    let face = host.view.text(format!("{RUN}/{domain}/{}", launch::FACE));
    face.is_ok_and(|text| text.lines().next() == Some(Face::Ioreq.name()))
}

fn servers(host: &Host, domain: u32, findings: &mut Findings) {
    if !is_past_qemu(host, domain) {
        return;
    }
    if !host.ask.is_live() {
        findings.skip(&SERVERS, "Xen cannot be asked here");
        return;
    }
    let directory = host.config().map(|config| config.xen_devices.clone());
    let directory = directory.unwrap_or_else(|_| Path::new("/dev/xen").to_owned());
    let real = host
        .view
        .real(&directory)
        .map_err(|error| error.to_string());
    let number = u16::try_from(domain).map_err(|_| "is no domain".to_owned());
    let counted = real.and_then(|real| launch::servers(&real, number?));
    match counted {
        Err(why) => findings.skip(&SERVERS, why),
        // QEMU's is one of them.
        Ok(count) if count >= 2 => {
            findings.ok(
                &SERVERS,
                format!("domain {domain}: {count} of {MAX_SERVERS}"),
            );
        }
        Ok(count) => {
            let vm = host.store().and_then(|store| store.vm_of(domain));
            let vm = quoted(vm.as_deref().unwrap_or("UUID"));
            findings
                .found_in(
                    &SERVERS,
                    format!("domain {domain} has {count} ioreq servers: QEMU's and the device's should be there"),
                )
                .remedy(format!("journalctl -u vgpu-stub-dom-{domain}.service"))
                .remedy(format!("xe vm-shutdown uuid={vm} --force && xe vm-start uuid={vm}"));
        }
    }
}

/// The first two numbers of a version.
fn version(text: Option<&str>) -> Option<(u32, u32)> {
    let mut numbers = text?.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next()?.parse().ok();
    Some((next()?, next()?))
}

fn shown((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_its_first_two_numbers() {
        assert_eq!(version(Some("4.19.0+1\n")), Some((4, 19)));
        assert_eq!(version(Some("6.12.48+deb13-amd64")), Some((6, 12)));
        assert_eq!(version(Some("x")), None);
        assert_eq!(version(Some("4")), None);
        assert_eq!(version(None), None);
    }
}
