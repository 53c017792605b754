//! Requesters on threads of their own.

use super::pages::sharing;
use super::*;

fn patient() -> Options {
    Options::default().timeout(PATIENCE)
}

fn read_by(requester: &mut Requester) -> Result<[u8; 4], ClientError> {
    let mut data = [0; 4];
    requester.read(0, 8, &mut data).map(|()| data)
}

#[test]
fn a_requester_has_a_slot_of_its_own_while_there_is_one() {
    let mut client = sharing(patient(), |_, pages| {
        let asked = pages.asked(1, 1);
        assert_eq!((asked.operation, asked.offset), (1, 8));
        // The client asks at the same time.
        pages.asked(0, 1);
        pages.answer(1, 1, 0, 1);
        pages.answer(0, 1, 0, 2);
        assert_eq!(pages.asked(1, 2).value, 3);
        pages.answer(1, 2, 0, 0);
    });
    let mut requester = client.requester().unwrap();
    assert!(client.requester().is_none(), "the server gave two slots");
    let other = thread::spawn(move || {
        let read = read_by(&mut requester).unwrap();
        requester.write(0, 8, &[3]).unwrap();
        read
    });
    assert_eq!(read(&mut client).unwrap(), [2, 0, 0, 0]);
    assert_eq!(other.join().unwrap(), [1, 0, 0, 0]);
}

#[test]
fn all_post_into_one_ring_and_none_waits_unless_it_is_full() {
    let mut client = sharing(patient(), |_, pages| {
        pages.asked(1, 1);
        let values = [0, 1, 2, 3].map(|number| pages.entry(number)[1]);
        assert_eq!((pages.tail(), values), (4, [1, 2, 3, 4]));
        pages.answer(1, 1, 0, 0);
    });
    let mut requester = client.requester().unwrap();
    client.post(0, 0, &[1]).unwrap();
    requester.post(0, 0, &[2]).unwrap();
    client.post(0, 0, &[3]).unwrap();
    requester.post(0, 0, &[4]).unwrap();
    requester.post(0, 0, &[5]).unwrap();
}

#[test]
fn what_does_not_fit_a_slot_is_refused_without_the_server() {
    let mut client = sharing(patient(), |peer, _| peer.stay());
    let mut requester = client.requester().unwrap();
    for length in [0, 9] {
        let data = &mut vec![0; length][..];
        for refused in [
            requester.read(0, 0, data),
            requester.write(0, 0, data),
            requester.post(0, 0, data),
        ] {
            let error = refused.unwrap_err();
            assert!(matches!(error, ClientError::Refused { errno: 22, .. }));
        }
    }
}

#[test]
fn a_requester_notices_that_the_server_has_left() {
    for spinning in [Spinning::Never, Spinning::Adaptive, Spinning::Always] {
        let mut client = sharing(patient().spinning(spinning), |_, pages| {
            pages.asked(1, 1);
        });
        let mut requester = client.requester().unwrap();
        let error = read_by(&mut requester).unwrap_err();
        assert!(matches!(error, ClientError::Closed { .. }), "{error:?}");
        let next = read_by(&mut requester).unwrap_err();
        assert!(matches!(next, ClientError::GivenUp { .. }), "{next:?}");
        let next = client.reset().unwrap_err();
        assert!(matches!(next, ClientError::GivenUp { .. }), "{next:?}");
    }
}

#[test]
fn a_time_out_of_one_ends_the_connection_for_all() {
    let options = Options::default().timeout(Duration::from_millis(50));
    let mut client = sharing(options, |peer, _| peer.stay());
    let mut requester = client.requester().unwrap();
    let error = read_by(&mut requester).unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { .. }), "{error:?}");
    let error = read(&mut client).unwrap_err();
    assert!(matches!(error, ClientError::GivenUp { .. }), "{error:?}");

    let mut client = sharing(options, |peer, _| peer.stay());
    let mut requester = client.requester().unwrap();
    assert!(read(&mut client).is_err());
    for result in [requester.post(0, 0, &[0]), requester.write(0, 0, &[0])] {
        let error = result.unwrap_err();
        assert!(matches!(error, ClientError::GivenUp { .. }), "{error:?}");
    }
}

#[test]
fn the_servers_commands_are_left_to_the_client() {
    let mut client = sharing(patient(), |peer, pages| {
        pages.asked(1, 1);
        peer.send(Header::command(9, Command::DmaRead), &[0; 16]);
        assert_eq!(peer.next().unwrap().id, 9);
        pages.answer(1, 1, 0, 7);
        peer.stay();
    });
    let mut requester = client.requester().unwrap();
    let (done, ended) = UnixStream::pair().unwrap();
    let other = thread::spawn(move || {
        let read = read_by(&mut requester);
        drop(ended);
        read
    });
    // It can be read when the thread has its answer and is done.
    assert!(client.wait_for(done.as_fd(), PATIENCE).unwrap());
    assert_eq!(other.join().unwrap().unwrap(), [7, 0, 0, 0]);
}
