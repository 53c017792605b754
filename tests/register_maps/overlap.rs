//! Two registers share byte 0.
vgpu_stub::registers! {
    /// A map.
    pub enum Reg[16] {
        0x0 ID: u32 ro = 1, "identification";
        0x0 COUNT: u32 rw = 0, "storage";
    }
    reserved { 0x4..0x10 }
}

fn main() {
    use vgpu_stub::device::Register;
    assert_eq!(Reg::MAP.size(), 16);
}
