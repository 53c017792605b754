//! Commands that come together are answered as the same commands one by one.

mod wire;

use std::os::fd::{AsFd, OwnedFd};

use vgpu_stub::device::Register;
use wire::device::{Reg, result};
use wire::messages::{
    BOOL, EVENTFD, MSIX, TRIGGER, access, bools, header, irqs, map, query, region_info, unmap,
    version, write,
};
use wire::{
    Client, Cmd, QEMU, Served, bytes, errno_reply, eventfd, memory, message, posted, reply, rung,
};

/// Bytes that are sent at once, with descriptors.
#[derive(Clone, Copy)]
struct Sent<'a> {
    bytes: &'a [u8],
    fds: &'a [OwnedFd],
}

impl Sent<'_> {
    fn send(self, client: &Client) {
        let Sent { bytes, fds } = self;
        if fds.is_empty() {
            client.send(bytes);
        } else {
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            client.send_with(bytes, &fds);
        }
    }
}

/// How many of these messages are answered.
fn answered(mut messages: &[u8]) -> usize {
    let mut count = 0;
    while let Some(size) = messages.get(4..8) {
        count += usize::from(messages[8] & 0x11 == 0);
        let size = u32::from_ne_bytes(size.try_into().unwrap());
        messages = &messages[size as usize..];
    }
    count
}

fn answers(client: &Client, count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|_| client.receive().bytes).collect()
}

/// The answers to messages that are sent one at a time.
fn one_by_one(client: &Client, messages: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for message in messages {
        client.send(message);
        all.extend(answers(client, answered(message)));
    }
    all
}

/// Numbers that are the same in every run of a seed.
struct Numbers(u64);

impl Numbers {
    /// A number below `end`.
    fn below(&mut self, end: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(self.0 >> 33).unwrap() % end
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(u32::try_from(all.len()).unwrap()) as usize]
    }

    fn place(&mut self) -> (u32, u64) {
        let region = self.of(&[0, 0, 0, 0, 2, 7, 7, 1, 9, u32::MAX]);
        let near = u64::from(self.below(0x5c));
        let offset = self.of(&[
            near,
            near,
            near & !3,
            near & !7,
            0x3ffc,
            0x4000,
            u64::MAX - 3,
        ]);
        (region, offset)
    }

    fn count(&mut self) -> u32 {
        self.of(&[1, 2, 3, 4, 4, 4, 5, 8, 8, 9, 16, 0, 4096, 9000])
    }

    fn data(&mut self) -> Vec<u8> {
        let count = self.of(&[1, 2, 3, 4, 4, 4, 5, 8, 8, 9, 16, 0, 100, 5000]);
        (0..count)
            .map(|_| self.of(&[0, 1, 2, 0x5a, 0xff]))
            .collect()
    }

    /// A write's body: not of GO, which would ask.
    fn write(&mut self) -> Vec<u8> {
        let (region, offset) = self.place();
        let mut data = self.data();
        let go = u64::from(Reg::GO.row().offset);
        if region == 0 && offset <= go {
            data.truncate(usize::try_from(go - offset).unwrap());
        }
        write(region, offset, &data)
    }

    fn command(&mut self) -> (Cmd, Vec<u8>) {
        let (region, offset) = self.place();
        match self.below(20) {
            0..8 => (Cmd::RegionRead, access(region, offset, self.count())),
            8..14 => (Cmd::RegionWrite, self.write()),
            14 => {
                let offset = if (0x38..0x48).contains(&offset) {
                    8
                } else {
                    offset
                };
                let second = bytes![offset, region, 4u32, 0x66u64];
                let first = bytes![2u64, 4u64, 0u32, 4u32, 0x55u64];
                (Cmd::WriteMulti, [first, second].concat())
            }
            15 => self.of_a_driver(),
            16 => (Cmd::SetIrqs, bools(BOOL | TRIGGER, MSIX, 3, &[1, 0, 1])),
            17 => (Cmd::RegionRead, access(region, offset, 4)[..15].to_vec()),
            18 => (
                Cmd::RegionWrite,
                write(region, offset, &[7; 4])[..18].to_vec(),
            ),
            _ => (Cmd::DirtyPages, vec![7; 5]),
        }
    }

    /// A command that drivers of a client send now and then.
    fn of_a_driver(&mut self) -> (Cmd, Vec<u8>) {
        let address = u64::from(self.below(4)) * 0x1000;
        match self.below(6) {
            0 => (Cmd::GetInfo, query(16, 0)),
            1 => (Cmd::GetRegionInfo, region_info(32, self.below(12))),
            2 => (Cmd::GetIrqInfo, query(16, self.below(7))),
            3 => (Cmd::DmaMap, map(3, 0, address, 0x1000)),
            4 => (Cmd::DmaUnmap, unmap(address, 0x1000)),
            _ => (Cmd::Version, version(1, QEMU)),
        }
    }

    fn message(&mut self, id: u16) -> Vec<u8> {
        let (command, body) = self.command();
        match self.below(8) {
            0 | 1 => posted(id, command, &body),
            2 => reply(id, Cmd::DmaRead, &body),
            _ => message(id, command, &body),
        }
    }

    /// As many messages as make a long batch, between two resets.
    fn batch(&mut self) -> Vec<Vec<u8>> {
        let mut batch = vec![message(0, Cmd::Reset, &[])];
        batch.extend((1..150).map(|id| self.message(id)));
        // What the device has become.
        batch.push(message(150, Cmd::RegionRead, &access(0, 0, 0x4000)));
        batch.push(message(151, Cmd::RegionRead, &access(7, 0, 256)));
        batch.push(message(
            152,
            Cmd::DmaUnmap,
            &bytes![24u32, 2u32, 0u64, 0u64],
        ));
        batch
    }
}

