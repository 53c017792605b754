//! What a client and we agree on (vfio-user, VERSION).

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use super::Limits;
use super::refusal::Refusal;
use crate::endpoint::PAGE_SIZE;
use crate::fastpath::{self, Layout, Serving};
use crate::protocol::{Capabilities, MAX_DATA, MAX_FDS, Proposal, SharedMmio, TwinSocket};

/// The protocol version that we speak.
const MAJOR: u16 = 0;
const MINOR: u16 = 1;

/// The number of descriptors that we always take in one message, and the most
/// that QEMU lets a server announce.
const OUR_FDS: u32 = 16;

/// A session's terms.
#[derive(Debug)]
pub(super) struct Negotiated {
    minor: u16,
    reply: Capabilities,
    /// The most data in one of the client's region accesses.
    pub(super) max_data: u32,
    /// The most data in one of our DMA messages.
    pub(super) client_max_data: u32,
    /// The most descriptors in one of our messages.
    pub(super) client_max_fds: usize,
    /// The smallest page of a DMA map.
    pub(super) page_size: u64,
    /// The most DMA maps.
    pub(super) max_dma_maps: usize,
    /// Whether `REGION_WRITE_MULTI` may come.
    pub(super) write_multiple: bool,
    /// Whether the client maps read-only areas.
    pub(super) read_only_areas: bool,
    /// Whether the client keeps the values of doorbells.
    pub(super) shadow_doorbells: bool,
    /// The shared memory's, if there is to be any.
    layout: Option<Layout>,
}

/// What a session gets with the reply to VERSION.
pub(super) struct Answer {
    pub(super) negotiated: Negotiated,
    pub(super) twin: Option<Twin>,
    /// The shared memory, and the client's descriptors of it, which come
    /// behind the twin's.
    pub(super) shared: Option<(Serving, Vec<OwnedFd>)>,
}

/// The two ends of a socket for our commands.
pub(super) struct Twin {
    pub(super) ours: UnixStream,
    pub(super) theirs: OwnedFd,
}

/// Agrees with a client's proposal or refuses it.
///
/// We answer with those of its capabilities that we have, no others: QEMU
/// refuses a reply that is longer than its request.
pub(super) fn negotiate(proposal: &Proposal, limits: &Limits) -> Result<Negotiated, Refusal> {
    if proposal.major != MAJOR {
        return Err(Refusal::Version(proposal.major, proposal.minor));
    }
    let client = &proposal.capabilities;
    // Sizes below ours do not exist for us; larger ones we can all do.
    let page_sizes = client.pgsizes.map(|sizes| sizes & !(PAGE_SIZE - 1));
    if page_sizes == Some(0) {
        return Err(Refusal::PageSizes(client.pgsizes.unwrap_or(0)));
    }
    let max_maps = limits.max_dma_maps.min(Capabilities::DEFAULT_MAX_DMA_MAPS);
    let max_fds = u32::try_from(MAX_FDS).unwrap_or(u32::MAX);
    let client_max_fds = client
        .max_msg_fds
        .unwrap_or(Capabilities::DEFAULT_MAX_MSG_FDS) as usize;
    // Its descriptor comes with the reply.
    let twin = client.twin_socket.is_some_and(|twin| twin.supported) && client_max_fds > 0;
    let layout = client
        .shared_mmio
        .and_then(|asked| layout(asked, client_max_fds.saturating_sub(twin.into())));
    let reply = Capabilities {
        max_msg_fds: client.max_msg_fds.map(|fds| fds.clamp(OUR_FDS, max_fds)),
        max_data_xfer_size: client.max_data_xfer_size.map(|size| size.min(MAX_DATA)),
        max_dma_maps: client.max_dma_maps.map(|maps| maps.min(max_maps)),
        pgsizes: page_sizes,
        twin_socket: twin.then_some(TwinSocket {
            supported: true,
            fd_index: Some(0),
        }),
        write_multiple: client.write_multiple,
        read_only_areas: client.read_only_areas,
        shadow_doorbells: client.shadow_doorbells,
        // Its memory has to be made first.
        shared_mmio: None,
        // Not before a device can save its state.
        migration: None,
    };
    let page_size = page_sizes.map_or(PAGE_SIZE, |sizes| 1 << sizes.trailing_zeros());
    let max_dma_maps = reply.max_dma_maps.unwrap_or(max_maps) as usize;
    Ok(Negotiated {
        minor: proposal.minor.min(MINOR),
        max_data: reply
            .max_data_xfer_size
            .unwrap_or(Capabilities::DEFAULT_MAX_DATA_XFER_SIZE),
        client_max_data: client
            .max_data_xfer_size
            .unwrap_or(Capabilities::DEFAULT_MAX_DATA_XFER_SIZE),
        client_max_fds,
        page_size,
        max_dma_maps,
        write_multiple: reply.write_multiple == Some(true),
        read_only_areas: reply.read_only_areas == Some(true),
        shadow_doorbells: reply.shadow_doorbells == Some(true),
        layout,
        reply,
    })
}

/// The shared memory for a client that asked for it: for as many requesters as
/// there are descriptors for, as it takes `fds`.
fn layout(asked: SharedMmio, fds: usize) -> Option<Layout> {
    // One is the memory and one wakes us.
    let fitting = u32::try_from(fds.min(MAX_FDS)).ok()?.checked_sub(2)?;
    let slots = asked.slots.min(fitting).min(fastpath::MAX_SLOTS.into());
    Layout::new(u16::try_from(slots).ok()?, fastpath::RING)
}

/// Writes the reply to VERSION. Makes the twin socket and the shared memory,
/// if they were agreed.
pub(super) fn answer(mut negotiated: Negotiated, reply: &mut Vec<u8>) -> io::Result<Answer> {
    let twin = match negotiated.reply.twin_socket {
        Some(_) => {
            let (ours, theirs) = UnixStream::pair()?;
            let theirs = theirs.into();
            Some(Twin { ours, theirs })
        }
        None => None,
    };
    let shared = negotiated.layout.and_then(share);
    if let Some((layout, _)) = &shared {
        negotiated.reply.shared_mmio = Some(SharedMmio {
            version: fastpath::VERSION,
            slots: layout.slots().into(),
            ring: Some(layout.ring()),
            fd_index: Some(twin.is_some().into()),
        });
    }
    let proposal = Proposal {
        major: MAJOR,
        minor: negotiated.minor,
        capabilities: negotiated.reply,
    };
    proposal.encode(reply);
    Ok(Answer {
        negotiated,
        twin,
        shared: shared.map(|(_, made)| made),
    })
}

/// Makes shared memory. All goes without it, too.
fn share(layout: Layout) -> Option<(Layout, (Serving, Vec<OwnedFd>))> {
    match Serving::new(layout) {
        Ok(made) => Some((layout, made)),
        Err(error) => {
            log::warn!("no shared memory for the client: {error}; its accesses come by messages");
            None
        }
    }
}
