//! What a server can do wrong, and what comes of it.

use std::os::unix::net::UnixListener;
use std::time::Instant;

use super::*;
use crate::protocol::{DmaTransfer, MAX_MESSAGE, Malformed, TwinSocket};

#[test]
fn a_read_is_answered() {
    let mut client = answered(access_body(access(4), b"VGPU"));
    assert_eq!(&read(&mut client).unwrap(), b"VGPU");
}

#[test]
fn a_silent_server_is_given_up_in_time() {
    let options = Options::default().timeout(Duration::from_millis(50));
    let begun = Instant::now();
    let error = connect(options, Peer::stay).unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { .. }), "{error:?}");
    assert_eq!(error.to_string(), "VERSION: no answer within 0.05 s");
    assert!(begun.elapsed() < PATIENCE);
}

#[test]
fn a_server_that_stalls_in_a_message_is_given_up_in_time() {
    let options = Options::default().timeout(Duration::from_millis(50));
    let error = connect(options, |peer| {
        peer.raw(&[0; 7]);
        peer.stay();
    });
    assert!(matches!(
        error.unwrap_err(),
        ClientError::TimedOut { .. } | ClientError::Garbage { .. }
    ));
}

#[test]
fn a_server_that_only_asks_is_given_up_in_time() {
    let options = Options::default().timeout(Duration::from_millis(50));
    let error = connect(options, |peer| {
        peer.next();
        loop {
            let mut body = Vec::new();
            let (address, count) = (0, 1);
            DmaTransfer { address, count }.encode(&mut body);
            peer.send(Header::command(1, Command::DmaRead), &body);
            if peer.next().is_none() {
                return;
            }
        }
    });
    assert!(matches!(error.unwrap_err(), ClientError::TimedOut { .. }));
}

#[test]
fn a_server_that_leaves_is_told_from_one_that_leaves_in_a_message() {
    let left = connect(Options::default(), |peer| {
        peer.next();
    });
    assert!(matches!(left.unwrap_err(), ClientError::Closed { .. }));
    let cut = connect(Options::default(), |peer| {
        let header = peer.next().unwrap();
        let bytes = Header {
            size: 100,
            ..header.reply()
        };
        peer.raw(&bytes.encode());
    });
    assert!(matches!(cut.unwrap_err(), ClientError::Cut { .. }));
}

