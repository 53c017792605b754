//! Whether a thread of a rung sleeps.

/// What a thread of a rung does while it waits for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// It sleeps.
    Block,
    /// It asks again and again: it hears sooner, and takes its CPU whole.
    Spin,
}
