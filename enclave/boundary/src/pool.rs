//! Lent threads: the host sends threads in, and they share out the tasks of whoever has some.
//!
//! One thread *publishes* a job of `n` tasks and works on it too; any number of others, none included, come and go and
//! claim tasks one by one. Which thread does which task changes nothing: tasks do not communicate.
//!
//! # Why a late thread is harmless
//!
//! `ticket` packs the job's epoch and how many of its tasks are unclaimed. A task is claimed by one compare-exchange of the
//! whole ticket, from `(epoch, n > 0)` to `(epoch, n - 1)`. Only after it succeeded are the job's function and size read.
//! From then until the claimer reports the task done the job cannot end, because the publisher waits for every claimed task,
//! so what is read belongs to this epoch and stays alive. A thread that slept through the end of its job finds another
//! epoch or no unclaimed task, fails, and has touched nothing. Epochs have 44 bits: one a microsecond lasts half a year
//! before a number is met again, by a thread that stopped between two adjacent instructions.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Bits of the ticket that count unclaimed tasks.
const TASK_BITS: u32 = 20;
/// Most tasks published at once; more are published in several rounds.
const TASKS_LIMIT: usize = (1 << TASK_BITS) - 1;

/// The function of a published job, without the lifetime that the publisher's waiting enforces.
type Task = *const (dyn Fn(usize) + Sync);

/// One meeting point of a publisher and lent threads.
pub struct Pool {
    /// Epoch (high 44 bits) and unclaimed tasks (low 20 bits).
    ticket: AtomicU64,
    /// Tasks of this epoch that are not done.
    pending: AtomicUsize,
    /// Function and size of this epoch's job; written only while no task is unclaimed or pending.
    job: UnsafeCell<Option<(Task, usize)>>,
    /// Whether a job is being published: another publisher, or a task that publishes, runs its tasks alone.
    publishing: AtomicBool,
}

// SAFETY: `job` is written by the one thread that holds `publishing`, after every task of the former epoch was reported done
// (`pending` is 0, acquired), and read by threads that claimed a task of this epoch (acquired from the ticket that released
// it) and have not reported it done. So no read meets a write. The function pointed to is `Sync`.
unsafe impl Sync for Pool {}
// SAFETY: the pointer in `job` is never followed but as said above.
unsafe impl Send for Pool {}

static POOL: Pool = Pool::new();

/// The image's pool.
#[must_use]
pub fn pool() -> &'static Pool {
    &POOL
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

impl Pool {
    /// A pool without work.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            ticket: AtomicU64::new(0),
            pending: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            publishing: AtomicBool::new(false),
        }
    }

    /// Runs `task(0)` to `task(tasks - 1)`, each once, on this thread and those lent meanwhile; returns when all are done.
    ///
    /// Called from within a task, it runs them on this thread alone.
    pub fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        if tasks < 2 || self.publishing.swap(true, Ordering::Acquire) {
            (0..tasks).for_each(task);
            return;
        }
        let mut first = 0;
        while first < tasks {
            let round = (tasks - first).min(TASKS_LIMIT);
            self.publish(round, &|index| task(first + index));
            first += round;
        }
        self.publishing.store(false, Ordering::Release);
    }

    /// Runs a function over consecutive chunks of a slice, `chunk` elements each but the last, as [`Pool::run`] does.
    ///
    /// The function gets the index of its chunk's first element and the chunk.
    pub fn run_chunks<T: Send>(
        &self,
        slice: &mut [T],
        chunk: usize,
        task: &(dyn Fn(usize, &mut [T]) + Sync),
    ) {
        struct Base<T>(*mut T);
        // SAFETY: tasks on other threads get disjoint parts of a slice of `T: Send`.
        unsafe impl<T: Send> Sync for Base<T> {}
        impl<T> Base<T> {
            fn at(&self, first: usize) -> *mut T {
                self.0.wrapping_add(first)
            }
        }
        let (length, chunk) = (slice.len(), chunk.max(1));
        let base = Base(slice.as_mut_ptr());
        self.run(length.div_ceil(chunk), &|index| {
            let first = index * chunk;
            let count = chunk.min(length - first);
            // SAFETY: chunks of different indices are disjoint, each index runs once, all lie inside the slice, and `slice`
            // is borrowed mutably until every task is done.
            task(first, unsafe {
                core::slice::from_raw_parts_mut(base.at(first), count)
            });
        });
    }

    /// Works for whoever publishes, until there was nothing to do for `patience` looks in a row, or the enclave stopped.
    pub fn lend(&self, patience: u32) {
        let mut idle = 0;
        while idle < patience && !crate::is_stopped() {
            if self.claim_one() {
                idle = 0;
            } else {
                idle += 1;
                core::hint::spin_loop();
            }
        }
    }

    fn publish(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        // SAFETY: only the lifetime is erased; this function returns after every task is done, and nobody follows the pointer
        // later (see the module's text).
        let erased: Task = unsafe { core::mem::transmute(core::ptr::from_ref(task)) };
        // SAFETY: this thread holds `publishing`, and the former epoch's tasks are all claimed and done.
        unsafe { *self.job.get() = Some((erased, tasks)) };
        self.pending.store(tasks, Ordering::Relaxed);
        let epoch = (self.ticket.load(Ordering::Relaxed) >> TASK_BITS).wrapping_add(1);
        // Releases the job and `pending` to whoever claims a task.
        self.ticket
            .store(epoch << TASK_BITS | tasks as u64, Ordering::Release);
        let outcome = Unwinding;
        while self.claim_one() {}
        while self.pending.load(Ordering::Acquire) != 0 {
            if crate::is_stopped() {
                // The thread that was to finish has stopped the enclave; this one leaves too.
                crate::stop();
            }
            core::hint::spin_loop();
        }
        core::mem::forget(outcome);
    }

    /// Claims and does one task; `false` where none is unclaimed.
    fn claim_one(&self) -> bool {
        let mut ticket = self.ticket.load(Ordering::Acquire);
        let left = loop {
            let left = ticket & TASKS_LIMIT as u64;
            if left == 0 {
                return false;
            }
            match self.ticket.compare_exchange_weak(
                ticket,
                ticket - 1,
                Ordering::Acquire,
                Ordering::Acquire,
            ) {
                Ok(_) => break left as usize,
                Err(now) => ticket = now,
            }
        };
        // SAFETY: a task of this epoch is claimed and not done, so nobody writes `job`; see the module's text.
        let Some((task, tasks)) = (unsafe { *self.job.get() }) else {
            return false;
        };
        let outcome = Unwinding;
        // SAFETY: the publisher keeps the function alive until this task is reported done, below.
        unsafe { (*task)(tasks - left) };
        core::mem::forget(outcome);
        self.pending.fetch_sub(1, Ordering::Release);
        true
    }
}

