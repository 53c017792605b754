//! The messages of each access, made before anything is measured.

use crate::bench::Trouble;
use crate::protocol::{Command, Header, Kind, Outgoing, RegionAccess, WriteMulti, WriteMultiReply};

/// How many writes a `REGION_WRITE_MULTI` has.
pub(super) const WRITES: usize = 8;

/// Four bytes of a device, and what may be written there.
#[derive(Clone, Copy, Debug)]
pub(in crate::bench) struct Target {
    pub(in crate::bench) region: u32,
    pub(in crate::bench) offset: u64,
    pub(in crate::bench) data: [u8; 4],
}

/// A message and its answer.
pub(in crate::bench) struct Exchange {
    pub(in crate::bench) request: Vec<u8>,
    /// None to a posted write.
    pub(in crate::bench) reply: Option<Reply>,
}

/// An answer that is waited for.
pub(in crate::bench) struct Reply {
    /// How long it is.
    pub(in crate::bench) size: usize,
    /// How it begins; empty for a ping-pong's, which means nothing.
    pub(in crate::bench) head: Vec<u8>,
}

/// The messages of each access.
pub(in crate::bench) struct Messages {
    pub(in crate::bench) read: Exchange,
    pub(in crate::bench) write: Exchange,
    pub(in crate::bench) post: Exchange,
    pub(in crate::bench) multi: Exchange,
}

impl Messages {
    /// A vfio-user client's. Their ids differ, so that an answer to a posted
    /// write is told from the answer to what follows it.
    pub(in crate::bench) fn vfio_user(target: Target) -> Self {
        let access = RegionAccess {
            offset: target.offset,
            region: target.region,
            count: 4,
        };
        let plain = |out: &mut Vec<u8>| access.encode(out);
        let write = |out: &mut Vec<u8>| {
            access.encode(out);
            out.extend_from_slice(&target.data);
        };
        let multi = |out: &mut Vec<u8>| {
            let mut data = [0; 8];
            data[..4].copy_from_slice(&target.data);
            WriteMulti::encode_writes(&[(access, data); WRITES], out);
        };
        let done = |out: &mut Vec<u8>| {
            let completed = WRITES as u64;
            WriteMultiReply { completed }.encode(out);
        };
        let (region_read, region_write) = (Command::RegionRead, Command::RegionWrite);
        let write_multi = Command::RegionWriteMulti;
        Messages {
            read: Exchange::new(1, region_read, plain, Some((&plain, 4))),
            write: Exchange::new(2, region_write, write, Some((&plain, 0))),
            post: Exchange::new(3, region_write, write, None),
            multi: Exchange::new(4, write_multi, multi, Some((&done, 0))),
        }
    }

    /// For a bare ping-pong: as many bytes each way as a vfio-user client's.
    pub(super) fn ping_pong() -> Self {
        let of = Messages::vfio_user(Target {
            region: 0,
            offset: 0,
            data: [0; 4],
        });
        Messages {
            read: of.read.bare(),
            write: of.write.bare(),
            post: of.post.bare(),
            multi: of.multi.bare(),
        }
    }
}

/// Appends a message's body.
type Encode<'a> = &'a dyn Fn(&mut Vec<u8>);

impl Exchange {
    /// A command, and its answer's body: how it begins, and how many bytes
    /// follow that.
    fn new(
        id: u16,
        command: Command,
        body: impl Fn(&mut Vec<u8>),
        answer: Option<(Encode<'_>, usize)>,
    ) -> Self {
        let header = Header {
            no_reply: answer.is_none(),
            ..Header::command(id, command)
        };
        let mut message = Outgoing::default();
        body(message.begin(&header));
        let request = message.finish().to_vec();
        let reply = answer.map(|(body, data)| {
            body(message.begin(&header.reply()));
            let known = message.finish().len();
            let size = known + data;
            let header = Header {
                // No message here is longer than `link`'s buffer.
                size: u32::try_from(size).unwrap_or(u32::MAX),
                ..header.reply()
            };
            let head = [&header.encode(), &message.finish()[Header::SIZE..]].concat();
            Reply { size, head }
        });
        Exchange { request, reply }
    }

    /// The same bytes without a meaning, see
    /// [`PeerKind::PingPong`](crate::bench::PeerKind::PingPong).
    fn bare(&self) -> Self {
        let reply = self.reply.as_ref().map(|reply| Reply {
            size: reply.size,
            head: Vec::new(),
        });
        let mut request = vec![0; self.request.len()];
        let lengths = [request.len(), reply.as_ref().map_or(0, |reply| reply.size)];
        for (field, length) in request.chunks_exact_mut(2).zip(lengths) {
            // Each is shorter than `link`'s buffer.
            let length = u16::try_from(length).unwrap_or(u16::MAX);
            field.copy_from_slice(&length.to_ne_bytes());
        }
        Exchange { request, reply }
    }
}

impl Reply {
    /// Whether what was received is this reply and not only its beginning.
    ///
    /// # Errors
    ///
    /// If it cannot become this reply.
    #[cold]
    pub(super) fn is_whole(&self, received: &[u8]) -> Result<bool, Trouble> {
        if !self.head.is_empty() {
            self.check(received)?;
        }
        if received.len() > self.size {
            return Err(Trouble("it sent more than was asked for".to_owned()));
        }
        Ok(received.len() == self.size)
    }

