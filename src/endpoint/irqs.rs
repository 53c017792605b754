//! Interrupts between a device and a client: five kinds of lines (VFIO's IRQ
//! indexes), each signalled through an eventfd that the client gave. Where the
//! client gives none, [`Messages`] sends them instead.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::eventfd::EventFd;
use super::messages::{InterruptBus, Messages};
use crate::device::{Function, Interrupts, Line};
use crate::pci::InterruptControl;

/// The kinds of interrupts, numbered as VFIO's PCI IRQ indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrqIndex {
    /// The INTx pin.
    Intx,
    /// MSI vectors.
    Msi,
    /// MSI-X vectors.
    Msix,
    /// Errors of the device.
    Error,
    /// The device asks to be given back.
    Request,
}

impl IrqIndex {
    /// How many there are.
    pub const COUNT: u32 = 5;

    /// The index of this number on the wire.
    pub const fn from_wire(number: u32) -> Option<Self> {
        Some(match number {
            0 => IrqIndex::Intx,
            1 => IrqIndex::Msi,
            2 => IrqIndex::Msix,
            3 => IrqIndex::Error,
            4 => IrqIndex::Request,
            _ => return None,
        })
    }
}

/// One interrupt.
#[derive(Debug, Default)]
struct Slot {
    trigger: Option<EventFd>,
    masked: bool,
    pending: bool,
}

impl Slot {
    /// Signals, or stays pending while masked or without a trigger.
    fn deliver(&mut self) {
        match &self.trigger {
            Some(trigger) if !self.masked => trigger.signal(),
            _ => self.pending = true,
        }
    }

    fn unmask(&mut self) {
        self.masked = false;
        if std::mem::take(&mut self.pending) {
            self.deliver();
        }
    }
}

struct State {
    slots: [Vec<Slot>; IrqIndex::COUNT as usize],
    /// Whether the client has set triggers of an index, be it to none, since
    /// it disabled the index: MSI or MSI-X is then enabled.
    in_use: [bool; IrqIndex::COUNT as usize],
    /// The command register's Interrupt Disable (PCI 3.0 6.2.2).
    intx_disabled: bool,
    /// If set, interrupts go this way and none to the slots.
    own: Option<Messages>,
}

impl State {
    fn slot(&mut self, index: IrqIndex, number: u32) -> Option<&mut Slot> {
        self.slots[index as usize].get_mut(number as usize)
    }

    fn in_use(&self, index: IrqIndex) -> bool {
        self.in_use[index as usize]
    }

    /// How many of an index have a trigger.
    fn assigned(&self, index: IrqIndex) -> usize {
        let slots = self.slots[index as usize].iter();
        slots.filter(|slot| slot.trigger.is_some()).count()
    }

    /// What is pending is signalled to the new trigger: QEMU takes the trigger
    /// of a vector away while the guest masks it.
    fn assign(&mut self, index: IrqIndex, number: u32, trigger: Option<EventFd>) {
        self.in_use[index as usize] = true;
        if let Some(slot) = self.slot(index, number) {
            slot.trigger = trigger;
            slot.unmask();
        }
    }

    /// Signals INTx if its level asks for it, and masks it until the client
    /// has dealt with it (VFIO's AUTOMASKED).
    fn update_intx(&mut self, level: bool) {
        if let Some(own) = &mut self.own {
            return own.update_intx(level);
        }
        let message_signalled = self.in_use(IrqIndex::Msi) || self.in_use(IrqIndex::Msix);
        if !level || self.intx_disabled || message_signalled {
            return;
        }
        if let Some(slot) = self.slot(IrqIndex::Intx, 0)
            && slot.trigger.is_some()
            && !slot.masked
        {
            slot.deliver();
            slot.masked = true;
        }
    }
}

/// All interrupts of a function. Shared with the device's [`Irq`] handles.
///
/// [`Irq`]: crate::device::Irq
pub(crate) struct IrqTable {
    state: Mutex<State>,
    intx_level: AtomicBool,
    /// How often what a successor has to know may have changed.
    changes: AtomicU32,
}

