//! The device that a device model offers for a vfio-user server: our shim, or
//! `vfio-user-pci` of QEMU >= 10.1.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use super::bounded::{self, last_line};
use crate::host::config::Address;

/// More than any QEMU lists.
const MAX_LIST: usize = 1 << 20;

/// A device of QEMU's that is a vfio-user client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// `vgpu-stub`, of our patch.
    Shim,
    /// `vfio-user-pci`, of upstream.
    VfioUser,
}

impl Face {
    const ALL: [Face; 2] = [Face::Shim, Face::VfioUser];

    /// The device's name.
    pub fn name(self) -> &'static str {
        match self {
            Face::Shim => "vgpu-stub",
            Face::VfioUser => "vfio-user-pci",
        }
    }

    /// The best that QEMU's answer to `-device help` has.
    pub fn listed(help: &str) -> Option<Face> {
        let has = |face: &Face| {
            let line = format!("name \"{}\",", face.name());
            help.lines().any(|listed| listed.starts_with(&line))
        };
        Face::ALL.into_iter().find(has)
    }

    /// What gives QEMU the device. The path needs to be without commas.
    pub(super) fn arguments(self, socket: &Path, addr: Option<Address>) -> [OsString; 2] {
        let mut device = OsString::new();
        match self {
            Face::Shim => {
                device.push("vgpu-stub,socket=");
                device.push(socket);
                if let Some(addr) = addr {
                    device.push(format!(",addr={addr}"));
                }
            }
            Face::VfioUser => {
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

    /// Asks a device model, or `cache`, where its last answer is kept.
    ///
    /// # Errors
    ///
    /// One line that names the device model.
    pub(super) fn of(model: &Path, cache: &Path, until: Instant) -> Result<Face, String> {
        let shown = model.display();
        let key = key(model);
        let kept = key.as_ref().and_then(|key| kept(cache, key));
        if let Some(face) = kept {
            return Ok(face);
        }
        let mut command = Command::new(model);
        command.args(["-device", "help"]);
        let ended = bounded::run(&mut command, until, MAX_LIST)
            .map_err(|error| format!("{shown} -device help: {error}"))?;
        match (Face::listed(&ended.said), key) {
            (Some(face), Some(key)) => {
                let text = format!("{key}\n{}\n", face.name());
                let new = cache.with_extension(std::process::id().to_string());
                if let Some(directory) = cache.parent() {
                    let _ = fs::create_dir_all(directory);
                }
                // Without it the next start asks again.
                let _ = fs::write(&new, text).and_then(|()| fs::rename(&new, cache));
                Ok(face)
            }
            (Some(face), None) => Ok(face),
            (None, _) if ended.status.success() => Err(format!(
                "{shown} knows neither vgpu-stub nor vfio-user-pci; install a QEMU that does"
            )),
            (None, _) => {
                let said = last_line(&ended.said).unwrap_or_else(|| ended.status.to_string());
                Err(format!("{shown} -device help: {said}"))
            }
        }
    }
}

/// What tells one device model, as it is now, from all others.
fn key(model: &Path) -> Option<String> {
    let metadata = fs::metadata(model).ok().filter(|_| model.is_absolute())?;
    let (size, seconds, ns) = (metadata.size(), metadata.mtime(), metadata.mtime_nsec());
    Some(format!("{size} {seconds}.{ns:09} {}", model.display()))
}

fn kept(cache: &Path, key: &str) -> Option<Face> {
    let small = fs::metadata(cache).ok()?.size() < 4096;
    let text = fs::read_to_string(cache).ok().filter(|_| small)?;
    let name = text.strip_prefix(key)?.trim();
    Face::ALL.into_iter().find(|face| face.name() == name)
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

    #[test]
    fn the_shim_comes_first() {
        assert_eq!(Face::listed(NEITHER), None);
        let upstream = format!("{NEITHER}name \"vfio-user-pci\", bus PCI, desc \"x\"\n");
        assert_eq!(Face::listed(&upstream), Some(Face::VfioUser));
        let both = format!("{upstream}name \"vgpu-stub\", bus PCI\n");
        assert_eq!(Face::listed(&both), Some(Face::Shim));
    }

    #[test]
    fn each_face_has_its_own_arguments() {
        let (socket, addr) = (Path::new("/run/x/7/socket"), "0xc".parse().ok());
        let shim = Face::Shim.arguments(socket, addr);
        assert_eq!(
            shim,
            ["-device", "vgpu-stub,socket=/run/x/7/socket,addr=0xc"]
        );
        let upstream = Face::VfioUser.arguments(socket, addr);
        let json = r#"{"addr":"0xc","driver":"vfio-user-pci","socket":{"path":"/run/x/7/socket","type":"unix"}}"#;
        assert_eq!(upstream, ["-device", json]);
        let anywhere = Face::Shim.arguments(socket, None);
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
            assert_eq!(Face::of(&model, &cache, later()), Ok(Face::VfioUser));
        }
        let asked = fs::read(directory.path().join("qemu.asked")).unwrap();
        assert_eq!(asked, b"x\n");
        write("vgpu-stub");
        assert_eq!(Face::of(&model, &cache, later()), Ok(Face::Shim));
        write("edu");
        let error = Face::of(&model, &cache, later()).unwrap_err();
        assert!(error.contains("knows neither"), "{error}");
    }

    #[test]
    fn a_device_model_that_does_not_answer_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let cache = directory.path().join("face");
        let error = Face::of(Path::new("/no/qemu"), &cache, later()).unwrap_err();
        assert!(
            error.starts_with("/no/qemu -device help: No such file"),
            "{error}"
        );
        let error = Face::of(Path::new("/bin/false"), &cache, later()).unwrap_err();
        assert!(error.contains("/bin/false"), "{error}");
    }
}