    /// Checks what is known of a reply, as far as it is here.
    fn check(&self, received: &[u8]) -> Result<(), Trouble> {
        let (Some(got), Some(wanted)) = (received.first_chunk(), self.head.first_chunk()) else {
            return Ok(());
        };
        let parse = |bytes| {
            Header::parse(bytes).map_err(|error| Trouble::new("it sent no vfio-user reply", error))
        };
        let (got, wanted) = (parse(got)?, parse(wanted)?);
        let name = Command::from_wire(wanted.command).map_or("a command", Command::name);
        if got.kind != Kind::Reply || (got.id, got.command) != (wanted.id, wanted.command) {
            return Err(Trouble(format!(
                "it sent something else than a reply to {name}"
            )));
        }
        if let Some(errno) = got.error {
            return Err(Trouble(format!("it refused {name} (errno {errno})")));
        }
        if got.size != wanted.size {
            let (got, wanted) = (got.size, wanted.size);
            return Err(Trouble(format!(
                "it answered {name} with {got} bytes, not {wanted}"
            )));
        }
        let known = self.head.len().min(received.len());
        if received[Header::SIZE..known] != self.head[Header::SIZE..known] {
            return Err(Trouble(format!("it answered {name} for another access")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages() -> Messages {
        Messages::vfio_user(Target {
            region: 2,
            offset: 0x18,
            data: *b"abcd",
        })
    }

    fn reply(error: Option<u32>, size: u32) -> Vec<u8> {
        let header = Header {
            size,
            error,
            ..Header::command(1, Command::RegionRead).reply()
        };
        let mut bytes = header.encode().to_vec();
        bytes.extend_from_slice(&messages().read.request[16..]);
        bytes.resize(size.max(16) as usize, 0);
        bytes
    }

    #[test]
    fn a_ping_pong_has_the_same_bytes_each_way() {
        let (messages, bare) = (messages(), Messages::ping_pong());
        for (one, other, reply) in [
            (&messages.read, &bare.read, 36),
            (&messages.write, &bare.write, 32),
            (&messages.post, &bare.post, 0),
            (&messages.multi, &bare.multi, 24),
        ] {
            assert_eq!(one.request.len(), other.request.len());
            for exchange in [one, other] {
                let size = exchange.reply.as_ref().map_or(0, |reply| reply.size);
                assert_eq!(size, reply);
            }
        }
        assert_eq!(bare.read.request[..4], [32, 0, 36, 0]);
        assert_eq!(messages.multi.request.len(), 16 + 8 + WRITES * 24);
    }

    #[test]
    fn a_reply_is_known_in_whatever_pieces_it_comes() {
        let wanted = messages().read.reply.unwrap();
        let whole = reply(None, 36);
        for length in 1..36 {
            assert!(!wanted.is_whole(&whole[..length]).unwrap(), "{length}");
        }
        assert!(wanted.is_whole(&whole).unwrap());
    }

    #[test]
    fn a_wrong_reply_is_told_by_what_is_wrong() {
        let wanted = messages().read.reply.unwrap();
        let told = |bytes: &[u8]| wanted.is_whole(bytes).unwrap_err().to_string();
        assert_eq!(
            told(&reply(Some(22), 16)),
            "it refused REGION_READ (errno 22)"
        );
        assert_eq!(
            told(&reply(None, 32)),
            "it answered REGION_READ with 32 bytes, not 36"
        );
        let long = [reply(None, 36), vec![0]].concat();
        assert_eq!(told(&long), "it sent more than was asked for");
        let mut other = reply(None, 36);
        other[0] = 3;
        let elsewhere = "it sent something else than a reply to REGION_READ";
        assert_eq!(told(&other), elsewhere);
        assert_eq!(told(&messages().read.request), elsewhere);
        let mut other = reply(None, 36);
        other[16] = 0;
        assert_eq!(told(&other), "it answered REGION_READ for another access");
        assert!(told(&[0xff; 16]).starts_with("it sent no vfio-user reply: "));
    }
}
