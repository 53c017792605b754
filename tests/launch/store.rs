//! A fake xenstored: a thread that speaks its protocol on a socket.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// As it should, after an event that nobody asked for.
    Well,
    /// Not at all.
    Never,
    /// It closes the connection.
    Closes,
    /// With a payload of 4 GiB.
    Huge,
    /// To another request.
    Other,
    /// With `EACCES`.
    Refuses,
}

/// Its keys and what was asked for.
#[derive(Clone, Default)]
pub(crate) struct Store {
    keys: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Store {
    /// Serves on `path` as long as the test's process lives.
    pub(crate) fn start(path: &Path, manner: Manner) -> Store {
        let store = Store::default();
        let listener = UnixListener::bind(path).unwrap();
        let serving = store.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let serving = serving.clone();
                thread::spawn(move || serving.serve(client.unwrap(), manner));
            }
        });
        store
    }

    pub(crate) fn set(&self, key: &str, value: &[u8]) {
        let mut keys = self.keys.lock().unwrap();
        keys.insert(key.to_owned(), value.to_owned());
    }

    /// The keys that were read.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn serve(&self, mut client: UnixStream, manner: Manner) {
        let mut header = [0; 16];
        while client.read_exact(&mut header).is_ok() {
            let word = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
            assert_eq!(
                (word(0), word(8)),
                (2, 0),
                "not a read outside a transaction"
            );
            let mut key = vec![0; word(12) as usize];
            client.read_exact(&mut key).unwrap();
            assert_eq!(key.pop(), Some(0));
            let key = String::from_utf8(key).unwrap();
            self.asked.lock().unwrap().push(key.clone());
            let found = self.keys.lock().unwrap().get(&key).cloned();
            let (id, error) = (word(4), 16);
            let (kind, id, size, payload) = match (manner, found) {
                (Manner::Never, _) => continue,
                (Manner::Closes, _) => return,
                (Manner::Huge, _) => (2, id, u32::MAX, vec![]),
                (Manner::Other, _) => (2, id + 1, 4, b"true".to_vec()),
                (Manner::Refuses, _) => (error, id, 7, b"EACCES\0".to_vec()),
                (Manner::Well, Some(value)) => (2, id, u32::try_from(value.len()).unwrap(), value),
                (Manner::Well, None) => (error, id, 7, b"ENOENT\0".to_vec()),
            };
            let mut answer = Vec::new();
            if manner == Manner::Well {
                answer.extend(message(15, 0, 4, b"a\0b\0"));
            }
            answer.extend(message(kind, id, size, &payload));
            // In two pieces, one of which is half a header.
            let (first, second) = answer.split_at(7);
            client.write_all(first).unwrap();
            client.write_all(second).unwrap();
        }
    }
}

fn message(kind: u32, id: u32, size: u32, payload: &[u8]) -> Vec<u8> {
    let words = [kind, id, 0, size].map(u32::to_ne_bytes);
    [&words.concat(), payload].concat()
}
