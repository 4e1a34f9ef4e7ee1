//! Filters of keys some of which are on disk.
//!
//! While all rows are in memory, filters are made from them in the end. Rows on disk are noted
//! before they go: what a filter keeps away from the join need not follow them there.

use std::sync::Arc;

use arrow::array::ArrayRef;

use crate::error::Result;
use crate::kernel::key_filter::{KeyFilter, KeyFilterBuilder};
use crate::memory::Reservation;
use crate::operator::join::table::FilterRequest;
use crate::operator::join::{OWNER, Resources};

/// Filters that are made while rows come.
pub(super) struct Filters {
    requests: Vec<FilterRequest>,
    builders: Vec<KeyFilterBuilder>,
    reserved: Reservation,
}

/// Filters with the memory that is reserved for them.
pub(super) struct MadeFilters {
    pub(super) filters: Vec<Arc<KeyFilter>>,
    _reserved: Reservation,
}

impl Filters {
    /// For `requests` and about so many rows; none if nobody wants any, or there is no memory.
    pub(super) fn new(
        requests: &[FilterRequest],
        rows: usize,
        resources: &Resources,
    ) -> Option<Self> {
        let mut reserved = resources.memory.reserve(OWNER);
        let bytes = requests.len() as u64 * KeyFilterBuilder::bytes(rows);
        let builder = |request: &FilterRequest| KeyFilterBuilder::new(&request.data_type, rows);
        (bytes > 0 && reserved.try_grow(bytes)).then(|| Filters {
            requests: requests.to_vec(),
            builders: requests.iter().map(builder).collect(),
            reserved,
        })
    }

    /// Notes the keys of some rows.
    ///
    /// # Errors
    /// `Invalid` for keys of a type that cannot be hashed.
    pub(super) fn add(&self, keys: &[ArrayRef]) -> Result<()> {
        for (request, builder) in self.requests.iter().zip(&self.builders) {
            builder.add(&request.cast(&keys[request.key])?)?;
        }
        Ok(())
    }

    /// The filters of all keys noted.
    pub(super) fn finish(self) -> MadeFilters {
        let builders = self.builders.into_iter();
        MadeFilters {
            filters: builders.map(|builder| Arc::new(builder.finish())).collect(),
            _reserved: self.reserved,
        }
    }
}
