//! Reports for tests: the same ones every time.

use std::time::Duration;

use super::super::{
    Breakdown, FORMAT, Machine, Method, Part, Report, Row, Section, Tally, Trouble, Whose,
};

/// Two rows of three runs, 1.25 apart.
pub(in super::super) fn small() -> Report {
    let mut section = Section::new(2, "socket");
    let mut noise = Noise(1);
    let mut add = |name, what, floor, medians: [f64; 3]| {
        section
            .rows
            .push(row(name, what, floor, &medians, &mut noise));
    };
    add(
        "socket.floor",
        "floor: ping-pong",
        None,
        [8e3, 8.8e3, 7.2e3],
    );
    let floor = Some("socket.floor");
    add("socket.read.stub", "read, stub", floor, [1e4, 1.1e4, 9e3]);
    section.rows[1].context_switches = Some(2.0);
    section.relate();
    report(vec![section])
}

/// The runs of a row of these medians, with next to no noise in them.
pub(in super::super) fn row(
    name: &str,
    what: &str,
    floor: Option<&str>,
    medians: &[f64],
    noise: &mut Noise,
) -> Row {
    let mut tally = Tally::named(name, what, floor, 1);
    for (number, median) in (0..).zip(medians) {
        tally.begin(number, Duration::from_secs(number.into()));
        for slice in 1..=2 {
            let at = Duration::from_secs_f64(f64::from(number) + 0.2 * f64::from(slice));
            let samples = (0..25).map(|_| median * (1.0 + 1e-4 * noise.unit()));
            tally.slice_of(at, [*median; 26].into_iter().chain(samples).collect());
        }
    }
    tally.finish().unwrap()
}

/// What a machine of two CPUs might give: all kinds of sections and rows, and
/// texts that are no good HTML.
pub(in super::super) fn large() -> Report {
    let mut noise = Noise(7);
    let mut sections = vec![dispatch(&mut noise)];
    sections.push(socket("same", 7_490.0, 0.06, &mut noise));
    let mut two = socket("two", 27_800.0, 0.25, &mut noise);
    two.rows[4].partial = Some("the peer closed the connection <&\"'> in run 3".to_owned());
    two.rows.pop();
    two.gap("two.read.crate-spinning", "the vfio_user crate cannot spin");
    sections.push(two);
    let mut running = Section::new(3, "a running server");
    running.gap("all rows", "no --socket-path given");
    sections.push(running);
    sections.push(kvm(&mut noise));
    sections.push(qemu(&mut noise));
    sections.push(Section::new(6, "inside a guest"));
    let mut report = report(sections);
    report.interrupted = true;
    report
}

fn report(sections: Vec<Section>) -> Report {
    Report {
        format: FORMAT,
        started: 1_795_253_999,
        interrupted: false,
        machine: Machine {
            cpu: "AMD EPYC 7763 64-Core Processor".to_owned(),
            cpus: 2,
            kernel: "6.18.1 x86_64".to_owned(),
            hypervisor: Some("KVM <Standard & \"PC\">".to_owned()),
            governor: None,
            load: "0.41 0.52 0.48".to_owned(),
            clocksource: "tsc".to_owned(),
            version: "0.1.0".to_owned(),
            revision: Some("4457487abcde".to_owned()),
        },
        method: Method {
            quick: true,
            runs: 5,
            slices: 4,
            slice_ms: 4.0,
            clock: "rdtsc".to_owned(),
            clock_overhead_ns: 18.4,
            client_cpu: 1,
            other_cpu: Some(0),
            fifo: false,
        },
        sections,
    }
}

