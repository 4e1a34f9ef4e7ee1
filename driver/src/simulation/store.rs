//! A store whose every request waits for the simulation to say when it is carried out, whether it
//! is, and what is answered.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::channel::oneshot;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::memory::InMemory;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartId, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result,
};

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is carried out and answered.
    Do,
    /// It is carried out, and answered when it is its turn once more.
    AnswerLate,
    /// It is not carried out, and the answer is an error.
    Fail,
    /// It is carried out, and the answer is an error.
    DoAndFail,
    /// A conditional write is refused though nothing is there.
    Conflict,
}

/// Requests that wait.
#[derive(Default)]
pub(super) struct Gate {
    made: u64,
    /// Those that the simulation has not seen: number, who asks, and where the verdict goes.
    pub(super) asked: Vec<(u64, u64, oneshot::Sender<Verdict>)>,
}

/// A gate behind its lock; the simulation has one thread.
#[derive(Clone, Default)]
pub(super) struct SharedGate(Arc<Mutex<Gate>>);

impl SharedGate {
    pub(super) fn lock(&self) -> MutexGuard<'_, Gate> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The store as one process sees it.
#[derive(Clone)]
pub(super) struct SimStore {
    disk: Arc<InMemory>,
    gate: SharedGate,
    process: u64,
}

impl SimStore {
    pub(super) fn new(disk: Arc<InMemory>, gate: SharedGate, process: u64) -> Self {
        SimStore {
            disk,
            gate,
            process,
        }
    }

    /// Waits until it is this request's turn.
    async fn turn(&self) -> Verdict {
        let (sender, verdict) = oneshot::channel();
        {
            let mut gate = self.gate.lock();
            gate.made += 1;
            let number = gate.made;
            gate.asked.push((number, self.process, sender));
        }
        verdict.await.unwrap_or(Verdict::Fail)
    }

    async fn run<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        match self.turn().await {
            Verdict::Do => request.await,
            Verdict::AnswerLate => {
                let answer = request.await;
                self.turn().await;
                answer
            }
            Verdict::Fail | Verdict::Conflict => Err(away()),
            Verdict::DoAndFail => {
                request.await?;
                Err(away())
            }
        }
    }
}

fn away() -> Error {
    Error::Generic {
        store: "simulated",
        source: "the store is away".into(),
    }
}

impl fmt::Debug for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimStore")
    }
}

impl fmt::Display for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated")
    }
}

#[async_trait]
impl ObjectStore for SimStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let is_create = matches!(options.mode, PutMode::Create);
        let verdict = self.turn().await;
        let put = self.disk.put_opts(location, payload, options);
        // A client that repeats a conditional write by itself meets its own object.
        let met = || Error::AlreadyExists {
            path: location.to_string(),
            source: "it exists".into(),
        };
        match verdict {
            Verdict::Do => put.await,
            Verdict::AnswerLate => {
                let answer = put.await;
                self.turn().await;
                answer
            }
            Verdict::Fail => Err(away()),
            Verdict::Conflict if is_create => Err(met()),
            Verdict::Conflict => Err(away()),
            Verdict::DoAndFail => {
                put.await?;
                Err(if is_create { met() } else { away() })
            }
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.disk.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.run(self.disk.get_opts(location, options)).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.run(self.disk.get_ranges(location, ranges)).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let deletions = locations.then(move |location| {
            let store = store.clone();
            async move {
                let location = location?;
                let gone = stream::iter([Ok(location.clone())]).boxed();
                let deleted = async {
                    let answers: Vec<Path> = store.disk.delete_stream(gone).try_collect().await?;
                    Ok(answers)
                };
                store.run(deleted).await?;
                Ok(location)
            }
        });
        deletions.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = self.clone();
        let prefix = prefix.cloned();
        let listed = async move {
            // All of it as it is at one moment, as consistent stores answer a page.
            let found = async {
                let found = store.disk.list(prefix.as_ref());
                found.try_collect::<Vec<_>>().await
            };
            let found = store.run(found).await?;
            Ok::<_, Error>(stream::iter(found.into_iter().map(Ok)))
        };
        stream::once(listed).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.run(self.disk.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.run(self.disk.copy_opts(from, to, options)).await
    }
}

#[async_trait]
impl MultipartStore for SimStore {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        self.run(self.disk.create_multipart(path)).await
    }

    async fn put_part(
        &self,
        path: &Path,
        id: &MultipartId,
        part: usize,
        data: PutPayload,
    ) -> Result<PartId> {
        self.run(self.disk.put_part(path, id, part, data)).await
    }

    async fn complete_multipart(
        &self,
        path: &Path,
        id: &MultipartId,
        parts: Vec<PartId>,
    ) -> Result<PutResult> {
        self.run(self.disk.complete_multipart(path, id, parts))
            .await
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        self.run(self.disk.abort_multipart(path, id)).await
    }
}
