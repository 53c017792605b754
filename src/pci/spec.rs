//! Numbers of the PCI specifications, and nothing else.
//!
//! Sections are of the PCI Local Bus Specification 3.0 ("PCI 3.0"), the PCI
//! Express Base Specification 4.0 ("PCIe 4.0") and the PCI Bus Power Management
//! Interface Specification 1.2 ("PM 1.2"). Offsets of a capability's registers
//! are relative to the capability.

/// Size of the configuration space of a conventional function (PCI 3.0 6.1).
pub const CONFIG_SIZE: usize = 256;
/// Size of the configuration space of a PCI Express function (PCIe 4.0 7.2).
pub const EXTENDED_CONFIG_SIZE: usize = 4096;
/// Size of the predefined header (PCI 3.0 6.1).
pub const HEADER_SIZE: usize = 64;

/// Vendor ID (PCI 3.0 6.2.1).
pub const VENDOR_ID: usize = 0x00;
/// Device ID (PCI 3.0 6.2.1).
pub const DEVICE_ID: usize = 0x02;
/// Command (PCI 3.0 6.2.2).
pub const COMMAND: usize = 0x04;
/// Status (PCI 3.0 6.2.3).
pub const STATUS: usize = 0x06;
/// Revision ID (PCI 3.0 6.2.1); the class code is the three bytes after it.
pub const REVISION_ID: usize = 0x08;
/// Cache line size, in dwords (PCI 3.0 6.2.4).
pub const CACHE_LINE_SIZE: usize = 0x0c;
/// Latency timer (PCI 3.0 6.2.4).
pub const LATENCY_TIMER: usize = 0x0d;
/// Header type (PCI 3.0 6.2.1); bit 7 says multi-function.
pub const HEADER_TYPE: usize = 0x0e;
/// First of the base address registers (PCI 3.0 6.2.5.1).
pub const BAR0: usize = 0x10;
/// Number of base address registers of a type 0 header (PCI 3.0 6.2.5.1).
pub const BAR_COUNT: usize = 6;
/// Subsystem vendor ID (PCI 3.0 6.2.4).
pub const SUBSYSTEM_VENDOR_ID: usize = 0x2c;
/// Subsystem ID (PCI 3.0 6.2.4).
pub const SUBSYSTEM_ID: usize = 0x2e;
/// Offset of the first capability (PCI 3.0 6.7).
pub const CAPABILITIES_POINTER: usize = 0x34;
/// Interrupt line (PCI 3.0 6.2.4).
pub const INTERRUPT_LINE: usize = 0x3c;
/// Interrupt pin (PCI 3.0 6.2.4).
pub const INTERRUPT_PIN: usize = 0x3d;

/// The vendor ID that says "no function here" (PCI 3.0 6.1).
pub const VENDOR_NONE: u16 = 0xffff;
/// The bits of the header type that name the layout (PCI 3.0 6.2.1).
pub const HEADER_LAYOUT: u8 = 0x7f;
/// The header type bit of a multi-function device (PCI 3.0 6.2.1).
pub const HEADER_MULTIFUNCTION: u8 = 0x80;

/// Command register bits (PCI 3.0 6.2.2, PCIe 4.0 7.5.1.1.3).
pub mod command {
    /// Respond to I/O accesses.
    pub const IO_SPACE: u16 = 1 << 0;
    /// Respond to memory accesses.
    pub const MEMORY_SPACE: u16 = 1 << 1;
    /// May read and write the memory of the host.
    pub const BUS_MASTER: u16 = 1 << 2;
    /// Monitor special cycles.
    pub const SPECIAL_CYCLES: u16 = 1 << 3;
    /// May use Memory Write and Invalidate.
    pub const MEMORY_WRITE_INVALIDATE: u16 = 1 << 4;
    /// Snoop accesses to the VGA palette.
    pub const VGA_PALETTE_SNOOP: u16 = 1 << 5;
    /// React to parity errors.
    pub const PARITY_ERROR_RESPONSE: u16 = 1 << 6;
    /// Address and data stepping (PCI 2.3 and before).
    pub const STEPPING: u16 = 1 << 7;
    /// Report system errors.
    pub const SERR_ENABLE: u16 = 1 << 8;
    /// Fast back-to-back writes to different agents.
    pub const FAST_BACK_TO_BACK: u16 = 1 << 9;
    /// Do not assert INTx.
    pub const INTERRUPT_DISABLE: u16 = 1 << 10;
}

