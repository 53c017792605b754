//! The commands, one method each.

use std::os::fd::{BorrowedFd, OwnedFd};

use super::{Client, ClientError, Region};
use crate::fastpath::Access;
use crate::protocol::{
    Command, DeviceInfo, DeviceInfoQuery, DmaMap, DmaUnmap, IoFds, IoFdsQuery, IrqAction, IrqData,
    IrqInfo, IrqInfoQuery, Malformed, RegionAccess, RegionInfo, RegionInfoQuery, SetIrqs,
    WriteMulti, WriteMultiReply, needed_argsz,
};

/// The most room for one description. A region with 4000 areas takes less.
const MOST_ARGSZ: u32 = 64 << 10;

impl Client {
    /// What the device has.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn device_info(&mut self) -> Result<DeviceInfo, ClientError> {
        let command = Command::DeviceGetInfo;
        self.ask(command, &[], |out| DeviceInfoQuery.encode(out))?;
        self.parsed(DeviceInfo::parse)
    }

    /// What a region is. Asks again if the answer did not fit.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn region(&mut self, index: u32) -> Result<Region, ClientError> {
        let command = Command::DeviceGetRegionInfo;
        self.describe(command, RegionInfo::SIZE, |argsz, out| {
            RegionInfoQuery { index, argsz }.encode(out);
        })?;
        let info = self.parsed(RegionInfo::parse)?;
        self.same(command, "index", index, info.index)?;
        let file = self.take_fds().into_iter().next();
        Ok(Region::new(info, file))
    }

    /// A region's eventfds, and the descriptors that they name. Asks again if
    /// the answer did not fit.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn io_fds(&mut self, index: u32) -> Result<(IoFds, Vec<OwnedFd>), ClientError> {
        let command = Command::DeviceGetRegionIoFds;
        self.describe(command, IoFds::SIZE, |argsz, out| {
            IoFdsQuery { index, argsz }.encode(out);
        })?;
        let io_fds = self.parsed(IoFds::parse)?;
        self.same(command, "index", index, io_fds.index)?;
        let fds = self.take_fds();
        let got = fds.len();
        let all = io_fds.sub_regions.iter();
        let shadows = all.clone().filter_map(|bell| bell.shadow);
        let indices = all.map(|bell| bell.fd_index);
        for index in indices.chain(shadows.map(|shadow| shadow.fd_index)) {
            if index as usize >= got {
                let missing = ClientError::Descriptor {
                    command,
                    index,
                    got,
                };
                return self.keep(Err(missing));
            }
        }
        Ok((io_fds, fds))
    }

    /// What an interrupt type is.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn irq_info(&mut self, index: u32) -> Result<IrqInfo, ClientError> {
        let command = Command::DeviceGetIrqInfo;
        self.ask(command, &[], |out| IrqInfoQuery { index }.encode(out))?;
        let info = self.parsed(IrqInfo::parse)?;
        self.same(command, "index", index, info.index)?;
        Ok(info)
    }

    /// Reads from a region. More than the server takes at once is read in
    /// pieces.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), ClientError> {
        let command = Command::RegionRead;
        if self.shares()
            && let Some(access) = Access::read(region, offset, data.len())
        {
            let value = self.access(command, &access)?;
            // It was made for 1 to 8 bytes.
            data.copy_from_slice(&value.to_le_bytes()[..data.len()]);
            return Ok(());
        }
        let mut offset = offset;
        for piece in data.chunks_mut(self.agreement().max_data as usize) {
            let access = access(command, region, offset, piece.len())?;
            self.ask(command, &[], |out| access.encode(out))?;
            let reply = RegionAccess::parse_read_reply(&self.message.body);
            let reply = match reply {
                Ok((reply, bytes)) if bytes.len() == piece.len() => {
                    piece.copy_from_slice(bytes);
                    reply
                }
                Ok((reply, _)) => reply,
                Err(malformed) => return self.keep(Err(ClientError::Malformed(malformed))),
            };
            self.same_access(command, access, reply)?;
            offset = offset.wrapping_add(piece.len() as u64);
        }
        Ok(())
    }

    /// Writes to a region, and waits until it is done. More than the server
    /// takes at once is written in pieces.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), ClientError> {
        let command = Command::RegionWrite;
        if self.shares()
            && let Some(access) = Access::write(region, offset, data)
        {
            return self.access(command, &access).map(|_| ());
        }
        let mut offset = offset;
        for piece in data.chunks(self.agreement().max_data as usize) {
            let access = access(command, region, offset, piece.len())?;
            self.ask(command, &[], |out| {
                access.encode(out);
                out.extend_from_slice(piece);
            })?;
            let reply = self.parsed(RegionAccess::parse_write_reply)?;
            self.same_access(command, access, reply)?;
            offset = offset.wrapping_add(piece.len() as u64);
        }
        Ok(())
    }

    /// Writes to a region without waiting (vfio-user, `No_reply`). A later
    /// command finds it done; nobody learns of an error.
    ///
    /// Where accesses go by shared memory, this waits for a write of more than
    /// 8 bytes, and for any other while the ring is full.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn post(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), ClientError> {
        if self.shares() {
            return self.post_shared(region, offset, data);
        }
        let command = Command::RegionWrite;
        let mut offset = offset;
        for piece in data.chunks(self.agreement().max_data as usize) {
            let access = access(command, region, offset, piece.len())?;
            self.send_posted(command, |out| {
                access.encode(out);
                out.extend_from_slice(piece);
            })?;
            offset = offset.wrapping_add(piece.len() as u64);
        }
        Ok(())
    }

    /// Makes several writes of 1 to 8 bytes in one message, and waits until
    /// they are done.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn write_multi(&mut self, writes: &[(RegionAccess, [u8; 8])]) -> Result<(), ClientError> {
        let command = Command::RegionWriteMulti;
        self.check_multi(writes)?;
        self.ask(command, &[], |out| WriteMulti::encode_writes(writes, out))?;
        let reply = self.parsed(WriteMultiReply::parse)?;
        let wanted = writes.len() as u64;
        self.same(command, "wr_cnt", wanted, reply.completed)
    }

    /// As [`Client::write_multi`], without waiting.
    ///
    /// # Errors
    ///
    /// As [`Client::write_multi`].
    pub fn post_multi(&mut self, writes: &[(RegionAccess, [u8; 8])]) -> Result<(), ClientError> {
        let command = Command::RegionWriteMulti;
        self.check_multi(writes)?;
        if self.shares() {
            return writes.iter().try_for_each(|(access, data)| {
                // One that is no write of 1 to 8 bytes reaches nobody there.
                let data = data.get(..access.count as usize).unwrap_or_default();
                self.post_shared(access.region, access.offset, data)
            });
        }
        self.send_posted(command, |out| WriteMulti::encode_writes(writes, out))
    }

    /// Sets up, masks, unmasks or triggers interrupts.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; [`ClientError::TooMany`] for more descriptors than
    /// the server takes.
    pub fn set_irqs(
        &mut self,
        set: &SetIrqs<'_>,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), ClientError> {
        let command = Command::DeviceSetIrqs;
        self.check_fds(command, fds)?;
        self.ask(command, fds, |out| set.encode(out))
    }

    /// Has interrupts signalled through eventfds, from the `start`th on. More
    /// than the server takes in one message go in several.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn assign_irqs(
        &mut self,
        index: u32,
        start: u32,
        eventfds: &[BorrowedFd<'_>],
    ) -> Result<(), ClientError> {
        let mut start = start;
        for fds in eventfds.chunks(self.agreement().max_fds.max(1)) {
            // At most MAX_FDS.
            let count = u32::try_from(fds.len()).unwrap_or(u32::MAX);
            let set = SetIrqs {
                index,
                start,
                count,
                action: IrqAction::Trigger,
                data: IrqData::EventFd,
            };
            self.set_irqs(&set, fds)?;
            start = start.saturating_add(count);
        }
        Ok(())
    }

    /// Disables all interrupts of a type.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn disable_irqs(&mut self, index: u32) -> Result<(), ClientError> {
        let set = SetIrqs {
            index,
            start: 0,
            count: 0,
            action: IrqAction::Trigger,
            data: IrqData::None,
        };
        self.set_irqs(&set, &[])
    }

    /// Makes memory known to the server: that of `file`, or without one that
    /// which was [lent](Client::lend).
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn dma_map(
        &mut self,
        map: &DmaMap,
        file: Option<BorrowedFd<'_>>,
    ) -> Result<(), ClientError> {
        let command = Command::DmaMap;
        self.check_fds(command, file.as_slice())?;
        self.ask(command, file.as_slice(), |out| map.encode(out))
    }

    /// Takes memory back.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn dma_unmap(&mut self, unmap: &DmaUnmap) -> Result<(), ClientError> {
        self.ask(Command::DmaUnmap, &[], |out| unmap.encode(out))?;
        let reply = self.parsed(DmaUnmap::parse)?;
        if reply == *unmap {
            return Ok(());
        }
        let range = |unmap: &DmaUnmap| match unmap {
            DmaUnmap::Range { address, .. } => *address,
            DmaUnmap::All => 0,
        };
        let mismatch = ClientError::Mismatch {
            command: Command::DmaUnmap,
            field: "address",
            expected: range(unmap),
            got: range(&reply),
        };
        self.keep(Err(mismatch))
    }

    /// Resets the device.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub fn reset(&mut self) -> Result<(), ClientError> {
        self.ask(Command::DeviceReset, &[], |_| {})
    }

    /// Asks for a description with the least room, then with the room that it
    /// needs.
    fn describe(
        &mut self,
        command: Command,
        least: u32,
        encode: impl Fn(u32, &mut Vec<u8>),
    ) -> Result<(), ClientError> {
        self.ask(command, &[], |out| encode(least, out))?;
        let needed = |body: &[u8]| needed_argsz(body).unwrap_or(0);
        let argsz = needed(&self.message.body);
        if argsz as usize <= self.message.body.len() {
            return Ok(());
        }
        if argsz <= MOST_ARGSZ {
            self.ask(command, &[], |out| encode(argsz, out))?;
            if needed(&self.message.body) as usize <= self.message.body.len() {
                return Ok(());
            }
        }
        self.keep(Err(ClientError::Argsz { command, argsz }))
    }

    fn parsed<T>(
        &mut self,
        parse: impl FnOnce(&[u8]) -> Result<T, Malformed>,
    ) -> Result<T, ClientError> {
        let parsed = parse(&self.message.body).map_err(ClientError::Malformed);
        self.keep(parsed)
    }

    fn same<T: Into<u64>>(
        &mut self,
        command: Command,
        field: &'static str,
        expected: T,
        got: T,
    ) -> Result<(), ClientError> {
        let (expected, got) = (expected.into(), got.into());
        if expected == got {
            return Ok(());
        }
        self.keep(Err(ClientError::Mismatch {
            command,
            field,
            expected,
            got,
        }))
    }

    fn same_access(
        &mut self,
        command: Command,
        asked: RegionAccess,
        got: RegionAccess,
    ) -> Result<(), ClientError> {
        self.same(command, "offset", asked.offset, got.offset)?;
        self.same(command, "region", asked.region, got.region)?;
        self.same(command, "count", asked.count, got.count)
    }

    fn check_fds(&self, command: Command, fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        let (got, most) = (fds.len(), self.agreement().max_fds);
        if got > most {
            let what = "descriptors";
            return Err(ClientError::TooMany {
                command,
                what,
                got,
                most,
            });
        }
        Ok(())
    }

    /// A message of writes is at most as long as a server's largest transfer.
    fn check_multi(&self, writes: &[(RegionAccess, [u8; 8])]) -> Result<(), ClientError> {
        let most = self.agreement().max_data as usize / 32;
        if writes.len() > most {
            return Err(ClientError::TooMany {
                command: Command::RegionWriteMulti,
                what: "writes",
                got: writes.len(),
                most,
            });
        }
        Ok(())
    }
}

fn access(
    command: Command,
    region: u32,
    offset: u64,
    length: usize,
) -> Result<RegionAccess, ClientError> {
    let count = u32::try_from(length).map_err(|_| ClientError::TooMany {
        command,
        what: "bytes",
        got: length,
        most: u32::MAX as usize,
    })?;
    Ok(RegionAccess {
        offset,
        region,
        count,
    })
}
