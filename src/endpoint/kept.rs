//! What a successor needs of a function, should this process be killed: the
//! device's part changes with each access, the rest seldom.

use super::Endpoint;
use crate::device::{KeptMemory, StateError, StateReader, StateWriter};

/// As many bytes as config space has with a value, at most.
const CONFIG: usize = 256;

impl Endpoint {
    /// Writes down what is not the device's: config space, MSI-X table and
    /// pending interrupts. Always as many words.
    pub fn save_function(&self, state: &mut StateWriter<'_>) {
        state.put_bytes(self.config.value());
        for bar in self.bars.iter().flatten() {
            state.put_bytes(bar.table());
        }
        self.irqs.save(|word| state.put(word));
    }

    /// A number that is another whenever [`Endpoint::save_function`] may write
    /// other things than before.
    #[inline]
    pub fn function_changes(&self) -> u64 {
        // Both only grow.
        self.function_writes + u64::from(self.irqs.changes())
    }

    /// Takes over what [`Endpoint::save_function`] wrote. An interrupt that is
    /// pending and may be sent is sent.
    ///
    /// # Errors
    ///
    /// See [`StateError`]; then the endpoint is not used.
    pub fn restore_function(&mut self, state: &mut StateReader<'_>) -> Result<(), StateError> {
        let mut config = [0; CONFIG];
        let length = self.config.value().len().min(CONFIG);
        state.get_bytes(&mut config[..length])?;
        if !self.config.take_over(&config[..length]) {
            let [a, b, c, d, ..] = config;
            return Err(StateError::Value {
                name: "the config space of this function",
                value: u32::from_le_bytes([a, b, c, d]).into(),
            });
        }
        for bar in self.bars.iter_mut().flatten() {
            state.get_bytes(bar.table_mut())?;
        }
        self.irqs.restore(|| state.get())?;
        for bar in self.bars.iter().flatten() {
            bar.program(&self.irqs);
        }
        self.irqs.follow(self.config.interrupts());
        Ok(())
    }

    /// Writes down the device's state, as [`Device::save`] does.
    ///
    /// [`Device::save`]: crate::device::Device::save
    #[inline]
    pub fn save_device(&self, state: &mut StateWriter<'_>) {
        self.device.save(state);
    }

    /// Takes over what [`Endpoint::save_device`] wrote.
    ///
    /// # Errors
    ///
    /// See [`StateError`]; then the endpoint is not used.
    pub fn restore_device(&mut self, state: &mut StateReader<'_>) -> Result<(), StateError> {
        self.device.restore(state)
    }

    /// How many words of kept memory the device asks for.
    pub fn kept_words(&self) -> usize {
        self.device.kept_words()
    }

    /// Gives the device memory that a successor finds as it was left. Before
    /// the first access, and before [`Endpoint::restore_device`].
    pub fn keep(&mut self, memory: KeptMemory) {
        self.device.keep(memory);
    }

    /// After the state was restored and the guest's memory and interrupts can
    /// be reached, the device goes on with what was under way.
    pub fn resume(&mut self) {
        self.device.resume();
    }
}
