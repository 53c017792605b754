//! A thread for a device's slow work, so that no register access waits for it.

use std::io;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

/// A thread that does one piece of work after the other. It ends when the
/// worker is dropped and what was queued is done.
#[derive(Debug)]
pub struct Worker<T> {
    queue: Sender<Item<T>>,
}

enum Item<T> {
    Work(T),
    /// All before this has been done.
    Drained(Sender<()>),
}

impl<T: Send + 'static> Worker<T> {
    /// Starts a thread that calls `work` for each piece. So many may wait.
    ///
    /// # Errors
    ///
    /// If the system has no thread for it.
    pub fn start(
        name: &str,
        room: usize,
        work: impl FnMut(T) + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, todo) = bounded(room);
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(&todo, work))?;
        Ok(Worker { queue })
    }

    /// Queues a piece of work, if there is room. Never waits.
    #[must_use]
    pub fn push(&self, work: T) -> bool {
        self.queue.try_send(Item::Work(work)).is_ok()
    }

    /// Returns when all that was queued has been done. During a reset or
    /// after a client has left guest memory is out of reach, so that is soon.
    pub fn drain(&self) {
        let (done, drained) = bounded(1);
        if self.queue.send(Item::Drained(done)).is_ok() {
            // An error means that the thread has ended, and all work with it.
            let _ = drained.recv();
        }
    }
}

fn run<T>(todo: &Receiver<Item<T>>, mut work: impl FnMut(T)) {
    for item in todo {
        match item {
            Item::Work(piece) => work(piece),
            // Nobody waits if the device is gone.
            Item::Drained(done) => drop(done.send(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_drain_returns_when_all_is_done_in_order() {
        let last = Arc::new(AtomicU32::new(0));
        let seen = last.clone();
        let worker = Worker::start("test", 100, move |piece| {
            assert_eq!(seen.swap(piece, Ordering::SeqCst) + 1, piece);
        })
        .unwrap();
        for piece in 1..=100 {
            assert!(worker.push(piece));
        }
        worker.drain();
        assert_eq!(last.load(Ordering::SeqCst), 100);
    }

    #[test]
    fn work_without_room_is_refused_and_nobody_waits() {
        let (go, going) = bounded(0);
        let worker = Worker::start("test", 1, move |()| going.recv().unwrap()).unwrap();
        // The thread holds one at most, and the queue another.
        let taken = (0..3).take_while(|_| worker.push(())).count();
        assert!((1..=2).contains(&taken));
        (0..taken).for_each(|_| go.send(()).unwrap());
        worker.drain();
        assert!(worker.push(()));
        go.send(()).unwrap();
    }
}