/// Status register bits (PCI 3.0 6.2.3).
pub mod status {
    /// INTx is pending.
    pub const INTERRUPT: u16 = 1 << 3;
    /// There is a capability list.
    pub const CAPABILITIES_LIST: u16 = 1 << 4;
    /// Can run at 66 MHz.
    pub const MHZ66: u16 = 1 << 5;
    /// User definable features (PCI 2.1).
    pub const USER_DEFINABLE: u16 = 1 << 6;
    /// Accepts fast back-to-back transactions.
    pub const FAST_BACK_TO_BACK: u16 = 1 << 7;
    /// Master data parity error.
    pub const MASTER_DATA_PARITY: u16 = 1 << 8;
    /// Lowest bit of the two that tell the timing of DEVSEL#.
    pub const DEVSEL_SHIFT: u16 = 9;
    /// Signalled a target abort.
    pub const SIGNALED_TARGET_ABORT: u16 = 1 << 11;
    /// Received a target abort.
    pub const RECEIVED_TARGET_ABORT: u16 = 1 << 12;
    /// Received a master abort.
    pub const RECEIVED_MASTER_ABORT: u16 = 1 << 13;
    /// Signalled a system error.
    pub const SIGNALED_SYSTEM_ERROR: u16 = 1 << 14;
    /// Detected a parity error.
    pub const DETECTED_PARITY: u16 = 1 << 15;
    /// The bits that a write of one clears.
    pub const WRITE_ONE_TO_CLEAR: u16 = MASTER_DATA_PARITY
        | SIGNALED_TARGET_ABORT
        | RECEIVED_TARGET_ABORT
        | RECEIVED_MASTER_ABORT
        | SIGNALED_SYSTEM_ERROR
        | DETECTED_PARITY;
}

/// Base address register bits and limits (PCI 3.0 6.2.5.1).
pub mod bar {
    /// I/O space, not memory space.
    pub const IO: u32 = 1 << 0;
    /// The type field of a memory BAR.
    pub const TYPE_MASK: u32 = 0b110;
    /// Type: below 1 MiB (PCI 2.1).
    pub const TYPE_1M: u32 = 0b010;
    /// Type: anywhere in 64 bits; the next register holds the upper half.
    pub const TYPE_64: u32 = 0b100;
    /// Prefetchable memory.
    pub const PREFETCHABLE: u32 = 1 << 3;
    /// The bits of an I/O BAR that are not address.
    pub const IO_FLAGS: u32 = 0b11;
    /// The bits of a memory BAR that are not address.
    pub const MEMORY_FLAGS: u32 = 0b1111;
    /// The smallest memory BAR that the register can express.
    pub const MEMORY_MIN: u64 = 16;
    /// The largest 32-bit memory BAR.
    pub const MEMORY32_MAX: u64 = 1 << 31;
    /// The largest 64-bit memory BAR.
    pub const MEMORY64_MAX: u64 = 1 << 63;
    /// The smallest I/O BAR.
    pub const IO_MIN: u64 = 4;
    /// The most that one I/O BAR may claim.
    pub const IO_MAX: u64 = 256;
}

/// The header that every capability starts with (PCI 3.0 6.7).
pub mod capability {
    /// Capability ID.
    pub const ID: usize = 0x00;
    /// Offset of the next capability, zero in the last.
    pub const NEXT: usize = 0x01;
    /// What the header leaves free of a register that it shares.
    pub const SIZE: usize = 2;
    /// The lowest offset a capability may have.
    pub const FIRST: usize = super::HEADER_SIZE;
    /// The bits of a pointer that software must mask off.
    pub const POINTER_RESERVED: u8 = 0b11;

    /// Power Management (PCI 3.0 appendix H).
    pub const POWER_MANAGEMENT: u8 = 0x01;
    /// MSI (PCI 3.0 appendix H).
    pub const MSI: u8 = 0x05;
    /// Vendor specific (PCI 3.0 appendix H).
    pub const VENDOR: u8 = 0x09;
    /// PCI Express (PCI 3.0 appendix H).
    pub const PCI_EXPRESS: u8 = 0x10;
    /// MSI-X (PCI 3.0 appendix H).
    pub const MSIX: u8 = 0x11;
    /// Reads as this where there is no device.
    pub const NONE: u8 = 0xff;
}

