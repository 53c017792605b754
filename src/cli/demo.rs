//! `vgpu-stub demo`: the stub and a client in one process, to see it work.

use std::io;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use vgpu_stub::client::{Client, ClientError, Options};
use vgpu_stub::device::Register;
use vgpu_stub::devices::{self, KINDS, StubRegister};
use vgpu_stub::endpoint::Endpoint;
use vgpu_stub::pci::describe::CapabilityKind;
use vgpu_stub::pci::{Description, describe, spec};
use vgpu_stub::server::{ServeError, Server, Source};

use super::demo_checks::Checks;
use super::failure::Failure;
use super::looks::{self, Latency};
use super::screen::{BAD, DIM, GOOD, Screen};

/// Show the stub at work; nothing else is needed.
///
/// Serves the stub in this process, connects to it with the built-in client,
/// and shows it as a guest would find it: config space, registers,
/// interrupts, DMA. Exits with 1 if any of it does not work.
#[derive(Debug, clap::Args)]
pub(super) struct Args {}

/// Where a guest's firmware might put BAR 0.
const BAR0: u32 = 0xfebf_0000;

pub(super) fn run(_: &Args) -> Result<(), Failure> {
    let (ours, theirs) = UnixStream::pair().map_err(Failure::failed)?;
    let serving = start(theirs)?;
    let failed = |error: ClientError| Failure::failed(format!("demo: {error}"));
    let shown = Client::over(ours, &Options::default()).map_err(failed);
    // The server ends when the client is dropped.
    let shown = shown.and_then(|client| show(client).map_err(failed));
    let ended = serving
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let wrong = shown?;
    ended.map_err(Failure::failed)?;
    if wrong.is_empty() {
        return Ok(());
    }
    let wrong = wrong.join("; ");
    Err(Failure::failed(format!("demo: does not work: {wrong}")))
}

/// Serves the stub on a thread until its client leaves.
fn start(stream: UnixStream) -> Result<JoinHandle<Result<(), ServeError>>, Failure> {
    // The stub is the first.
    let kind = &KINDS[0];
    let builder = kind
        .builder(devices::Options::default())
        .map_err(Failure::failed)?;
    let stub = Endpoint::new(builder).map_err(Failure::failed)?;
    let mut server = Server::new();
    let source = Source::Connected(stream);
    server
        .add(kind.name, stub, source)
        .map_err(Failure::failed)?;
    let thread = thread::Builder::new().spawn(move || server.run());
    thread.map_err(Failure::failed)
}

/// Shows everything and returns what does not work.
fn show(mut client: Client) -> Result<Vec<String>, ClientError> {
    let client = &mut client;
    let mut screen = Screen::new();
    screen.title("The stub, served over vfio-user in this process");

    set_up(client)?;
    screen.heading("The function, as lspci -vv prints it");
    match function(client)? {
        Ok(function) => screen.block(&function.to_string()),
        Err(error) => return Ok(vec![error]),
    }

    screen.heading("The registers of BAR 0");
    let readings = looks::read_registers(client, StubRegister::MAP)?;
    looks::show_registers(&mut screen, &readings);

    screen.heading("What it does");
    let mut wrong = Vec::new();
    for (name, check) in Checks::ALL {
        match check(client) {
            Ok(text) => screen.line(format_args!("  {GOOD}ok{GOOD:#}    {name:<18} {text}")),
            Err(error) => {
                screen.line(format_args!("  {BAD}wrong{BAD:#} {name:<18} {error}"));
                wrong.push(format!("{name}: {error}"));
            }
        }
    }

    screen.heading("What an access costs");
    show_latency(client, &mut screen)?;
    if wrong.is_empty() {
        screen.line(format_args!("\n{GOOD}All of it works.{GOOD:#}"));
    }
    Ok(wrong)
}

/// Does what a guest's firmware and driver do first: gives BAR 0 an address,
/// lets the function answer there and use memory, turns MSI-X on.
fn set_up(client: &mut Client) -> Result<(), ClientError> {
    use spec::command::{BUS_MASTER, INTERRUPT_DISABLE, MEMORY_SPACE};
    let bar0 = spec::BAR0 as u64;
    client.write(looks::CONFIG, bar0, &BAR0.to_le_bytes())?;
    let command = MEMORY_SPACE | BUS_MASTER | INTERRUPT_DISABLE;
    let at = spec::COMMAND as u64;
    client.write(looks::CONFIG, at, &command.to_le_bytes())?;
    if let Ok(function) = function(client)? {
        let msix = function
            .capabilities
            .iter()
            .find(|found| matches!(found.kind, CapabilityKind::Msix(_)));
        if let Some(msix) = msix {
            let control = (msix.offset + spec::msix::CONTROL) as u64;
            let mut value = [0; 2];
            client.read(looks::CONFIG, control, &mut value)?;
            let value = u16::from_le_bytes(value) | spec::msix::ENABLE;
            client.write(looks::CONFIG, control, &value.to_le_bytes())?;
        }
    }
    Ok(())
}

/// The function, or what is wrong with its config space.
fn function(client: &mut Client) -> Result<Result<Description, String>, ClientError> {
    let size = client.region(looks::CONFIG)?.info.size;
    let config = looks::read_config(client, size)?;
    let bar0 = client.region(0)?.info.size;
    let function = describe(&config, [bar0, 0, 0, 0, 0, 0]);
    Ok(function.map_err(|error| format!("config space: {error}")))
}

fn show_latency(client: &mut Client, screen: &mut Screen) -> Result<(), ClientError> {
    const COUNT: usize = 5000;
    let until = || Instant::now() + Duration::from_secs(1);
    let offset = StubRegister::SCRATCH.row().offset.into();
    let mut data = [0; 4];
    screen.line(Latency::head("4 bytes"));
    let reads = Latency::measure(COUNT, until(), || client.read(0, offset, &mut data))?;
    screen.line(reads.line("read"));
    let writes = Latency::measure(COUNT, until(), || client.write(0, offset, &[1, 2, 3, 4]))?;
    screen.line(writes.line("write"));
    let posted = Latency::measure(COUNT, until(), || client.post(0, offset, &[1, 2, 3, 4]))?;
    // The posted ones are done when a read is.
    client.read(0, offset, &mut data)?;
    screen.line(posted.line("posted write"));
    screen.line(format_args!(
        "  {DIM}A first look between two threads, not a benchmark.{DIM:#}"
    ));
    Ok(())
}

/// An error of the operating system, in the words of a check.
pub(super) fn local(error: impl Into<io::Error>) -> String {
    error.into().to_string()
}
