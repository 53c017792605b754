//! A dom0 with the program and without the launcher: its scripts start servers
//! themselves.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use super::host::LIMIT;
use super::rig::xen::{Answer, Dom0, Domain, Rig};
use super::rig::{Guest, RigError};

/// What every script can call:
///
/// - `start NAME ARGUMENTS...` starts a server for a domain, `ready NAME` waits
///   until it serves, `serve` does both;
/// - `server NAME` says its process id; `ends NAME` waits for its end and says
///   how it ended, or fails;
/// - `gone` waits until there is no domain but dom0.
///
/// What a server says is in NAME.said. To start a process is slow in there: a
/// loop over these functions starts few.
const FUNCTIONS: &str = r#"
number() { xl domid $1 >/run/$1.domain; }
start() {
    name=$1
    shift
    rm -f /run/$name.ready /run/$name.pid /run/$name.status
    read -r domain </run/$name.domain
    (
        vgpu-stub serve --xen $domain --ready-fd 9 "$@" 9>/run/$name.ready &
        echo $! >/run/$name.pid
        wait $!
        echo $? >/run/$name.status
    ) </dev/null >>/share/$name.said 2>&1 3>&- &
}
ready() {
    until [ -s /run/$1.ready ]; do
        [ ! -s /run/$1.status ] || return
        usleep 20000
    done
}
serve() {
    start "$@"
    ready $1 || { cat /share/$1.said; return 1; }
}
server() {
    until [ -s /run/$1.pid ]; do usleep 10000; done
    read -r pid </run/$1.pid
    echo $pid
}
ends() {
    tries=0
    until [ -s /run/$1.status ]; do
        [ $((tries += 1)) -le 500 ] || { echo "still runs"; return 1; }
        usleep 20000
    done
    read -r status </run/$1.status
    echo $status
}
gone() {
    tries=0
    until [ $(xl list | wc -l) = 2 ]; do
        [ $((tries += 1)) -le 20 ] || { xl list; return 1; }
    done
}
"#;

const INSTALL: &str = "cp /share/vgpu-stub /usr/bin/";

/// A dom0 with the program.
pub(crate) struct Bare {
    dom0: Dom0,
    name: &'static str,
}

impl Bare {
    /// Under this name it says how long its scripts take.
    pub(crate) fn new(xen: &Rig, name: &'static str) -> Result<Self, RigError> {
        let mut dom0 = xen.dom0()?;
        dom0.program("vgpu-stub", Path::new(env!("CARGO_BIN_EXE_vgpu-stub")))?;
        dom0.program("guest.elf", Guest::build("tests/guest")?.image())?;
        dom0.run_well(INSTALL, LIMIT)?;
        Ok(Self { dom0, name })
    }

    /// The machine itself.
    pub(crate) fn dom0(&mut self) -> &mut Dom0 {
        &mut self.dom0
    }

    /// Puts a domain's configuration into the share.
    pub(crate) fn describe(&self, domain: &Domain) -> Result<(), RigError> {
        self.dom0
            .file(&format!("{}.cfg", domain.name()), &domain.text())
    }

    /// A guest that runs these tests, paused, without a server yet.
    pub(crate) fn prepare(&mut self, domain: &Domain) -> Result<(), RigError> {
        self.describe(domain)?;
        let name = domain.name();
        self.well(
            "create",
            &format!(
                "{} && number {name} >/dev/null",
                domain.prepare().trim_end()
            ),
        )
    }

    /// Runs a script that can call the functions above.
    pub(crate) fn run(&mut self, what: &str, script: &str) -> Result<Answer, RigError> {
        let started = Instant::now();
        let answer = self.dom0.run(&format!("{FUNCTIONS}{script}"), LIMIT);
        let took = started.elapsed().as_secs_f32();
        eprintln!("{}: {what}: {took:.1} s", self.name);
        answer
    }

    /// The same; it must succeed.
    pub(crate) fn well(&mut self, what: &str, script: &str) -> Result<(), RigError> {
        let answer = self.run(what, script)?;
        if answer.status == 0 {
            return Ok(());
        }
        let said = format!("{}\n{}", answer.status, answer.output);
        Err(RigError::failed(format!("{}: {what}", self.name), said))
    }

    /// What was heard of the guest says that all these tests have passed.
    pub(crate) fn passed(
        &mut self,
        domain: &Domain,
        tests: &[&str],
        answer: &Answer,
    ) -> Result<(), RigError> {
        let log = self.read(&format!("{}.log", domain.name()));
        let last = format!("done passed={} failed=0", tests.len());
        let passed = |test: &&str| log.contains(&format!("test {test}: ok"));
        if answer.status == 0 && tests.iter().all(passed) && log.contains(&last) {
            return Ok(());
        }
        let said = self.read(&format!("{}.said", domain.name()));
        let why = format!("{answer:?}\nguest: {log}\nserver: {said}");
        Err(RigError::failed(
            format!("{} did not say {last}", self.name),
            why,
        ))
    }

    /// A file of the share.
    pub(crate) fn read(&self, name: &str) -> String {
        self.dom0.read(name)
    }
}

/// An HVM guest that runs these tests, with patience for a slow machine.
pub(crate) fn guest(name: &str, processors: u32, tests: &[&str]) -> Domain {
    let mut line = "patience=60000".to_owned();
    if processors > 1 {
        write!(line, " cpus={processors}").expect("a string takes everything");
    }
    line = format!("{line} {}", tests.join(" "));
    Domain::new(name, "guest.elf", &line).processors(processors)
}
