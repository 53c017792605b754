//! What devices write down for a successor: any accesses, then a new device
//! that goes on from it, which nothing can tell from the first.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use vgpu_stub::device::{KeptMemory, KeptWords, StateError, StateReader, StateWriter};
use vgpu_stub::devices::{KINDS, Kind, Options};
use vgpu_stub::endpoint::{CONFIG_REGION, Endpoint, InterruptBus};

use super::memory::{Plain, plain, values};

/// What was sent.
#[derive(Default)]
struct Bus {
    messages: Mutex<Vec<(u64, u32)>>,
    level: Mutex<Option<bool>>,
}

impl InterruptBus for Bus {
    fn message(&self, address: u64, data: u32) {
        self.messages.lock().unwrap().push((address, data));
    }

    fn set_intx(&self, asserted: bool) {
        *self.level.lock().unwrap() = Some(asserted);
    }
}

/// A device on a face that keeps its state.
struct Kept {
    endpoint: Endpoint,
    memory: Arc<Plain>,
    bus: Arc<Bus>,
}

/// What a successor finds.
struct Left {
    function: Vec<u64>,
    device: Vec<u64>,
    memory: Vec<u64>,
}

impl Kept {
    fn new(kind: &Kind, memory: &[u64]) -> Self {
        let builder = kind.builder(Options::default()).unwrap();
        let mut endpoint = Endpoint::new(builder).unwrap();
        let bus = Arc::new(Bus::default());
        endpoint.own_interrupts(bus.clone());
        let words = endpoint.kept_words();
        let memory = match memory.len() {
            0 => plain(&vec![0; words]),
            _ => plain(memory),
        };
        endpoint.keep(KeptMemory::new(memory.clone(), 0..words));
        Kept {
            endpoint,
            memory,
            bus,
        }
    }

    fn save(&self) -> Left {
        let save = |with: &dyn Fn(&mut StateWriter<'_>)| {
            let words = plain(&vec![0; StateWriter::measure(with)]);
            let mut writer = StateWriter::new(words.words());
            with(&mut writer);
            assert!(writer.finish());
            values(words.words())
        };
        Left {
            function: save(&|state| self.endpoint.save_function(state)),
            device: save(&|state| self.endpoint.save_device(state)),
            memory: values(self.memory.words()),
        }
    }

    fn successor(kind: &Kind, left: &Left) -> Result<Self, StateError> {
        let mut kept = Kept::new(kind, &left.memory);
        let mut state = StateReader::new(&left.function)?;
        kept.endpoint.restore_function(&mut state)?;
        state.finish()?;
        let mut state = StateReader::new(&left.device)?;
        kept.endpoint.restore_device(&mut state)?;
        state.finish()?;
        Ok(kept)
    }

    fn read(&mut self, region: u32, offset: u64, length: usize) -> u64 {
        self.endpoint.load(region, offset, length).unwrap() & u64::MAX >> (64 - 8 * length)
    }

    /// Until the stub's thread has nothing to do any more.
    fn settle(&mut self, kind: &Kind) {
        if kind.name == "stub" {
            while self.read(0, 0x5c, 4) != 0 || self.read(0, 0x6c, 4) != self.read(0, 0x70, 4) {
                std::thread::yield_now();
            }
        }
    }

    fn carry_out(&mut self, kind: &Kind, access: &Access) {
        let (region, offset, length) = (access.region, access.offset, access.length);
        // An invalid ring is an error that no register tells the end of, and the
        // copier's thread tells nobody when it is idle.
        let untold = match kind.name {
            "stub" => 0x68..0x6c,
            "copier" => 0x10..0x14,
            _ => 0..0,
        };
        let is_untold = region == 0 && offset < untold.end && untold.start < offset + length as u64;
        match access.value {
            None => {
                let _ = self.endpoint.load(region, offset, length);
            }
            Some(_) if is_untold => {}
            Some(value) => {
                // What is beyond a region is refused, here as there.
                let _ = self.endpoint.store(region, offset, length, value);
            }
        }
        if kind.name == "stub" && region == CONFIG_REGION {
            // It may have been a reset.
            self.endpoint.store(0, 0x68, 4, 256).unwrap();
        }
        self.settle(kind);
    }

    /// All that can be read, but for what tells the time or counts reads.
    fn all(&mut self, kind: &Kind) -> Vec<(u32, u64, u64)> {
        let mut all = Vec::new();
        for region in [0, 1, 2, 3, 4, 5, CONFIG_REGION] {
            let size = self.endpoint.region(region).map_or(0, |region| region.size);
            for offset in (0..size.min(0x2000)).step_by(4) {
                let is_stub = kind.name == "stub" && region == 0;
                if !is_stub || !matches!(offset, 0x80..0x88 | 0xa0..0xa8 | 0xb0..0xb8) {
                    all.push((region, offset, self.read(region, offset, 4)));
                }
            }
        }
        all
    }
}

#[derive(Clone, Debug)]
struct Access {
    region: u32,
    offset: u64,
    length: usize,
    value: Option<u64>,
}

