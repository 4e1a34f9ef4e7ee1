//! Whether the headers of a chunk's pages agree with the footer and with the chunk's bytes.
//!
//! Asked before anything is decoded, by whichever decoder: that a header claims a gigabyte, or
//! that there are more pages than the footer knows of, must not depend on who reads it.

use crate::error::{Error, Result};

use super::header::{PageHeader, PageKind};
use super::pages::is_sane;

/// Makes sure that the pages of `chunk` have `values` values in all, and sizes that can be.
///
/// # Errors
/// `Invalid` if they have not.
pub(in crate::source::parquet) fn check_chunk(chunk: &[u8], values: i64) -> Result<()> {
    let (mut at, mut found) = (0, 0);
    while at < chunk.len() {
        let (header, length) = match PageHeader::read(&chunk[at..]) {
            Ok(read) => read,
            // Some writers leave room behind the last page.
            Err(_) if found == values => return Ok(()),
            Err(error) => return Err(error),
        };
        let start = at + length;
        let end = usize::try_from(header.compressed).ok();
        let end = end.and_then(|bytes| start.checked_add(bytes));
        let Some(end) = end.filter(|&end| end <= chunk.len()) else {
            if found == values {
                return Ok(());
            }
            let bytes = header.compressed;
            let reason = format!("a page reaches beyond its column bytes={bytes}");
            return Err(Error::invalid(reason));
        };
        let uncompressed = usize::try_from(header.uncompressed).ok();
        if !uncompressed.is_some_and(|bytes| is_sane(bytes, &(start..end))) {
            return Err(Error::invalid(format!(
                "a page claims to become larger than it can compressed={} uncompressed={}",
                header.compressed, header.uncompressed
            )));
        }
        let own = match header.kind {
            PageKind::Data { values, .. } | PageKind::DataV2 { values, .. } => values,
            PageKind::Dictionary { .. } | PageKind::Other => 0,
        };
        let sum = (own >= 0)
            .then_some(own)
            .and_then(|own| found.checked_add(own));
        let Some(sum) = sum.filter(|&sum| sum <= values) else {
            return Err(Error::invalid(format!(
                "a column's pages have more values than the footer says footer={values}"
            )));
        };
        (found, at) = (sum, end);
    }
    if found != values {
        return Err(Error::invalid(format!(
            "a column's pages have fewer values than the footer says pages={found} \
             footer={values}"
        )));
    }
    Ok(())
}
