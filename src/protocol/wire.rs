//! How a payload is taken apart: its fixed part, its `argsz`, what follows.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Command, Malformed};

/// The size of a wire structure as `argsz` says it.
pub(super) const fn size<T>() -> u32 {
    let size = size_of::<T>();
    assert!(size < 4096, "a wire structure is small");
    #[allow(
        clippy::cast_possible_truncation,
        reason = "less than 4096, as asserted above at compile time"
    )]
    {
        size as u32
    }
}

/// The fixed part and what follows it.
#[inline]
pub(super) fn prefix<T: FromBytes>(command: Command, body: &[u8]) -> Result<(T, &[u8]), Malformed> {
    T::read_from_prefix(body).map_err(|_| Malformed::Short {
        command,
        least: size_of::<T>(),
        got: body.len(),
    })
}

/// A payload that has a fixed part only.
#[inline]
pub(super) fn exactly<T: FromBytes>(command: Command, body: &[u8]) -> Result<T, Malformed> {
    let (fixed, rest) = prefix::<T>(command, body)?;
    nothing_after(command, size_of::<T>(), rest)?;
    Ok(fixed)
}

/// Refuses bytes after the `fixed` ones.
#[inline]
pub(super) fn nothing_after(command: Command, fixed: usize, rest: &[u8]) -> Result<(), Malformed> {
    if rest.is_empty() {
        return Ok(());
    }
    Err(Malformed::Long {
        command,
        most: fixed,
        got: fixed + rest.len(),
    })
}

/// Refuses an `argsz` below the fixed part of what it describes.
#[inline]
pub(super) fn check_argsz(command: Command, argsz: u32, least: u32) -> Result<(), Malformed> {
    if argsz >= least {
        return Ok(());
    }
    Err(Malformed::Argsz {
        command,
        least,
        got: argsz,
    })
}

/// The fixed part of a query whose `argsz` is the room for the reply.
///
/// The client's reply buffer may follow it, up to `argsz`: see
/// [`Request::parse`](super::Request::parse).
pub(super) fn query<T: FromBytes>(
    command: Command,
    body: &[u8],
    argsz_of: impl Fn(&T) -> u32,
) -> Result<T, Malformed> {
    let (fixed, _) = prefix::<T>(command, body)?;
    let argsz = argsz_of(&fixed);
    check_argsz(command, argsz, size::<T>())?;
    let most = argsz as usize;
    if body.len() > most {
        let got = body.len();
        return Err(Malformed::Long { command, most, got });
    }
    Ok(fixed)
}

/// Appends a wire structure.
#[inline]
pub(super) fn put<T: IntoBytes + Immutable>(out: &mut Vec<u8>, fixed: &T) {
    out.extend_from_slice(fixed.as_bytes());
}

/// The `argsz` of a reply that starts with one (vfio-user, Message sizes).
///
/// More than the reply's own length means that the reply was cut to its fixed
/// part, and that the client can ask again with this much room.
pub fn needed_argsz(reply: &[u8]) -> Option<u32> {
    let (argsz, _) = u32::read_from_prefix(reply).ok()?;
    Some(argsz)
}

/// A length of ours as a 32 bit field; a longer one is cut to the largest
/// value, which no receiver takes for a match.
pub(super) fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_argsz_of_a_cut_reply_can_be_asked_for() {
        assert_eq!(needed_argsz(&bytes![72u32, 0u32]), Some(72));
        assert_eq!(needed_argsz(&[1, 2, 3]), None);
    }
}
