//! Accesses of any offset and length, compared with a model that knows only
//! bytes and their kinds.

mod wire;

use proptest::prelude::*;
use wire::model::{self, SIZE};

#[derive(Clone, Debug)]
enum Step {
    Read(usize, usize),
    Write(usize, Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let range = (0..SIZE, 1..=16usize).prop_map(|(offset, length)| {
        let length = length.min(SIZE - offset);
        (offset, length)
    });
    prop_oneof![
        range
            .clone()
            .prop_map(|(offset, length)| Step::Read(offset, length)),
        range.prop_flat_map(|(offset, length)| {
            prop::collection::vec(any::<u8>(), length)
                .prop_map(move |data| Step::Write(offset, data))
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_accesses_do_what_they_do_byte_by_byte(
        steps in prop::collection::vec(step(), 1..100)
    ) {
        let mut endpoint = model::endpoint();
        let mut bytes = model::bytes();
        for step in steps {
            match step {
                Step::Read(offset, length) => {
                    let mut data = vec![0; length];
                    endpoint.read(0, offset as u64, &mut data).unwrap();
                    prop_assert_eq!(data, model::read(&bytes[offset..offset + length]));
                }
                Step::Write(offset, data) => {
                    endpoint.write(0, offset as u64, &data).unwrap();
                    model::write(&mut bytes, offset, &data);
                }
            }
        }
        let mut all = [0; SIZE];
        endpoint.read(0, 0, &mut all).unwrap();
        prop_assert_eq!(all.to_vec(), model::read(&bytes));
        endpoint.reset();
        endpoint.read(0, 0, &mut all).unwrap();
        prop_assert_eq!(all.to_vec(), model::read(&model::bytes()));
    }
}

#[test]
fn only_a_whole_write_of_a_write_only_register_arrives() {
    let mut endpoint = model::endpoint();
    let before = endpoint.guest_errors();
    endpoint.write(0, 0x10, &[1, 2]).unwrap();
    assert_eq!(endpoint.guest_errors(), before + 1);
    endpoint.write(0, 0x10, &[1, 2, 3, 4]).unwrap();
    assert_eq!(endpoint.guest_errors(), before + 1);
    // One write over two registers is one for each.
    endpoint.write(0, 0x10, &[0; 8]).unwrap();
    assert_eq!(endpoint.guest_errors(), before + 2);
}
