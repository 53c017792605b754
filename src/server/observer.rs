//! Who watches a session at work.

use crate::protocol::Header;

/// Hears of each command of a client, in the middle of it: what it does takes
/// the client's time. `()` does nothing, at no cost.
pub trait Observer {
    /// Whether anybody listens. Then each command is answered by itself;
    /// otherwise the answers to those that came together are sent together.
    const LISTENS: bool = true;

    /// The command with this header has been received, and nothing was done
    /// with it.
    #[inline]
    fn received(&mut self, command: &Header) {
        let _ = command;
    }

    /// It has been carried out, and its reply is ready. Not called for one that
    /// is refused, wants no reply, or is answered with descriptors.
    #[inline]
    fn answering(&mut self, command: &Header) {
        let _ = command;
    }

    /// The reply has been sent.
    #[inline]
    fn answered(&mut self, command: &Header) {
        let _ = command;
    }
}

impl Observer for () {
    const LISTENS: bool = false;
}

impl<O: Observer> Observer for &mut O {
    const LISTENS: bool = O::LISTENS;

    #[inline]
    fn received(&mut self, command: &Header) {
        (**self).received(command);
    }

    #[inline]
    fn answering(&mut self, command: &Header) {
        (**self).answering(command);
    }

    #[inline]
    fn answered(&mut self, command: &Header) {
        (**self).answered(command);
    }
}