/// What a device that was never used before answers, if a batch is sent so.
fn outcome_of(
    served: &Served,
    batch: &[Vec<u8>],
    send: impl FnOnce(&Client) -> Vec<Vec<u8>>,
) -> Vec<Vec<u8>> {
    let mut client = served.client();
    let answers = send(&client);
    assert_eq!(answers.len(), answered(&batch.concat()));
    client.in_step();
    answers
}

/// Says which answer differs, as they are long.
#[track_caller]
fn assert_same(got: &[Vec<u8>], expected: &[Vec<u8>], seed: u64) {
    for (number, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert_eq!(got, expected, "seed {seed}, answer {number}");
    }
}

#[test]
fn whatever_comes_in_one_send_is_answered_as_if_it_came_one_by_one() {
    for seed in 0..60 {
        let batch = Numbers(seed).batch();
        let expected = outcome_of(&Served::new(), &batch, |client| one_by_one(client, &batch));
        let served = [Served::new, Served::sleeping][usize::from(seed % 2 == 0)]();
        let got = outcome_of(&served, &batch, |client| {
            client.send(&batch.concat());
            answers(client, expected.len())
        });
        assert_same(&got, &expected, seed);
    }
}

#[test]
fn whatever_comes_in_pieces_of_any_size_is_answered_as_if_it_came_one_by_one() {
    for seed in 100..130 {
        let mut numbers = Numbers(seed);
        let batch = numbers.batch();
        let expected = outcome_of(&Served::new(), &batch, |client| one_by_one(client, &batch));
        let served = [Served::new, Served::sleeping][usize::from(seed % 2 == 0)]();
        let got = outcome_of(&served, &batch, |client| {
            let whole = batch.concat();
            let mut rest = &whole[..];
            let most = numbers.of(&[2, 40, 400, 4000]);
            while !rest.is_empty() {
                let size = 1 + numbers.below(most) as usize;
                let (piece, after) = rest.split_at(size.min(rest.len()));
                client.send(piece);
                if most > 2 {
                    client.wait_until_taken();
                }
                rest = after;
            }
            answers(client, expected.len())
        });
        assert_same(&got, &expected, seed);
    }
}

#[test]
fn more_answers_than_are_sent_at_once_come_all_and_in_order() {
    const MANY: u16 = 1000;
    let served = Served::new();
    let client = served.client();
    let read = |id| message(id, Cmd::RegionRead, &access(0, 4, 4));
    let batch: Vec<_> = (0..MANY).flat_map(read).collect();
    client.send(&batch);
    for id in 0..MANY {
        let expected = [&access(0, 4, 4)[..], &bytes![0x1234_5678u32]].concat();
        assert_eq!(
            client.receive().bytes,
            reply(id, Cmd::RegionRead, &expected)
        );
    }
}

