//! A guest's domain, which is gone however we end.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::host::{Host, xl};
use crate::bench::bare::guest::MEMORY;
use crate::bench::{Bench, Trouble};
use crate::xen::DomainId;

/// How long destroying may take before we leave it to itself.
const LIMIT: Duration = Duration::from_secs(60);

/// How often we look whether it is done.
const TICK: Duration = Duration::from_millis(20);

/// What hypervisor and toolstack put into the guest's memory, in MiB: they take
/// it from the end.
const RESERVE: u64 = 16;

/// A domain; it is destroyed on drop.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) id: DomainId,
    name: String,
    _guard: Guard,
}

impl Guest {
    /// Makes one, which does not run yet. `devices` are for the device model's
    /// `-device`, and `directory` is for files.
    pub(super) fn create(
        bench: &Bench<'_>,
        host: &Host,
        program: &[u8],
        devices: &[String],
        directory: &Path,
    ) -> Result<Self, Trouble> {
        let name = format!("vgpu-stub-bench-{}", std::process::id());
        let written = |path: &Path, bytes: &[u8]| {
            let failed = |error| Trouble::new(format!("cannot write {}", path.display()), error);
            fs::write(path, bytes).map_err(failed)
        };
        let firmware = directory.join("guest");
        written(&firmware, program)?;
        let configuration = directory.join("configuration");
        let text = configured(&name, &firmware, &host.device_model, devices)?;
        written(&configuration, text.as_bytes())?;
        // Before there is something to guard, as we may be killed meanwhile.
        let guard = Guard::of(&name).map_err(|error| Trouble::new("cannot run sh", error))?;
        let path = configuration.display().to_string();
        // -p: it waits for `unpause`. -e: nobody stays to look after it.
        xl(bench, &["create", "-p", "-e", &path])?;
        let id = xl(bench, &["domid", &name])?;
        let id = id.trim().parse().map_err(Trouble)?;
        Ok(Guest {
            id,
            name,
            _guard: guard,
        })
    }

    /// Starts it.
    pub(super) fn unpause(&self, bench: &Bench<'_>) -> Result<(), Trouble> {
        xl(bench, &["unpause", &self.name]).and(Ok(()))
    }
}

/// xl.cfg(5). A guest that has ended keeps its memory until we have read it.
fn configured(
    name: &str,
    firmware: &Path,
    device_model: &Path,
    devices: &[String],
) -> Result<String, Trouble> {
    let [firmware, device_model] = [firmware, device_model].map(|path| path.display().to_string());
    let all = devices.iter().chain([&firmware, &device_model]);
    if let Some(text) = all.into_iter().find(|text| text.contains(['\'', '\n'])) {
        return Err(Trouble(format!(
            "{text}: xl's files cannot hold such a name"
        )));
    }
    let memory = (MEMORY >> 20) + RESERVE;
    let mut text = format!(
        "name = '{name}'\n\
         type = 'hvm'\n\
         memory = {memory}\n\
         vcpus = 1\n\
         firmware_override = '{firmware}'\n\
         device_model_version = 'qemu-xen'\n\
         device_model_override = '{device_model}'\n\
         vga = 'none'\n\
         vnc = 0\n\
         usb = 0\n\
         tsc_mode = 'native'\n\
         on_poweroff = 'preserve'\n\
         on_reboot = 'preserve'\n\
         on_crash = 'preserve'\n\
         device_model_args_hvm = ["
    );
    for device in devices {
        // A string takes everything.
        let _ = write!(text, " '-device', '{device}',");
    }
    text.push_str(" ]\n");
    Ok(text)
}

/// Destroys the domain when we let go of its standard input, in whatever way:
/// it outlives us for that, and a Ctrl-C at our terminal does not reach it.
#[derive(Debug)]
struct Guard {
    child: Child,
    held: Option<ChildStdin>,
}

impl Guard {
    fn of(name: &str) -> std::io::Result<Self> {
        let mut child = Command::new("sh")
            .args([
                "-c",
                "trap '' HUP INT TERM; read -r _; exec xl destroy \"$0\"",
            ])
            .arg(name)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let held = child.stdin.take();
        Ok(Guard { child, held })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.held = None;
        let deadline = Instant::now() + LIMIT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(TICK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_xl_cannot_read_is_refused() {
        let text =
            |device: &str| configured("a", Path::new("/f"), Path::new("/q"), &[device.to_owned()]);
        assert!(text("edu").unwrap().contains("[ '-device', 'edu', ]"));
        assert!(text("it's").is_err());
    }
}
