//! There is no such word.
vgpu_stub::registers! {
    /// A map.
    pub enum Reg[16] {
        0x0 ID: u32 ro shown = 0, "identification";
        0x4 COUNT: u32 ro visible = 0, "read-only";
    }
    reserved { 0x8..0x10 }
}

fn main() {
    use vgpu_stub::device::Register;
    assert_eq!(Reg::MAP.size(), 16);
}
