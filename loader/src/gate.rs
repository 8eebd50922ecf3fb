//! The way into the image: its slots, the shared region, and the threads that are lent to it.
//!
//! Nothing here allocates once the threads are there: when the image runs, no call that could get memory is allowed.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::{Builder, Thread, park};

use myelin_abi::{Entry, MESSAGE_BYTES, Shared, exit};

use crate::ending::Ending;
use crate::refusal::{Reason, Refusal};

/// Bytes of a lent thread's own stack: it only enters, and the image has stacks of its own.
const STACK_BYTES: usize = 128 << 10;

/// One of the image's thread slots, as something to go in by.
pub trait Slot: Send {
    /// Goes in on this slot and returns what the image answers.
    ///
    /// # Errors
    /// How all has ended, where the image did not come to an answer.
    fn enter(&mut self) -> Result<u64, Ending>;

    /// Whether what runs the image can be asked for a report.
    fn makes_reports(&self) -> bool {
        false
    }

    /// Asks for a report, where there is one to be had: whom it is for is at the beginning of the request, and it comes to
    /// the beginning of the reply. Returns the answer.
    ///
    /// # Errors
    /// As for [`Slot::enter`].
    fn report(&mut self) -> Result<u64, Ending> {
        Err(Ending::ImageMisbehaved)
    }
}

/// A slot that this process's own thread goes in by: a call.
pub struct Call {
    entry: Entry,
    shared: NonNull<Shared>,
    slot: u64,
}

// SAFETY: the address is only passed on to the image, which is what may be entered on several slots at once.
unsafe impl Send for Call {}

impl Call {
    /// The image's first `count` slots.
    ///
    /// # Safety
    /// `entry` must be the entry point of a mapped image, and `shared` mapped for the life of the process.
    pub unsafe fn slots(entry: Entry, shared: NonNull<Shared>, count: usize) -> Vec<Self> {
        (0..count as u64).map(|slot| Self { entry, shared, slot }).collect()
    }
}

impl Slot for Call {
    fn enter(&mut self) -> Result<u64, Ending> {
        Ok((self.entry)(self.slot, self.shared.as_ptr()))
    }
}

/// The shared region and slot 0, in the hands of the one thread that carries messages.
pub struct Gate {
    first: Box<dyn Slot>,
    shared: NonNull<Shared>,
    /// Whether slot 0 is in, so that lent threads are wanted.
    inside: Arc<AtomicBool>,
    lent: Vec<Thread>,
}

/// Life of a lent thread: asleep while slot 0 is out, inside again and again while it is in.
fn lend(mut slot: impl Slot, inside: &AtomicBool) {
    loop {
        while !inside.load(Ordering::Acquire) {
            park();
        }
        match slot.enter() {
            Ok(exit::IDLE | exit::SLOT_BUSY) => std::thread::yield_now(),
            Err(ending) => crate::end(ending),
            // Dead, or something an image must not answer: this thread is of no more use. It stays, asleep.
            _ => loop {
                park();
            },
        }
    }
}

impl Gate {
    /// Starts a lent thread for every slot but the first, and waits until each of them has made its last system call but
    /// going in and sleeping.
    ///
    /// # Errors
    /// [`Reason::ThreadsMissing`] if the system gives no more threads, or there is no slot.
    pub fn open<S: Slot + 'static>(slots: Vec<S>, shared: NonNull<Shared>) -> Result<Self, Refusal> {
        let threads = slots.len();
        let inside = Arc::new(AtomicBool::new(false));
        let ready = Arc::new(Barrier::new(threads));
        let mut lent = Vec::with_capacity(threads);
        let mut slots = slots.into_iter();
        let first = slots.next().ok_or_else(|| Refusal::new(Reason::ThreadsMissing, "no thread is lent; lend one"))?;
        for (number, slot) in slots.enumerate() {
            let (inside, ready) = (Arc::clone(&inside), Arc::clone(&ready));
            let life = move || {
                ready.wait();
                lend(slot, &inside);
            };
            let handle = Builder::new().stack_size(STACK_BYTES).spawn(life).map_err(|error| {
                Refusal::new(
                    Reason::ThreadsMissing,
                    format!("thread {} of {threads} cannot be started: {error}; lend fewer", number + 1),
                )
            })?;
            lent.push(handle.thread().clone());
        }
        ready.wait();
        Ok(Self { first: Box::new(first), shared, inside, lent })
    }

    /// Whether what runs the image can be asked for a report.
    pub fn makes_reports(&self) -> bool {
        self.first.makes_reports()
    }

    /// Asks for a report, on slot 0 and while it is out.
    ///
    /// # Errors
    /// How all has ended, where there was no answer.
    pub fn report(&mut self) -> Result<u64, Ending> {
        self.first.report()
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
    ///
    /// # Errors
    /// How all has ended, where the image did not come to an answer.
    pub fn enter(&mut self, length: u64) -> Result<(u64, u64), Ending> {
        let shared = self.shared.as_ptr();
        // SAFETY: as for `request`; a plain store, before the image is entered.
        unsafe { (*shared).request_len = length };
        self.inside.store(true, Ordering::Release);
        for thread in &self.lent {
            thread.unpark();
        }
        let answer = self.first.enter()?;
        self.inside.store(false, Ordering::Release);
        // SAFETY: slot 0 is out. Volatile, because the image wrote it and the compiler did not see that.
        let reply_length = unsafe { (&raw const (*shared).reply_len).read_volatile() };
        Ok((answer, reply_length))
    }
}
