//! Calls through TVM's calling convention, with kernels written as generated ones are.

use core::ffi::c_void;
use core::ptr::null;
use std::string::ToString;

use super::*;
use crate::callbacks::{
    ParallelEnv, TVMFFIErrorSetRaisedFromCStr, TVMFFIErrorSetRaisedFromCStrParts, allocate, free,
    parallel_launch,
};
use crate::{Arena, Dtype, Lanes};

/// The tensor that argument `n` points to.
unsafe fn argument<'a>(arguments: *const Any, n: usize) -> &'a DlTensor {
    // SAFETY: the callers below get that many arguments, each a tensor.
    unsafe {
        let any = &*arguments.add(n);
        assert_eq!(any.type_index, TYPE_DLTENSOR);
        &*core::ptr::with_exposed_provenance(any.value as usize)
    }
}

/// `y = 2 x`, checking what a generated prologue checks, the rows shared out.
unsafe extern "C" fn double(_: *mut c_void, arguments: *const Any, count: i32, _: *mut Any) -> i32 {
    unsafe extern "C" fn row(index: i32, env: *mut ParallelEnv, data: *mut c_void) -> i32 {
        // SAFETY: `data` is the two pointers below; rows are disjoint.
        unsafe {
            let [x, y] = *data.cast::<[*mut f32; 2]>();
            let per_task = 6 / (*env).tasks as usize;
            for i in index as usize * per_task..(index as usize + 1) * per_task {
                *y.add(i) = 2.0 * *x.add(i);
            }
        }
        0
    }
    // SAFETY: called with two tensors of six numbers.
    unsafe {
        let (x, y) = (argument(arguments, 0), argument(arguments, 1));
        for tensor in [x, y] {
            let (shape, strides) = (
                core::slice::from_raw_parts(tensor.shape, 2),
                core::slice::from_raw_parts(tensor.strides, 2),
            );
            let type_ = (tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes);
            if (count, tensor.rank, shape, strides) != (2, 2, &[2, 3], &[3, 1])
                || (type_, tensor.device_type, tensor.byte_offset) != ((2, 32, 1), 1, 0)
                || !tensor.data.addr().is_multiple_of(64)
            {
                TVMFFIErrorSetRaisedFromCStr(null(), c"a prologue check".as_ptr().cast());
                return -1;
            }
        }
        let mut data = [x.data.cast::<f32>(), y.data.cast::<f32>()];
        parallel_launch(row, (&raw mut data).cast(), 3)
    }
}

unsafe extern "C" fn fail(_: *mut c_void, _: *const Any, _: i32, _: *mut Any) -> i32 {
    let parts: [*const u8; 4] = [
        c"shape[0] ".as_ptr().cast(),
        null(),
        c"of\nx ".as_ptr().cast(),
        [b'a'; 2].as_ptr(),
    ];
    // SAFETY: three parts, each null or a C string.
    unsafe { TVMFFIErrorSetRaisedFromCStrParts(c"ValueError".as_ptr().cast(), parts.as_ptr(), 3) };
    -1
}

unsafe extern "C" fn long_failure(_: *mut c_void, _: *const Any, _: i32, _: *mut Any) -> i32 {
    let mut text = [b'x'; 1000];
    text[999] = 0;
    // SAFETY: a C string.
    unsafe { TVMFFIErrorSetRaisedFromCStr(null(), text.as_ptr()) };
    1
}

unsafe extern "C" fn failing_task(_: *mut c_void, _: *const Any, _: i32, _: *mut Any) -> i32 {
    unsafe extern "C" fn task(index: i32, _: *mut ParallelEnv, _: *mut c_void) -> i32 {
        if index == 5 { -7 } else { 0 }
    }
    // SAFETY: the task uses no closure.
    unsafe { parallel_launch(task, core::ptr::null_mut(), 0) }
}

unsafe extern "C" fn workspace(_: *mut c_void, _: *const Any, _: i32, _: *mut Any) -> i32 {
    // SAFETY: freed once, used within its size.
    unsafe {
        let block = allocate(1, 0, 1000, 2, 32);
        if block.is_null() || !block.addr().is_multiple_of(64) {
            return -1;
        }
        block.cast::<u8>().write_bytes(1, 1000);
        free(1, 0, block)
    }
}

static TABLE: [KernelFn; 5] = [double, fail, long_failure, failing_task, workspace];

