//! Whether decimals have no more digits than their column declares.
//!
//! Arithmetic on decimals is as wide as the declared digits can need and then looks at nothing, so
//! that a file whose values have more would make it come out wrong. It is cheaper to look here
//! than there: a dictionary is looked at once, however many rows point into it, and of plain
//! values only those that are read are, each with one OR while the page is in the cache.

use arrow::datatypes::DataType;

use super::plain::Item;
use crate::error::{Error, Result};

/// The most that the digits of a decimal column spell, as the image of a value; none for a column
/// of another type.
pub(super) fn most<T: Item>(data_type: &DataType) -> Option<T> {
    let (DataType::Decimal32(digits, _)
    | DataType::Decimal64(digits, _)
    | DataType::Decimal128(digits, _)) = data_type
    else {
        return None;
    };
    let most = 10u128.checked_pow(u32::from(*digits))? - 1;
    let image = T::low(most);
    (image.signed() == most as i128).then_some(image)
}

/// Makes sure that no value lies beyond `most` or below its opposite.
///
/// # Errors
/// `Invalid`, naming the value, if one does.
pub(super) fn check<T: Item>(values: &[T], most: T) -> Result<()> {
    // The bits of all values together, those of a negative one turned round: -x becomes x - 1.
    // What they spell is no less than any value, and hardly ever so large.
    let seen = values
        .iter()
        .fold(T::default(), |seen, value| seen | value.bits());
    if seen < most {
        return Ok(());
    }
    let most = most.signed();
    let outside = |value: &T| !(-most..=most).contains(&value.signed());
    match values.iter().copied().find(outside) {
        None => Ok(()),
        Some(value) => Err(Error::invalid(format!(
            "a decimal has more digits than its column declares unscaled={} digits={}",
            value.signed(),
            most.checked_ilog10().map_or(0, |digits| digits + 1)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_the_range_are_in_it() {
        let allowed = |values: &[i64], digits: u8| {
            let most = most::<u64>(&DataType::Decimal64(digits, 2)).expect("a decimal");
            let values: Vec<u64> = values.iter().map(|value| *value as u64).collect();
            check(&values, most).is_ok()
        };
        for (values, digits, expected) in [
            (&[][..], 1, true),
            (&[0, -1, 9, -9], 1, true),
            (&[10], 1, false),
            (&[-10], 1, false),
            // Each of them is in range, all their bits together are not.
            (&[8, 5, -3], 1, true),
            (&[999, -999], 3, true),
            (&[1, 1000], 3, false),
            (&[-1000, 1], 3, false),
            (&[10i64.pow(18) - 1, 1 - 10i64.pow(18)], 18, true),
            (&[10i64.pow(18)], 18, false),
            (&[i64::MIN], 18, false),
            (&[i64::MAX], 18, false),
        ] {
            assert_eq!(allowed(values, digits), expected, "{values:?} {digits}");
        }
        // Such a column is a lie of its file, but not one to fail on.
        let none = most::<u64>(&DataType::Decimal64(0, 0)).expect("a decimal");
        check(&[0, 0], none).expect("no digits");
        let error = check(&[0, 1], none).expect_err("one digit");
        assert!(error.message().ends_with("digits=0"), "{error}");
        let most = most::<u128>(&DataType::Decimal128(38, 0)).expect("a decimal");
        check(&[most, !most + 1], most).expect("38 digits");
        let error = check(&[most + 1], most).expect_err("39 digits");
        assert!(error.message().ends_with("digits=38"), "{error}");
    }
}
