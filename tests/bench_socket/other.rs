//! Rung 3: servers that run already, sound and others.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread;

use vgpu_stub::bench::{OtherServer, Pinning};
use vgpu_stub::devices::{KINDS, Options};
use vgpu_stub::endpoint::Endpoint;
use vgpu_stub::protocol::{Capabilities, Command};
use vgpu_stub::server::{Listener, Server, Source};

use super::liar::{Does, Liar};
use super::*;

fn measured(path: &Path) -> Section {
    let bench = tiny(Pinning::choose().unwrap());
    let other = OtherServer::look(path, &bench.plan.interrupt);
    let mut sections = bench.in_runs(|bench| vec![other.measure(bench, program())]);
    sections.remove(0)
}

fn of_liar(script: impl Fn(Command, u32) -> Does + Send + 'static) -> Section {
    let capabilities = Capabilities {
        write_multiple: Some(true),
        ..Capabilities::default()
    };
    measured(&Liar::new(capabilities, script).path())
}

/// The only gap's reason.
fn gap(section: &Section) -> &str {
    let [gap] = &section.gaps[..] else {
        panic!("{section:?}");
    };
    assert!(!gap.why.contains('\n'));
    &gap.why
}

/// What goes by shared memory, with a server that knows it.
const SHARED: [&str; 5] = ["read", "write", "sustained", "server-cpu", "read-back"];

const READS: [&str; 2] = ["other.read.floor", "other.read.server"];

#[test]
fn a_sound_server_has_all_rows() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let mut server = Server::new();
    let endpoint = Endpoint::new(KINDS[0].builder(Options::default()).unwrap()).unwrap();
    let listener = Listener::bind(&path, None).unwrap();
    server
        .add("stub", endpoint, Source::Listener(listener))
        .unwrap();
    let stopper = server.stopper();
    let serving = thread::spawn(|| server.run());
    let section = measured(&path);
    stopper.stop();
    serving.join().unwrap().unwrap();
    assert!(section.gaps.is_empty(), "{:?}", section.gaps);
    assert_eq!(section.rows.len(), 14 + SHARED.len());
    for row in &section.rows {
        assert_eq!(row.partial, None, "{}", row.name);
        assert_eq!(row.runs.len(), 2, "{}", row.name);
        assert_eq!(row.ratio.is_some(), server_of(&row.name) != "floor");
    }
    for access in SHARED {
        let name = format!("other.{access}.shared");
        assert!(names(&section).contains(&name.as_str()), "{name}");
    }
}

#[test]
fn a_server_of_another_make_is_measured_with_what_it_has() {
    let liar = Liar::new(Capabilities::default(), |_, _| Does::Right);
    let section = measured(&liar.path());
    assert_eq!(gap(&section), "the server does not know REGION_WRITE_MULTI");
    assert_eq!(section.rows.len(), 12);
    let read_only = of_liar(|command, _| match command {
        Command::RegionWrite => Does::Refuse(libc::EPERM),
        _ => Does::Right,
    });
    let why = gap(&read_only);
    assert!(why.starts_with("REGION_WRITE: refused: "), "{why}");
    assert_eq!(names(&read_only), READS);
}

#[test]
fn a_server_that_is_not_there_is_a_gap() {
    let section = measured(Path::new("/nowhere/at/all"));
    assert!(section.rows.is_empty());
    assert!(gap(&section).starts_with("/nowhere/at/all: "));
}

#[test]
fn a_server_that_leaves_or_has_nothing_is_a_gap() {
    let closed = of_liar(|_, _| Does::Leave);
    assert!(closed.rows.is_empty());
    assert!(gap(&closed).contains("VERSION"), "{}", gap(&closed));
    let empty = of_liar(|command, _| match command {
        Command::DeviceGetRegionInfo => Does::Refuse(libc::EINVAL),
        _ => Does::Right,
    });
    assert!(gap(&empty).contains("none of its BARs can be read"));
}

#[test]
fn a_server_that_goes_wrong_in_the_middle_keeps_what_was_measured() {
    for (does, why) in [
        (Does::Leave, "it ended the connection"),
        (Does::Refuse(libc::EIO), "it refused REGION_READ (errno 5)"),
        (
            Does::Elsewhere,
            "it answered REGION_READ for another access",
        ),
    ] {
        // Enough for the first row's slice in a run, and not for all.
        let section = of_liar(move |command, number| match command {
            Command::RegionRead if number > 60 => does,
            _ => Does::Right,
        });
        assert_eq!(gap(&section), why);
        let floors = section.rows.iter();
        assert!(floors.clone().count() > 0);
        for row in floors.filter(|row| row.name.ends_with(".server")) {
            assert_eq!(row.partial.as_deref(), Some(why));
        }
    }
}

#[test]
fn an_interrupt_ends_the_wait_for_a_server_that_never_answers() {
    let liar = Liar::new(Capabilities::default(), |_, _| Does::Nothing);
    let bench = tiny(Pinning::choose().unwrap());
    bench.plan.interrupt.flag().store(true, Ordering::Relaxed);
    let other = OtherServer::look(&liar.path(), &bench.plan.interrupt);
    let section = other.measure(&bench, program());
    assert!(section.rows.is_empty() && section.gaps.is_empty());
}