#[test]
fn what_ends_a_session_is_said_after_the_answers_before_it() {
    let served = Served::new();
    let client = served.client();
    let read = |id| message(id, Cmd::RegionRead, &access(0, 0x4000, 4));
    let end = header(3, 9, 15, 0);
    client.send(&[read(1), read(2), end, read(4)].concat());
    for id in [1, 2] {
        let padding = [&access(0, 0x4000, 4)[..], &[0xff; 4]].concat();
        assert_eq!(
            client.receive().bytes,
            errno_reply(id, 9, libc::EINVAL, &padding)
        );
    }
    assert_eq!(client.receive().bytes, errno_reply(3, 9, libc::EINVAL, &[]));
    client.closed();
}

#[test]
fn nothing_follows_a_version_that_is_refused() {
    let served = Served::new();
    let client = served.connect();
    let early = message(1, Cmd::RegionRead, &access(0, 4, 4));
    let wrong = message(2, Cmd::Version, &bytes![7u16, 7u16]);
    client.send(&[early.clone(), wrong, early].concat());
    assert_eq!((client.receive().id(), client.receive().id()), (1, 2));
    client.closed();
}

/// Interrupts that get their eventfds among accesses: what each send carries.
fn with_descriptors(events: &[Vec<OwnedFd>; 3]) -> [(Vec<u8>, &[OwnedFd]); 5] {
    let read = |id| message(id, Cmd::RegionRead, &access(0, 4, 4));
    let set = |id, start, count| {
        message(
            id,
            Cmd::SetIrqs,
            &irqs(EVENTFD | TRIGGER, MSIX, start, count),
        )
    };
    let raise = |vector: u32| {
        let body = write(0, Reg::RAISE.row().offset.into(), &bytes![vector]);
        posted(0, Cmd::RegionWrite, &body)
    };
    let refused = message(5, Cmd::RegionRead, &access(0, 0x4000, 8));
    [
        ([read(1), raise(0), read(2)].concat(), &[]),
        (set(3, 0, 1), &events[0]),
        // Accesses behind it, in the same send.
        ([set(4, 1, 2), refused, read(6)].concat(), &events[1]),
        ([raise(1), raise(3), read(7)].concat(), &[]),
        ([set(8, 3, 1), raise(2), read(9)].concat(), &events[2]),
    ]
}

fn three_events() -> [Vec<OwnedFd>; 3] {
    [1, 2, 1].map(|count| (0..count).map(|_| eventfd()).collect())
}

/// Which of the vectors have rung, after their client has its answers.
fn rings(events: &[Vec<OwnedFd>; 3]) -> Vec<u64> {
    events.iter().flatten().map(rung).collect()
}