/// Turns unwinding out of a task (possible in tests only: an image aborts) into an abort: going on would end a job that other
/// threads still work on.
struct Unwinding;

impl Drop for Unwinding {
    fn drop(&mut self) {
        crate::stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, AtomicUsize};
    use std::vec;
    use std::vec::Vec;

    /// Runs `f` while `threads` threads are lent with little patience, so that they come and go.
    fn lent<R>(pool: &Pool, threads: usize, f: impl FnOnce() -> R) -> R {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for n in 0..threads {
                let over = &over;
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        pool.lend(1 + 37 * n as u32);
                        std::thread::yield_now();
                    }
                });
            }
            let result = f();
            over.store(true, Ordering::Relaxed);
            result
        })
    }

    #[test]
    fn every_task_runs_once_with_any_number_of_threads() {
        for threads in [0, 1, 3, 15] {
            let pool = Pool::new();
            lent(&pool, threads, || {
                for round in 0..300_usize {
                    let tasks = round % 41;
                    // On this stack frame only: a late thread that touched it would be seen by the counts (or crash).
                    let counts: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
                    pool.run(tasks, &|index| {
                        counts[index].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
                }
            });
        }
    }

    #[test]
    fn results_are_visible_to_the_publisher() {
        let pool = Pool::new();
        lent(&pool, 2, || {
            let mut values = vec![0_u64; 1000];
            for round in 0..200 {
                pool.run_chunks(&mut values, 7, &|first, chunk| {
                    for (index, value) in chunk.iter_mut().enumerate() {
                        *value += (first + index) as u64 + round;
                    }
                });
            }
            for (index, &value) in values.iter().enumerate() {
                assert_eq!(value, 200 * index as u64 + 199 * 100);
            }
        });
    }

    #[test]
    fn a_task_that_publishes_runs_alone_and_all() {
        let pool = Pool::new();
        lent(&pool, 3, || {
            let count = AtomicUsize::new(0);
            pool.run(9, &|_| {
                pool.run(11, &|_| {
                    count.fetch_add(1, Ordering::Relaxed);
                });
            });
            assert_eq!(count.into_inner(), 99);
        });
    }

    #[test]
    fn more_tasks_than_a_ticket_counts() {
        let pool = Pool::new();
        let tasks = TASKS_LIMIT + 5;
        let sum = AtomicUsize::new(0);
        pool.run(tasks, &|index| {
            sum.fetch_add(index, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), tasks * (tasks - 1) / 2);
    }

    #[test]
    fn a_lent_thread_leaves_when_there_is_nothing_to_do() {
        Pool::new().lend(1000);
    }

    #[test]
    fn an_exhausted_ticket_cannot_be_claimed() {
        let pool = Pool::new();
        pool.run(4, &|_| ());
        assert!(!pool.claim_one());
        assert_eq!(pool.ticket.load(Ordering::Relaxed) & TASKS_LIMIT as u64, 0);
    }
}
