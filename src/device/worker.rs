//! A thread for a device's slow work, so that no register access waits for it.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

/// A thread that does one piece of work after the other. It starts with the
/// first: of many devices few may ever have any. It ends when the worker is
/// dropped and what was queued is done.
pub struct Worker<T> {
    name: &'static str,
    room: usize,
    /// Lent to the thread for its life.
    work: Arc<Mutex<Work<T>>>,
    queue: OnceLock<Sender<Item<T>>>,
    starting: Mutex<()>,
}

type Work<T> = dyn FnMut(T) + Send;

enum Item<T> {
    Work(T),
    /// All before this has been done.
    Drained(Sender<()>),
}

impl<T: Send + 'static> Worker<T> {
    /// A thread `name` that will call `work` for each piece. So many may wait.
    pub fn new(name: &'static str, room: usize, work: impl FnMut(T) + Send + 'static) -> Self {
        Worker {
            name,
            room,
            work: Arc::new(Mutex::new(work)),
            queue: OnceLock::new(),
            starting: Mutex::new(()),
        }
    }

    /// Queues a piece of work, if there is room and the system has a thread.
    /// Never waits.
    #[must_use]
    pub fn push(&self, work: T) -> bool {
        let queue = self.queue.get().or_else(|| self.start());
        queue.is_some_and(|queue| queue.try_send(Item::Work(work)).is_ok())
    }

    /// Returns when all that was queued has been done. During a reset or
    /// after a client has left guest memory is out of reach, so that is soon.
    pub fn drain(&self) {
        let Some(queue) = self.queue.get() else {
            return;
        };
        let (done, drained) = bounded(1);
        if queue.send(Item::Drained(done)).is_ok() {
            // An error means that the thread has ended, and all work with it.
            let _ = drained.recv();
        }
    }

    /// Starts the thread. What could not be is tried again with the next piece.
    #[cold]
    fn start(&self) -> Option<&Sender<Item<T>>> {
        let _one = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.queue.get().is_none() {
            let (queue, todo) = bounded(self.room);
            match self.spawn(todo) {
                Ok(()) => drop(self.queue.set(queue)),
                Err(error) => log::error!("{}: cannot start a thread: {error}", self.name),
            }
        }
        self.queue.get()
    }

    fn spawn(&self, todo: Receiver<Item<T>>) -> io::Result<()> {
        let work = self.work.clone();
        let thread = thread::Builder::new().name(self.name.to_owned());
        thread.spawn(move || {
            let mut work = work.lock().unwrap_or_else(PoisonError::into_inner);
            run(&todo, &mut *work);
        })?;
        Ok(())
    }
}

impl<T> fmt::Debug for Worker<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name;
        f.debug_struct("Worker")
            .field("name", &name)
            .finish_non_exhaustive()
    }
}

fn run<T>(todo: &Receiver<Item<T>>, work: &mut Work<T>) {
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
        let worker = Worker::new("test", 100, move |piece| {
            assert_eq!(seen.swap(piece, Ordering::SeqCst) + 1, piece);
        });
        for piece in 1..=100 {
            assert!(worker.push(piece));
        }
        worker.drain();
        assert_eq!(last.load(Ordering::SeqCst), 100);
    }

    #[test]
    fn there_is_no_thread_before_the_first_piece() {
        let worker = Worker::new("test", 1, |()| ());
        worker.drain();
        assert!(worker.queue.get().is_none());
        assert!(worker.push(()));
        worker.drain();
    }

    #[test]
    fn work_without_room_is_refused_and_nobody_waits() {
        let (go, going) = bounded(0);
        let worker = Worker::new("test", 1, move |()| going.recv().unwrap());
        // The thread holds one at most, and the queue another.
        let taken = (0..3).take_while(|_| worker.push(())).count();
        assert!((1..=2).contains(&taken));
        (0..taken).for_each(|_| go.send(()).unwrap());
        worker.drain();
        assert!(worker.push(()));
        go.send(()).unwrap();
    }
}
