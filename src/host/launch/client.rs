//! The devices of a QEMU that are vfio-user clients: our shim, and
//! `vfio-user-pci` of QEMU >= 10.1.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use super::bounded::{self, last_line};
use crate::host::config::Address;
use crate::host::face::Face;

/// More than any QEMU lists.
const MAX_LIST: usize = 1 << 20;

/// A device of QEMU's that is a vfio-user client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    /// `vgpu-stub`, of our patch.
    Shim,
    /// `vfio-user-pci`, of upstream.
    VfioUser,
}

impl Client {
    /// The better one first.
    const ALL: [Client; 2] = [Client::Shim, Client::VfioUser];

    /// The device's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Client::Shim => "vgpu-stub",
            Client::VfioUser => "vfio-user-pci",
        }
    }

    /// The face that it is.
    pub(super) fn face(self) -> Face {
        match self {
            Client::Shim => Face::Shim,
            Client::VfioUser => Face::VfioUser,
        }
    }

    /// Those that QEMU's answer to `-device help` has, the better one first.
    fn listed(help: &str) -> Vec<Client> {
        let has = |client: &Client| {
            let line = format!("name \"{}\",", client.name());
            help.lines().any(|listed| listed.starts_with(&line))
        };
        Client::ALL.into_iter().filter(has).collect()
    }

    /// What gives QEMU the device. The path needs to be without commas.
    pub(super) fn arguments(self, socket: &Path, addr: Option<Address>) -> [OsString; 2] {
        let mut device = OsString::new();
        match self {
            Client::Shim => {
                device.push("vgpu-stub,socket=");
                device.push(socket);
                if let Some(addr) = addr {
                    device.push(format!(",addr={addr}"));
                }
            }
            Client::VfioUser => {
                let mut json = serde_json::json!({
                    "driver": self.name(),
                    "socket": { "type": "unix", "path": socket.to_string_lossy() },
                });
                if let Some(addr) = addr {
                    json["addr"] = addr.to_string().into();
                }
                device.push(json.to_string());
            }
        }
        ["-device".into(), device]
    }

    /// The one that a device model has: the one that is wanted, else the
    /// better one. The device model is asked, or `cache`, where its last
    /// answer is kept.
    ///
    /// # Errors
    ///
    /// One line that names the device model.
    pub(super) fn of(
        model: &Path,
        cache: &Path,
        wanted: Option<Client>,
        until: Instant,
    ) -> Result<Client, String> {
        let has = offered(model, cache, until)?;
        let best = has.first().copied();
        let shown = model.display();
        let Some(wanted) = wanted else {
            return best.ok_or_else(|| {
                format!(
                    "{shown} knows neither vgpu-stub nor vfio-user-pci; install a QEMU that does"
                )
            });
        };
        has.contains(&wanted).then_some(wanted).ok_or_else(|| {
            let (face, name) = (wanted.face(), wanted.name());
            format!("{shown} does not know {name}; install a QEMU that does, or take another face than {face}")
        })
    }
}

/// What a device model has, as it says or has said.
fn offered(model: &Path, cache: &Path, until: Instant) -> Result<Vec<Client>, String> {
    let shown = model.display();
    let key = key(model);
    let kept = key.as_ref().and_then(|key| kept(cache, key));
    if let Some(clients) = kept {
        return Ok(clients);
    }
    let mut command = Command::new(model);
    command.args(["-device", "help"]);
    let ended = bounded::run(&mut command, until, MAX_LIST)
        .map_err(|error| format!("{shown} -device help: {error}"))?;
    let clients = Client::listed(&ended.said);
    if clients.is_empty() && !ended.status.success() {
        let said = last_line(&ended.said).unwrap_or_else(|| ended.status.to_string());
        return Err(format!("{shown} -device help: {said}"));
    }
    // One that has none may be asked again: it costs a start that fails.
    if let (Some(key), false) = (key, clients.is_empty()) {
        let names: Vec<&str> = clients.iter().map(|client| client.name()).collect();
        let text = format!("{key}\n{}\n", names.join(" "));
        let new = cache.with_extension(std::process::id().to_string());
        if let Some(directory) = cache.parent() {
            let _ = fs::create_dir_all(directory);
        }
        // Without it the next start asks again.
        let _ = fs::write(&new, text).and_then(|()| fs::rename(&new, cache));
    }
    Ok(clients)
}