/// Power Management capability (PM 1.2 3.2).
pub mod pm {
    /// Length of the capability.
    pub const SIZE: usize = 8;
    /// Power Management Capabilities, PMC (PM 1.2 3.2.3).
    pub const CAPABILITIES: usize = 0x02;
    /// Power Management Control/Status, PMCSR (PM 1.2 3.2.4).
    pub const CONTROL: usize = 0x04;
    /// PMC: complies with PM 1.2.
    pub const VERSION_1_2: u16 = 3;
    /// PMC: version field.
    pub const VERSION_MASK: u16 = 0b111;
    /// PMCSR: power state field.
    pub const STATE_MASK: u16 = 0b11;
    /// PMCSR: the states that a function need not support.
    pub const STATE_D1_D2: [u16; 2] = [1, 2];
    /// PMCSR: going from D3hot to D0 keeps the registers.
    pub const NO_SOFT_RESET: u16 = 1 << 3;
}

/// MSI capability (PCI 3.0 6.8.1).
pub mod msi {
    /// Length with a 64-bit address.
    pub const SIZE_64: usize = 14;
    /// Length with a 64-bit address and per-vector masking.
    pub const SIZE_64_MASKING: usize = 24;
    /// Message Control (PCI 3.0 6.8.1.3).
    pub const CONTROL: usize = 0x02;
    /// Message Address (PCI 3.0 6.8.1.4).
    pub const ADDRESS: usize = 0x04;
    /// Message Upper Address (PCI 3.0 6.8.1.5).
    pub const ADDRESS_UPPER: usize = 0x08;
    /// Message Data of a 32-bit capability (PCI 3.0 6.8.1.6).
    pub const DATA_32: usize = 0x08;
    /// Message Data of a 64-bit capability (PCI 3.0 6.8.1.6).
    pub const DATA_64: usize = 0x0c;
    /// From Message Data to Mask Bits (PCI 3.0 6.8.1.7).
    pub const MASK_AFTER_DATA: usize = 4;
    /// From Message Data to Pending Bits (PCI 3.0 6.8.1.8).
    pub const PENDING_AFTER_DATA: usize = 8;
    /// Control: enable.
    pub const ENABLE: u16 = 1 << 0;
    /// Control: lowest bit of Multiple Message Capable, a power of two.
    pub const CAPABLE_SHIFT: u16 = 1;
    /// Control: lowest bit of Multiple Message Enable, a power of two.
    pub const ENABLED_SHIFT: u16 = 4;
    /// Control: width of both fields.
    pub const COUNT_MASK: u16 = 0b111;
    /// Control: has an upper address.
    pub const ADDRESS_64: u16 = 1 << 7;
    /// Control: has mask and pending bits.
    pub const PER_VECTOR_MASKING: u16 = 1 << 8;
    /// Address bits that are always zero.
    pub const ADDRESS_RESERVED: u32 = 0b11;
    /// The most vectors a function may ask for.
    pub const VECTORS_MAX: u8 = 32;
}

/// MSI-X capability and structures (PCI 3.0 6.8.2).
pub mod msix {
    /// Length of the capability.
    pub const SIZE: usize = 12;
    /// Message Control (PCI 3.0 6.8.2.3).
    pub const CONTROL: usize = 0x02;
    /// Table Offset and BIR (PCI 3.0 6.8.2.4).
    pub const TABLE: usize = 0x04;
    /// PBA Offset and BIR (PCI 3.0 6.8.2.5).
    pub const PBA: usize = 0x08;
    /// Control: enable.
    pub const ENABLE: u16 = 1 << 15;
    /// Control: all vectors are masked.
    pub const FUNCTION_MASK: u16 = 1 << 14;
    /// Control: table size, less one.
    pub const TABLE_SIZE_MASK: u16 = 0x7ff;
    /// The bits of Table and PBA that name a BAR; the rest is the offset.
    pub const BIR_MASK: u32 = 0b111;
    /// The most vectors a function may have.
    pub const VECTORS_MAX: u16 = 2048;
    /// Length of a table entry (PCI 3.0 6.8.2.6).
    pub const ENTRY_SIZE: u64 = 16;
    /// Length of a piece of the PBA, and the alignment of both structures.
    pub const QWORD: u64 = 8;
    /// Vectors in a piece of the PBA (PCI 3.0 6.8.2.10).
    pub const PENDING_PER_QWORD: u64 = 64;
}

