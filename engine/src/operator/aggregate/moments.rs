//! Number, mean and spread of values, kept so that they can be updated and merged without losing
//! digits (Welford 1962; Chan, Golub and LeVeque 1979).

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array};
use arrow::datatypes::{Float64Type, Int64Type};

/// Of the values so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Moments {
    pub(super) count: i64,
    pub(super) mean: f64,
    /// Sum of the squares of the distances from the mean.
    pub(super) m2: f64,
}

impl Moments {
    /// With one more value.
    #[inline]
    pub(super) fn add(self, value: f64) -> Self {
        let count = self.count + 1;
        let distance = value - self.mean;
        let mean = self.mean + distance / count as f64;
        Moments {
            count,
            mean,
            m2: self.m2 + distance * (value - mean),
        }
    }

    /// Of the values of both.
    #[inline]
    pub(super) fn join(self, other: Self) -> Self {
        if self.count == 0 || other.count == 0 {
            return if self.count == 0 { other } else { self };
        }
        let count = self.count + other.count;
        let (a, b, both) = (self.count as f64, other.count as f64, count as f64);
        let distance = other.mean - self.mean;
        Moments {
            count,
            mean: self.mean + distance * (b / both),
            m2: self.m2 + other.m2 + distance * distance * (a * b / both),
        }
    }
}

/// The moments that columns of their three parts hold.
pub(super) fn of_columns(columns: &[&ArrayRef]) -> Vec<Moments> {
    let counts = columns[0].as_primitive::<Int64Type>().values();
    let means = columns[1].as_primitive::<Float64Type>().values();
    let squares = columns[2].as_primitive::<Float64Type>().values();
    let rows = counts.iter().zip(means).zip(squares);
    rows.map(|((count, mean), m2)| Moments {
        count: *count,
        mean: *mean,
        m2: *m2,
    })
    .collect()
}

/// Columns of the three parts.
pub(super) fn columns(moments: &[Moments]) -> Vec<ArrayRef> {
    let counts = moments.iter().map(|moments| moments.count);
    let means = moments.iter().map(|moments| moments.mean);
    let squares = moments.iter().map(|moments| moments.m2);
    vec![
        Arc::new(Int64Array::from_iter_values(counts)),
        Arc::new(Float64Array::from_iter_values(means)),
        Arc::new(Float64Array::from_iter_values(squares)),
    ]
}

/// The variance of a sample or of a population, or its square root.
pub(super) fn variance(columns: &[ArrayRef], sample: bool, root: bool) -> ArrayRef {
    let variance = |moments: Moments| {
        let over = moments.count - i64::from(sample);
        let variance = || moments.m2 / over as f64;
        (over > 0).then(|| if root { variance().sqrt() } else { variance() })
    };
    let columns: Vec<&ArrayRef> = columns.iter().collect();
    let variances: Float64Array = of_columns(&columns).into_iter().map(variance).collect();
    Arc::new(variances)
}
