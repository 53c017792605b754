//! How a device raises interrupts.

use std::fmt;
use std::sync::Arc;

/// What a device can signal besides its INTx level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// A message-signalled vector, of MSI-X or of MSI, whichever is in use.
    Vector(u16),
    /// An error that the device cannot recover from (VFIO's ERR index).
    Error,
    /// The device asks to be given back (VFIO's REQ index).
    Request,
}

/// Where interrupts go; the endpoint implements it.
pub trait Interrupts: Send + Sync {
    /// Signals a line once. Lines that nobody listens to are lost, masked ones
    /// stay pending.
    fn signal(&self, line: Line);

    /// Sets the INTx level, which is seen while neither MSI nor MSI-X is used.
    fn set_intx(&self, asserted: bool);
}

/// A device's handle to its interrupts. It never blocks and may be cloned
/// into worker threads.
#[derive(Clone)]
pub struct Irq(Arc<dyn Interrupts>);

impl Irq {
    /// A handle to `interrupts`; tests give their own.
    pub fn new(interrupts: Arc<dyn Interrupts>) -> Self {
        Irq(interrupts)
    }

    /// Raises message-signalled vector `vector` once, if the guest uses
    /// MSI-X or MSI. A device that offers INTx too calls [`Irq::set_intx`]
    /// beside this, and the guest sees whichever it enabled.
    pub fn raise(&self, vector: u16) {
        self.0.signal(Line::Vector(vector));
    }

    /// Sets the level of the INTx pin (PCI 3.0 2.2.6). The guest sees it
    /// while it uses neither MSI nor MSI-X.
    pub fn set_intx(&self, asserted: bool) {
        self.0.set_intx(asserted);
    }

    /// Tells the client of an error that the device cannot recover from.
    pub fn error(&self) {
        self.0.signal(Line::Error);
    }

    /// Asks the client to give the device back.
    pub fn request_release(&self) {
        self.0.signal(Line::Request);
    }
}

impl fmt::Debug for Irq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Irq")
    }
}
