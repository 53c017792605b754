//! A VM that runs one of the guest's programs.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use kvm_bindings::{KVM_API_VERSION, kvm_regs, kvm_segment};
use kvm_ioctls::{Cap, Kvm, VcpuExit};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory, VolatileSlice};
use vmm_sys_util::errno::Error;
use vmm_sys_util::eventfd::EventFd;

use super::guest::{BAR, CODE, PORT, Program, RAM, UNROLLED};
use super::space::Space;
use super::watchdog::Watchdog;
use crate::bench::Trouble;
use crate::device::SharedMemory;

/// Protection enable (Intel SDM 3A, 2.5).
const CR0_PE: u64 = 1;

/// Always 1 in RFLAGS.
const RFLAGS: u64 = 1 << 1;

/// A segment of code, and of data, that was used already (SDM 3A, 3.4.5.1).
const CODE_SEGMENT: u8 = 0b1011;
const DATA_SEGMENT: u8 = 0b0011;

/// Opens KVM and looks whether it can do what every row needs.
///
/// # Errors
///
/// With what to do about it.
pub(super) fn open(path: &Path) -> Result<Kvm, Trouble> {
    let failed = |why: String| Trouble::new(path.display(), why);
    let name =
        CString::new(path.as_os_str().as_bytes()).map_err(|error| failed(error.to_string()))?;
    let kvm = Kvm::new_with_path(name)
        .map_err(|error| failed(format!("{}; {}", text(error), advice(error))))?;
    if i64::from(kvm.get_api_version()) != i64::from(KVM_API_VERSION) {
        return Err(failed("this is not KVM".to_owned()));
    }
    for (cap, name) in [
        (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
        (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    ] {
        if !kvm.check_extension(cap) {
            return Err(failed(format!("this KVM lacks {name}")));
        }
    }
    Ok(kvm)
}

fn advice(error: Error) -> &'static str {
    match error.errno() {
        libc::EACCES | libc::EPERM => "join the group kvm, or run as root",
        libc::ENOENT | libc::ENODEV | libc::ENXIO => {
            "load kvm_intel or kvm_amd; a VM gets KVM if its host lets it nest"
        }
        _ => "see the kernel's log",
    }
}

/// As the standard library says it, without the number.
fn text(error: Error) -> String {
    let text = io::Error::from(error).to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

/// Why the guest stopped.
#[derive(Debug)]
pub(super) enum Exit<'a> {
    /// It reads what nothing is mapped at: the offset in the BAR, and room for
    /// what it gets.
    Read(u64, &'a mut [u8]),
    /// It wrote there: the offset and what it wrote.
    Write(u64, &'a [u8]),
    /// A batch is done.
    Port,
}

/// A VM that runs a program, watched.
#[derive(Debug)]
pub(super) struct Vm<'a> {
    space: Space,
    watchdog: &'a Watchdog,
}

impl<'a> Vm<'a> {
    /// A VM whose guest is about to begin: it will access `address`, in
    /// batches of `batch` where its program has any, and write `value`. A batch
    /// is a multiple of [`UNROLLED`].
    pub(super) fn new(
        kvm: &Kvm,
        watchdog: &'a Watchdog,
        program: Program,
        address: u64,
        batch: u32,
        value: u32,
    ) -> Result<Vm<'a>, Trouble> {
        let failed = |error: Error| Trouble::new("KVM cannot make a VM", text(error));
        let memory =
            MmapRegion::new(RAM).map_err(|error| Trouble::new("no memory for a guest", error))?;
        ram(&memory, CODE, program.0.len())?.copy_from(program.0);
        let space = Space::new(kvm, memory).map_err(failed)?;
        flat_mode(&space).map_err(failed)?;
        let registers = kvm_regs {
            rip: CODE,
            rflags: RFLAGS,
            rsi: address,
            rbx: u64::from(batch / UNROLLED).max(1),
            rax: value.into(),
            ..kvm_regs::default()
        };
        space.vcpu().set_regs(&registers).map_err(failed)?;
        Ok(Vm { space, watchdog })
    }

    /// Maps shared memory where the BAR is.
    pub(super) fn map_bar(&mut self, memory: &SharedMemory) -> Result<(), Trouble> {
        let failed = |error: &dyn std::fmt::Display| Trouble::new("cannot map a BAR", error);
        let fd = memory.as_fd().ok_or_else(|| failed(&"it has no file"))?;
        let fd = fd.try_clone_to_owned().map_err(|error| failed(&error))?;
        let file = FileOffset::new(File::from(fd), 0);
        let mapped = MmapRegion::from_file(file, memory.size()).map_err(|error| failed(&error))?;
        let added = self.space.add(BAR, mapped);
        added.map_err(|error| failed(&text(error)))
    }

    /// Makes writes of a BAR's register signal an event, in the kernel.
    pub(super) fn ring(&self, offset: u64, event: &EventFd) -> Result<(), Trouble> {
        let rung = self.space.ring(event, BAR + offset);
        rung.map_err(|error| Trouble::new("KVM_IOEVENTFD", text(error)))
    }

    /// Reads 4 bytes of the guest's RAM.
    pub(super) fn peek(&self, address: u64) -> Result<u32, Trouble> {
        let mut value = [0; 4];
        ram(self.space.ram(), address, 4)?.copy_to(&mut value);
        Ok(u32::from_le_bytes(value))
    }

    /// Writes 4 bytes of the guest's RAM.
    pub(super) fn poke(&self, address: u64, value: u32) -> Result<(), Trouble> {
        ram(self.space.ram(), address, 4)?.copy_from(&value.to_le_bytes());
        Ok(())
    }

    /// What the guest has read last, or writes.
    pub(super) fn eax(&self) -> Result<u32, Trouble> {
        let registers = self.space.vcpu().get_regs();
        let registers = registers.map_err(|error| Trouble::new("KVM_GET_REGS", text(error)))?;
        Ok((registers.rax & 0xffff_ffff) as u32)
    }

    /// Runs the guest to its next exit and lets `handle` look at it.
    ///
    /// # Errors
    ///
    /// What `handle` returns; if the guest does not come back, or not in a way
    /// that its program can; if the measurement is interrupted meanwhile.
    #[inline]
    pub(super) fn run<T>(
        &mut self,
        handle: impl FnOnce(Exit<'_>) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        loop {
            self.watchdog.crossing();
            let ran = self.space.run();
            self.watchdog.crossing();
            match ran {
                Ok(VcpuExit::MmioRead(address @ BAR.., data)) => {
                    return handle(Exit::Read(address - BAR, data));
                }
                Ok(VcpuExit::MmioWrite(address @ BAR.., data)) => {
                    return handle(Exit::Write(address - BAR, data));
                }
                Ok(VcpuExit::IoOut(PORT, _)) => return handle(Exit::Port),
                Ok(exit) => return Err(unexpected(&exit)),
                Err(error) if error.errno() == libc::EINTR => self.watchdog.check()?,
                Err(error) => return Err(Trouble::new("KVM_RUN", text(error))),
            }
        }
    }
}

/// A part of the guest's RAM, to copy to or from.
fn ram(ram: &MmapRegion<()>, address: u64, size: usize) -> Result<VolatileSlice<'_>, Trouble> {
    usize::try_from(address)
        .map_err(|error| error.to_string())
        .and_then(|start| {
            ram.get_slice(start, size)
                .map_err(|error| error.to_string())
        })
        .map_err(|error| Trouble::new("the guest's RAM", error))
}

/// 32-bit code and data, both from 0 to 4 GiB.
fn flat_mode(space: &Space) -> Result<(), Error> {
    let vcpu = space.vcpu();
    let mut registers = vcpu.get_sregs()?;
    let segment = |selector, type_| kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        s: 1,
        db: 1,
        g: 1,
        ..kvm_segment::default()
    };
    registers.cs = segment(8, CODE_SEGMENT);
    let data = segment(16, DATA_SEGMENT);
    (registers.ds, registers.es, registers.ss) = (data, data, data);
    (registers.fs, registers.gs) = (data, data);
    registers.cr0 |= CR0_PE;
    vcpu.set_sregs(&registers)
}

#[cold]
fn unexpected(exit: &VcpuExit<'_>) -> Trouble {
    let what = match exit {
        VcpuExit::InternalError => "an internal error: it cannot run the guest's code".to_owned(),
        VcpuExit::FailEntry(reason, _) => format!("no entry into the guest, reason {reason:#x}"),
        VcpuExit::Shutdown => "a shutdown: the guest could not handle an exception".to_owned(),
        exit => format!("an exit that its program does not make: {exit:?}"),
    };
    Trouble::new("KVM_RUN", what)
}
