//! A store that makes one request at a time, when it is told to, and fails where it is told to.

use std::collections::BTreeSet;
use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartId, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What is wrong with the request of a number, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It and all later ones fail.
    CutOff(usize),
    /// It is carried out, and its answer is lost.
    Lost(usize),
}

/// The way of one driver to a store.
#[derive(Debug, Clone)]
pub(super) struct Stepped {
    inner: Arc<InMemory>,
    /// Uploads that are neither completed nor aborted.
    open: Arc<Mutex<BTreeSet<String>>>,
    gate: Arc<Mutex<Gate>>,
}

#[derive(Debug, Default)]
struct Gate {
    permits: usize,
    made: usize,
    fault: Option<Fault>,
    fired: bool,
}

impl Stepped {
    pub(super) fn new() -> Self {
        Stepped {
            inner: Arc::default(),
            open: Arc::default(),
            gate: Arc::default(),
        }
    }

    /// Another way to the same store.
    pub(super) fn another(&self, fault: Option<Fault>) -> Self {
        let gate = Gate {
            fault,
            ..Gate::default()
        };
        Stepped {
            gate: Arc::new(Mutex::new(gate)),
            ..self.clone()
        }
    }

    /// Requests made.
    pub(super) fn made(&self) -> usize {
        self.gate().made
    }

    /// Whether the fault has happened.
    pub(super) fn fired(&self) -> bool {
        self.gate().fired
    }

    pub(super) fn open_uploads(&self) -> usize {
        self.open.lock().expect("no test panics with it").len()
    }

    /// What is stored, past the gate.
    pub(super) fn objects(&self) -> Vec<(String, u64)> {
        let all = self.inner.list(None).try_collect::<Vec<ObjectMeta>>();
        let all = all.now_or_never().expect("memory does not wait");
        let all = all.expect("memory can be listed").into_iter();
        all.map(|object| (object.location.to_string(), object.size))
            .collect()
    }

    /// The content of an object, past the gate.
    pub(super) fn content(&self, name: &str) -> Option<Vec<u8>> {
        let read = async {
            self.inner
                .get_opts(&name.into(), GetOptions::default())
                .await?
                .bytes()
                .await
        };
        let read = read.now_or_never().expect("memory does not wait");
        read.ok().map(Vec::from)
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().expect("no test panics with it")
    }

    async fn step<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        poll_fn(|context| {
            let mut gate = self.gate();
            if gate.permits == 0 {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            gate.permits -= 1;
            Poll::Ready(())
        })
        .await;
        let fault = {
            let mut gate = self.gate();
            let number = gate.made;
            gate.made += 1;
            let fault = gate.fault.filter(|fault| match fault {
                Fault::CutOff(first) => number >= *first,
                Fault::Lost(one) => number == *one,
            });
            gate.fired |= fault.is_some();
            fault
        };
        match fault {
            None => call.await,
            Some(Fault::CutOff(_)) => Err(unavailable()),
            Some(Fault::Lost(_)) => {
                let _ = call.await;
                Err(unavailable())
            }
        }
    }
}

fn unavailable() -> object_store::Error {
    let source = std::io::Error::from(std::io::ErrorKind::ConnectionReset).into();
    let store = "Stepped";
    object_store::Error::Generic { store, source }
}

/// Work of a driver that goes on by one request at a time.
pub(super) struct Driver<'a, T> {
    store: Stepped,
    work: Pin<Box<dyn Future<Output = T> + 'a>>,
    pub(super) outcome: Option<T>,
}

impl<'a, T> Driver<'a, T> {
    pub(super) fn new(store: &Stepped, work: impl Future<Output = T> + 'a) -> Self {
        Driver {
            store: store.clone(),
            work: Box::pin(work),
            outcome: None,
        }
    }

    /// Lets it make one request; does nothing once it has ended.
    pub(super) fn step(&mut self) {
        let made = self.store.made();
        self.store.gate().permits = 1;
        while self.outcome.is_none() && self.store.made() == made {
            let mut context = Context::from_waker(Waker::noop());
            if let Poll::Ready(outcome) = self.work.as_mut().poll(&mut context) {
                self.outcome = Some(outcome);
            }
        }
        // What follows from the answer is not a step of its own.
        self.store.gate().permits = 0;
    }

    pub(super) fn has_ended(&self) -> bool {
        self.outcome.is_some()
    }

    /// Lets it go on to its end, with a look after each step.
    pub(super) fn finish(mut self, look: impl Fn()) -> T {
        loop {
            match self.outcome {
                Some(outcome) => return outcome,
                None => {
                    self.step();
                    look();
                }
            }
        }
    }
}

/// Runs work whose requests nobody wants to watch.
pub(super) fn run<T>(store: &Stepped, work: impl Future<Output = T>) -> T {
    store.gate().permits = usize::MAX;
    let mut context = Context::from_waker(Waker::noop());
    let mut work = pin!(work);
    loop {
        if let Poll::Ready(outcome) = work.as_mut().poll(&mut context) {
            store.gate().permits = 0;
            return outcome;
        }
    }
}

impl fmt::Display for Stepped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stepped")
    }
}

#[async_trait]
impl ObjectStore for Stepped {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let call = self.inner.put_opts(location, payload, options);
        self.step(call).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.step(self.inner.get_opts(location, options)).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let delete = move |path: Result<Path>| {
            let store = store.clone();
            async move {
                let one = futures::stream::once(async { path }).boxed();
                let mut removed = store.inner.delete_stream(one);
                let call = async { removed.next().await.expect("an answer for each") };
                store.step(call).await
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, listed) = (self.clone(), self.inner.clone());
        let prefix = prefix.cloned();
        let list = async move {
            let call = async { Ok(listed.list(prefix.as_ref()).collect::<Vec<_>>().await) };
            match store.step(call).await {
                Ok(found) => found,
                Err(error) => vec![Err(error)],
            }
        };
        list.into_stream().flat_map(futures::stream::iter).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.step(self.inner.copy_opts(from, to, options)).await
    }
}

#[async_trait]
impl MultipartStore for Stepped {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        let id = self.step(self.inner.create_multipart(path)).await?;
        let mut open = self.open.lock().expect("no test panics with it");
        open.insert(id.clone());
        Ok(id)
    }

    async fn put_part(
        &self,
        path: &Path,
        id: &MultipartId,
        part_idx: usize,
        data: PutPayload,
    ) -> Result<PartId> {
        self.step(self.inner.put_part(path, id, part_idx, data))
            .await
    }

    async fn complete_multipart(
        &self,
        path: &Path,
        id: &MultipartId,
        parts: Vec<PartId>,
    ) -> Result<PutResult> {
        let call = async {
            let done = self.inner.complete_multipart(path, id, parts).await;
            self.open.lock().expect("no test panics with it").remove(id);
            done
        };
        self.step(call).await
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        let call = async {
            let done = self.inner.abort_multipart(path, id).await;
            self.open.lock().expect("no test panics with it").remove(id);
            done
        };
        self.step(call).await
    }
}
