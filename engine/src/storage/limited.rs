//! A remote store with a bound on the requests that are under way at once.
//!
//! Whoever wants to make a request waits for a place. It waits and makes the request as a task of
//! its own, which goes on whether or not its caller is being polled: otherwise callers that have
//! been given places and wait for memory, and callers that hold memory and wait for places, could
//! wait for each other for ever. For the same reason a long body or a list takes a place only
//! while it has something to hand over.
//!
//! What comes back is compared with what was announced: a body that is too short is an error.

use std::fmt;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartId,
    MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, RenameOptions, Result, UploadPart,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::waiting::Task;

/// A body of at most so many bytes is fetched as a whole, in its request's place.
const WHOLE_BYTES_MAX: u64 = 16 << 20;

/// Objects that are deleted in one place.
const DELETE_AT_ONCE: usize = 1000;

/// A store behind a bound.
#[derive(Debug)]
pub(super) struct Limited<S> {
    store: Arc<S>,
    places: Places,
}

#[derive(Debug, Clone)]
struct Places(Arc<Semaphore>);

impl<S> Limited<S> {
    pub(super) fn new(store: S, requests_max: usize) -> Self {
        Limited {
            store: Arc::new(store),
            places: Places(Arc::new(Semaphore::new(requests_max))),
        }
    }
}

impl Places {
    async fn take(&self) -> OwnedSemaphorePermit {
        let place = Arc::clone(&self.0).acquire_owned().await;
        place.expect("nobody closes the door")
    }

    /// Makes a request once there is a place for it.
    async fn run<T: Send + 'static>(
        &self,
        request: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let places = self.clone();
        let in_place = async move {
            let _place = places.take().await;
            request.await
        };
        Task::spawn(in_place).await?
    }

    /// `items`, each of them fetched in a place.
    fn pace<T: Send + 'static>(
        &self,
        items: BoxStream<'static, Result<T>>,
    ) -> BoxStream<'static, Result<T>> {
        let places = self.clone();
        let paced = stream::unfold(Some(items), move |items| {
            let places = places.clone();
            async move {
                let mut items = items?;
                let in_place = async move {
                    let _place = places.take().await;
                    (items.next().await, items)
                };
                match Task::spawn(in_place).await {
                    Ok((item, items)) => Some((item?, Some(items))),
                    Err(error) => Some((Err(error.into()), None)),
                }
            }
        });
        paced.boxed()
    }
}

impl<S: fmt::Display> fmt::Display for Limited<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

