//! The way into the image: its entry point, the shared region, and the threads that are lent to it.
//!
//! Nothing here allocates once the threads are there: when the image runs, no call that could get memory is allowed.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::{Builder, Thread, park};

use myelin_abi::{Entry, MESSAGE_BYTES, Shared, exit};

use crate::refusal::{Reason, Refusal};

/// Bytes of a lent thread's own stack: it only enters, and the image has stacks of its own.
const STACK_BYTES: usize = 128 << 10;

/// The shared region and the entry point, in the hands of the one thread that carries messages.
pub struct Gate {
    entry: Entry,
    shared: NonNull<Shared>,
    /// Whether slot 0 is in, so that lent threads are wanted.
    inside: Arc<AtomicBool>,
    lent: Vec<Thread>,
}

/// An address that may be given to another thread.
struct SharedAddress(NonNull<Shared>);

// SAFETY: the address is only passed on to the image, which is what may be entered on several slots at once.
unsafe impl Send for SharedAddress {}

/// Life of a lent thread: asleep while slot 0 is out, inside again and again while it is in.
fn lend(entry: Entry, shared: *mut Shared, slot: u64, inside: &AtomicBool) {
    loop {
        while !inside.load(Ordering::Acquire) {
            park();
        }
        match entry(slot, shared) {
            exit::IDLE | exit::SLOT_BUSY => std::thread::yield_now(),
            // Dead, or something an image must not answer: this thread is of no more use. It stays, asleep.
            _ => loop {
                park();
            },
        }
    }
}

impl Gate {
    /// Starts `threads - 1` lent threads and waits until each of them has made its last system call but sleeping.
    ///
    /// # Errors
    /// [`Reason::ThreadsMissing`] if the system gives no more threads.
    pub fn open(entry: Entry, shared: NonNull<Shared>, threads: usize) -> Result<Self, Refusal> {
        let inside = Arc::new(AtomicBool::new(false));
        let ready = Arc::new(Barrier::new(threads));
        let mut lent = Vec::with_capacity(threads);
        for slot in 1..threads as u64 {
            let (address, inside, ready) = (SharedAddress(shared), Arc::clone(&inside), Arc::clone(&ready));
            let life = move || {
                let address = address;
                ready.wait();
                lend(entry, address.0.as_ptr(), slot, &inside);
            };
            let handle = Builder::new().stack_size(STACK_BYTES).spawn(life).map_err(|error| {
                Refusal::new(
                    Reason::ThreadsMissing,
                    format!("thread {slot} of {threads} cannot be started: {error}; lend fewer"),
                )
            })?;
            lent.push(handle.thread().clone());
        }
        ready.wait();
        Ok(Self { entry, shared, inside, lent })
    }

    /// Where a request goes. The borrow ends before the image is entered.
    pub fn request(&mut self) -> &mut [u8; MESSAGE_BYTES] {
        // SAFETY: the region is mapped for the life of the process; lent threads do not touch it, and the image does only
        // while slot 0 is in, which needs the borrow to be over.
        unsafe { &mut (*self.shared.as_ptr()).request }
    }

    /// Where the last reply is.
    pub fn reply(&self) -> &[u8; MESSAGE_BYTES] {
        // SAFETY: as for `request`.
        unsafe { &(*self.shared.as_ptr()).reply }
    }

    /// Sends slot 0 in with a request of `length` bytes; other threads are lent until it is out again.
    ///
    /// Returns the image's answer and the reply's length as the image says it, unchecked.
    pub fn enter(&mut self, length: u64) -> (u64, u64) {
        let shared = self.shared.as_ptr();
        // SAFETY: as for `request`; a plain store, before the image is entered.
        unsafe { (*shared).request_len = length };
        self.inside.store(true, Ordering::Release);
        for thread in &self.lent {
            thread.unpark();
        }
        let answer = (self.entry)(0, shared);
        self.inside.store(false, Ordering::Release);
        // SAFETY: slot 0 is out. Volatile, because the image wrote it and the compiler did not see that.
        let reply_length = unsafe { (&raw const (*shared).reply_len).read_volatile() };
        (answer, reply_length)
    }
}
