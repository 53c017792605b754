//! A register of 4 bytes at byte 6.
vgpu_stub::registers! {
    /// A map.
    pub enum Reg[16] {
        0x0 ID: u32 ro = 1, "identification";
        0x6 COUNT: u32 rw = 0, "storage";
    }
    reserved { 0x4..0x6, 0xa..0x10 }
}

fn main() {
    use vgpu_stub::device::Register;
    assert_eq!(Reg::MAP.size(), 16);
}
