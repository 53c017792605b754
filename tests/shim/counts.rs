//! What the device costs QEMU: system calls and threads, counted.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::fake::{Fake, Heard, Then, is};
use crate::pages::Sharing;
use crate::rig::RigError;
use crate::rig::process::{Process, lines_of};
use crate::rig::qtest::Qtest;
use crate::rig::require;
use crate::stage::{Card, MAILBOX, board, card, empty, served};
use crate::wire::device::Reg;
use crate::wire::{Cmd, Received, reply};

const LIMIT: Duration = Duration::from_secs(20);

/// The reads of a round.
const READS: u32 = 300;

/// The system calls of all QEMU's threads for each of some reads.
fn per_read(qemu: &mut Qtest, address: u64) -> Result<f64, RigError> {
    let failed = |error| RigError::failed("strace", error);
    let summary = tempfile::NamedTempFile::new().map_err(failed)?;
    let pid = qemu.id().to_string();
    let mut strace = Command::new("strace")
        .args(["-f", "-c", "-p", &pid, "-o"])
        .arg(summary.path())
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| {
            let remedy = "install strace (apt-get install strace)";
            RigError::missing("cannot run strace", error, remedy)
        })?;
    let said = lines_of(strace.stderr.take().expect("it is a pipe"));
    let id = Pid::from_child(&strace);
    let mut process = Process::new(strace);
    match said.recv_timeout(LIMIT) {
        Ok(line) if line.contains("attached") => {}
        Ok(line) => return Err(RigError::failed("strace", line)),
        Err(error @ (RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected)) => {
            return Err(RigError::failed("strace", error));
        }
    }
    for _ in 0..READS {
        qemu.read(address, 4);
    }
    kill_process(id, Signal::INT).map_err(|errno| RigError::failed("strace", errno))?;
    process.wait(Instant::now() + LIMIT).map_err(failed)?;
    let text = fs::read_to_string(summary.path()).map_err(failed)?;
    let line = text
        .lines()
        .find(|line| line.trim_end().ends_with(" total"));
    let total = line.and_then(|line| line.split_whitespace().nth(3)?.parse::<f64>().ok());
    let total = total.ok_or_else(|| RigError::failed("strace's summary has no total", text))?;
    Ok(total / f64::from(READS))
}

/// The fewest of some rounds: what disturbs only adds.
fn fewest(qemu: &mut Qtest, address: u64) -> Result<f64, RigError> {
    let mut fewest = f64::INFINITY;
    for _ in 0..3 {
        fewest = fewest.min(per_read(qemu, address)?);
    }
    Ok(fewest)
}

/// The calls for a read more than for one of plain memory: those of the
/// device.
fn of_the_device(card: &mut Card, address: u64) -> Result<f64, RigError> {
    let floor = fewest(&mut card.qemu, MAILBOX)?;
    let all = fewest(&mut card.qemu, address)?;
    println!("{all:.2} calls, {floor:.2} without the device");
    Ok(all - floor)
}

/// Rounds differ by a call or two.
const SOME: f64 = 0.1;

#[test]
fn a_trapped_read_costs_two_system_calls() {
    let served = served("stub");
    let mut card = require!(card(&served, "stub", ",shared-mmio=off"));
    let address = card.bar(0).address;
    let calls = require!(of_the_device(&mut card, address));
    assert!(calls < 2.0 + SOME, "{calls}");
}

/// While the server looks. Where it did not get a CPU in time the device
/// sleeps, so there may be many rounds until one is undisturbed.
#[test]
fn a_read_by_shared_memory_costs_no_system_call() {
    let sharing = Sharing {
        spins: true,
        ..Sharing::default()
    };
    // At once, or it would take longer than the device looks for the answer.
    let fake = Fake::sharing(sharing, |peer, message| {
        if !is(message, Cmd::RegionRead) || message.u32(24) != 0 {
            return Then::Honest;
        }
        let body = [&message.bytes[16..], &[0x5a; 4]].concat();
        peer.pass(&Received {
            bytes: reply(message.id(), Cmd::RegionRead, &body),
            fds: Vec::new(),
        });
        Then::Done
    });
    let mut card = Card::start(require!(board(&fake.socket(), "")));
    assert_eq!(card.get(Reg::ID), 0x5a5a_5a5a);
    let floor = require!(fewest(&mut card.qemu, MAILBOX));
    let address = card.bar(0).address;
    let mut calls = f64::INFINITY;
    for _ in 0..20 {
        calls = calls.min(require!(per_read(&mut card.qemu, address)) - floor);
        if calls < SOME {
            break;
        }
    }
    println!("{calls:.2} calls");
    // One for which it sleeps costs two or more.
    assert!(calls < 0.5, "{calls}");
    let by_socket = |heard: &Heard| heard.accesses(0, 0) && !heard.by_memory;
    assert_eq!(fake.count(by_socket), 0);
}

#[test]
fn reads_of_what_is_mapped_or_broken_cost_none() {
    let fake = Fake::honest();
    let mut card = Card::start(require!(board(&fake.socket(), "")));
    let mapped = card.bar(2).address;
    let calls = require!(of_the_device(&mut card, mapped));
    assert!(calls < SOME, "mapped: {calls}");
    fake.hang_up();
    assert_eq!(card.get(Reg::ID), 0xffff_ffff);
    let trapped = card.bar(0).address;
    let calls = require!(of_the_device(&mut card, trapped));
    assert!(calls < SOME, "broken: {calls}");
}

fn threads(qemu: &Qtest) -> usize {
    let tasks = format!("/proc/{}/task", qemu.id());
    fs::read_dir(tasks).unwrap().count()
}

#[test]
fn the_device_brings_no_thread() {
    let mut without = require!(empty()).start();
    without.alive();
    let fake = Fake::honest();
    let mut card = Card::start(require!(board(&fake.socket(), ",reconnect=50")));
    card.get(Reg::SCRATCH);
    card.set(Reg::BELL, 1);
    card.qemu.alive();
    assert_eq!(threads(&card.qemu), threads(&without));
}
