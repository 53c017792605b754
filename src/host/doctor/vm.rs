//! The VM that is meant, or all of them: its domain, its setting, its drives.

use std::collections::BTreeSet;

use crate::host::setting::Setting;

use super::Group;
use super::findings::{Check, Findings, Severity};
use super::host::{Host, is_on};
use super::text::quoted;
use super::xapi::Vm;

const DOMAIN: Check = Check::warning("vm.domain", "which domain the VM is now");
const SETTING: Check = Check::broken(
    "vm.setting",
    "the VM's setting, platform:vgpu-stub or vm-data/vgpu-stub",
);
const PENDING: Check = Check::warning(
    "vm.pending",
    "whether the VM was started again since its setting changed",
);
const DEAD_KEYS: Check = Check::broken(
    "vm.dead-keys",
    "device-model-args in platform or other-config, which nothing reads",
);
const STALE_PATH: Check = Check::broken(
    "vm.stale-path",
    "paths in the VM's settings that carry an earlier domain's id",
);
const CD: Check = Check::broken(
    "vm.cd-userdevice",
    "the CD drives' userdevice, which must be a number",
);

pub(super) const GROUP: Group = Group {
    name: "VM",
    checks: &[&DOMAIN, &SETTING, &PENDING, &DEAD_KEYS, &STALE_PATH, &CD],
    look,
};

/// The key that notes on the net use, and xenopsd does not know.
const DEAD: &str = "device-model-args";
/// How many VMs are looked at if none was named.
const MOST: usize = 4096;

fn look(host: &Host, findings: &mut Findings) {
    domain(host, findings);
    setting(host, findings);
    if let Some(database) = host.database() {
        let meant = host.vm();
        let vms = database
            .vms()
            .iter()
            .filter(|vm| meant.as_ref().is_none_or(|uuid| *uuid == vm.uuid));
        for vm in vms.take(MOST) {
            pending(host, vm, findings);
            dead_keys(vm, findings);
            stale_paths(host, vm, findings);
            drives(vm, findings);
        }
        findings.ok(&PENDING, "what is set is what runs");
        findings.ok(&DEAD_KEYS, "none");
        findings.ok(&STALE_PATH, "none");
        findings.ok(&CD, "all are numbers");
    } else {
        let why = "no /var/lib/xcp/state.db here: the pool's master has it";
        findings.skip(&PENDING, why);
        findings.skip(
            &CD,
            format!("{why}; xe vbd-list type=CD params=vm-name-label,userdevice"),
        );
        dead_keys_in_store(host, findings);
        findings.skip(&STALE_PATH, why);
    }
}

fn domain(host: &Host, findings: &mut Findings) {
    let target = host.target();
    let (vm, domain) = (host.vm(), host.domain());
    match (&target.vm, target.domain) {
        (None, None) => findings.skip(&DOMAIN, "no VM was named: --vm UUID or --domid N"),
        (Some(vm), _) => match domain {
            Some(domain) => findings.ok(&DOMAIN, format!("VM {vm} is domain {domain}")),
            None => {
                findings
                    .found_in(
                        &DOMAIN,
                        format!("VM {vm} has no domain now: it does not run, or its UUID is wrong"),
                    )
                    .remedy(format!("xe vm-list uuid={}", quoted(vm)))
                    .remedy(format!("xe vm-start uuid={}", quoted(vm)));
            }
        },
        (None, Some(domain)) => {
            let gone = host
                .store()
                .is_some_and(|store| !store.domains().contains(&domain));
            if gone {
                findings
                    .found_in(
                        &DOMAIN,
                        format!("there is no domain {domain}: a domain's id changes at each boot"),
                    )
                    .remedy("list_domains   # or: xl list")
                    .advice("or name the VM: --vm UUID");
            } else {
                let vm = vm.unwrap_or_else(|| "of an unknown VM".to_owned());
                findings.ok(&DOMAIN, format!("domain {domain} is {vm}"));
            }
        }
    }
}

fn setting(host: &Host, findings: &mut Findings) {
    let Some(store) = host.store() else {
        findings.skip(&SETTING, "no xenstore here");
        return;
    };
    let meant = host.domain();
    let domains = match meant {
        Some(domain) => BTreeSet::from([domain]),
        None => store.domains(),
    };
    let mut on = 0;
    for domain in domains {
        let Some(value) = host.setting(domain) else {
            continue;
        };
        if let Err(why) = Setting::parse(value.as_bytes()) {
            let vm = store.vm_of(domain).unwrap_or_else(|| "UUID".to_owned());
            findings
                .found_in(
                    &SETTING,
                    format!("domain {domain}: vgpu-stub={value:?} {why}"),
                )
                .remedy(format!(
                    "xe vm-param-set uuid={} platform:vgpu-stub=true   # and start the VM again",
                    quoted(&vm)
                ));
        } else {
            on += usize::from(is_on(value));
        }
    }
    match (meant, on) {
        (Some(domain), 0) => {
            let vm = host.vm().unwrap_or_else(|| "UUID".to_owned());
            findings.ok(
                &SETTING,
                format!("domain {domain} is not to have the device (xe vm-param-set uuid={vm} platform:vgpu-stub=true)"),
            );
        }
        (Some(domain), _) => findings.ok(
            &SETTING,
            format!(
                "domain {domain}: {:?}",
                host.setting(domain).unwrap_or_default()
            ),
        ),
        (None, on) => findings.ok(&SETTING, format!("{on} running VMs are to have the device")),
    }
}

