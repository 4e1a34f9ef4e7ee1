//! Reads the index of a shuffle object from its footer.

use object_store::{GetOptions, GetRange, ObjectStore};

use super::layout;
use crate::error::{Error, LostOutput, Result};
use crate::id::{JobId, StageId};
use crate::plan::PartitionMeta;
use crate::storage::{ShuffleStore, storage_error};

/// The index of an object, read from its footer. Readers get the index with their task; this
/// is for whoever finds an object without one.
///
/// # Errors
/// `Corrupt` if the object is missing or its footer is not what was written.
pub async fn read_index(
    store: &ShuffleStore,
    job: JobId,
    stage: StageId,
    task: u32,
    attempt: u32,
) -> Result<Vec<PartitionMeta>> {
    let path = store.object_path(job, stage, task, attempt);
    let range = Some(GetRange::Suffix(layout::FOOTER_BYTES_MAX));
    let options = GetOptions {
        range,
        ..GetOptions::default()
    };
    let lost = LostOutput {
        stage,
        task,
        attempt,
    };
    let failed = |error| match error {
        object_store::Error::NotFound { .. } => {
            Error::corrupt(format!("shuffle object is missing object={path}")).with_lost(lost)
        }
        error => storage_error("read", path.as_ref(), error),
    };
    let result = store.store.get_opts(&path, options).await.map_err(failed)?;
    let object_bytes = result.meta.size;
    let tail = result.bytes().await.map_err(failed)?;
    layout::parse_footer(&tail, object_bytes)
        .map_err(|reason| Error::corrupt(format!("{reason} object={path}")).with_lost(lost))
}