fn access() -> impl Strategy<Value = Access> {
    let place = prop_oneof![
        // Registers, most of all the stub's, the MSI-X table, config space.
        8 => (Just(0), 0..0xb8u64),
        2 => (Just(0), 0x800..0x900u64),
        1 => (Just(0), 0x1000..0x1008u64),
        1 => (Just(2), 0..0x1000u64),
        3 => (Just(CONFIG_REGION), 0..0x100u64),
    ];
    let value = prop_oneof![
        Just(None),
        any::<u64>().prop_map(Some),
        (0..8u64).prop_map(Some)
    ];
    let length = prop_oneof![Just(4usize), Just(8), 1..=8usize];
    (place, length, value, any::<bool>()).prop_map(|((region, offset), length, value, aligned)| {
        let offset = if aligned { offset / 8 * 8 } else { offset };
        Access {
            region,
            offset,
            length,
            value,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_successor_is_what_its_predecessor_was(
        before in prop::collection::vec(access(), 0..60),
        after in prop::collection::vec(access(), 0..20),
    ) {
        for kind in KINDS {
            let mut first = Kept::new(kind, &[]);
            if kind.name == "stub" {
                first.endpoint.store(0, 0x68, 4, 256).unwrap();
            }
            for access in &before {
                first.carry_out(kind, access);
            }
            let left = first.save();
            let mut second = Kept::successor(kind, &left).unwrap();
            // Nothing was lost before it was read.
            let again = second.save();
            prop_assert_eq!(&left.device, &again.device, "{}", kind.name);
            prop_assert_eq!(&left.function, &again.function, "{}", kind.name);
            if kind.name == "stub" {
                prop_assert_eq!(first.read(0, 0x80, 8), second.read(0, 0x80, 8));
                prop_assert_eq!(first.read(0, 0xb0, 8), second.read(0, 0xb0, 8));
            }
            prop_assert_eq!(first.all(kind), second.all(kind));
            prop_assert_eq!(*first.bus.level.lock().unwrap(), *second.bus.level.lock().unwrap());
            second.endpoint.resume();
            second.settle(kind);
            for access in &after {
                first.bus.messages.lock().unwrap().clear();
                second.bus.messages.lock().unwrap().clear();
                first.carry_out(kind, access);
                second.carry_out(kind, access);
            }
            prop_assert_eq!(first.all(kind), second.all(kind));
        }
    }

    #[test]
    fn a_state_of_any_words_is_refused_or_used_and_nothing_panics(
        seed in prop::collection::vec(any::<u64>(), 1..40),
        shift in 0..64u32,
    ) {
        for kind in KINDS {
            let kept = Kept::new(kind, &[]);
            let mut left = kept.save();
            let mut next = seed.iter().cycle();
            // The function stays: another one is refused for that alone.
            for words in [&mut left.device, &mut left.memory] {
                for word in words.iter_mut() {
                    *word = next.next().unwrap().rotate_left(shift) >> shift;
                }
            }
            resum(&mut left.device);
            if let Ok(mut successor) = Kept::successor(kind, &left) {
                successor.endpoint.resume();
                successor.endpoint.reset();
                prop_assert_eq!(successor.endpoint.guest_errors(), 0);
            }
        }
    }
}

/// Gives a state the sum of its words.
fn resum(words: &mut [u64]) {
    let copy = words.to_vec();
    let room = plain(words);
    let mut writer = StateWriter::new(room.words());
    for word in &copy[..copy.len() - 1] {
        writer.put(*word);
    }
    assert!(writer.finish());
    words.copy_from_slice(&values(room.words()));
}

#[test]
fn a_state_that_is_torn_short_long_or_of_another_function_is_refused() {
    let stub = Kind::find("stub").unwrap();
    let refused = |change: &dyn Fn(&mut Left)| {
        let mut left = Kept::new(stub, &[]).save();
        change(&mut left);
        Kept::successor(stub, &left).err()
    };
    assert_eq!(refused(&|_| ()), None);
    assert_eq!(refused(&|left| left.device[3] ^= 1), Some(StateError::Torn));
    assert_eq!(
        refused(&|left| left.function[3] ^= 1),
        Some(StateError::Torn)
    );
    assert_eq!(
        refused(&|left| left.device.clear()),
        Some(StateError::Short)
    );
    let short = |left: &mut Left| {
        left.device.pop();
        resum(&mut left.device);
    };
    assert_eq!(refused(&short), Some(StateError::Short));
    let long = |left: &mut Left| {
        left.device.push(0);
        resum(&mut left.device);
    };
    assert_eq!(refused(&long), Some(StateError::Long));
    let zeros = |left: &mut Left| left.device.fill(0);
    assert_eq!(refused(&zeros), Some(StateError::Torn));
    let wide = |left: &mut Left| {
        // VERSION has 32 bits.
        left.device[1] = 1 << 32;
        resum(&mut left.device);
    };
    let name = "VERSION";
    let value = 1 << 32;
    assert_eq!(refused(&wide), Some(StateError::Value { name, value }));
    let other = |left: &mut Left| {
        left.function[0] ^= 1;
        resum(&mut left.function);
    };
    let Some(StateError::Value { name, .. }) = refused(&other) else {
        panic!("another vendor's function was taken over");
    };
    assert_eq!(name, "the config space of this function");
}