/// The answers to those, and which vectors have rung, if they are sent so.
fn outcome(served: &Served, send: impl Fn(&Client, &[Sent<'_>])) -> (Vec<Vec<u8>>, Vec<u64>) {
    let events = three_events();
    let messages = with_descriptors(&events);
    let all: Vec<_> = messages
        .iter()
        .map(|(bytes, fds)| Sent { bytes, fds })
        .collect();
    let mut client = served.client();
    send(&client, &all);
    let count = messages.iter().map(|(bytes, _)| answered(bytes)).sum();
    let answers = answers(&client, count);
    client.in_step();
    (answers, rings(&events))
}

/// One message at a time, the descriptors with the one that they belong to.
fn patiently(client: &Client, sent: &[Sent<'_>]) {
    for &Sent { bytes, fds } in sent {
        let (mut rest, mut fds) = (bytes, fds);
        while !rest.is_empty() {
            let size = u32::from_ne_bytes(rest[4..8].try_into().unwrap()) as usize;
            let (message, after) = rest.split_at(size);
            Sent {
                bytes: message,
                fds,
            }
            .send(client);
            client.wait_until_taken();
            (rest, fds) = (after, &[]);
        }
    }
}

#[test]
fn descriptors_belong_to_their_message_in_a_batch() {
    let served = Served::new();
    let expected = outcome(&served, patiently);
    // The last was pending, as others had their eventfds by then.
    assert_eq!(expected.1, [0, 1, 1, 1]);
    let at_once = |client: &Client, sent: &[Sent<'_>]| {
        // All of it is there before the server looks.
        for sent in sent {
            sent.send(client);
        }
    };
    let sleeping = Served::sleeping();
    for _ in 0..50 {
        assert_eq!(outcome(&served, at_once), expected);
        assert_eq!(outcome(&sleeping, at_once), expected);
    }
}

#[test]
fn descriptors_belong_to_their_message_wherever_a_batch_is_split() {
    let served = Served::new();
    let expected = outcome(&served, patiently);
    let sleeping = Served::sleeping();
    let length: usize = with_descriptors(&three_events())
        .iter()
        .map(|(bytes, _)| bytes.len())
        .sum();
    for at in 1..length {
        let split = |client: &Client, sent: &[Sent<'_>]| {
            let mut before = at;
            for Sent { bytes, fds } in sent {
                let (first, second) = bytes.split_at(before.min(bytes.len()));
                before -= first.len();
                if !first.is_empty() {
                    Sent { bytes: first, fds }.send(client);
                }
                if second.is_empty() {
                    continue;
                }
                let fds: &[OwnedFd] = if first.is_empty() { fds } else { &[] };
                if !first.is_empty() {
                    client.wait_until_taken();
                }
                Sent { bytes: second, fds }.send(client);
            }
        };
        for served in [&served, &sleeping] {
            assert_eq!(outcome(served, split), expected, "split at {at}");
        }
    }
}

#[test]
fn descriptors_that_nobody_wants_do_not_go_to_a_neighbour() {
    let served = Served::new();
    let mut client = served.client();
    client.in_step();
    let file = memory(0x1000, &[]);
    let first = message(1, Cmd::DmaMap, &map(3, 0, 0, 0x1000));
    let second = message(2, Cmd::RegionRead, &access(0, 4, 4));
    client.send_with(&first, &[file.as_fd()]);
    client.send_with(&second, &[file.as_fd()]);
    assert_eq!(client.receive().bytes, reply(1, Cmd::DmaMap, &[]));
    let padding = [&access(0, 4, 4)[..], &[0xff; 4]].concat();
    let refused = errno_reply(2, 9, libc::EINVAL, &padding);
    assert_eq!(client.receive().bytes, refused);
    client.in_step();
}

/// A read, an access that asks for guest memory, and a read of how it went.
fn with_a_question() -> Vec<u8> {
    let go = write(0, Reg::GO.row().offset.into(), &bytes![1u32]);
    [
        message(1, Cmd::RegionRead, &access(0, 4, 4)),
        message(2, Cmd::RegionRead, &access(7, 0, 4)),
        message(3, Cmd::RegionWrite, &go),
        message(
            4,
            Cmd::RegionRead,
            &access(0, Reg::RESULT.row().offset.into(), 4),
        ),
    ]
    .concat()
}

#[test]
fn the_answers_before_an_access_that_asks_the_client_come_before_its_question() {
    let served = Served::new();
    let mut client = served.client();
    client.map_without(0, 0x1000);
    client.send(&with_a_question());
    assert_eq!((client.receive().id(), client.receive().id()), (1, 2));
    client.prove_sound();
    client.provide(&[7; 8]);
    assert_eq!(client.receive().id(), 3);
    let received = client.receive();
    assert_eq!(
        received.body()[16..],
        bytes![u32::try_from(result::DONE).unwrap()]
    );
}

#[test]
fn with_a_twin_socket_too() {
    const TWIN: &str = r#"{"capabilities":{"max_msg_fds":2,"twin_socket":{"supported":true}}}"#;
    let served = Served::new();
    let mut client = served.connect();
    let mut agreed = client.agree(TWIN);
    let twin = Client::over(agreed.fds.remove(0).into());
    client.map_without(0, 0x1000);
    client.send(&with_a_question());
    assert_eq!((client.receive().id(), client.receive().id()), (1, 2));
    twin.prove_sound();
    twin.provide(&[7; 8]);
    assert_eq!((client.receive().id(), client.receive().id()), (3, 4));
}

#[test]
fn commands_that_come_while_the_device_asks_are_answered_in_their_order() {
    let served = Served::new();
    let mut client = served.client();
    client.map_without(0, 0x1000);
    client.send(&with_a_question());
    assert_eq!((client.receive().id(), client.receive().id()), (1, 2));
    let later = |id| message(id, Cmd::RegionRead, &access(0, 4, 4));
    let (id, ..) = client.question(Cmd::DmaWrite);
    client.send(&[later(5), later(6)].concat());
    let answer = reply(id, Cmd::DmaWrite, &bytes![0u64, 0u64]);
    client.send(&[later(7), answer, later(8)].concat());
    client.provide(&[7; 8]);
    let ids: Vec<_> = (0..6).map(|_| client.receive().id()).collect();
    assert_eq!(ids, [3, 4, 5, 6, 7, 8]);
}
