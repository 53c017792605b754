//! A write that clears bits reaches the device.
vgpu_stub::registers! {
    /// A map.
    pub enum Reg[16] {
        0x0 ID: u32 ro shown = 0, "identification";
        0x4 STATUS: u32 w1c mapped = 0, "write 1 to clear";
    }
    reserved { 0x8..0x10 }
}

fn main() {
    use vgpu_stub::device::Register;
    assert_eq!(Reg::MAP.size(), 16);
}