impl IrqTable {
    pub(crate) fn new() -> Self {
        IrqTable {
            state: Mutex::new(State {
                slots: Default::default(),
                in_use: Default::default(),
                intx_disabled: false,
                own: None,
            }),
            intx_level: AtomicBool::new(false),
            changes: AtomicU32::new(0),
        }
    }

    /// Makes a slot for each interrupt that the function offers.
    pub(crate) fn configure(&self, function: &Function) {
        let counts = [
            usize::from(function.intx),
            function.msi.as_ref().map_or(0, |msi| msi.vectors.into()),
            function.msix.as_ref().map_or(0, |msix| msix.vectors.into()),
            1,
            1,
        ];
        let mut state = self.lock();
        for (slots, count) in state.slots.iter_mut().zip(counts) {
            slots.resize_with(count, Slot::default);
        }
    }

    /// Sends interrupts on `bus` from now on. The guest's setup is as after
    /// power-on until [`IrqTable::program`] and [`IrqTable::follow`] tell
    /// more.
    pub(super) fn own(&self, bus: Arc<dyn InterruptBus>) {
        let mut state = self.lock();
        let count = |index: IrqIndex| state.slots[index as usize].len();
        let has_intx = count(IrqIndex::Intx) != 0;
        state.own = Some(Messages::new(bus, count(IrqIndex::Msix), has_intx));
    }

    /// How many interrupts an index has.
    pub(crate) fn count(&self, index: IrqIndex) -> u32 {
        // At most 2048, the most that MSI-X allows.
        u32::try_from(self.lock().slots[index as usize].len()).unwrap_or(u32::MAX)
    }

    /// Takes away all triggers of an index, and what was pending.
    pub(crate) fn disable(&self, index: IrqIndex) {
        let mut state = self.lock();
        state.in_use[index as usize] = false;
        state.slots[index as usize].fill_with(Slot::default);
        // Without message-signalled interrupts INTx is seen again.
        state.update_intx(self.intx_level());
    }

    /// Gives each interrupt of a range what `next` returns as its trigger.
    /// They begin unmasked.
    pub(crate) fn assign(
        &self,
        index: IrqIndex,
        range: Range<u32>,
        mut next: impl FnMut() -> Option<EventFd>,
    ) {
        let mut state = self.lock();
        for number in range {
            state.assign(index, number, next());
        }
        // A level that was there before its listener is told now.
        state.update_intx(self.intx_level());
    }

    /// Holds an interrupt back.
    pub(crate) fn mask(&self, index: IrqIndex, number: u32) {
        if let Some(slot) = self.lock().slot(index, number) {
            slot.masked = true;
        }
    }

    /// Lets an interrupt through again, one that is pending at once.
    pub(crate) fn unmask(&self, index: IrqIndex, number: u32) {
        let mut state = self.lock();
        if let Some(slot) = state.slot(index, number) {
            slot.unmask();
        }
        if index == IrqIndex::Intx {
            state.update_intx(self.intx_level());
        }
    }

    /// Signals an interrupt for the client, as if the device had.
    pub(crate) fn trigger(&self, index: IrqIndex, number: u32) {
        if let Some(slot) = self.lock().slot(index, number) {
            slot.deliver();
        }
    }

    /// Follows what the guest has set up in config space. Of MSI and MSI-X a
    /// client tells by itself, if there is one.
    pub(super) fn follow(&self, control: InterruptControl) {
        let mut state = self.lock();
        if let Some(own) = &mut state.own {
            own.follow(control, self.intx_level());
            self.changed();
        } else if state.intx_disabled != control.intx_disabled {
            state.intx_disabled = control.intx_disabled;
            state.update_intx(self.intx_level());
        }
    }

    /// Takes over whole entries of the MSI-X table, from `first` on. Clients
    /// keep a table of their own.
    pub(super) fn program(&self, first: usize, table: &[u8]) {
        if let Some(own) = &mut self.lock().own {
            own.program(first, table);
            self.changed();
        }
    }

    /// The INTx level, as the status register shows it.
    pub(crate) fn intx_level(&self) -> bool {
        self.intx_level.load(Ordering::Acquire)
    }

