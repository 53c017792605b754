//! The device in an HVM guest under a real Xen.

#[path = "../rig/mod.rs"]
mod rig;

use std::time::Duration;

use rig::{RigError, or_skip, xen};

#[test]
fn dom0_runs_a_script() -> Result<(), RigError> {
    let Some(xen) = or_skip(xen::Rig::ready()) else {
        return Ok(());
    };
    let mut dom0 = xen.dom0()?;
    let answer = dom0.run("xl list; exit 3", Duration::from_secs(60))?;
    assert_eq!(answer.status, 3, "{answer:?}");
    assert!(answer.output.contains("Domain-0"), "{answer:?}");
    Ok(())
}
