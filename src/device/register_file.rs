//! The stored values of registers, and the memory that shows some of them.

use std::io;
use std::marker::PhantomData;
use std::sync::Arc;

use super::window::{View, Window};
use super::{AccessError, Kind, Register, Row, Sharing, StateError, StateReader, StateWriter};

/// The stored values of a map's registers.
///
/// It gives `rw` and `w1c` registers their meaning, so that a device only
/// writes code for registers that do something.
#[derive(Debug)]
pub struct RegisterFile<R> {
    values: Box<[u64]>,
    view: Option<View>,
    registers: PhantomData<R>,
}

impl<R: Register> RegisterFile<R> {
    /// All registers at their reset values. Each access traps, whatever the
    /// rows say.
    pub fn new() -> Self {
        RegisterFile {
            values: R::MAP.rows.iter().map(|row| row.reset).collect(),
            view: None,
            registers: PhantomData,
        }
    }

    /// The same, and memory that shows what is `mapped` or `shown`, for
    /// [`Bar::of`](super::Bar::of).
    ///
    /// # Errors
    ///
    /// What the kernel answers to `memfd_create`, `ftruncate` and `mmap`.
    pub fn mapped() -> io::Result<Self> {
        let window = R::MAP.is_shared().then(|| Window::new(R::MAP));
        let window = window.transpose()?;
        Ok(RegisterFile {
            view: window.map(|window| View::new(Arc::new(window))),
            ..RegisterFile::new()
        })
    }

    pub(crate) fn window(&self) -> Option<Arc<Window>> {
        self.view.as_ref().map(View::window)
    }

    /// Returns all registers to their reset values.
    pub fn reset(&mut self) {
        for register in R::ALL {
            self.set(*register, register.row().reset);
        }
    }

    /// The stored value. That of a `rw mapped` register is the guest's, who
    /// changes it at any time: ask once, and check it.
    #[inline]
    pub fn get(&self, register: R) -> u64 {
        if const { R::MAP.is_shared() }
            && let Some(view) = &self.view
            && is_memory(register.row())
        {
            return view.load(register.row());
        }
        self.values[register.index()]
    }

    /// Stores a value whatever the register's kind, cut to its width.
    #[inline]
    pub fn set(&mut self, register: R, value: u64) {
        let row = register.row();
        let value = value & row.width.mask();
        self.values[register.index()] = value;
        if const { R::MAP.is_shared() }
            && let Some(view) = &mut self.view
            && row.sharing.is_shared()
        {
            view.store(row, value);
        }
    }

    /// Sets bits.
    #[inline]
    pub fn set_bits(&mut self, register: R, bits: u64) {
        self.set(register, self.get(register) | bits);
    }

    /// Adds one, and wraps at the register's width.
    #[inline]
    pub fn count(&mut self, register: R) {
        self.set(register, self.get(register).wrapping_add(1));
    }

    /// Writes as the guest does: stores into `rw`, clears bits of `w1c`.
    ///
    /// # Errors
    ///
    /// [`AccessError::ReadOnly`]; a `wo` register has no value to store, its
    /// device handles it first, so it ends as [`AccessError::Value`].
    #[inline]
    pub fn write(&mut self, register: R, value: u64) -> Result<(), AccessError> {
        let row = register.row();
        match row.kind {
            Kind::Rw => self.set(register, value),
            Kind::W1c => self.set(register, self.get(register) & !value),
            Kind::Ro => return Err(AccessError::ReadOnly { name: row.name }),
            Kind::Wo => {
                return Err(AccessError::Value {
                    name: row.name,
                    value,
                });
            }
        }
        Ok(())
    }

    /// Writes down all values, a word for each register.
    pub fn save(&self, state: &mut StateWriter<'_>) {
        for register in R::ALL {
            state.put(self.get(*register));
        }
    }

    /// Takes over what [`RegisterFile::save`] wrote.
    ///
    /// # Errors
    ///
    /// [`StateError`], also for a value that is wider than its register.
    pub fn restore(&mut self, state: &mut StateReader<'_>) -> Result<(), StateError> {
        for register in R::ALL {
            let row = register.row();
            self.set(*register, state.get_up_to(row.width.mask(), row.name)?);
        }
        Ok(())
    }
}

/// Whether the guest writes the register without an exit. Of every other one
/// the value is kept here too, and what the guest does to the memory does not
/// matter.
#[inline]
fn is_memory(row: &Row) -> bool {
    row.kind == Kind::Rw && row.sharing == Sharing::Mapped
}

impl<R: Register> Default for RegisterFile<R> {
    fn default() -> Self {
        Self::new()
    }
}
