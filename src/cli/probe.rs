//! `vgpu-stub probe`: what any vfio-user server has, without touching it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use vgpu_stub::client::{Client, ClientError, Options};
use vgpu_stub::pci::describe;

use super::failure::Failure;
use super::looks::{self, Latency};
use super::probe_findings::{DeviceRegisters, Findings, Function, Irq, Look, Region, Version};
use super::screen::Screen;

/// Show what a vfio-user server has.
///
/// Any server will do, not only this program's. Nothing is written to the
/// device, and registers are read only of the devices of this program. A
/// server takes one client at a time: probe it before a VM uses it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The socket that the server listens on.
    #[arg(short, long, value_name = "PATH")]
    socket_path: PathBuf,

    /// Print JSON.
    #[arg(long)]
    json: bool,

    /// Give up after this time.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

/// How many regions and interrupt types are looked at, whatever a server
/// says: PCI has 9 and 5 (`<linux/vfio.h>`).
const MOST: u32 = 16;

/// How many latencies are measured, and for how long.
const ACCESSES: usize = 2000;
const MEASURE: Duration = Duration::from_millis(500);

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let findings = Probe::begin(args)
        .and_then(Probe::finish)
        .map_err(|error| peer(args, &error))?;
    if args.json {
        let text = serde_json::to_string_pretty(&findings).map_err(Failure::failed)?;
        Screen::new().line(text);
    } else {
        findings.show(&mut Screen::new());
    }
    Ok(())
}

/// One line: the socket, and what is wrong with its server.
fn peer(args: &Args, error: &ClientError) -> Failure {
    let path = args.socket_path.display();
    match error {
        // Names the socket itself.
        ClientError::Connect { .. } => Failure::peer(error),
        // Whatever was left of the time for this answer.
        ClientError::TimedOut { command, .. } => Failure::peer(format!(
            "{path}: {command}: no answer within {} s",
            args.timeout
        )),
        _ => Failure::peer(format!("{path}: {error}")),
    }
}

/// A probe on its way.
struct Probe {
    client: Client,
    deadline: Instant,
    findings: Findings,
}

impl Probe {
    fn begin(args: &Args) -> Result<Probe, ClientError> {
        let timeout = Duration::from_secs(args.timeout);
        let deadline = Instant::now() + timeout;
        let options = Options::default()
            .twin_socket()
            .read_only_areas()
            .shadow_doorbells()
            .timeout(timeout);
        let mut client = Client::connect(&args.socket_path, &options)?;
        let version = Version::new(&client.agreement().reply);
        client.set_timeout(left(deadline))?;
        let device = client.device_info()?;
        let findings = Findings::new(&args.socket_path, version, &device);
        Ok(Probe {
            client,
            deadline,
            findings,
        })
    }

    fn finish(mut self) -> Result<Findings, ClientError> {
        for index in 0..self.findings.device.regions.min(MOST) {
            let region = self.ask(|client| client.region(index))?;
            self.findings.regions.push(Region::new(index, region));
        }
        for index in 0..self.findings.device.irqs.min(MOST) {
            let info = self.ask(|client| client.irq_info(index))?;
            self.findings.irqs.push(Irq::new(index, info));
        }
        if let Some(size) = self.findings.config_size() {
            self.function(size)?;
        }
        self.io_fds();
        Ok(self.findings)
    }

    /// The regions' eventfds. Few servers know the command, and some are out
    /// of step after refusing it: so it comes last, and the first failure is a
    /// finding that ends it.
    fn io_fds(&mut self) {
        for index in 0..self.findings.regions.len() {
            if self.findings.regions[index].size() == 0 {
                continue;
            }
            let number = self.findings.regions[index].index;
            let io_fds = self.ask(|client| client.io_fds(number).map(|(io_fds, _)| io_fds));
            let io_fds = io_fds.unwrap_or_else(|error| Look::Refused {
                refused: error.to_string(),
            });
            let refused = io_fds.seen().is_none();
            self.findings.regions[index].set_io_fds(io_fds);
            if refused {
                return;
            }
        }
    }

    /// Config space and what follows from it.
    fn function(&mut self, size: u64) -> Result<(), ClientError> {
        let config = self.ask(|client| looks::read_config(client, size))?;
        let bar_sizes = self.findings.bar_sizes();
        let function = match config {
            Look::Seen(config) => match describe(&config, bar_sizes) {
                Ok(function) => Function::Seen(Box::new(function)),
                Err(error) => Function::Unreadable {
                    unreadable: error.to_string(),
                },
            },
            Look::Refused { refused } => Function::Refused { refused },
        };
        if let Function::Seen(function) = &function {
            if let Some(kind) = looks::ours(&function.identity) {
                let registers = self.ask(|client| looks::read_registers(client, kind.registers))?;
                self.findings.registers = Some(DeviceRegisters {
                    device: kind.name,
                    registers,
                });
            }
            let until = self.deadline.min(Instant::now() + MEASURE);
            let mut id = [0; 4];
            self.findings.config_read = Some(self.ask(|client| {
                Latency::measure(ACCESSES, until, || client.read(looks::CONFIG, 0, &mut id))
            })?);
        }
        self.findings.function = Some(function);
        Ok(())
    }

    /// Asks for something, in the time that is left. A refusal is an answer.
    fn ask<T>(
        &mut self,
        question: impl FnOnce(&mut Client) -> Result<T, ClientError>,
    ) -> Result<Look<T>, ClientError> {
        self.client.set_timeout(left(self.deadline))?;
        match question(&mut self.client) {
            Ok(seen) => Ok(Look::Seen(seen)),
            Err(error @ ClientError::Refused { .. }) => Ok(Look::Refused {
                refused: error.to_string(),
            }),
            Err(error) => Err(error),
        }
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}