/// Vendor specific capability (PCI 3.0 appendix H).
pub mod vendor {
    /// Length of the whole capability, in bytes.
    pub const LENGTH: usize = 0x02;
    /// What follows is the vendor's.
    pub const BODY: usize = 0x03;
}

/// PCI Express capability, version 2 (PCIe 4.0 7.5.3).
pub mod express {
    /// Length of the version 2 structure, slot and root registers included.
    pub const SIZE: usize = 60;
    /// PCI Express Capabilities (PCIe 4.0 7.5.3.2).
    pub const FLAGS: usize = 0x02;
    /// Device Capabilities (PCIe 4.0 7.5.3.3).
    pub const DEVICE_CAPABILITIES: usize = 0x04;
    /// Device Control (PCIe 4.0 7.5.3.4).
    pub const DEVICE_CONTROL: usize = 0x08;
    /// Device Status (PCIe 4.0 7.5.3.5).
    pub const DEVICE_STATUS: usize = 0x0a;
    /// Link Capabilities (PCIe 4.0 7.5.3.6).
    pub const LINK_CAPABILITIES: usize = 0x0c;
    /// Link Control (PCIe 4.0 7.5.3.7).
    pub const LINK_CONTROL: usize = 0x10;
    /// Link Status (PCIe 4.0 7.5.3.8).
    pub const LINK_STATUS: usize = 0x12;
    /// Device Capabilities 2 (PCIe 4.0 7.5.3.15).
    pub const DEVICE_CAPABILITIES_2: usize = 0x24;
    /// Device Control 2 (PCIe 4.0 7.5.3.16).
    pub const DEVICE_CONTROL_2: usize = 0x28;
    /// Link Capabilities 2 (PCIe 4.0 7.5.3.18).
    pub const LINK_CAPABILITIES_2: usize = 0x2c;

    /// Flags: version field.
    pub const VERSION_MASK: u16 = 0xf;
    /// Flags: lowest bit of the device/port type; zero is an endpoint.
    pub const TYPE_SHIFT: u16 = 4;
    /// Device Capabilities: role-based error reporting, always set.
    pub const ROLE_BASED_ERRORS: u32 = 1 << 15;
    /// Device Capabilities: function level reset.
    pub const FLR_CAPABLE: u32 = 1 << 28;
    /// Device Control: the four error reporting enables.
    pub const ERROR_REPORTING: u16 = 0xf;
    /// Device Control: relaxed ordering, set after reset.
    pub const RELAXED_ORDERING: u16 = 1 << 4;
    /// Device Control: no snoop, set after reset.
    pub const NO_SNOOP: u16 = 1 << 11;
    /// Device Control: the read request size field.
    pub const READ_REQUEST_MASK: u16 = 0b111 << 12;
    /// Device Control: read requests of 512 bytes, the reset value.
    pub const READ_REQUEST_512: u16 = 0b010 << 12;
    /// Device Control: start a function level reset; reads as zero.
    pub const INITIATE_FLR: u16 = 1 << 15;
    /// Device Status: the four bits that a write of one clears.
    pub const ERRORS_DETECTED: u16 = 0xf;
    /// Link Capabilities and Status: 2.5 GT/s.
    pub const SPEED_2_5: u16 = 1;
    /// Link Capabilities and Status: one lane.
    pub const WIDTH_1: u16 = 1 << 4;
    /// Link Capabilities: complies with ASPM optionality, always set.
    pub const ASPM_OPTIONALITY: u32 = 1 << 22;
    /// Link Control: ASPM, common clock and extended synch.
    pub const LINK_CONTROL_WRITABLE: u16 = 0b1100_0011;
    /// Device Capabilities 2 and Control 2: completion timeout disable.
    pub const COMPLETION_TIMEOUT_DISABLE: u16 = 1 << 4;
    /// Link Capabilities 2: supports 2.5 GT/s.
    pub const SUPPORTS_2_5: u32 = 1 << 1;
}

/// Extended capabilities (PCIe 4.0 7.6.3).
pub mod extended {
    /// The first header; zero there means that there is none.
    pub const FIRST: usize = super::CONFIG_SIZE;
    /// Header: lowest bit of the version.
    pub const VERSION_SHIFT: u32 = 16;
    /// Header: the version, shifted down.
    pub const VERSION_MASK: u32 = 0xf;
    /// Header: lowest bit of the offset of the next.
    pub const NEXT_SHIFT: u32 = 20;
    /// Offset bits that software must mask off.
    pub const POINTER_RESERVED: u32 = 0b11;
}
