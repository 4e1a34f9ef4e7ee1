//! Filters of every kind: no key is missed, and few others pass.

use arrow::array::{Date32Array, Float64Array, Int64Array, UInt64Array};

use super::*;

/// Asks for all keys, which have to pass, and for others, of which at most `most` may.
fn check(keys: ArrayRef, others: ArrayRef, most: usize) -> KeyFilter {
    let pieces: Vec<ArrayRef> = (0..keys.len())
        .step_by(1000)
        .map(|start| keys.slice(start, 1000.min(keys.len() - start)))
        .collect();
    let filter = KeyFilter::of_pieces(&pieces, keys.data_type()).expect("keys that hash");
    let passed = |values: &ArrayRef| {
        let passed = filter.contains(values).expect("the same type");
        passed.count_set_bits()
    };
    assert_eq!(passed(&keys), keys.len() - keys.null_count());
    assert_eq!(filter.rows(), keys.len() - keys.null_count());
    assert!(passed(&others) <= most, "{} pass", passed(&others));
    assert!(filter.bytes() <= KeyFilter::bytes_max(keys.len()));
    check_builder(&pieces, &keys, &others);
    filter
}

/// The same for a filter that learns of the keys bit by bit, from two threads.
fn check_builder(pieces: &[ArrayRef], keys: &ArrayRef, others: &ArrayRef) {
    let builder = KeyFilterBuilder::new(keys.data_type(), keys.len());
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (builder, pieces) = (&builder, pieces.iter().skip(thread).step_by(2));
            scope.spawn(move || {
                for piece in pieces {
                    builder.add(piece).expect("keys that hash");
                }
            });
        }
    });
    let filter = builder.finish();
    let passed = |values: &ArrayRef| {
        let passed = filter.contains(values).expect("the same type");
        passed.count_set_bits()
    };
    assert_eq!(passed(keys), keys.len() - keys.null_count());
    assert_eq!(filter.rows(), keys.len() - keys.null_count());
    assert!(
        passed(others) <= others.len() / 30,
        "{} pass",
        passed(others)
    );
    assert_eq!(filter.bytes(), KeyFilterBuilder::bytes(keys.len()));
    let exact = KeyFilter::of_pieces(pieces, keys.data_type()).expect("keys that hash");
    if is_number(keys.data_type()) {
        assert_eq!(filter.bounds(), exact.bounds());
    }
}

fn integers(keys: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(keys.collect::<Int64Array>())
}

#[test]
fn keys_that_lie_close_are_known_exactly() {
    let keys = (0..100_000).map(|key| (key % 7 != 0).then_some(7 * key - 50_000));
    let keys: ArrayRef = Arc::new(keys.collect::<Int64Array>());
    let others = (-60_000..700_000).filter(|key| (key + 50_000) % 7 != 0);
    let outside = [i64::MIN, i64::MAX, -50_001, 650_001];
    let filter = check(keys, integers(others.chain(outside)), 0);
    assert!(matches!(filter.members, Members::Bits { .. }));
    let (least, greatest) = filter.bounds().expect("numbers have bounds");
    assert_eq!(least, &integers([-49_993].into_iter()));
    assert_eq!(greatest, &integers([649_993].into_iter()));
}

#[test]
fn of_other_keys_few_are_mistaken() {
    let spread = |key: i64| key.wrapping_mul(0x1e37_79b9_7f4a_7c15);
    let filter = check(
        integers((0..100_000).map(spread)),
        integers((100_000..200_000).map(spread)),
        3000,
    );
    assert!(matches!(filter.members, Members::Blocks(_)));

    let text = |keys: std::ops::Range<i32>| -> ArrayRef {
        Arc::new(
            keys.map(|key| Some(format!("number {key:06}")))
                .collect::<StringViewArray>(),
        )
    };
    let filter = check(text(0..20_000), text(20_000..40_000), 600);
    let (least, greatest) = filter.bounds().expect("strings have bounds");
    assert_eq!((least, greatest), (&text(0..1), &text(19_999..20_000)));

    let float = |keys: std::ops::Range<i32>| -> ArrayRef {
        Arc::new(
            keys.map(|key| Some(f64::from(key) / 3.0))
                .collect::<Float64Array>(),
        )
    };
    let filter = check(float(-100..100), float(100..200), 5);
    assert!(
        filter.bounds().is_none(),
        "nobody asks for bounds of floats"
    );
}

#[test]
fn extremes_of_all_types_have_their_place() {
    let unsigned = |keys: Vec<u64>| -> ArrayRef { Arc::new(UInt64Array::from(keys)) };
    let filter = check(
        unsigned(vec![u64::MAX, u64::MAX - 9]),
        unsigned(vec![0, 1 << 63, u64::MAX - 1]),
        0,
    );
    let (least, _) = filter.bounds().expect("numbers have bounds");
    assert_eq!(least, &unsigned(vec![u64::MAX - 9]));
    let days = |keys: Vec<i32>| -> ArrayRef { Arc::new(Date32Array::from(keys)) };
    check(days(vec![i32::MIN, i32::MAX]), days(vec![0, -1]), 0);
    check(
        integers([i64::MIN, i64::MAX].into_iter()),
        integers(0..9),
        1,
    );
}

#[test]
fn without_keys_nothing_passes() {
    let nulls: ArrayRef = Arc::new(Int64Array::from(vec![None, None]));
    for keys in [integers([].into_iter()), nulls] {
        let filter = check(keys, integers(-100..100), 0);
        assert!(filter.bounds().is_none());
    }
}
