//! A dom0 with the program as a package would install it.

use std::path::Path;
use std::time::Duration;

use crate::rig::xen::{Answer, Dom0, Domain, Rig};
use crate::rig::{Guest, RigError};

/// How long one thing in dom0 may take: some tens of times what it does on an
/// idle machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(240);

/// Debian's device model.
const DEVICE_MODEL: &str = "/usr/libexec/xen-qemu-system-i386";

const INSTALL: &str = "
mkdir -p /etc/default /usr/libexec/vgpu-stub
cp /share/vgpu-stub /usr/bin/
[ ! -e /share/qemu ] || cp /share/qemu /usr/bin/
ln -s /usr/bin/vgpu-stub /usr/libexec/vgpu-stub/qemu-wrapper
cp /share/config /etc/default/vgpu-stub
";

/// What `xl` starts: it gives the domain its setting, as `xl` itself cannot,
/// notes the arguments and becomes the wrapper.
const BEFORE: &str = r#"
if [ "$1" = -xen-domid ]; then
    read -r setting </share/setting
    [ -z "$setting" ] || xenstore-write "/local/domain/$2/vm-data/vgpu-stub" "$setting"
    printf '%s\n' "$@" >/share/before.args
fi
exec /usr/libexec/vgpu-stub/qemu-wrapper "$@""#;

/// What the wrapper becomes: it notes the arguments and becomes QEMU.
const BEHIND: &str = r#"
[ "$1" != -xen-domid ] || printf '%s\n' "$@" >/share/behind.args
exec "#;

const THREADS: &str = "
domain=$(xl domid @NAME@) || exit
cat /proc/$(xenstore-read /local/domain/$domain/image/device-model-pid)/task/*/comm
";

/// Waits until a domain's server has left nothing.
const LEAVES: &str = "
domain=$(xl domid @NAME@) || exit
xl destroy @NAME@ || exit
while [ -e /run/vgpu-stub/$domain ] || pidof vgpu-stub; do usleep 100000; done
";

/// A dom0 with the launcher.
pub(crate) struct Host {
    dom0: Dom0,
}

impl Host {
    /// With Debian's device model and further lines of configuration.
    pub(crate) fn new(xen: &Rig, config: &[&str]) -> Result<Self, RigError> {
        let dom0 = xen.dom0()?;
        Self::with(dom0, DEVICE_MODEL, config)
    }

    /// With a device model that dom0 starts by this command.
    pub(crate) fn with(
        mut dom0: Dom0,
        device_model: &str,
        config: &[&str],
    ) -> Result<Self, RigError> {
        dom0.program("vgpu-stub", Path::new(env!("CARGO_BIN_EXE_vgpu-stub")))?;
        dom0.program("guest.elf", Guest::build("tests/guest")?.image())?;
        dom0.script("before", BEFORE)?;
        dom0.script("behind", &format!("{BEHIND}{device_model} \"$@\""))?;
        // A server that starts slowly is not what is looked for here.
        let mut lines = vec!["DEVICE_MODEL=/share/behind", "START_TIMEOUT=60", ""];
        lines.splice(2..2, config.iter().copied());
        dom0.file("config", &lines.join("\n"))?;
        dom0.run_well(INSTALL, LIMIT)?;
        Ok(Self { dom0 })
    }

    /// Describes a guest that runs these tests, with a setting of its own if
    /// it is not empty.
    pub(crate) fn guest(
        &self,
        name: &str,
        setting: &str,
        tests: &[&str],
    ) -> Result<Domain, RigError> {
        self.guest_with(name, setting, tests, &[])
    }

    /// The same, with further arguments for its device model.
    pub(crate) fn guest_with(
        &self,
        name: &str,
        setting: &str,
        tests: &[&str],
        arguments: &[&str],
    ) -> Result<Domain, RigError> {
        let line = format!("patience=60000 {}", tests.join(" "));
        let domain = Domain::new(name, "guest.elf", &line).device_model("/share/before");
        let domain = arguments
            .iter()
            .fold(domain, |domain, argument| domain.argument(argument));
        self.dom0.file("setting", &format!("{setting}\n"))?;
        self.dom0.file(&format!("{name}.cfg"), &domain.text())?;
        Ok(domain)
    }

    /// Starts it.
    pub(crate) fn create(&mut self, guest: &Domain) -> Result<(), RigError> {
        let created = self.dom0.run_well(&guest.start(), LIMIT);
        created.map_err(|error| self.explained(guest, &error))
    }

    /// Waits for its end; all its tests must have passed.
    pub(crate) fn passes(&mut self, guest: &Domain, tests: &[&str]) -> Result<(), RigError> {
        let finished = self.dom0.run_well(&guest.listen(), LIMIT);
        finished.map_err(|error| self.explained(guest, &error))?;
        let log = self.read(&format!("{}.log", guest.name()));
        let last = format!("done passed={} failed=0", tests.len());
        let passed = |test: &&str| log.contains(&format!("test {test}: ok"));
        if tests.iter().all(passed) && log.contains(&last) {
            return Ok(());
        }
        let failed = RigError::failed("the guest", format!("did not say {last}"));
        Err(self.explained(guest, &failed))
    }

    /// Destroys it; its server must go too, with all that it had.
    pub(crate) fn destroy(&mut self, guest: &Domain) -> Result<(), RigError> {
        let gone = self.run_for(guest, LEAVES);
        gone.map_err(|error| self.explained(guest, &error))
    }

    /// What the wrapper has added to the arguments of the last device model,
    /// whose others must be those that `xl` gave.
    pub(crate) fn added_arguments(&self) -> Vec<String> {
        let (before, behind) = (self.read("before.args"), self.read("behind.args"));
        let added = behind.strip_prefix(&before).unwrap_or_else(|| {
            panic!("xl gave {before:?}, the device model got {behind:?}");
        });
        added.lines().map(str::to_owned).collect()
    }

    /// The names of the threads of its device model.
    pub(crate) fn threads(&mut self, guest: &Domain) -> Result<Vec<String>, RigError> {
        let answer = self.run(&THREADS.replace("@NAME@", guest.name()))?;
        let mut threads: Vec<String> = answer.output.lines().map(str::to_owned).collect();
        threads.sort();
        Ok(threads)
    }

    /// Runs a script.
    pub(crate) fn run(&mut self, script: &str) -> Result<Answer, RigError> {
        self.dom0.run(script, LIMIT)
    }

    /// Puts a script into the share.
    pub(crate) fn script(&self, name: &str, text: &str) -> Result<(), RigError> {
        self.dom0.script(name, text)
    }

    /// A file of the share.
    pub(crate) fn read(&self, name: &str) -> String {
        self.dom0.read(name)
    }

    /// Runs a script about a guest, whose name replaces `@NAME@` in it.
    pub(crate) fn run_for(&mut self, guest: &Domain, script: &str) -> Result<(), RigError> {
        self.dom0
            .run_well(&script.replace("@NAME@", guest.name()), LIMIT)
    }

    /// An error with what the parts have to say.
    fn explained(&mut self, guest: &Domain, error: &RigError) -> RigError {
        let name = guest.name();
        let logs = [
            format!("/share/{name}.log"),
            "/var/log/vgpu-stub/wrapper.log".to_owned(),
            format!("/var/log/xen/qemu-dm-{name}.log"),
        ];
        let said = self.run(&format!("tail -n 4 {}", logs.join(" ")));
        match said {
            Ok(answer) => RigError::failed(error, answer.output),
            Err(worse) => RigError::failed(error, worse),
        }
    }
}