fn dispatch(noise: &mut Noise) -> Section {
    let mut section = Section::new(1, "dispatch: endpoint to register and back, in process");
    section
        .notes
        .push("A sample is 64 accesses; their times are a 64th of it.".to_owned());
    let mut rows = vec![(
        "dispatch.floor",
        "floor: a virtual call that copies 4 bytes",
        None,
        1.42,
    )];
    let floor = Some("dispatch.floor");
    for (name, what, median) in [
        ("dispatch.read.1", "read, 1 byte", 24.1),
        ("dispatch.read.2", "read, 2 bytes", 23.8),
        ("dispatch.read.4", "read, 4 bytes", 21.2),
        ("dispatch.read.8", "read, 8 bytes", 26.0),
        ("dispatch.write.1", "write, 1 byte", 27.5),
        ("dispatch.write.2", "write, 2 bytes", 27.9),
        ("dispatch.write.4", "write, 4 bytes", 24.4),
        ("dispatch.write.8", "write, 8 bytes", 29.1),
    ] {
        rows.push((name, what, floor, median));
    }
    fill(&mut section, &rows, 0.04, 0.0, noise);
    section
}

fn socket(cpus: &str, floor: f64, sigma: f64, noise: &mut Noise) -> Section {
    let mut section = Section::new(2, format!("socket: client and server on {cpus} CPU"));
    section
        .notes
        .push("A posted write is timed until it is sent; the server answers nothing.".to_owned());
    let name = |rest: &str| format!("socket.{cpus}.{rest}");
    let read = name("ping-pong.20-36");
    let posted = name("send.36");
    let mut rows = vec![
        (
            read.clone(),
            "floor: ping-pong, 20 bytes and 36",
            None,
            floor,
        ),
        (posted.clone(), "floor: send, 36 bytes", None, floor * 0.16),
    ];
    for (operation, what, times) in [
        ("read", "read", 1.0),
        ("write", "acknowledged write", 1.01),
        ("write-read", "write plus read-back", 1.9),
        ("write-multi", "WRITE_MULTI of 8", 1.3),
        ("posted", "posted write, send cost", 0.17),
        ("posted-rate", "posted write, sustained", 0.31),
    ] {
        for (server, long, more) in [
            ("stub", "our server", 1.12),
            ("stub-spin", "our server, spinning", 0.8),
            ("crate", "vfio_user crate's Server", 1.24),
        ] {
            let floor = if operation.starts_with("posted") {
                &posted
            } else {
                &read
            };
            rows.push((
                name(&format!("{operation}.{server}")),
                Box::leak(format!("{what}, {long}").into_boxed_str()),
                Some(floor.clone()),
                rows[0].3 * times * more,
            ));
        }
    }
    let rows: Vec<_> = rows
        .iter()
        .map(|(name, what, floor, median)| (name.as_str(), *what, floor.as_deref(), *median))
        .collect();
    fill(&mut section, &rows, sigma, 2.0, noise);
    section
}

fn kvm(noise: &mut Noise) -> Section {
    let mut section = Section::new(4, "KVM harness: a real trap, without QEMU");
    let floor = Some("kvm.exit");
    let rows = [
        ("kvm.exit", "floor: exit and re-entry alone", None, 2_310.0),
        (
            "kvm.read.in-process",
            "exit plus in-process device",
            floor,
            2_390.0,
        ),
        (
            "kvm.read.socket",
            "exit plus socket, same CPU",
            floor,
            11_900.0,
        ),
        (
            "kvm.read.socket-two",
            "exit plus socket, two CPUs, server spinning",
            floor,
            6_700.0,
        ),
        (
            "kvm.write.ioeventfd",
            "doorbell through an ioeventfd, until the write returns",
            floor,
            1_940.0,
        ),
        ("kvm.read.mapped", "mapped BAR, no exit at all", floor, 3.1),
    ];
    fill(&mut section, &rows, 0.08, 1.0, noise);
    let part = |what: &str, whose, p50| Part {
        what: what.to_owned(),
        whose,
        p50,
        p99: 1.6 * p50,
    };
    section.breakdown = Some(Breakdown {
        title: "a read in a guest, through the socket, server on the same CPU".to_owned(),
        parts: vec![
            part("exit to the client", Whose::Hypervisor, 1_150.0),
            part("client: message made", Whose::Ours, 60.0),
            part("sendmsg and wake-up of the server", Whose::Kernel, 3_900.0),
            part("server: receive to answer", Whose::Ours, 210.0),
            part("send and wake-up of the client", Whose::Kernel, 4_200.0),
            part("client: reply checked", Whose::Ours, 90.0),
            part("re-entry", Whose::Hypervisor, 1_200.0),
        ],
    });
    section
}

