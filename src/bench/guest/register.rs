//! A register of a BAR, mapped and accessed as a driver does.
#![allow(unsafe_code, reason = "maps a device's registers and accesses them")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::{Ordering, fence};

use crate::device::Width;
use crate::endpoint::sigbus::Guard;

/// One register. It is one page of its BAR, mapped on its own.
pub(super) struct Register {
    // Dropped before the page is.
    guard: Guard,
    page: Page,
    /// In the page; a multiple of the width.
    at: usize,
    width: Width,
}

impl Register {
    /// Maps the register at `offset` of a file, which must be a multiple of
    /// its width.
    ///
    /// # Errors
    ///
    /// As `mmap` has them; `EINVAL` for an offset that is none.
    pub(super) fn map(file: &File, offset: u64, width: Width) -> io::Result<Self> {
        let size = page_size();
        let at = usize::try_from(offset).map_err(|_| invalid())? % size;
        if !at.is_multiple_of(width.bytes() as usize) {
            return Err(invalid());
        }
        let page = Page::map(file, offset - at as u64, size)?;
        Ok(Register {
            guard: Guard::new(page.start as usize, size)?,
            page,
            at,
            width,
        })
    }

    /// One load.
    #[inline]
    pub(super) fn read(&self) -> u64 {
        let at = self.address();
        // SAFETY: `at` is in the page, which is mapped as long as `self` is,
        // with room for the width, and a multiple of it: see `map`. Nothing
        // refers to this memory, and any bytes are a value.
        unsafe {
            match self.width {
                Width::U8 => u64::from(ptr::read_volatile(at.cast::<u8>())),
                Width::U16 => u64::from(ptr::read_volatile(at.cast::<u16>())),
                Width::U32 => u64::from(ptr::read_volatile(at.cast::<u32>())),
                Width::U64 => ptr::read_volatile(at.cast::<u64>()),
            }
        }
    }

    /// One store, of the low bytes of the value. It has left the processor
    /// when this returns.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "as the width says")]
    pub(super) fn write(&self, value: u64) {
        let at = self.address();
        // SAFETY: as in `read`; the page is mapped for writing.
        unsafe {
            match self.width {
                Width::U8 => ptr::write_volatile(at.cast::<u8>(), value as u8),
                Width::U16 => ptr::write_volatile(at.cast::<u16>(), value as u16),
                Width::U32 => ptr::write_volatile(at.cast::<u32>(), value as u32),
                Width::U64 => ptr::write_volatile(at.cast::<u64>(), value),
            }
        }
        fence(Ordering::SeqCst);
    }

    /// Whether the mapping is no more what it was: reads and writes have gone
    /// to memory of our own since.
    pub(super) fn is_gone(&self) -> bool {
        self.guard.is_gone()
    }

    fn address(&self) -> *mut libc::c_void {
        self.page.start.wrapping_byte_add(self.at)
    }
}

/// A mapped page.
struct Page {
    start: *mut libc::c_void,
    size: usize,
}

impl Page {
    fn map(file: &File, from: u64, size: usize) -> io::Result<Self> {
        let from = libc::off_t::try_from(from).map_err(|_| invalid())?;
        // SAFETY: a new mapping, where the kernel likes it, changes no memory
        // that is in use.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                from,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Page { start, size })
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: it is a mapping of this size that nobody else knows.
        unsafe { libc::munmap(self.start, self.size) };
    }
}

fn invalid() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}

/// The size of a page, in bytes.
pub(super) fn page_size() -> usize {
    // SAFETY: it asks for a number.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // Every system has one.
    usize::try_from(size).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(pages: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(pages * page_size() as u64).unwrap();
        file
    }

    #[test]
    fn each_width_reaches_its_bytes_and_no_others() {
        use std::os::unix::fs::FileExt;
        let file = file(2);
        let offset = page_size() as u64 + 8;
        for (width, value) in [
            (Width::U8, 0x11),
            (Width::U16, 0x2222),
            (Width::U32, 0x3333_3333),
            (Width::U64, 0x4444_4444_4444_4444),
        ] {
            file.write_all_at(&[0; 16], offset).unwrap();
            let register = Register::map(&file, offset, width).unwrap();
            register.write(value);
            assert_eq!(register.read(), value);
            let mut bytes = [0; 16];
            file.read_exact_at(&mut bytes, offset).unwrap();
            assert_eq!(u128::from_le_bytes(bytes), u128::from(value));
        }
    }

    #[test]
    fn an_offset_that_is_no_multiple_of_the_width_is_refused() {
        let file = file(1);
        assert!(Register::map(&file, 0xc, Width::U32).is_ok());
        assert!(Register::map(&file, 0xc, Width::U64).is_err());
    }

    #[test]
    fn memory_that_goes_away_is_told() {
        let file = file(1);
        let register = Register::map(&file, 0, Width::U32).unwrap();
        register.write(1);
        assert!(!register.is_gone());
        file.set_len(0).unwrap();
        // A SIGBUS, which is survived.
        assert_eq!(register.read(), 0);
        assert!(register.is_gone());
    }
}
