//! Objects that are there only if nobody was first.
//!
//! The error of a conditional write is never its answer: a store that was asked twice, because its
//! first answer was lost, says "already exists" of an object that is ours; a conflict says so of
//! an object that nobody has written. So every body is told from all others by something unique in
//! it, and after any error what is there is read and compared.

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode};

use super::storage_error;
use crate::error::{Error, ErrorKind, Result};

/// How often a write is tried before nobody knows what has become of it.
const TRIES: usize = 2;

/// Whose object is there now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// What was to be written is there.
    Ours,
    /// Somebody was first; what they wrote.
    Theirs(Bytes),
}

/// Writes `body` to `path` if nothing is there. `body` must not be the same as that of any other
/// writer: it holds an id of whoever writes, and a number that the writer does not use twice.
///
/// There is no waiting in here, and asking again is always safe.
///
/// # Errors
/// `Unavailable` if it is not known whether the object was written: ask again, with the same
/// body. Other kinds if the store refuses and nothing is there.
pub async fn create(store: &dyn ObjectStore, path: &Path, body: Bytes) -> Result<Created> {
    let mut refused = None;
    for _ in 0..TRIES {
        let put = store.put_opts(path, body.clone().into(), PutMode::Create.into());
        let Err(error) = put.await else {
            return Ok(Created::Ours);
        };
        match read(store, path).await {
            Ok(Some(found)) if found == body => return Ok(Created::Ours),
            Ok(Some(found)) => return Ok(Created::Theirs(found)),
            Ok(None) => refused = Some(error),
            Err(unread) => return Err(unknown(path, Some(unread), error)),
        }
    }
    let error = refused.expect("there was a try");
    Err(unknown(path, None, error))
}

/// The object; none if there is none.
async fn read(store: &dyn ObjectStore, path: &Path) -> object_store::Result<Option<Bytes>> {
    let answer = match store.get(path).await {
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        answer => answer?,
    };
    let bytes = answer.meta.size;
    let body = answer.bytes().await?;
    if body.len() as u64 != bytes {
        let source = std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into();
        let store = "conditional";
        return Err(object_store::Error::Generic { store, source });
    }
    Ok(Some(body))
}

/// What to say when nothing is there, or nobody can look, after `put` failed.
fn unknown(path: &Path, unread: Option<object_store::Error>, put: object_store::Error) -> Error {
    use object_store::Error as Store;
    // These speak of an object that is not there, so they mean nothing.
    let is_riddle = matches!(
        put,
        Store::AlreadyExists { .. } | Store::Precondition { .. } | Store::NotModified { .. }
    );
    let told = storage_error("create", path.as_ref(), put);
    if !is_riddle && told.kind() != ErrorKind::Unavailable {
        return told;
    }
    let text = format!("it is not known whether an object was created; ask again path={path}");
    let error = Error::unavailable(text);
    match unread {
        Some(unread) => error.with_source(unread),
        None => error.with_source(told),
    }
}