    /// Byte `number` of the MSI-X pending bit array (PCI 3.0 6.8.2.9).
    pub(crate) fn pending_byte(&self, number: usize) -> u8 {
        let state = self.lock();
        if let Some(own) = &state.own {
            return own.pending_byte(number);
        }
        let vectors = state.slots[IrqIndex::Msix as usize].iter();
        let byte = vectors.skip(number.saturating_mul(8)).take(8);
        byte.enumerate()
            .fold(0, |bits, (bit, slot)| bits | u8::from(slot.pending) << bit)
    }

    /// The MSI pending bits (PCI 3.0 6.8.1.8), where they are kept here.
    pub(super) fn msi_pending(&self) -> u32 {
        self.lock().own.as_ref().map_or(0, Messages::msi_pending)
    }

    /// What a successor has to know of interrupts that are sent from here,
    /// besides config space and the MSI-X table: words whose number does not
    /// change.
    pub(super) fn save(&self, mut put: impl FnMut(u64)) {
        let state = self.lock();
        put(self.intx_level().into());
        if let Some(own) = &state.own {
            own.save(put);
        }
    }

    /// Takes over what a predecessor saved. It counts once
    /// [`IrqTable::program`] and [`IrqTable::follow`] have told what the guest
    /// has set up, and an interrupt that is raised before may be lost.
    pub(super) fn restore<E>(&self, mut next: impl FnMut() -> Result<u64, E>) -> Result<(), E> {
        let mut state = self.lock();
        self.intx_level.store(next()? != 0, Ordering::Release);
        state.own.as_mut().map_or(Ok(()), |own| own.restore(next))
    }

    /// A number that is another whenever [`IrqTable::save`] may say other
    /// things than before. Worker threads raise interrupts at any time.
    pub(super) fn changes(&self) -> u32 {
        self.changes.load(Ordering::Acquire)
    }

    /// What a reset of the device does: nothing is pending, no level is set.
    /// The client's eventfds stay.
    pub(crate) fn reset(&self) {
        self.intx_level.store(false, Ordering::Release);
        let mut state = self.lock();
        for slot in state.slots.iter_mut().flatten() {
            slot.pending = false;
        }
        if let Some(own) = &mut state.own {
            own.reset();
            self.changed();
        }
    }

