//! Rows in memory are sorted in pieces: a sample of them tells where to cut the order into buckets
//! of about equal size, rows are dealt out to these on all threads, and a bucket is put in order
//! by the lane that writes it out, just before it does.
//!
//! Cuts are rows, compared like all others down to their place in the input, so that many rows
//! with the same key are cut too.

use std::sync::Arc;

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::error::Result;
use crate::operator::Morsel;
use crate::operator::sort::Setup;
use crate::operator::sort::held::{Held, Place, Rows, in_one};
use crate::operator::sort::keys::Prefix;

/// Rows that are looked at for each bucket to find out where to cut.
const SAMPLE_ROWS: usize = 32;

/// Buckets at most: the number of one has sixteen bits.
const BUCKETS_MAX: usize = 1 << 12;

/// Pieces of the input for each thread, which are dealt out one by one.
const PIECES_PER_THREAD: usize = 4;

/// Morsels of the rows of `held` in order: a list for each sequence of about so many bytes.
///
/// # Errors
/// `Cancelled` if the attempt was.
pub(super) fn sequences(
    setup: &Arc<Setup>,
    held: Held,
    wanted: impl FnOnce(u64) -> usize,
) -> Result<Vec<Vec<Morsel>>> {
    let (rows, places) = held.into_rows();
    let bytes = rows.bytes();
    let sequences = wanted(bytes);
    let per_sequence = bytes.div_ceil(setup.morsel_bytes * sequences as u64).max(1);
    let per_sequence = usize::try_from(per_sequence).unwrap_or(BUCKETS_MAX);
    let count = (sequences * per_sequence).clamp(1, BUCKETS_MAX);
    let cuts = Cuts::new(setup, &rows, &places, count);
    let buckets = cuts.deal_out(setup, &rows, places);
    setup.cancel.check()?;
    let rows = Arc::new(rows);
    let morsels = buckets.into_iter().map(|bucket| {
        let (setup, rows) = (Arc::clone(setup), Arc::clone(&rows));
        Box::new(move |emit: &mut dyn FnMut(_) -> Result<()>| {
            let mut places = in_one(bucket);
            rows.sort_runs(&setup, &mut places);
            setup.cancel.check()?;
            rows.batches(&setup, &places, emit)
        }) as Morsel
    });
    Ok(in_groups(morsels.collect(), sequences))
}

/// `items` in so many groups of about equal size, in their order.
fn in_groups<T>(items: Vec<T>, groups: usize) -> Vec<Vec<T>> {
    let count = items.len();
    let mut items = items.into_iter();
    let bounds = (0..=groups).map(|group| count * group / groups);
    let bounds: Vec<usize> = bounds.collect();
    let group = |bounds: &[usize]| items.by_ref().take(bounds[1] - bounds[0]).collect();
    bounds.windows(2).map(group).collect()
}

/// Where buckets begin: all but the first.
struct Cuts {
    prefixes: Vec<Prefix>,
    places: Vec<Place>,
}

impl Cuts {
    /// Cuts for about `buckets` buckets of the same size.
    fn new(setup: &Setup, rows: &Rows, places: &[Vec<Place>], buckets: usize) -> Self {
        let count: usize = places.iter().map(Vec::len).sum();
        let step = (count / (buckets * SAMPLE_ROWS)).max(1);
        let mut next = 0;
        let mut sample = Vec::with_capacity(count / step + 1);
        for places in places {
            while let Some(place) = places.get(next) {
                sample.push(*place);
                next += step;
            }
            next -= places.len();
        }
        rows.sort(setup, &mut sample);
        let cut = |bucket: usize| sample.get(sample.len() * bucket / buckets).copied();
        let places: Vec<Place> = (1..buckets).filter_map(cut).collect();
        Cuts {
            prefixes: places.iter().map(|place| place.prefix).collect(),
            places,
        }
    }

    /// Which bucket a row belongs to.
    #[inline]
    fn bucket(&self, setup: &Setup, rows: &Rows, place: &Place) -> usize {
        let first = self.prefixes.partition_point(|cut| *cut < place.prefix);
        if self.prefixes.get(first) != Some(&place.prefix) {
            return first;
        }
        let same = self.prefixes[first..].partition_point(|cut| *cut == place.prefix);
        let same = &self.places[first..first + same];
        first + same.partition_point(|cut| rows.compare(setup, cut, place).is_le())
    }

    /// The rows of each bucket, in several pieces.
    fn deal_out(
        &self,
        setup: &Setup,
        rows: &Rows,
        places: Vec<Vec<Place>>,
    ) -> Vec<Vec<Vec<Place>>> {
        let pieces = rayon::current_num_threads() * PIECES_PER_THREAD;
        let pieces = in_groups(places, pieces);
        let dealt_out = |piece: Vec<Vec<Place>>| self.deal_piece(setup, rows, piece);
        let dealt_out: Vec<_> = pieces.into_par_iter().map(dealt_out).collect();
        let mut buckets: Vec<Vec<Vec<Place>>> = Vec::new();
        buckets.resize_with(self.places.len() + 1, Vec::new);
        for piece in dealt_out {
            for (bucket, places) in buckets.iter_mut().zip(piece) {
                bucket.push(places);
            }
        }
        buckets
    }

    fn deal_piece(&self, setup: &Setup, rows: &Rows, piece: Vec<Vec<Place>>) -> Vec<Vec<Place>> {
        let mut counts = vec![0; self.places.len() + 1];
        let mut numbers = Vec::with_capacity(piece.iter().map(Vec::len).sum());
        for place in piece.iter().flatten() {
            let bucket = self.bucket(setup, rows, place);
            counts[bucket] += 1;
            numbers.push(bucket as u16);
        }
        let mut buckets: Vec<Vec<Place>> = counts.into_iter().map(Vec::with_capacity).collect();
        let mut numbers = numbers.into_iter();
        for places in piece {
            for (place, bucket) in places.into_iter().zip(numbers.by_ref()) {
                buckets[usize::from(bucket)].push(place);
            }
        }
        buckets
    }
}
