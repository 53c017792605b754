//! Register bytes with what a write may do to them.

/// A run of little-endian registers: per bit its value, whether a write sets
/// it, and whether a write of one clears it. A bit with neither is read-only.
#[derive(Debug, Clone)]
pub(super) struct Registers {
    /// How many bytes a guest sees, at least as many as have a value: the rest
    /// reads zero and ignores writes. A PCI Express function has 4096, and
    /// memory for these would be most of what a device takes.
    length: usize,
    value: Vec<u8>,
    writable: Vec<u8>,
    clear: Vec<u8>,
}

impl Registers {
    /// `length` bytes that read zero and ignore writes.
    pub(super) fn zeroed(length: usize) -> Self {
        Self {
            length,
            value: vec![0; length],
            writable: vec![0; length],
            clear: vec![0; length],
        }
    }

    /// The same with zeros behind, `length` bytes in all.
    pub(super) fn extended_to(mut self, length: usize) -> Self {
        self.length = length;
        self
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn value(&self) -> &[u8] {
        &self.value
    }

    /// Puts back the bytes of an earlier [`Self::value`]. They have the same
    /// length, because it never changes.
    pub(super) fn restore(&mut self, value: &[u8]) {
        self.value.copy_from_slice(value);
    }

    // The functions below take offsets from `spec` or from the builder, which
    // has checked that they fit, and never one from a guest.

    pub(super) fn set_u8(&mut self, at: usize, value: u8, writable: u8) {
        self.set(at, [value], [writable]);
    }

    pub(super) fn set_u16(&mut self, at: usize, value: u16, writable: u16) {
        self.set(at, value.to_le_bytes(), writable.to_le_bytes());
    }

    pub(super) fn set_u32(&mut self, at: usize, value: u32, writable: u32) {
        self.set(at, value.to_le_bytes(), writable.to_le_bytes());
    }

    fn set<const N: usize>(&mut self, at: usize, value: [u8; N], writable: [u8; N]) {
        self.value[at..at + N].copy_from_slice(&value);
        self.writable[at..at + N].copy_from_slice(&writable);
    }

    /// Makes bits write-one-to-clear.
    pub(super) fn set_clear_u16(&mut self, at: usize, clear: u16) {
        self.clear[at..at + 2].copy_from_slice(&clear.to_le_bytes());
    }

    /// Changes bits from inside the device, whatever a write may do.
    pub(super) fn update_u16(&mut self, at: usize, mask: u16, bits: u16) {
        let value = (self.u16(at) & !mask) | (bits & mask);
        self.value[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    /// The same for all bits of a register.
    pub(super) fn update_u32(&mut self, at: usize, bits: u32) {
        self.value[at..at + 4].copy_from_slice(&bits.to_le_bytes());
    }

    pub(super) fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.value[at], self.value[at + 1]])
    }

    pub(super) fn u32(&self, at: usize) -> u32 {
        u32::from(self.u16(at)) | u32::from(self.u16(at + 2)) << 16
    }

    /// Copies all of `other` to `at`.
    pub(super) fn splice(&mut self, at: usize, other: &Self) {
        let end = at + other.len();
        self.value[at..end].copy_from_slice(&other.value);
        self.writable[at..end].copy_from_slice(&other.writable);
        self.clear[at..end].copy_from_slice(&other.clear);
    }

    /// Reads as a guest: any offset and length, all-ones beyond the end.
    pub(super) fn read(&self, offset: usize, data: &mut [u8]) {
        let inside = self.length.saturating_sub(offset).min(data.len());
        let (inside, outside) = data.split_at_mut(inside);
        let known = self.value.get(offset..).unwrap_or_default();
        let (kept, zeros) = inside.split_at_mut(known.len().min(inside.len()));
        kept.copy_from_slice(&known[..kept.len()]);
        zeros.fill(0);
        outside.fill(0xff);
    }

    /// Writes as a guest: any offset and length, nothing beyond the end.
    pub(super) fn write(&mut self, offset: usize, data: &[u8]) {
        let bytes = self.value.iter_mut().zip(&self.writable).zip(&self.clear);
        for (((value, writable), clear), new) in bytes.skip(offset).zip(data) {
            *value = ((*value & !writable) | (new & writable)) & !(new & clear);
        }
    }

    /// Takes over the bytes of an earlier [`Self::value`], if what no write
    /// changes is the same. Bytes of which `inside` is true change from inside.
    pub(super) fn take_over(&mut self, value: &[u8], inside: impl Fn(usize) -> bool) -> bool {
        let fits = value.len() == self.value.len()
            && (0..value.len()).filter(|at| !inside(*at)).all(|at| {
                let changing = self.writable[at] | self.clear[at];
                (value[at] ^ self.value[at]) & !changing == 0
            });
        if fits {
            self.value.copy_from_slice(value);
        }
        fits
    }

    /// The bits that no write can change.
    #[cfg(test)]
    pub(super) fn fixed(&self) -> Vec<u8> {
        let changing = self.writable.iter().zip(&self.clear).map(|(w, c)| w | c);
        self.value
            .iter()
            .zip(changing)
            .map(|(v, c)| v & !c)
            .collect()
    }
}