#[async_trait]
impl<S: ObjectStore> ObjectStore for Limited<S> {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let (store, location) = (Arc::clone(&self.store), location.clone());
        let put = async move { store.put_opts(&location, payload, options).await };
        self.places.run(put).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let (store, location) = (Arc::clone(&self.store), location.clone());
        let begun = async move { store.put_multipart_opts(&location, options).await };
        let upload = self.places.run(begun).await?;
        let places = self.places.clone();
        Ok(Box::new(LimitedUpload { upload, places }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (store, location) = (Arc::clone(&self.store), location.clone());
        let places = self.places.clone();
        let fetched = async move {
            let is_head = options.head;
            let answer = store.get_opts(&location, options).await?;
            match answer.range.end - answer.range.start {
                _ if is_head => Ok(answer),
                0..=WHOLE_BYTES_MAX => fetch(answer).await,
                _ => Ok(with_stream(answer, |body| places.pace(body))),
            }
        };
        self.places.run(fetched).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (store, places) = (Arc::clone(&self.store), self.places.clone());
        // What is to be deleted may come out of this store itself, so no place is held for it.
        let groups = locations.chunks(DELETE_AT_ONCE).then(move |group| {
            let (store, places) = (Arc::clone(&store), places.clone());
            async move {
                let deleted = async move {
                    let deleted = store.delete_stream(stream::iter(group).boxed());
                    Ok(deleted.collect::<Vec<_>>().await)
                };
                let deleted = places.run(deleted).await;
                stream::iter(deleted.unwrap_or_else(|error| vec![Err(error)]))
            }
        });
        groups.flatten().boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.places.pace(self.store.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let listed = self.store.list_with_offset(prefix, offset);
        self.places.pace(listed)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (store, prefix) = (Arc::clone(&self.store), prefix.cloned());
        let listed = async move { store.list_with_delimiter(prefix.as_ref()).await };
        self.places.run(listed).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let (store, from, to) = (Arc::clone(&self.store), from.clone(), to.clone());
        let copied = async move { store.copy_opts(&from, &to, options).await };
        self.places.run(copied).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let (store, from, to) = (Arc::clone(&self.store), from.clone(), to.clone());
        let renamed = async move { store.rename_opts(&from, &to, options).await };
        self.places.run(renamed).await
    }
}

#[async_trait]
impl<S: MultipartStore> MultipartStore for Limited<S> {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        let (store, path) = (Arc::clone(&self.store), path.clone());
        let begun = async move { store.create_multipart(&path).await };
        self.places.run(begun).await
    }

    async fn put_part(
        &self,
        path: &Path,
        id: &MultipartId,
        part: usize,
        data: PutPayload,
    ) -> Result<PartId> {
        let (store, path, id) = (Arc::clone(&self.store), path.clone(), id.clone());
        let sent = async move { store.put_part(&path, &id, part, data).await };
        self.places.run(sent).await
    }

    async fn complete_multipart(
        &self,
        path: &Path,
        id: &MultipartId,
        parts: Vec<PartId>,
    ) -> Result<PutResult> {
        let (store, path, id) = (Arc::clone(&self.store), path.clone(), id.clone());
        let completed = async move { store.complete_multipart(&path, &id, parts).await };
        self.places.run(completed).await
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        let (store, path, id) = (Arc::clone(&self.store), path.clone(), id.clone());
        let aborted = async move { store.abort_multipart(&path, &id).await };
        self.places.run(aborted).await
    }
}

#[derive(Debug)]
struct LimitedUpload {
    upload: Box<dyn MultipartUpload>,
    places: Places,
}

#[async_trait]
impl MultipartUpload for LimitedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (sent, places) = (self.upload.put_part(data), self.places.clone());
        Box::pin(async move { places.run(sent).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        // Whoever completes an upload waits for nothing else.
        let _place = self.places.take().await;
        self.upload.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        let _place = self.places.take().await;
        self.upload.abort().await
    }
}

/// The answer with its whole body here.
async fn fetch(mut answer: GetResult) -> Result<GetResult> {
    let GetResultPayload::Stream(body) = &mut answer.payload else {
        return Ok(answer);
    };
    let pieces: Vec<Bytes> = body.try_collect().await?;
    let announced = answer.range.end - answer.range.start;
    let bytes: usize = pieces.iter().map(Bytes::len).sum();
    if bytes as u64 != announced {
        let source = io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("the body has another length than was announced bytes={bytes}"),
        );
        return Err(Error::Generic {
            store: "remote",
            source: source.into(),
        });
    }
    Ok(with_stream(answer, |_| {
        stream::iter(pieces).map(Ok).boxed()
    }))
}

fn with_stream(
    mut answer: GetResult,
    change: impl FnOnce(BoxStream<'static, Result<Bytes>>) -> BoxStream<'static, Result<Bytes>>,
) -> GetResult {
    answer.payload = match answer.payload {
        GetResultPayload::Stream(body) => GetResultPayload::Stream(change(body)),
        file => file,
    };
    answer
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use kiln_testkit::{Fault, FaultyStore, Op, Rule};
    use object_store::ObjectStoreExt as _;
    use object_store::memory::InMemory;
    use tokio::sync::oneshot;

    use super::*;
    use crate::error::ErrorKind;
    use crate::storage::storage_error;

    #[tokio::test]
    async fn who_waits_without_being_polled_is_in_nobodys_way() {
        let places = Places(Arc::new(Semaphore::new(1)));
        let (open, gate) = oneshot::channel::<()>();
        let mut held = places.run(async { Ok(gate.await.is_ok()) }).boxed();
        let mut waiting = places.run(async { Ok(()) }).boxed();
        let mut listed = places.pace(stream::iter([Ok(1), Ok(2)]).boxed());
        // Once, and never again before another request has been made.
        assert!((&mut held).now_or_never().is_none());
        assert!((&mut waiting).now_or_never().is_none());
        assert!(listed.next().now_or_never().is_none());
        open.send(()).expect("it is waited for");
        places.run(async { Ok(()) }).await.expect("a place");
        assert!(held.await.expect("an answer"));
        waiting.await.expect("an answer");
        assert_eq!(listed.next().await.expect("more").expect("an item"), 1);
    }

    #[tokio::test]
    async fn a_body_that_is_too_short_is_an_error_that_may_pass() {
        let inner = FaultyStore::with_multipart(InMemory::new());
        let short = inner.add(Rule::new(&[Op::Get], Fault::Truncate(3)).times(1));
        let store = Limited::new(inner, 1);
        let path = Path::from("a");
        store.put(&path, "abcdef".into()).await.expect("a put");
        let error = store.get_range(&path, 1..6).await.expect_err("too short");
        assert_eq!(short.count(), 1);
        let error = storage_error("read", "s3://b/a", error);
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());
        let whole = store.get_range(&path, 1..6).await.expect("a body");
        assert_eq!(whole, "bcdef");
    }
}
