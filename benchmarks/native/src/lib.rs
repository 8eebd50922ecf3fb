//! A training step of the image's own engine, outside of any enclave, for benchmarks to time: loaded by Python, which gives
//! it a plan, parameters, records and the addresses of compiled kernels.

use core::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use myelin_boundary::{native, pool};
use myelin_engine::TrainingEngine;
use myelin_plan::Plan;
use myelin_wire::{Engine as _, Error, StepKeys};

/// Rounds without work after which a lent thread looks whether it is still wanted.
const PATIENCE: u32 = 1 << 14;

/// An engine, and the threads that are lent to it.
pub struct Steps {
    engine: TrainingEngine,
    records: u32,
    next: u64,
    threads: Vec<JoinHandle<()>>,
    running: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
}

/// Subnormal numbers are zero, as in an image (docs/abi.md, "Entry").
fn flush_subnormals() {
    let mxcsr: u32 = 0x1f80 | 1 << 15 | 1 << 6;
    // SAFETY: loads the control word of this thread's own vector unit.
    unsafe {
        core::arch::asm!("ldmxcsr [{}]", in(reg) &raw const mxcsr, options(nostack, readonly))
    };
}

/// # Safety
/// `bytes` values of one byte at `start`.
unsafe fn owned(start: *const u8, bytes: usize) -> Vec<u8> {
    // SAFETY: per the contract.
    unsafe { core::slice::from_raw_parts(start, bytes) }.to_vec()
}

/// What the kernels' object calls back, in the order of [`native::callback_addresses`].
///
/// # Safety
/// Room for five addresses at `out`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelin_callbacks(out: *mut *const c_void) {
    for (index, address) in native::callback_addresses().into_iter().enumerate() {
        // SAFETY: per the contract.
        unsafe { *out.add(index) = address };
    }
}

/// Makes an engine of a plan, its parameters and a table of kernels; null, with the reason on standard error, where it refuses
/// them. Records come next ([`myelin_accept`]), then [`myelin_begin`].
///
/// # Safety
/// Each pointer has as many bytes or addresses as said behind it; the table is as [`native::machine`] asks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelin_open(
    plan: *const u8,
    plan_bytes: usize,
    params: *const u8,
    params_bytes: usize,
    table: *const *const c_void,
    kernels: usize,
    threads: usize,
) -> *mut Steps {
    flush_subnormals();
    // SAFETY: per the contract.
    let (plan, params, table) = unsafe {
        (
            owned(plan, plan_bytes),
            owned(params, params_bytes),
            core::slice::from_raw_parts(table, kernels),
        )
    };
    // SAFETY: per the contract.
    match unsafe { open(plan, params, table) } {
        Ok(engine) => Box::into_raw(Box::new(lend(engine, threads))),
        Err(reason) => {
            eprintln!("{reason}");
            core::ptr::null_mut()
        }
    }
}

/// # Safety
/// As [`native::machine`].
unsafe fn open(
    plan: Vec<u8>,
    params: Vec<u8>,
    table: &[*const c_void],
) -> Result<TrainingEngine, String> {
    let parsed = Plan::parse(&plan, params.len(), table.len()).map_err(|e| e.to_string())?;
    let (arena, record_bytes) = (parsed.layout.arena_bytes(), parsed.data.record_bytes);
    let room = parsed.data.max_records * record_bytes;
    // SAFETY: per the contract.
    let machine = unsafe { native::machine(plan, params, arena, room, table) };
    TrainingEngine::new(machine).map_err(|e| e.to_string())
}

/// 0 for success; else says why on standard error.
fn answer(result: Result<(), Error>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}");
            1
        }
    }
}

/// Takes some more bytes of the records, in the plan's format. 0 for success.
///
/// # Safety
/// `steps` came from [`myelin_open`] and was not closed; as many bytes as said are at `records`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelin_accept(
    steps: *mut Steps,
    records: *const u8,
    records_bytes: usize,
) -> i32 {
    // SAFETY: per the contract.
    let (steps, records) = unsafe {
        (
            &mut *steps,
            core::slice::from_raw_parts(records, records_bytes),
        )
    };
    answer(steps.engine.accept(records))
}

/// Says that all records, so many, are there. 0 for success.
///
/// # Safety
/// `steps` came from [`myelin_open`] and was not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelin_begin(steps: *mut Steps, records: u32) -> i32 {
    // SAFETY: per the contract.
    let steps = unsafe { &mut *steps };
    steps.records = records;
    let mut keys = [[1; 32], [2; 32], [3; 32], [4; 32]];
    secret(&mut keys);
    let [sampling, noise, dropout, augment] = &keys;
    let keys = StepKeys {
        sampling,
        noise,
        dropout,
        augment,
    };
    answer(steps.engine.begin(&keys, records))
}

#[cfg(feature = "memcheck")]
use myelin_boundary::secret;

/// Nothing: keys are marked where that is checked.
#[cfg(not(feature = "memcheck"))]
fn secret(_: &mut [[u8; 32]; 4]) {}

/// Draws the noise of so many coordinates, for nothing but the time it takes.
#[unsafe(no_mangle)]
pub extern "C" fn myelin_noise(step: u64, coordinates: usize) {
    const AT_ONCE: usize = 4096;
    let mut drawn = [0; AT_ONCE];
    for first in (0..coordinates).step_by(AT_ONCE) {
        myelin_mechanism::noise::fill(&[4; 32], step, first as u64, &mut drawn);
        core::hint::black_box(&drawn);
    }
}

fn lend(engine: TrainingEngine, threads: usize) -> Steps {
    let (running, over) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let lent = (1..threads).map(|_| {
        let (running, over) = (running.clone(), over.clone());
        std::thread::spawn(move || {
            flush_subnormals();
            while !over.load(Ordering::Acquire) {
                if running.load(Ordering::Acquire) {
                    pool().lend(PATIENCE);
                } else {
                    std::thread::park();
                }
            }
        })
    });
    let threads = lent.collect();
    Steps {
        engine,
        records: 0,
        next: 0,
        threads,
        running,
        over,
    }
}

/// Runs one step: private, or plain over the next `batch` records if that is not zero. 0 for success.
///
/// # Safety
/// `steps` came from [`myelin_open`] and was not closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelin_step(steps: *mut Steps, batch: usize) -> i32 {
    // SAFETY: per the contract.
    let steps = unsafe { &mut *steps };
    flush_subnormals();
    steps.running.store(true, Ordering::Release);
    for thread in &steps.threads {
        thread.thread().unpark();
    }
    let result = if batch == 0 {
        steps.engine.run(1).map(|_| ())
    } else {
        let first = steps.next;
        steps.next += batch as u64;
        // A stride that visits every record: the number of records is a power of two, and this is odd.
        let drawn: Vec<u32> = (first..steps.next)
            .map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % u64::from(steps.records)) as u32)
            .collect();
        steps.engine.plain_step(&drawn)
    };
    steps.running.store(false, Ordering::Release);
    answer(result)
}

/// Ends the lent threads and frees the engine.
///
/// # Safety
/// `steps` came from [`myelin_open`] and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelin_close(steps: *mut Steps) {
    // SAFETY: per the contract.
    let steps = unsafe { Box::from_raw(steps) };
    steps.over.store(true, Ordering::Release);
    for thread in &steps.threads {
        thread.thread().unpark();
    }
    for thread in steps.threads {
        // A lent thread that panicked has aborted the process.
        let _ = thread.join();
    }
}
