//! What views and lanes may reach.

use core::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const ONE: Lanes = Lanes {
    shared_bytes: 128,
    lane_bytes: 128,
    count: 1,
};

#[test]
fn views_stay_inside_a_part_and_aligned() {
    let mut arena = Arena::on_heap(256);
    let mut memory = arena.whole(ONE).unwrap();
    memory
        .view_mut::<f32>(64, 4)
        .unwrap()
        .copy_from_slice(&[1.0, 2.0, 3.0, 4.0]);
    assert_eq!(memory.view::<f32>(68, 2), Some(&[2.0, 3.0][..]));
    assert_eq!(memory.view::<f32>(0, 32).map(<[f32]>::len), Some(32));
    assert_eq!(memory.view::<f32>(128, 32).map(<[f32]>::len), Some(32));
    assert!(memory.view::<f32>(0, 33).is_none());
    assert!(memory.view::<f32>(124, 2).is_none());
    assert!(memory.view::<f32>(128, 33).is_none());
    assert!(memory.view::<f32>(2, 1).is_none());
    assert!(memory.view::<i64>(0, usize::MAX / 4).is_none());
    assert!(memory.view::<u8>(usize::MAX, 2).is_none());
    assert!(memory.region(32, 8, true).is_none());
    assert!(memory.region(192, 64, true).is_some());
    assert!(memory.region(192, 65, true).is_none());
    arena.wipe();
    let memory = arena.whole(ONE).unwrap();
    assert_eq!(memory.view::<u8>(0, 128), Some(&[0; 128][..]));
}

#[test]
fn lanes_that_do_not_fit_are_refused() {
    let mut arena = Arena::on_heap(256);
    for wrong in [
        Lanes { count: 2, ..ONE },
        Lanes { count: 0, ..ONE },
        Lanes {
            shared_bytes: 96,
            ..ONE
        },
        Lanes {
            lane_bytes: 32,
            ..ONE
        },
        Lanes {
            lane_bytes: usize::MAX & !63,
            ..ONE
        },
    ] {
        assert!(arena.whole(wrong).is_none(), "{wrong:?}");
        assert!(
            !arena.run_lanes(wrong, &mut [(); 2], &|_, _, _| unreachable!()),
            "{wrong:?}"
        );
    }
    assert!(!arena.run_lanes(ONE, &mut [(); 2], &|_, _, _| unreachable!()));
}

#[test]
fn each_lane_is_its_own_and_the_shared_part_is_read_only() {
    let lanes = Lanes {
        shared_bytes: 64,
        lane_bytes: 128,
        count: 3,
    };
    let mut arena = Arena::on_heap(64 + 3 * 128);
    arena
        .whole(lanes)
        .unwrap()
        .view_mut::<i32>(0, 1)
        .unwrap()
        .fill(7);
    let runs = AtomicUsize::new(0);
    assert!(arena.run_lanes(lanes, &mut [(); 3], &|lane, (), memory| {
        runs.fetch_add(1, Ordering::Relaxed);
        assert!(memory.view_mut::<i32>(0, 1).is_none());
        assert!(memory.region(0, 4, true).is_none());
        assert!(memory.region(0, 4, false).is_some());
        let shared = memory.view::<i32>(0, 1).unwrap()[0];
        memory
            .view_mut::<i32>(64, 32)
            .unwrap()
            .fill(shared + lane as i32);
    }));
    assert_eq!(runs.into_inner(), 3);
    assert!(arena.run_lanes(lanes, &mut [(); 3], &|lane, (), memory| {
        let own = memory.view::<i32>(64, 32).unwrap();
        assert!(own.iter().all(|&value| value == 7 + lane as i32));
    }));
}

#[test]
fn all_lanes_can_be_read_while_the_shared_part_is_written() {
    let lanes = Lanes {
        shared_bytes: 64,
        lane_bytes: 128,
        count: 2,
    };
    let mut arena = Arena::on_heap(64 + 2 * 128);
    assert!(arena.run_lanes(lanes, &mut [(); 2], &|lane, (), memory| {
        memory
            .view_mut::<i32>(128, 4)
            .unwrap()
            .fill(1 + lane as i32);
    }));
    let (mut shared, views) = arena.split(lanes).unwrap();
    let sum = shared.view_mut::<i32>(0, 4).unwrap();
    for lane in 0..2 {
        let part = views.view::<i32>(lane, 128, 4).unwrap();
        sum.iter_mut()
            .zip(part)
            .for_each(|(sum, part)| *sum += part);
    }
    assert_eq!(sum, [3; 4]);
    assert!(shared.view::<i32>(64, 1).is_none());
    assert!(shared.view_mut::<i32>(60, 2).is_none());
    for (lane, offset, count) in [(2, 128, 1), (0, 0, 1), (1, 188, 2), (0, 130, 1)] {
        assert!(views.view::<i32>(lane, offset, count).is_none());
    }
    assert!(arena.split(Lanes { count: 3, ..lanes }).is_none());
}