    /// Forgets everything that came from a client. The level, state of the
    /// device, stays.
    pub(crate) fn disconnect(&self) {
        let mut state = self.lock();
        for slot in state.slots.iter_mut().flatten() {
            *slot = Slot::default();
        }
        state.in_use = Default::default();
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Interrupts for IrqTable {
    fn signal(&self, line: Line) {
        let mut state = self.lock();
        if let Some(own) = &mut state.own {
            // A bus has nothing for the other lines.
            if let Line::Vector(vector) = line {
                own.raise(vector);
                self.changed();
            }
            return;
        }
        let (index, number) = match line {
            Line::Vector(vector) if state.in_use(IrqIndex::Msix) => (IrqIndex::Msix, vector),
            // A guest may have enabled fewer MSI vectors: the low ones are
            // then shared (PCI 3.0 6.8.3.4).
            Line::Vector(vector) if state.in_use(IrqIndex::Msi) => {
                let enabled = state.assigned(IrqIndex::Msi).max(1);
                (IrqIndex::Msi, vector % u16::try_from(enabled).unwrap_or(1))
            }
            // Neither is enabled: the guest sees the INTx level, if anything.
            Line::Vector(_) => return,
            Line::Error => (IrqIndex::Error, 0),
            Line::Request => (IrqIndex::Request, 0),
        };
        if let Some(slot) = state.slot(index, number.into()) {
            slot.deliver();
        }
    }

    fn set_intx(&self, asserted: bool) {
        // Most calls change nothing, and then take no lock.
        if self.intx_level.swap(asserted, Ordering::AcqRel) != asserted {
            let mut state = self.lock();
            // Of several threads the last one here has the last level.
            state.update_intx(self.intx_level());
            self.changed();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::pci::{Identity, Msix};

    fn table(vectors: u16) -> IrqTable {
        let identity = Identity {
            vendor: 0x1af4,
            device: 0x1111,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
            revision: 1,
            class: 0x12_0000,
        };
        let msix = Msix {
            vectors,
            table: (0, 0x800),
            pba: (0, 0xc00),
        };
        let table = IrqTable::new();
        table.configure(&Function::new(identity).intx().msix(msix));
        table
    }

    fn listen(table: &IrqTable, index: IrqIndex, number: u32) -> EventFd {
        let ours = EventFd::new().unwrap();
        let theirs = ours.as_fd().try_clone_to_owned().unwrap();
        let mut trigger = EventFd::from_client(theirs);
        table.assign(index, number..number + 1, || trigger.take());
        ours
    }

    #[test]
    fn a_masked_vector_stays_pending_until_it_is_unmasked() {
        let table = table(16);
        let event = listen(&table, IrqIndex::Msix, 9);
        table.mask(IrqIndex::Msix, 9);
        table.signal(Line::Vector(9));
        assert_eq!(event.take(), 0);
        assert_eq!(table.pending_byte(1), 0b10);
        table.unmask(IrqIndex::Msix, 9);
        assert_eq!(event.take(), 1);
        assert_eq!(table.pending_byte(1), 0);
    }

    #[test]
    fn a_vector_without_a_trigger_stays_pending_until_it_has_one() {
        let table = table(16);
        table.assign(IrqIndex::Msix, 0..16, || None);
        table.signal(Line::Vector(3));
        assert_eq!(table.pending_byte(0), 0b1000);
        let event = listen(&table, IrqIndex::Msix, 3);
        assert_eq!(event.take(), 1);
        table.signal(Line::Vector(4));
        table.disable(IrqIndex::Msix);
        let event = listen(&table, IrqIndex::Msix, 4);
        assert_eq!(event.take(), 0);
    }

    #[test]
    fn intx_signals_once_and_again_after_unmask_while_the_level_stays() {
        let table = table(16);
        let event = listen(&table, IrqIndex::Intx, 0);
        table.set_intx(true);
        table.set_intx(true);
        assert_eq!(event.take(), 1);
        table.unmask(IrqIndex::Intx, 0);
        assert_eq!(event.take(), 1);
        table.set_intx(false);
        table.unmask(IrqIndex::Intx, 0);
        assert_eq!(event.take(), 0);
    }

    #[test]
    fn intx_is_silent_while_disabled_or_while_msix_is_in_use() {
        let table = table(16);
        let event = listen(&table, IrqIndex::Intx, 0);
        let disabled = InterruptControl {
            intx_disabled: true,
            ..InterruptControl::default()
        };
        table.follow(disabled);
        table.set_intx(true);
        assert_eq!(event.take(), 0);
        table.follow(InterruptControl::default());
        assert_eq!(event.take(), 1);
        table.set_intx(false);
        table.unmask(IrqIndex::Intx, 0);
        let _vector = listen(&table, IrqIndex::Msix, 0);
        table.set_intx(true);
        assert_eq!(event.take(), 0);
    }

    #[test]
    fn a_level_set_before_its_listener_came_is_told_to_it() {
        let table = table(16);
        table.set_intx(true);
        let event = listen(&table, IrqIndex::Intx, 0);
        assert_eq!(event.take(), 1);
    }

    #[test]
    fn a_client_that_left_hears_nothing() {
        let table = table(16);
        let event = listen(&table, IrqIndex::Msix, 3);
        table.disconnect();
        table.signal(Line::Vector(3));
        table.trigger(IrqIndex::Msix, 3);
        assert_eq!(event.take(), 0);
    }

    #[test]
    fn error_and_request_have_lines_of_their_own() {
        let table = table(16);
        let error = listen(&table, IrqIndex::Error, 0);
        let request = listen(&table, IrqIndex::Request, 0);
        table.signal(Line::Error);
        assert_eq!((error.take(), request.take()), (1, 0));
        table.signal(Line::Request);
        assert_eq!((error.take(), request.take()), (0, 1));
    }

    #[test]
    fn a_vector_that_the_function_lacks_is_lost() {
        let table = table(2);
        let event = listen(&table, IrqIndex::Msix, 0);
        table.signal(Line::Vector(2));
        assert_eq!(event.take(), 0);
    }
}