/// What tells one device model, as it is now, from all others.
fn key(model: &Path) -> Option<String> {
    let metadata = fs::metadata(model).ok().filter(|_| model.is_absolute())?;
    let (size, seconds, ns) = (metadata.size(), metadata.mtime(), metadata.mtime_nsec());
    Some(format!("{size} {seconds}.{ns:09} {}", model.display()))
}

fn kept(cache: &Path, key: &str) -> Option<Vec<Client>> {
    let small = fs::metadata(cache).ok()?.size() < 4096;
    let text = fs::read_to_string(cache).ok().filter(|_| small)?;
    let mut names = text
        .strip_prefix(key)?
        .strip_prefix('\n')?
        .split_whitespace();
    let has: Vec<&str> = names.by_ref().collect();
    let known = Client::ALL.into_iter();
    let clients: Vec<Client> = known
        .filter(|client| has.contains(&client.name()))
        .collect();
    (!clients.is_empty()).then_some(clients)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;

    const NEITHER: &str =
        "Misc devices:\nname \"edu\", bus PCI\nname \"vfio-user-pci-x\", bus PCI\n";

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn best(model: &Path, cache: &Path) -> Result<Client, String> {
        Client::of(model, cache, None, later())
    }

    #[test]
    fn the_shim_comes_first() {
        assert_eq!(Client::listed(NEITHER), []);
        let upstream = format!("{NEITHER}name \"vfio-user-pci\", bus PCI, desc \"x\"\n");
        assert_eq!(Client::listed(&upstream), [Client::VfioUser]);
        let both = format!("{upstream}name \"vgpu-stub\", bus PCI\n");
        assert_eq!(Client::listed(&both), Client::ALL);
    }

    #[test]
    fn each_client_has_its_own_arguments() {
        let (socket, addr) = (Path::new("/run/x/7/socket"), "0xc".parse().ok());
        let shim = Client::Shim.arguments(socket, addr);
        assert_eq!(
            shim,
            ["-device", "vgpu-stub,socket=/run/x/7/socket,addr=0xc"]
        );
        let upstream = Client::VfioUser.arguments(socket, addr);
        let json = r#"{"addr":"0xc","driver":"vfio-user-pci","socket":{"path":"/run/x/7/socket","type":"unix"}}"#;
        assert_eq!(upstream, ["-device", json]);
        let anywhere = Client::Shim.arguments(socket, None);
        assert_eq!(anywhere, ["-device", "vgpu-stub,socket=/run/x/7/socket"]);
    }

    #[test]
    fn a_device_model_is_asked_once_until_it_changes() {
        let directory = tempfile::tempdir().unwrap();
        let (model, cache) = (directory.path().join("qemu"), directory.path().join("face"));
        let write = |device: &str| {
            let new = directory.path().join("new");
            fs::write(
                &new,
                format!("#!/bin/sh\necho x >> $0.asked\necho 'name \"{device}\", bus PCI'\n"),
            )
            .unwrap();
            fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
            fs::rename(&new, &model).unwrap();
        };
        write("vfio-user-pci");
        for _ in 0..3 {
            assert_eq!(best(&model, &cache), Ok(Client::VfioUser));
        }
        let asked = fs::read(directory.path().join("qemu.asked")).unwrap();
        assert_eq!(asked, b"x\n");
        write("vgpu-stub");
        assert_eq!(best(&model, &cache), Ok(Client::Shim));
        // A cache that another version wrote is no answer.
        fs::write(&cache, "vgpu-stub\n").unwrap();
        let of = |wanted| Client::of(&model, &cache, Some(wanted), later());
        assert_eq!(of(Client::Shim), Ok(Client::Shim));
        let error = of(Client::VfioUser).unwrap_err();
        assert!(error.contains("does not know vfio-user-pci"), "{error}");
        write("edu");
        let error = best(&model, &cache).unwrap_err();
        assert!(error.contains("knows neither"), "{error}");
    }

    #[test]
    fn a_device_model_that_does_not_answer_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let cache = directory.path().join("face");
        let error = best(Path::new("/no/qemu"), &cache).unwrap_err();
        assert!(
            error.starts_with("/no/qemu -device help: No such file"),
            "{error}"
        );
        let error = best(Path::new("/bin/false"), &cache).unwrap_err();
        assert!(error.contains("/bin/false"), "{error}");
    }
}
