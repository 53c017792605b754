//! A server that is killed: its successor goes on from where it was, and the
//! guest notices nothing.

use crate::bare::{Bare, guest};
use crate::rig::xen::Rig;
use crate::rig::{RigError, or_skip};

/// How often.
const KILLS: u32 = 50;

/// Of the moments at which it is killed.
const SEED: u32 = 0x5eed;

const ARGUMENTS: &str = "--state /run/load.state --device stub,vectors=16 --device doorbell";

/// Kills the server some time after the guest has said how far it is, and
/// every fifth time the successor, too, before it is ready. Then one goes in
/// peace, and the next one must still be there at the end.
const KILL: &str = r#"
seed=@SEED@
kills=0
kill_server() {
    seed=$(((seed * 1103515245 + 12345) % 2147483648))
    usleep $((seed / 1024 % $1))
    kill -$2 $(server load)
    ended=$(ends load)
    kills=$((kills + 1))
}
xl unpause load
while read -t 120 -r line; do
    echo "$line"
    case $line in
        done*)
            echo "kills $kills" >&2
            exit 0
            ;;
        "load rounds="*)
            [ $kills -le @KILLS@ ] || continue
            if [ $kills = @KILLS@ ]; then
                kill_server 10000 HUP
                [ $ended = 7 ] || exit 1
            else
                kill_server 100000 KILL
                [ $ended = 137 ] || exit 1
                if [ $((kills % 5)) = 4 ]; then
                    start load @ARGUMENTS@
                    kill_server 60000 KILL
                fi
            fi
            serve load @ARGUMENTS@ || exit 1
            ;;
    esac
done <>/run/load.serial >/share/load.log
exit 1
"#;

#[test]
fn a_server_is_killed_fifty_times_and_no_value_is_wrong() -> Result<(), RigError> {
    let Some(xen) = or_skip(Rig::ready()) else {
        return Ok(());
    };
    let mut bare = Bare::new(xen, "adopt")?;
    let domain = guest("load", 2, &["count=100", "load"]);
    bare.prepare(&domain)?;
    bare.well("serve", &format!("serve load {ARGUMENTS}"))?;
    println!("seed={SEED:#x}");
    let script = KILL
        .replace("@SEED@", &SEED.to_string())
        .replace("@KILLS@", &KILLS.to_string())
        .replace("@ARGUMENTS@", ARGUMENTS);
    let heard = bare.run("kills", &script)?;
    bare.passed(&domain, &["load"], &heard)?;
    println!("{}", bare.read("load.log"));
    assert!(
        heard.output.contains(&format!("kills {}", KILLS + 1)),
        "{heard:?}"
    );
    let ended = bare.run("end", "kill $(server load); ends load; ls /run/load.state")?;
    assert!(ended.output.starts_with("0\n"), "{ended:?}");
    assert_ne!(ended.status, 0, "the state is still there");
    bare.well("destroy", "xl destroy load; gone")
}
