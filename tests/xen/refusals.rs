//! What `serve --xen` says to a domain that it cannot serve: one line, at once.

use std::path::{Path, PathBuf};

use super::bare::{Bare, guest};
use super::rig::guest::compile;
use super::rig::xen::{self, Domain, Kind};
use super::rig::{RigError, or_skip};

/// `refused STATUS WORDS COMMAND...`: the command ends with that status, and
/// says one line, which has the words in it (of the command line, two more: how
/// to get help). It prints what is otherwise.
const REFUSED: &str = r#"
failed=0
refused() {
    status=$1 words=$2
    shift 2
    said=$(timeout 60 "$@" 2>&1 </dev/null)
    was=$?
    case $said in *"$words"*) found=1;; *) found=0;; esac
    lines=$(echo "$said" | grep -c .)
    if [ $was != $status ] || [ $found = 0 ] || [ $lines != $status ]; then
        failed=1
        echo "$*: $was in place of $status, no '$words', or not one line: $said"
    fi
}
serve="vgpu-stub serve --xen"
"#;

/// Domains: 1 is an HVM guest, 2 a PV and 3 a PVH guest.
const DOMAINS: &str = r#"
refused 2 "no guest's number" $serve 0
refused 2 "no guest's number" $serve 32752
refused 1 "domain 99: there is none" $serve 99
refused 1 "domain 2: not an HVM guest" $serve 2
refused 1 "domain 3: not an HVM guest" $serve 3
[ $failed = 0 ]
"#;

/// Somebody who may not, a host that is none, and descriptors of something else.
const RIGHTS: &str = r#"
cp /share/narrow /usr/bin/
refused 1 "/dev/xen/privcmd: no right to open it" narrow nobody $serve 1
for node in privcmd evtchn; do
    mv /dev/xen/$node /dev/away
    refused 1 "/dev/xen/$node: not there" $serve 1
    mv /dev/away /dev/xen/$node
done
exec 8</dev/null
refused 1 "is not /dev/xen/privcmd" $serve 1 --privcmd-fd 8
refused 1 "is not /dev/xen/evtchn" $serve 1 --evtchn-fd 8
exec 8<&-
refused 1 "domain 1: not ours" narrow privcmd 2 8 $serve 1 --privcmd-fd 8
refused 1 "restricted already" narrow evtchn 1 8 $serve 1 --evtchn-fd 8
[ $failed = 0 ]
"#;

/// QEMU has one of the 8 servers that a domain may have.
const SERVERS: &str = r#"
for server in 1 2 3 4 5 6 7; do
    ln -s full.domain /run/full$server.domain
    serve full$server --device stub,bdf=1$server.0 || exit
done
refused 1 "domain 1: all its 8 ioreq servers are taken" $serve 1 --device stub,bdf=18.0
kill $(server full4)
ends full4
ln -s full.domain /run/full8.domain
serve full8 --device stub,bdf=18.0 || failed=1
xl destroy full
for server in 1 2 3 5 6 7 8; do
    [ "$(ends full$server)" = 0 ] || { echo "server $server: $(cat /run/full$server.status)"; failed=1; }
done
[ $failed = 0 ]
"#;

#[test]
fn what_cannot_be_served_is_refused_in_one_line() -> Result<(), RigError> {
    let Some(xen) = or_skip(xen::Rig::ready()) else {
        return Ok(());
    };
    let mut bare = Bare::new(xen, "refusals")?;
    bare.dom0().program("idle", &xen::idle()?)?;
    bare.dom0().program("narrow", &compile_narrow()?)?;
    bare.prepare(&guest("full", 1, &[]))?;
    for (name, kind) in [("pv", Kind::Pv), ("pvh", Kind::Pvh)] {
        let domain = Domain::idle(name, kind, "idle");
        bare.describe(&domain)?;
        bare.well(name, &format!("xl create -p /share/{name}.cfg"))?;
    }
    for (what, script) in [
        ("domains", DOMAINS),
        ("rights", RIGHTS),
        ("servers", SERVERS),
    ] {
        bare.well(what, &format!("{REFUSED}{script}"))?;
    }
    Ok(())
}

fn compile_narrow() -> Result<PathBuf, RigError> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/xen/narrow.c");
    let arguments = ["-O1", "-static", "-Wall", "-Wextra", "-Werror"];
    let mut arguments = arguments.map(str::to_owned).to_vec();
    arguments.push(source.display().to_string());
    compile("narrow", &arguments, &[source])
}
