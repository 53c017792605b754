//! Devices beside the one that is measured, whose clients do nothing.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, getrlimit, setrlimit};

use super::READY;
use crate::bench::Trouble;
use crate::bench::dispatch::stub;
use crate::client::{Client, Options};
use crate::server::{Server, Source};

/// Adds `count` devices to a server that is about to run, and starts the
/// thread that is the client of all of them until `main` is over.
pub(super) fn add(server: &mut Server, count: u32, main: &UnixStream) -> Result<(), Trouble> {
    if count == 0 {
        return Ok(());
    }
    let failed = |error: io::Error| Trouble::new("a peer with many devices", error);
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Without the right to, what we have may do.
    let _ = setrlimit(Resource::Nofile, limit);
    let mut ours = Vec::new();
    for _ in 0..count {
        let (client, device) = UnixStream::pair().map_err(failed)?;
        let source = Source::Connected(device);
        server.add("idle", stub()?, source).map_err(failed)?;
        ours.push(client);
    }
    let main = main.try_clone().map_err(failed)?;
    let begun = thread::Builder::new()
        .name("idle clients".to_owned())
        .spawn(move || {
            let options = Options::default();
            let clients = ours.into_iter().map(|ours| Client::over(ours, &options));
            let clients: Result<Vec<Client>, _> = clients.collect();
            match clients {
                Ok(clients) => {
                    if say_ready().is_ok() {
                        wait_for_the_end(&main);
                    }
                    drop(clients);
                }
                Err(error) => log::error!("a client that is to do nothing: {error}"),
            }
        });
    begun.map(|_| ()).map_err(failed)
}

fn say_ready() -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(READY)?;
    stdout.flush()
}

fn wait_for_the_end(main: &UnixStream) {
    let mut fds = [PollFd::new(main, PollFlags::RDHUP)];
    while poll(&mut fds, None).is_err() {}
}
