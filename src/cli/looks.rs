//! What `demo` and `probe` both look at: config space, registers, latency.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;
use vgpu_stub::client::{Client, ClientError};
use vgpu_stub::device::{Kind, RegisterMap, Row};
use vgpu_stub::devices::KINDS;
use vgpu_stub::pci::Identity;

use super::screen::{DIM, Screen, fit};

/// The config space's region, after six BARs and the ROM (`<linux/vfio.h>`).
pub(super) const CONFIG: u32 = 7;
const CONFIG_SIZE: u64 = 4096;

/// Reads config space as a guest does: in 4-byte pieces, which every server
/// knows.
pub(super) fn read_config(client: &mut Client, size: u64) -> Result<Vec<u8>, ClientError> {
    let mut config = vec![0; usize::try_from(size.min(CONFIG_SIZE)).unwrap_or(0)];
    for (offset, bytes) in (0..).step_by(4).zip(config.chunks_mut(4)) {
        client.read(CONFIG, offset, bytes)?;
    }
    Ok(config)
}

/// Our devices by their ids. Reading a register of another's device may do
/// something to it.
const OURS: [(u16, &str); 3] = [(0x1111, "stub"), (0x1112, "doorbell"), (0x1113, "copier")];

/// Which of our devices this is.
pub(super) fn ours(identity: &Identity) -> Option<&'static vgpu_stub::devices::Kind> {
    let all = (
        identity.vendor,
        identity.subsystem_vendor,
        identity.subsystem,
    );
    let (_, name) = OURS.iter().find(|(id, _)| *id == identity.device)?;
    (all == (0x1af4, 0x1af4, 0x1100))
        .then(|| KINDS.iter().find(|kind| kind.name == *name))
        .flatten()
}

/// A register and what was read from it.
#[derive(Debug, Serialize)]
pub(super) struct Reading {
    offset: u32,
    name: &'static str,
    bits: u32,
    kind: &'static str,
    /// Absent for a write-only register.
    value: Option<u64>,
    #[serde(skip)]
    doc: &'static str,
}

/// Reads all registers of BAR 0 that can be read.
pub(super) fn read_registers(
    client: &mut Client,
    map: &RegisterMap,
) -> Result<Vec<Reading>, ClientError> {
    map.rows.iter().map(|row| reading(client, row)).collect()
}

fn reading(client: &mut Client, row: &Row) -> Result<Reading, ClientError> {
    let value = match row.kind {
        Kind::Wo => None,
        _ => Some(read_register(client, row)?),
    };
    Ok(Reading {
        offset: row.offset,
        name: row.name,
        bits: 8 * row.width.bytes(),
        kind: row.kind.name(),
        value,
        doc: row.doc,
    })
}

/// Reads a whole register of BAR 0.
pub(super) fn read_register(client: &mut Client, row: &Row) -> Result<u64, ClientError> {
    let mut bytes = [0; 8];
    let width = row.width.bytes() as usize;
    client.read(0, row.offset.into(), &mut bytes[..width])?;
    Ok(u64::from_le_bytes(bytes))
}

/// Prints registers, one line each.
pub(super) fn show_registers(screen: &mut Screen, readings: &[Reading]) {
    for reading in readings {
        let digits = reading.bits as usize / 4;
        let value = match reading.value {
            Some(value) => format!("0x{value:0digits$x}"),
            None => "write-only".to_owned(),
        };
        // The documentation is Markdown.
        let doc = fit(&reading.doc.replace('`', ""), 34);
        let (offset, name) = (reading.offset, reading.name);
        screen.line(format_args!(
            "  {offset:03x} {name:<17} {value:<18} {DIM}{doc}{DIM:#}"
        ));
    }
}

/// How long accesses took, one at a time.
#[derive(Debug, Serialize)]
pub(super) struct Latency {
    count: usize,
    min_ns: u64,
    p50_ns: u64,
    p99_ns: u64,
}

impl Latency {
    /// Does `access` up to `count` times, but not after `until`.
    pub(super) fn measure(
        count: usize,
        until: Instant,
        mut access: impl FnMut() -> Result<(), ClientError>,
    ) -> Result<Latency, ClientError> {
        let mut times = Vec::with_capacity(count);
        let mut begun = Instant::now();
        while times.len() < count && (begun < until || times.is_empty()) {
            access()?;
            let ended = Instant::now();
            times.push(ended - begun);
            begun = ended;
        }
        times.sort_unstable();
        let at = |percent: usize| {
            let time = times.get(times.len() * percent / 100).copied();
            time.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
        };
        Ok(Latency {
            count: times.len(),
            min_ns: at(0),
            p50_ns: at(50),
            p99_ns: at(99),
        })
    }

    /// The line over those of [`Latency`]s.
    pub(super) fn head(title: &str) -> String {
        format!("  {title:<14} {:>10} {:>10} {:>10}", "min", "p50", "p99")
    }

    /// A line of it.
    pub(super) fn line(&self, name: &str) -> String {
        let [min, p50, p99] = [self.min_ns, self.p50_ns, self.p99_ns].map(Time);
        format!(
            "  {name:<14} {min:>10} {p50:>10} {p99:>10}   of {}",
            self.count
        )
    }
}

/// A time in ns, in the unit that suits it.
struct Time(u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&time(Duration::from_nanos(self.0)))
    }
}

/// A time in the unit that suits it.
pub(super) fn time(time: Duration) -> String {
    match time.as_secs_f64() {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.1} ms", s * 1e3),
        s => format!("{:.1} us", s * 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_of_ours_is_known_by_its_config_space() {
        for kind in KINDS {
            let builder = kind
                .builder(vgpu_stub::devices::Options::default())
                .unwrap();
            let mut endpoint = vgpu_stub::endpoint::Endpoint::new(builder).unwrap();
            let mut config = [0; 64];
            endpoint.read(CONFIG, 0, &mut config).unwrap();
            let function = vgpu_stub::pci::describe(&config, [0; 6]).unwrap();
            assert_eq!(ours(&function.identity).unwrap().name, kind.name);
            let foreign = Identity {
                vendor: 0x8086,
                ..function.identity
            };
            assert!(ours(&foreign).is_none());
        }
    }

    #[test]
    fn a_latency_measures_at_least_once_and_not_after_its_end() {
        let now = Instant::now();
        let latency = Latency::measure(10, now, || Ok(())).unwrap();
        assert_eq!(latency.count, 1);
        let end = now + Duration::from_secs(60);
        let latency = Latency::measure(10, end, || Ok(())).unwrap();
        assert_eq!(latency.count, 10);
        assert!(latency.min_ns <= latency.p50_ns && latency.p50_ns <= latency.p99_ns);
    }

    #[test]
    fn a_time_is_said_in_the_unit_that_suits_it() {
        let said = [900, 7_250, 2_500_000, 3_000_000_000].map(|ns| time(Duration::from_nanos(ns)));
        assert_eq!(said, ["0.9 us", "7.2 us", "2.5 ms", "3.00 s"]);
    }
}
