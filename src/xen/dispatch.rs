//! What a request means: whose register it is, and how an instruction that
//! repeats becomes single accesses.

use super::foreign::GuestMemory;
use super::function::PciFunction;
use super::ioreq::{Operation, Repeated, Request};
use super::ranges::{Place, Ranges, Routes};
use crate::device::DmaError;

/// Guest memory, for the other side of an instruction that repeats; a test has
/// its own.
pub(super) trait Memory {
    /// Fills `data` from a guest address.
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), DmaError>;
    /// Writes `data` to a guest address.
    fn write(&self, address: u64, data: &[u8]) -> Result<(), DmaError>;
    /// Lets all go: the guest gave memory back.
    fn forget(&self);
}

impl Memory for std::sync::Arc<GuestMemory> {
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), DmaError> {
        GuestMemory::read(self, address, data)
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), DmaError> {
        GuestMemory::write(self, address, data)
    }

    fn forget(&self) {
        GuestMemory::forget(self);
    }
}

/// What carrying out a request came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// What the guest reads, if it reads into a register.
    pub(super) value: Option<u64>,
    /// Whose state may have changed: the function's number.
    pub(super) touched: Option<usize>,
}

/// All functions of a server, and where their BARs are.
pub(super) struct Dispatch<R, M> {
    pub(super) functions: Vec<PciFunction>,
    ranges: Ranges<R>,
    memory: M,
    /// For what a function wants, so that nothing is allocated when it is
    /// asked: a guest's driver turns decoding off and on often.
    wanted: Vec<Place>,
}

impl<R: Routes, M: Memory> Dispatch<R, M> {
    pub(super) fn new(routes: R, memory: M) -> Self {
        Dispatch {
            functions: Vec::new(),
            ranges: Ranges::new(routes),
            memory,
            wanted: Vec::new(),
        }
    }

    /// Has Xen send us what the functions want by now, such as those that go
    /// on from where a server before us was.
    pub(super) fn follow_all(&mut self) {
        for function in 0..self.functions.len() {
            self.follow(function);
        }
    }

    /// Carries a request out.
    #[inline]
    pub(super) fn carry_out(&mut self, request: &Request) -> Outcome {
        match *request {
            Request::Memory {
                address,
                size,
                operation,
            } => self.access(address, size, operation),
            Request::Config {
                function,
                register,
                size,
                operation,
            } => self.config(function, register, size, operation),
            Request::Repeated(repeated) => self.repeat(&repeated),
            Request::Invalidate => {
                self.memory.forget();
                Outcome::default()
            }
            Request::Unfit { is_read } => Outcome {
                value: is_read.then_some(u64::MAX),
                touched: None,
            },
        }
    }

    /// One access to memory. What is not ours any more reads all-ones.
    #[inline]
    fn access(&mut self, address: u64, size: usize, operation: Operation) -> Outcome {
        // An access that wraps is inside of no place.
        let last = address.wrapping_add(size as u64 - 1);
        let Some(place) = self.ranges.find(address, last) else {
            return Outcome {
                value: (operation == Operation::Read).then_some(u64::MAX),
                touched: None,
            };
        };
        Outcome {
            value: self.touch(&place, address, size, operation),
            touched: Some(place.function),
        }
    }

    /// An access inside a place: what is read.
    #[inline]
    fn touch(
        &mut self,
        place: &Place,
        address: u64,
        size: usize,
        operation: Operation,
    ) -> Option<u64> {
        let endpoint = &mut self.functions.get_mut(place.function)?.endpoint;
        let offset = address - place.first;
        match operation {
            Operation::Read => {
                let value = endpoint.load(place.bar, offset, size);
                Some(value.unwrap_or(u64::MAX))
            }
            Operation::Write(value) => {
                // It is inside the BAR: the place is as large.
                let _ = endpoint.store(place.bar, offset, size, value);
                None
            }
        }
    }

    #[cold]
    fn config(
        &mut self,
        function: u32,
        register: u32,
        size: usize,
        operation: Operation,
    ) -> Outcome {
        let mut functions = self.functions.iter();
        let number = functions.position(|own| own.slot.bdf().number() == function);
        let value = match number {
            Some(number) => {
                let value = self.functions[number].config(register, size, operation);
                if operation != Operation::Read {
                    self.follow(number);
                }
                value
            }
            None => u64::MAX,
        };
        Outcome {
            value: (operation == Operation::Read).then_some(value),
            touched: number,
        }
    }

    /// Has Xen send us what a function wants now.
    fn follow(&mut self, function: usize) {
        self.wanted.clear();
        self.wanted
            .extend(self.functions[function].places(function));
        self.ranges.update(function, &self.wanted);
    }

    /// All accesses of an instruction that repeats. Those that are not all
    /// inside one BAR read all-ones, or are dropped.
    #[cold]
    fn repeat(&mut self, repeated: &Repeated) -> Outcome {
        let (first, last) = repeated.bounds();
        let place = self.ranges.find(first, last);
        let mut value = None;
        for number in 0..repeated.count {
            match repeated.operation {
                Operation::Read => {
                    let read = place.and_then(|place| {
                        let address = repeated.address(number);
                        self.touch(&place, address, repeated.size, Operation::Read)
                    });
                    let read = read.unwrap_or(u64::MAX);
                    match repeated.buffer(number) {
                        Some(buffer) => {
                            let bytes = &read.to_le_bytes()[..repeated.size];
                            // As on a machine, nobody hears of memory that is
                            // not there.
                            let _ = self.memory.write(buffer, bytes);
                        }
                        None => value = Some(read),
                    }
                }
                Operation::Write(data) => {
                    let data = match repeated.buffer(number) {
                        Some(buffer) => self.fetch(buffer, repeated.size),
                        None => data,
                    };
                    if let Some(place) = place {
                        let address = repeated.address(number);
                        self.touch(&place, address, repeated.size, Operation::Write(data));
                    }
                }
            }
        }
        Outcome {
            value,
            touched: place.map(|place| place.function),
        }
    }

    /// A value from guest memory, all-ones where there is none.
    fn fetch(&self, address: u64, size: usize) -> u64 {
        let mut bytes = [0; 8];
        match self.memory.read(address, &mut bytes[..size]) {
            Ok(()) => u64::from_le_bytes(bytes),
            Err(_) => u64::MAX,
        }
    }
}

#[cfg(test)]
mod tests;