fn tensor(offset: usize, shape: &[i64]) -> TensorRef<'_> {
    TensorRef {
        offset,
        dtype: Dtype::Float32,
        shape,
    }
}

fn one_lane(lane_bytes: usize) -> Lanes {
    Lanes {
        shared_bytes: 0,
        lane_bytes,
        count: 1,
    }
}

/// Messages are one global, so the tests that look at them are one.
#[test]
fn calls_and_failures() {
    let kernels = Kernels::native(&TABLE);
    let mut arena = Arena::on_heap(128);
    let mut memory = arena.whole(one_lane(128)).unwrap();
    let input = [1.0, -2.0, 3.0, 0.5, 0.0, 8.0];
    memory
        .view_mut::<f32>(0, 6)
        .unwrap()
        .copy_from_slice(&input);
    let pair = [tensor(0, &[2, 3]), tensor(64, &[2, 3])];
    assert_eq!(kernels.call(&mut memory, 0, &pair, 1), Ok(()));
    assert_eq!(memory.view::<f32>(64, 6).unwrap(), input.map(|x| 2.0 * x));

    let swapped = [tensor(0, &[3, 2]), tensor(64, &[3, 2])];
    let refused = kernels.call(&mut memory, 0, &swapped, 1);
    assert_eq!(
        refused,
        Err(KernelError::Failed("a prologue check".to_string()))
    );
    let failed = kernels.call(&mut memory, 1, &[], 0);
    assert_eq!(
        failed,
        Err(KernelError::Failed("shape[0] of?x ".to_string()))
    );
    let Err(KernelError::Failed(message)) = kernels.call(&mut memory, 2, &[], 0) else {
        unreachable!()
    };
    assert_eq!(message.len(), 240);
    assert_eq!(
        kernels.call(&mut memory, 3, &[], 0),
        Err(KernelError::Failed(String::new()))
    );
    assert_eq!(kernels.call(&mut memory, 4, &[], 0), Ok(()));
    assert_eq!(
        kernels.call(&mut memory, 5, &[], 0),
        Err(KernelError::Unknown)
    );
}

#[test]
fn tensors_outside_the_arena_never_reach_a_kernel() {
    unsafe extern "C" fn never(_: *mut c_void, _: *const Any, _: i32, _: *mut Any) -> i32 {
        unreachable!()
    }
    static NEVER: [KernelFn; 1] = [never];
    let kernels = Kernels::native(&NEVER);
    let mut arena = Arena::on_heap(128);
    let mut memory = arena.whole(one_lane(128)).unwrap();
    let good = tensor(0, &[16]);
    for bad in [
        tensor(0, &[33]),
        tensor(64, &[17]),
        tensor(32, &[1]),
        tensor(0, &[-1]),
        tensor(0, &[1 << 40, 1 << 40]),
        tensor(0, &[i64::MAX, 4]),
        tensor(usize::MAX - 63, &[1]),
        tensor(0, &[1; RANK_LIMIT + 1]),
    ] {
        assert_eq!(
            kernels.call(&mut memory, 0, &[good, bad], 1),
            Err(KernelError::Argument(1)),
            "{bad:?}"
        );
    }
    let many = [good; KERNEL_ARGUMENTS_LIMIT + 1];
    assert_eq!(
        kernels.call(&mut memory, 0, &many, 1),
        Err(KernelError::Argument(KERNEL_ARGUMENTS_LIMIT))
    );
}

/// What lanes share, a kernel may read in a lane and not write.
#[test]
fn no_kernel_writes_the_shared_part_in_a_lane() {
    let kernels = Kernels::native(&TABLE);
    let lanes = Lanes {
        shared_bytes: 64,
        lane_bytes: 64,
        count: 2,
    };
    let mut arena = Arena::on_heap(192);
    let whole = &mut arena.whole(lanes).unwrap();
    whole.view_mut::<f32>(0, 6).unwrap().fill(3.0);
    let (shared, own) = (tensor(0, &[2, 3]), tensor(64, &[2, 3]));
    assert!(arena.run_lanes(lanes, &mut [(); 2], &|_, (), memory| {
        assert_eq!(
            kernels.call(memory, 0, &[own, shared], 1),
            Err(KernelError::Argument(1))
        );
        assert_eq!(kernels.call(memory, 0, &[shared, own], 1), Ok(()));
        assert_eq!(memory.view::<f32>(64, 6), Some(&[6.0; 6][..]));
    }));
}