fn qemu(noise: &mut Noise) -> Section {
    let mut section = Section::new(5, "QEMU 11.1.0, TCG: a bare-metal guest times itself");
    section.gap(
        "QEMU under KVM",
        "/dev/kvm: Permission denied; add yourself to the group kvm, or run as root; the rows \
         of qemu.kvm.* are missing <script>alert(1)</script>",
    );
    let floor = Some("qemu.tcg.same.read.edu");
    let rows = [
        (
            "qemu.tcg.same.timer",
            "floor: reading the guest's timer twice",
            None,
            64.0,
        ),
        (
            "qemu.tcg.same.read.edu",
            "floor: edu in QEMU's process",
            None,
            402.0,
        ),
        (
            "qemu.tcg.same.read.stub",
            "vfio-user-pci, read",
            floor,
            21_800.0,
        ),
        (
            "qemu.tcg.same.write.stub",
            "vfio-user-pci, posted write",
            floor,
            6_050.0,
        ),
        (
            "qemu.tcg.same.write.acknowledged",
            "vfio-user-pci, x-no-posted-writes=on",
            floor,
            22_300.0,
        ),
        ("qemu.tcg.same.read.mapped", "mapped BAR, read", floor, 9.6),
    ];
    fill(&mut section, &rows, 0.15, 2.2, noise);
    section
}

/// Name, what, floor, median.
type Line<'a> = (&'a str, &'a str, Option<&'a str>, f64);

/// Five runs of four slices, interleaved, on a machine that drifts.
fn fill(section: &mut Section, rows: &[Line<'_>], sigma: f64, switches: f64, noise: &mut Noise) {
    let begun = f64::from(section.rung) * 6.0;
    let mut tallies: Vec<Tally> = rows
        .iter()
        .map(|(name, what, floor, _)| Tally::named(name, what, *floor, 1))
        .collect();
    for run in 0..5 {
        let started = begun + f64::from(run);
        let luck: Vec<f64> = rows.iter().map(|_| noise.normal() * sigma / 8.0).collect();
        for tally in &mut tallies {
            tally.begin(run, Duration::from_secs_f64(started));
        }
        for slice in 0..4 {
            let drift = 0.12 * (started * 0.9).sin() + sigma * 0.2 * noise.normal();
            for ((tally, row), luck) in tallies.iter_mut().zip(rows).zip(&luck) {
                let at = started + 0.2 * f64::from(slice) + noise.unit() * 0.1;
                let median = row.3 * (drift + luck).exp();
                let samples = (0..400).map(|_| median * noise.latency(sigma)).collect();
                tally.slice_of(Duration::from_secs_f64(at), samples);
            }
        }
    }
    for tally in &mut tallies {
        if switches > 0.0 && tally.name() != "kvm.read.mapped" {
            tally.switches(switches + 0.01 * noise.unit());
        }
    }
    let weak = tallies.len() / 2;
    if sigma > 0.2 {
        tallies[weak].ended_early(&Trouble("no answer within 1 s".to_owned()));
    }
    section.rows = tallies.into_iter().filter_map(Tally::finish).collect();
    section.relate();
}

/// Numbers that look random (xorshift).
pub(in super::super) struct Noise(pub(in super::super) u64);

impl Noise {
    /// From 0 to 1.
    pub(in super::super) fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        f64::from(u32::try_from(self.0 >> 32).unwrap()) / f64::from(u32::MAX)
    }

    /// About normal: the sum of twelve.
    pub(in super::super) fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }

    /// A factor with the long tail that latencies have.
    fn latency(&mut self, sigma: f64) -> f64 {
        let body = (sigma * self.normal().max(-2.0)).exp();
        match self.unit() {
            tail if tail < 0.002 => body * (4.0 + 40.0 * self.unit()),
            tail if tail < 0.02 => body * (1.3 + self.unit()),
            _ => body,
        }
    }
}