#[test]
fn what_is_not_vfio_user_is_refused_at_once() {
    let http = connect(Options::default(), |peer| {
        peer.raw(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        peer.stay();
    });
    assert!(matches!(http.unwrap_err(), ClientError::Garbage { .. }));
}

#[test]
fn a_message_of_a_size_that_cannot_be_is_refused_at_once() {
    for size in [0, 15, u32::try_from(MAX_MESSAGE).unwrap() + 1, u32::MAX] {
        let mut client = agreed(move |peer| {
            let header = peer.next().unwrap();
            let reply = Header {
                size,
                ..header.reply()
            };
            peer.raw(&reply.encode());
            peer.stay();
        });
        assert_ends!(client, read(&mut client), ClientError::Garbage { .. });
    }
}

#[test]
fn a_refusal_is_told_and_the_connection_goes_on() {
    for errno in [libc::EINVAL, 0] {
        let mut client = agreed(move |peer| {
            let header = peer.next().unwrap();
            peer.send(header.refusal(errno), &[]);
            let header = peer.next().unwrap();
            peer.send(header.reply(), &[]);
            peer.stay();
        });
        let error = read(&mut client).unwrap_err();
        let expected = errno.unsigned_abs();
        assert!(matches!(error, ClientError::Refused { errno, .. } if errno == expected));
        client.reset().unwrap();
    }
}

#[test]
fn a_reply_to_another_question_ends_the_connection() {
    for (id, command) in [(7, Command::RegionRead), (0, Command::DeviceReset)] {
        let mut client = agreed(move |peer| {
            let asked = peer.next().unwrap();
            let header = Header {
                id: asked.id.wrapping_add(id),
                ..Header::command(0, command).reply()
            };
            peer.send(header, &access_body(access(4), b"VGPU"));
            peer.stay();
        });
        assert_ends!(client, read(&mut client), ClientError::WrongReply { .. });
    }
}

#[test]
fn a_read_that_is_short_or_long_or_from_elsewhere_is_not_believed() {
    let elsewhere = RegionAccess {
        offset: 4,
        ..access(4)
    };
    let bodies = [
        Vec::new(),
        vec![0; 15],
        access_body(access(4), b"VGP"),
        access_body(access(4), b"VGPUs"),
    ];
    for body in bodies {
        let mut client = answered(body);
        assert_ends!(client, read(&mut client), ClientError::Malformed(_));
    }
    for body in [
        access_body(access(3), b"VGP"),
        access_body(access(5), b"VGPUs"),
        access_body(elsewhere, b"VGPU"),
    ] {
        let mut client = answered(body);
        assert_ends!(client, read(&mut client), ClientError::Mismatch { .. });
    }
}

#[test]
fn a_write_that_was_done_in_part_is_an_error() {
    let mut client = answered(access_body(access(2), &[]));
    let written = client.write(0, 8, &[0; 4]);
    assert_ends!(
        client,
        written,
        ClientError::Mismatch { field: "count", .. }
    );
}

#[test]
fn several_writes_done_in_part_are_an_error() {
    let mut client = answered(1u64.to_ne_bytes().to_vec());
    let written = client.write_multi(&[(access(4), [0; 8]); 2]);
    assert_ends!(
        client,
        written,
        ClientError::Mismatch {
            field: "wr_cnt",
            ..
        }
    );
}

#[test]
fn an_error_of_a_posted_write_does_not_pass_for_the_next_reply() {
    let mut client = agreed(|peer| {
        for _ in 0..2 {
            let posted = peer.next().unwrap();
            assert!(posted.no_reply);
            peer.send(posted.refusal(libc::EINVAL), &[]);
        }
        let header = peer.next().unwrap();
        peer.send(header.reply(), &access_body(access(4), b"VGPU"));
        peer.stay();
    });
    client.post(0, 8, &[0; 4]).unwrap();
    client.post_multi(&[(access(4), [0; 8])]).unwrap();
    assert_eq!(&read(&mut client).unwrap(), b"VGPU");
}

#[test]
fn a_long_read_is_split_as_the_server_wants() {
    let mut client = connect(Options::default(), |peer| {
        peer.version(
            Capabilities {
                max_data_xfer_size: Some(3),
                ..Capabilities::default()
            },
            &[],
        );
        while let Some(header) = peer.next() {
            let access = RegionAccess::parse(&peer.message.body).unwrap();
            let data = vec![u8::try_from(access.offset).unwrap(); access.count as usize];
            peer.send(header.reply(), &access_body(access, &data));
        }
    })
    .unwrap();
    let mut data = [0; 8];
    client.read(0, 1, &mut data).unwrap();
    assert_eq!(data, [1, 1, 1, 4, 4, 4, 7, 7]);
}

#[test]
fn a_version_that_we_do_not_speak_is_refused() {
    let version = |bytes: Vec<u8>| {
        connect(Options::default(), move |peer| {
            let header = peer.next().unwrap();
            peer.send(header.reply(), &bytes);
            peer.stay();
        })
        .unwrap_err()
    };
    let newer = version(vec![1, 0, 0, 0]);
    assert!(matches!(newer, ClientError::Version { major: 1, .. }));
    let newer = version(vec![0, 0, 2, 0]);
    assert!(matches!(newer, ClientError::Version { minor: 2, .. }));
    let garbage = version(b"\0\0\x01\0{}".to_vec());
    assert!(matches!(
        garbage,
        ClientError::Malformed(Malformed::VersionNul)
    ));
    assert!(matches!(version(Vec::new()), ClientError::Malformed(_)));
}

#[test]
fn a_twin_socket_that_did_not_come_is_an_error() {
    let error = connect(Options::default().twin_socket(), |peer| {
        let fd_index = Some(3);
        let supported = true;
        let twin_socket = Some(TwinSocket {
            supported,
            fd_index,
        });
        let capabilities = Capabilities {
            twin_socket,
            ..Capabilities::default()
        };
        peer.version(capabilities, &[]);
        peer.stay();
    });
    assert!(matches!(
        error.unwrap_err(),
        ClientError::Descriptor { index: 3, .. }
    ));
}

#[test]
fn a_server_that_accepts_nobody_is_given_up_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("full.sock");
    let listener = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let options = Options::default().timeout(Duration::from_millis(50));
    // The first one waits to be accepted, and takes all the room there is.
    let _first = UnixStream::connect(&path).unwrap();
    let error = Client::connect(&path, &options).unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error:?}");
    assert!(error.to_string().ends_with("see whether it is stuck"));
}