/// xenopsd writes a VM's `platform` when it makes the domain.
fn pending(host: &Host, vm: &Vm, findings: &mut Findings) {
    let Some(store) = host.store() else {
        findings.skip(&PENDING, "no xenstore here");
        return;
    };
    let Some(domain) = store.domain_of(&vm.uuid) else {
        return;
    };
    let set = vm.platform.get("vgpu-stub").map_or("", String::as_str);
    let path = format!("/local/domain/{domain}/platform/vgpu-stub");
    let runs = store.get(&path).unwrap_or("");
    if set != runs {
        findings
            .found_in(&PENDING, format!("VM {}: platform:vgpu-stub is {set:?}, but its domain {domain} was made with {runs:?}", vm.uuid))
            .remedy(format!("xe vm-shutdown uuid={0} && xe vm-start uuid={0}   # a reboot from inside is enough, too", quoted(&vm.uuid)));
    }
}

fn dead_keys(vm: &Vm, findings: &mut Findings) {
    for (map, name) in [
        (&vm.platform, "platform"),
        (&vm.other_config, "other-config"),
    ] {
        if let Some(value) = map.get(DEAD) {
            let uuid = quoted(&vm.uuid);
            dead(
                findings,
                &format!("VM {}: {name}:{DEAD}={value:?}", vm.uuid),
                &uuid,
                name,
            );
        }
    }
}

fn dead_keys_in_store(host: &Host, findings: &mut Findings) {
    let Some(store) = host.store() else {
        findings.skip(&DEAD_KEYS, "neither xapi's database nor xenstore is here");
        return;
    };
    let domains = host
        .domain()
        .map_or_else(|| store.domains(), |domain| BTreeSet::from([domain]));
    for domain in domains {
        if let Some(value) = store.get(&format!("/local/domain/{domain}/platform/{DEAD}")) {
            let vm = store.vm_of(domain).unwrap_or_else(|| "UUID".to_owned());
            dead(
                findings,
                &format!("domain {domain}: platform:{DEAD}={value:?}"),
                &quoted(&vm),
                "platform",
            );
        }
    }
    findings.ok(&DEAD_KEYS, "none in xenstore");
}

fn dead(findings: &mut Findings, what: &str, uuid: &str, map: &str) {
    findings
        .found_in(
            &DEAD_KEYS,
            format!("{what} does nothing: xenopsd reads no such key"),
        )
        .remedy(format!(
            "xe vm-param-remove uuid={uuid} param-name={map} param-key={DEAD}"
        ))
        .remedy(format!(
            "xe vm-param-set uuid={uuid} platform:vgpu-stub=true"
        ));
}

/// A domain's id changes at each boot, and so does every path with it.
fn stale_paths(host: &Host, vm: &Vm, findings: &mut Findings) {
    let domain = host.store().and_then(|store| store.domain_of(&vm.uuid));
    let maps = [
        (&vm.platform, "platform"),
        (&vm.other_config, "other-config"),
        (&vm.xenstore_data, "xenstore-data"),
    ];
    for (map, name) in maps {
        for (key, value) in map {
            let Some(id) = domain_in(value) else { continue };
            let now = match domain {
                Some(domain) if domain == id => continue,
                Some(domain) => format!("the VM is domain {domain} now"),
                None => "the VM's next domain has another id".to_owned(),
            };
            let finding = findings.found_in(
                &STALE_PATH,
                format!(
                    "VM {}: {name}:{key} has a path of domain {id}; {now}",
                    vm.uuid
                ),
            );
            // The dead key itself is another finding.
            if key != DEAD {
                finding.severity(Severity::Warning);
            }
            finding
                .remedy(format!("xe vm-param-remove uuid={} param-name={name} param-key={}", quoted(&vm.uuid), quoted(key)))
                .advice("name no path with a domain's id; the wrapper makes the socket's path at each start");
        }
    }
}

/// The domain's id in a path such as `/run/vgpu-stub/7/socket`,
/// `/var/xen/qemu/root-7/x` or `/var/run/xen/vnc-7`.
fn domain_in(value: &str) -> Option<u32> {
    const BEFORE: [&str; 6] = [
        "/run/vgpu-stub/",
        "/xen/qemu/root-",
        "/run/xen/vnc-",
        "/run/xen/qmp-libxl-",
        "/run/xen/qmp-event-",
        "/local/domain/",
    ];
    BEFORE.iter().find_map(|before| {
        let (_, rest) = value.split_once(before)?;
        let digits = rest
            .split(|character: char| !character.is_ascii_digit())
            .next()?;
        digits.parse().ok()
    })
}

fn drives(vm: &Vm, findings: &mut Findings) {
    for (drive, userdevice) in &vm.drives {
        let number = userdevice.parse::<u32>().is_ok();
        if number || userdevice == "autodetect" {
            continue;
        }
        let (vm, drive) = (quoted(&vm.uuid), quoted(drive));
        findings
            .found_in(&CD, format!("VM {vm}: the CD drive {drive} has userdevice {userdevice:?}, which is not a number"))
            .remedy(format!("xe vbd-destroy uuid={drive}   # with the VM halted"))
            .remedy(format!("xe vm-cd-add uuid={vm} cd-name=ISO device=3"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_found_in_the_paths_that_carry_one() {
        assert_eq!(domain_in("-x socket=/run/vgpu-stub/12/socket,a"), Some(12));
        assert_eq!(domain_in("/var/xen/qemu/root-3/s"), Some(3));
        assert_eq!(domain_in("/run/vgpu-stub/name.socket"), None);
        assert_eq!(domain_in("/srv/7"), None);
    }
}
