//! A domain that is destroyed at any moment: its server ends by itself, and
//! nothing is left of either.

use crate::bare::{Bare, guest};
use crate::rig::xen::Rig;
use crate::rig::{RigError, or_skip};

/// Of the moments.
const SEED: u32 = 0xdead;

const ARGUMENTS: &str = "--device stub,vectors=16 --device doorbell";

/// Destroys the domain; its server ends in one of these ways. What keeps a
/// destroyed domain is memory of it that somebody has mapped.
const DESTROY: &str = r#"
destroy() {
    xl destroy load || return
    ended=$(ends load)
    case $ended in
        $1) ;;
        *) echo "the server ended: $ended"; return 1;;
    esac
    gone && rm -f /run/load.serial
}
"#;

/// Waits until the guest has said how far it is, and some time longer.
const UNDER_LOAD: &str = r#"
xl unpause load
heard=
while read -t 120 -r line; do
    echo "$line"
    case $line in "load rounds="*) heard=yes; break;; esac
done <>/run/load.serial >/share/load.log
[ -n "$heard" ] || exit
usleep @LATER@
"#;

const STOPPED: &str = r"
kill -STOP $(server load)
usleep 200000
(usleep 500000; kill -CONT $(server load)) &
destroy 0
";

#[test]
fn nothing_is_left_of_a_domain_that_is_destroyed() -> Result<(), RigError> {
    let Some(xen) = or_skip(Rig::ready()) else {
        return Ok(());
    };
    let mut bare = Bare::new(xen, "death")?;
    println!("seed={SEED:#x}");
    let mut seed = SEED;
    let mut moment = |below: u32| {
        seed = seed.wrapping_mul(1_103_515_245).wrapping_add(12345);
        seed / 1024 % below
    };
    let domain = guest("load", 2, &["count=100000", "load"]);
    let serve = format!("serve load {ARGUMENTS} || exit\n");

    bare.prepare(&domain)?;
    destroyed(&mut bare, "before it runs", &format!("{serve}destroy 0"))?;

    // A server that comes too late for a domain says so, and fails.
    for _ in 0..3 {
        bare.prepare(&domain)?;
        let later = moment(150_000);
        let script = format!("start load {ARGUMENTS}; usleep {later}; destroy '[01]'");
        destroyed(&mut bare, "during set-up", &script)?;
    }

    let under_load = |later: u32| UNDER_LOAD.replace("@LATER@", &later.to_string());
    bare.prepare(&domain)?;
    let script = format!("{serve}{}destroy 0", under_load(moment(300_000)));
    destroyed(&mut bare, "under load", &script)?;

    // Both processors wait for an answer that does not come.
    bare.prepare(&domain)?;
    let script = format!("{serve}{}{STOPPED}", under_load(moment(300_000)));
    destroyed(&mut bare, "in the middle of an access", &script)
}

fn destroyed(bare: &mut Bare, when: &str, script: &str) -> Result<(), RigError> {
    bare.well(when, &format!("{DESTROY}{script}"))
}
