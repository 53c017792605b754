//! Devices that Xen itself asks: `serve --xen` between `xl create -p` and
//! `xl unpause`. Beside them, the same guest has one that QEMU asks.

use std::path::Path;

use crate::bare::{Bare, guest};
use crate::rig::guest::compile;
use crate::rig::xen::{Domain, Kind, Rig, idle};
use crate::rig::{RigError, or_skip};

/// All that a guest can do with a device.
const STUBS: [&str; 17] = [
    "identity",
    "registers",
    "random",
    "posted-writes",
    "irq-ioapic",
    "irq-msix",
    "dma-copy",
    "dma-fill",
    "dma-fence",
    "dma-bad-address",
    "dma-nonram",
    "ring",
    "ring-error",
    "flr",
    "rep",
    "wide",
    "bar-games",
];

/// With two processors, and with a second device in the same process.
const BOTH: [&str; 3] = ["smp", "bar-race", "pair"];

const DOORBELLS: [&str; 2] = ["irq-msi", "bell"];

/// The device that QEMU asks.
const CLIENT: &str =
    r#"{"driver":"vfio-user-pci","addr":"0xe","socket":{"type":"unix","path":"/run/vfio-user"}}"#;

const SOCKET: &str = "
vgpu-stub serve --socket-path /run/vfio-user --device stub,vectors=16 --pidfile /run/vfio-user.pid &
until [ -s /run/vfio-user.pid ]; do usleep 20000; done
";

/// What a descriptor of the server answers somebody who wants more with it.
const REACHED: &str = "\
own operation: 0
own memory: 0
operation: 1
server: 1
interrupt: 1
memory: 1
requests: 1
hypercall: 1
channel: 13
dom0's channel: 13
virtual interrupt: 13
";

/// The guest goes on when it has seen that the devices are gone.
const REMOVED: &str = r#"
while read -t 120 -r line; do
    echo "$line"
    case $line in
        waiting=loss*) kill $(server native);;
        done*) exit 0;;
    esac
done <>/run/native.serial >/share/native.log
exit 1
"#;

#[test]
fn two_devices_of_one_process_are_a_guests_without_its_device_model() -> Result<(), RigError> {
    let Some(xen) = or_skip(Rig::ready()) else {
        return Ok(());
    };
    let mut bare = Bare::new(xen, "native")?;
    // Of what is repeated, some will do: it is counted in other tests.
    let line = format!(
        "count=300 {} {} count=4 load device=0x1112 {} device=0x1111 \
         slot=0xe identity pair slot=0xc wait-loss",
        STUBS.join(" "),
        BOTH.join(" "),
        DOORBELLS.join(" ")
    );
    let domain = guest("native", 2, &[&line])
        .argument("-device")
        .argument(CLIENT);
    bare.well("socket", SOCKET)?;
    bare.prepare(&domain)?;
    bare.well(
        "serve",
        "serve native --uid 1900000002 --device stub,vectors=16 --device doorbell,bdf=0d.0",
    )?;
    reaches_nobody_else(&mut bare)?;

    let heard = bare.run("guest", &format!("xl unpause native\n{REMOVED}"))?;
    let more = ["load", "identity", "pair", "wait-loss"];
    let all = [&STUBS[..], &BOTH, &DOORBELLS, &more].concat();
    bare.passed(&domain, &all, &heard)?;
    let ended = bare.run("end", "ends native")?;
    assert_eq!((ended.status, ended.output.as_str()), (0, "0\n"));
    bare.well("destroy", "xl destroy native; gone")
}

/// Another domain, which need not run, is out of the server's reach.
fn reaches_nobody_else(bare: &mut Bare) -> Result<(), RigError> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/xen/reach.c");
    let arguments = ["-O1", "-static", "-Wall", "-Wextra", "-Werror"].map(str::to_owned);
    let mut arguments = arguments.to_vec();
    arguments.push(source.display().to_string());
    let reach = compile("reach", &arguments, &[source])?;
    bare.dom0().program("reach", &reach)?;
    bare.dom0().program("idle", &idle()?)?;
    bare.describe(&Domain::idle("other", Kind::Pvh, "idle"))?;
    bare.well("second domain", "xl create -p /share/other.cfg")?;
    let script = "/share/reach $(server native) $(cat /run/native.domain) $(xl domid other)";
    assert_eq!(bare.run("reach", script)?.output, REACHED);
    bare.well("destroy", "xl destroy other")
}
