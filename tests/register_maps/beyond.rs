//! A reserved range ends beyond the map.
vgpu_stub::registers! {
    /// A map.
    pub enum Reg[16] {
        0x0 ID: u32 ro = 1, "identification";
        0x4 COUNT: u32 rw = 0, "storage";
    }
    reserved { 0x8..0x14 }
}

fn main() {
    use vgpu_stub::device::Register;
    assert_eq!(Reg::MAP.size(), 16);
}
