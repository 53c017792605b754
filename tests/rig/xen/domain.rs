//! What `xl` is told about an HVM guest.

use std::fmt::Write as _;

/// The pipe has a reader from the beginning: a device model waits for one.
const CREATE: &str = "
mkfifo /run/@NAME@.serial
sleep 100000 <>/run/@NAME@.serial >/dev/null 2>&1 &
xl create @HOW@ /share/@NAME@.cfg
";

const LISTEN: &str = r#"
while read -t 120 -r line; do
    echo "$line"
    case $line in done*|*'vgpu-stub: end'*) exit 0;; esac
done <>/run/@NAME@.serial >/share/@NAME@.log
exit 1
"#;

/// One guest's configuration. It has no disk, no display and no network. When it
/// halts, its domain and device model stay until `xl destroy NAME`.
///
/// What it writes to its serial port goes through a pipe: to look for it again
/// and again would take the only processor away from it.
#[derive(Debug)]
pub(crate) struct Domain {
    name: String,
    lines: String,
    device_model_arguments: Vec<String>,
}

/// Domains without a device model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Paravirtualised.
    Pv,
    /// Hardware-virtualised, without emulation.
    Pvh,
}

impl Domain {
    /// A guest that boots a multiboot image of the share.
    pub(crate) fn new(name: &str, image: &str, command_line: &str) -> Self {
        Self::hvm(name, 64, image, command_line)
    }

    /// A guest that boots a Linux of the share, with an initramfs.
    pub(crate) fn linux(name: &str, kernel: &str, initramfs: &str, command_line: &str) -> Self {
        let mut domain = Self::hvm(name, 256, kernel, command_line);
        writeln!(domain.lines, "ramdisk = \"/share/{initramfs}\"")
            .expect("a string takes everything");
        domain
    }

    fn hvm(name: &str, megabytes: u32, image: &str, command_line: &str) -> Self {
        let lines = format!(
            r#"name = "{name}"
type = "hvm"
memory = {megabytes}
kernel = "/share/{image}"
extra = "{command_line}"
serial = "file:/run/{name}.serial"
vga = "none"
vnc = 0
usb = 0
xen_platform_pci = 1
tsc_mode = "native"
on_poweroff = "preserve"
on_reboot = "preserve"
on_crash = "preserve"
device_model_version = "qemu-xen"
"#
        );
        Self {
            name: name.to_owned(),
            lines,
            device_model_arguments: Vec::new(),
        }
    }

    /// A domain that is no PC, of the image that [`idle`](super::idle) makes. It
    /// is not to run.
    pub(crate) fn idle(name: &str, kind: Kind, image: &str) -> Self {
        let kind = match kind {
            Kind::Pv => "pv",
            Kind::Pvh => "pvh",
        };
        Self {
            name: name.to_owned(),
            // With less, no memory is found for PVH.
            lines: format!(
                r#"name = "{name}"
type = "{kind}"
memory = 64
kernel = "/share/{image}"
"#
            ),
            device_model_arguments: Vec::new(),
        }
    }

    /// Gives it so many processors in place of one.
    pub(crate) fn processors(mut self, count: u32) -> Self {
        writeln!(self.lines, "vcpus = {count}").expect("a string takes everything");
        self
    }

    /// Starts another device model, by its path in dom0.
    pub(crate) fn device_model(mut self, path: &str) -> Self {
        writeln!(self.lines, "device_model_override = \"{path}\"")
            .expect("a string takes everything");
        self
    }

    /// Gives the device model a further argument.
    pub(crate) fn argument(mut self, argument: &str) -> Self {
        self.device_model_arguments.push(argument.to_owned());
        self
    }

    /// A script that starts the guest, after [`text`](Self::text) was put into
    /// the share as `NAME.cfg`. The last command is `xl`'s.
    pub(crate) fn start(&self) -> String {
        self.script(CREATE).replace("@HOW@", "")
    }

    /// The same, but the guest has not run yet: `xl unpause NAME` lets it.
    pub(crate) fn prepare(&self) -> String {
        self.script(CREATE).replace("@HOW@", "-p")
    }

    /// A script that writes the guest's output to the share as `NAME.log`, up
    /// to a line that begins with "done", or Linux's last. It fails when the guest is silent
    /// for too long.
    pub(crate) fn listen(&self) -> String {
        self.script(LISTEN)
    }

    fn script(&self, text: &str) -> String {
        text.replace("@NAME@", &self.name)
    }

    /// The name of the guest.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// xl.cfg(5).
    pub(crate) fn text(&self) -> String {
        let quoted = |argument: &String| format!("'{argument}'");
        let arguments: Vec<String> = self.device_model_arguments.iter().map(quoted).collect();
        let arguments = arguments.join(", ");
        format!("{}device_model_args_hvm = [{arguments}]\n", self.lines)
    }
}
