//! The `vgpu-stub` program.

fn main() {}
