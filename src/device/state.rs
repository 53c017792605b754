//! What a device writes down for the process that goes on with it, should its
//! own be killed.
//!
//! A state is a run of 64-bit words of a fixed number, so that it can be
//! written after each access without allocation. A reader trusts none of them.

use std::sync::atomic::{AtomicU64, Ordering};

use thiserror::Error;

/// A kept state does not fit the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StateError {
    /// It has fewer words than the device reads.
    #[error("the state ends too early")]
    Short,
    /// It has more words than the device reads.
    #[error("the state goes on where it should end")]
    Long,
    /// Its sum is not that of its words.
    #[error("the state is torn")]
    Torn,
    /// A value cannot be.
    #[error("{name} cannot be {value:#x}")]
    Value {
        /// What it is of.
        name: &'static str,
        /// The value.
        value: u64,
    },
}

/// Writes a state word by word.
#[derive(Debug)]
pub struct StateWriter<'a> {
    words: &'a [AtomicU64],
    at: usize,
    sum: Sum,
}

impl<'a> StateWriter<'a> {
    /// Writes into `words`, from the first on.
    #[inline]
    pub fn new(words: &'a [AtomicU64]) -> Self {
        StateWriter {
            words,
            at: 0,
            sum: Sum::NEW,
        }
    }

    /// Writes a word. What has no room is only counted.
    #[inline]
    pub fn put(&mut self, value: impl Into<u64>) {
        let value = value.into();
        if let Some(word) = self.words.get(self.at) {
            word.store(value, Ordering::Relaxed);
        }
        self.sum.add(value);
        self.at += 1;
    }

    /// Writes bytes, eight to a word, the last word filled up with zeros.
    pub fn put_bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.put(u64::from_le_bytes(word));
        }
    }

    /// How many words a state takes with its sum.
    pub fn measure(save: impl FnOnce(&mut StateWriter<'_>)) -> usize {
        let mut writer = StateWriter::new(&[]);
        save(&mut writer);
        writer.at + 1
    }

    /// Puts the sum behind all. Whether that filled the words exactly.
    #[inline]
    #[must_use]
    pub fn finish(self) -> bool {
        let Some(word) = self.words.get(self.at) else {
            return false;
        };
        word.store(self.sum.value(), Ordering::Relaxed);
        self.at + 1 == self.words.len()
    }
}

/// Reads a state word by word, in the order in which it was written.
#[derive(Debug)]
pub struct StateReader<'a> {
    words: &'a [u64],
}

impl<'a> StateReader<'a> {
    /// Reads what a [`StateWriter`] has finished.
    ///
    /// # Errors
    ///
    /// [`StateError::Short`] and [`StateError::Torn`].
    pub fn new(words: &'a [u64]) -> Result<Self, StateError> {
        let (sum, words) = words.split_last().ok_or(StateError::Short)?;
        let mut expected = Sum::NEW;
        for word in words {
            expected.add(*word);
        }
        if expected.value() != *sum {
            return Err(StateError::Torn);
        }
        Ok(StateReader { words })
    }

    /// The next word.
    ///
    /// # Errors
    ///
    /// [`StateError::Short`].
    pub fn get(&mut self) -> Result<u64, StateError> {
        let (word, rest) = self.words.split_first().ok_or(StateError::Short)?;
        self.words = rest;
        Ok(*word)
    }

    /// The next word, which is no larger than `most`; `name` is for the error.
    ///
    /// # Errors
    ///
    /// [`StateError::Short`] and [`StateError::Value`].
    pub fn get_up_to(&mut self, most: u64, name: &'static str) -> Result<u64, StateError> {
        match self.get()? {
            value if value <= most => Ok(value),
            value => Err(StateError::Value { name, value }),
        }
    }

    /// The next word, which is one of 32 bits; `name` is for the error.
    ///
    /// # Errors
    ///
    /// [`StateError::Short`] and [`StateError::Value`].
    pub fn get_u32(&mut self, name: &'static str) -> Result<u32, StateError> {
        let value = self.get()?;
        u32::try_from(value).map_err(|_| StateError::Value { name, value })
    }

    /// Fills `bytes` with what [`StateWriter::put_bytes`] wrote.
    ///
    /// # Errors
    ///
    /// [`StateError::Short`]; `bytes` may then be partly filled.
    pub fn get_bytes(&mut self, bytes: &mut [u8]) -> Result<(), StateError> {
        for chunk in bytes.chunks_mut(8) {
            let word = self.get()?.to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        Ok(())
    }

    /// Ends a state of which all has been read.
    ///
    /// # Errors
    ///
    /// [`StateError::Long`].
    pub fn finish(self) -> Result<(), StateError> {
        if self.words.is_empty() {
            Ok(())
        } else {
            Err(StateError::Long)
        }
    }
}

/// Fletcher's sum over words: it finds what is torn, not who forges.
#[derive(Clone, Copy, Debug)]
struct Sum(u64, u64);

impl Sum {
    /// Not zero: a page of zeros is no state.
    const NEW: Sum = Sum(1, 0);

    #[inline]
    fn add(&mut self, word: u64) {
        self.0 = self.0.wrapping_add(word);
        self.1 = self.1.wrapping_add(self.0);
    }

    #[inline]
    fn value(self) -> u64 {
        self.1 ^ self.0.rotate_left(32)
    }
}
