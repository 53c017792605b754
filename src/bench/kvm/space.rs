//! A VM with its vCPU and the memory that the guest sees.
#![allow(unsafe_code, reason = "KVM gets addresses of this process's memory")]

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{IoEventAddress, Kvm, NoDatamatch, VcpuExit, VcpuFd, VmFd};
use vm_memory::MmapRegion;
use vmm_sys_util::errno::Error;
use vmm_sys_util::eventfd::EventFd;

/// Where KVM may put what it needs to run a guest without paging on older
/// Intel processors: three pages below the firmware.
const TSS: usize = 0xfffb_d000;

/// The guest runs while its vCPU is run, on memory that is there as long.
#[derive(Debug)]
pub(super) struct Space {
    vcpu: VcpuFd,
    vm: VmFd,
    /// Unmapped after both others are closed: fields are dropped in order, and
    /// neither is ever handed out.
    slots: Vec<MmapRegion<()>>,
}

impl Space {
    /// A VM of one vCPU with `ram` at address 0.
    pub(super) fn new(kvm: &Kvm, ram: MmapRegion<()>) -> Result<Space, Error> {
        let vm = kvm.create_vm()?;
        vm.set_tss_address(TSS)?;
        let mut space = Space {
            vcpu: vm.create_vcpu(0)?,
            vm,
            slots: Vec::new(),
        };
        space.add(0, ram)?;
        Ok(space)
    }

    /// Shows memory to the guest, at a page's address where nothing is yet.
    pub(super) fn add(&mut self, address: u64, memory: MmapRegion<()>) -> Result<(), Error> {
        let slot = kvm_userspace_memory_region {
            // A VM of ours has two.
            slot: u32::try_from(self.slots.len()).unwrap_or(u32::MAX),
            flags: 0,
            guest_phys_addr: address,
            memory_size: memory.size() as u64,
            userspace_addr: memory.as_ptr() as u64,
        };
        self.slots.push(memory);
        // SAFETY: the slot is a whole mapping of this process, which stays
        // until nothing can run the guest any more: `slots` says why. The
        // guest writes it at any time, and nothing here refers to it: it is
        // only copied, by vm-memory.
        unsafe { self.vm.set_user_memory_region(slot) }
    }

    /// The guest's RAM.
    pub(super) fn ram(&self) -> &MmapRegion<()> {
        // `new` added it.
        &self.slots[0]
    }

    /// Lets the kernel take the guest's writes of this address as an event.
    pub(super) fn ring(&self, event: &EventFd, address: u64) -> Result<(), Error> {
        let address = IoEventAddress::Mmio(address);
        self.vm.register_ioevent(event, &address, NoDatamatch)
    }

    /// The vCPU, to look at and to set.
    pub(super) fn vcpu(&self) -> &VcpuFd {
        &self.vcpu
    }

    /// Runs the guest to its next exit.
    #[inline]
    pub(super) fn run(&mut self) -> Result<VcpuExit<'_>, Error> {
        self.vcpu.run()
    }
}
