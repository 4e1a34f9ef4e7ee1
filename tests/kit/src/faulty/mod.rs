//! An object store that does to requests what its rules say.
//!
//! The first rule that matches a request decides its fate; without one it goes through. A fault
//! acts before the request, after it, or on its body, so that "it failed" and "it was done and
//! nobody heard" are two things. All chance comes from one seed, drawn in the order of requests.

mod body;
mod rule;
mod upload;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartId, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, RenameOptions, Result,
};
use regex::Regex;

pub use rule::{Failure, Fault, Fired, Op, Rule};

/// A request that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What was asked for.
    pub op: Op,
    /// Of which object.
    pub path: Path,
}

/// A store between a test and another store.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use kiln_testkit::{Failure, Fault, FaultyStore, Op, Rule};
/// use object_store::{ObjectStoreExt, memory::InMemory, path::Path};
///
/// let store = FaultyStore::with_multipart(InMemory::new());
/// let lost = Rule::new(&[Op::Put], Fault::LoseAnswer(Failure::RESET));
/// let lost = store.add(lost.at("^a/").times(1));
/// let path = Path::from("a/b");
/// assert!(store.put(&path, "x".into()).await.is_err());
/// assert!(store.head(&path).await.is_ok(), "it was written all the same");
/// assert_eq!((lost.count(), store.count(&[Op::Put])), (1, 1));
/// # }
/// ```
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    multipart: Option<Parts>,
    desk: Arc<Desk>,
}

/// A store's multipart interface, which cannot be printed.
struct Parts(Arc<dyn MultipartStore>);

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Parts")
    }
}

/// Where every request is noted and its fate decided.
#[derive(Debug)]
pub(crate) struct Desk(Mutex<Book>);

#[derive(Debug)]
struct Book {
    rules: Vec<(Rule, Fired)>,
    requests: Vec<Request>,
    random: fastrand::Rng,
}

/// What a rule does to one request.
#[derive(Debug, Clone)]
pub(crate) struct Fate {
    op: Op,
    path: Path,
    fault: Option<(Fault, Fired)>,
    /// Drawn for a fault that needs a place.
    draw: usize,
}

impl FaultyStore {
    /// A store without rules around `inner`, whose multipart interface is not handed on.
    pub fn new(inner: Arc<dyn ObjectStore>) -> Arc<Self> {
        Arc::new(FaultyStore {
            inner,
            multipart: None,
            desk: Desk::new(),
        })
    }

    /// The same for a store whose multipart interface is to be faulty too.
    pub fn with_multipart<S: ObjectStore + MultipartStore>(inner: S) -> Arc<Self> {
        let inner = Arc::new(inner);
        Arc::new(FaultyStore {
            multipart: Some(Parts(inner.clone())),
            inner,
            desk: Desk::new(),
        })
    }

    /// Begins chance anew with `seed`.
    pub fn seed(&self, seed: u64) {
        self.desk.lock().random.seed(seed);
    }

    /// Adds a rule behind those that are there.
    pub fn add(&self, rule: Rule) -> Fired {
        let fired = Fired::new();
        self.desk.lock().rules.push((rule, fired.clone()));
        fired
    }

    /// Removes every rule; requests that are held stay so until they are released.
    pub fn clear(&self) {
        self.desk.lock().rules.clear();
    }

    /// Every request so far, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.desk.lock().requests.clone()
    }

    /// How many requests of these kinds there were.
    pub fn count(&self, ops: &[Op]) -> usize {
        let book = self.desk.lock();
        let these = book.requests.iter().filter(|made| ops.contains(&made.op));
        these.count()
    }

    /// The same for paths in which `pattern`, a regular expression, matches.
    pub fn count_at(&self, ops: &[Op], pattern: &str) -> usize {
        let pattern = Regex::new(pattern).expect("a test's own pattern is valid");
        let is_one =
            |made: &&Request| ops.contains(&made.op) && pattern.is_match(made.path.as_ref());
        self.desk.lock().requests.iter().filter(is_one).count()
    }

    fn parts(&self) -> Result<&dyn MultipartStore> {
        let parts = self.multipart.as_ref().map(|parts| &*parts.0);
        parts.ok_or_else(|| object_store::Error::NotSupported {
            source: "the store behind has no multipart interface".into(),
        })
    }
}

impl Desk {
    fn new() -> Arc<Self> {
        Arc::new(Desk(Mutex::new(Book {
            rules: Vec::new(),
            requests: Vec::new(),
            random: fastrand::Rng::with_seed(0),
        })))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request and decides what happens to it.
    fn decide(&self, op: Op, path: &Path) -> Fate {
        let mut book = self.lock();
        let book = &mut *book;
        book.requests.push(Request {
            op,
            path: path.clone(),
        });
        let mut fate = Fate {
            op,
            path: path.clone(),
            fault: None,
            draw: 0,
        };
        for (rule, fired) in &mut book.rules {
            if !rule.is_for(op, path) || !rule.occasion.take(&mut book.random) {
                continue;
            }
            fired.0.send_modify(|progress| progress.fired += 1);
            fate.draw = book.random.usize(..);
            fate.fault = Some((rule.fault, fired.clone()));
            break;
        }
        fate
    }
}

impl Fate {
    /// Carries out a request as it was decided.
    async fn apply<T>(&self, request: impl Future<Output = Result<T>> + Send) -> Result<T> {
        match &self.fault {
            Some((Fault::Fail(failure), _)) => return Err(failure.error(self.op, &self.path)),
            Some((Fault::Hold, fired)) => fired.released().await,
            Some((Fault::Slow(pause), _)) => tokio::time::sleep(*pause).await,
            _ => {}
        }
        let answer = request.await;
        match &self.fault {
            Some((Fault::LoseAnswer(failure), _)) => Err(failure.error(self.op, &self.path)),
            Some((Fault::HoldAnswer, fired)) => {
                fired.released().await;
                answer
            }
            _ => answer,
        }
    }

    fn fault(&self) -> Option<Fault> {
        self.fault.as_ref().map(|(fault, _)| *fault)
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let op = match options.mode {
            PutMode::Overwrite => Op::Put,
            PutMode::Create => Op::PutIfAbsent,
            PutMode::Update(_) => Op::PutIfMatch,
        };
        let fate = self.desk.decide(op, location);
        let payload = fate.damage_payload(payload);
        fate.apply(self.inner.put_opts(location, payload, options))
            .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let fate = self.desk.decide(Op::CreateMultipart, location);
        let begun = self.inner.put_multipart_opts(location, options);
        let upload = fate.apply(begun).await?;
        Ok(upload::wrap(upload, location, &self.desk))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let op = if options.head { Op::Head } else { Op::Get };
        let fate = self.desk.decide(op, location);
        let answer = fate.apply(self.inner.get_opts(location, options)).await?;
        fate.damage_answer(answer).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let (inner, desk) = (Arc::clone(&self.inner), Arc::clone(&self.desk));
        let delete = move |location: Result<Path>| {
            let (inner, desk) = (Arc::clone(&inner), Arc::clone(&desk));
            async move {
                let location = location?;
                let fate = desk.decide(Op::Delete, &location);
                fate.apply(inner.delete(&location)).await?;
                Ok(location)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let fate = self.desk.decide(Op::List, prefix.unwrap_or(&Path::ROOT));
        let (inner, prefix) = (Arc::clone(&self.inner), prefix.cloned());
        fate.damage_list(move || inner.list(prefix.as_ref()))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let fate = self.desk.decide(Op::List, prefix.unwrap_or(&Path::ROOT));
        let (inner, prefix) = (Arc::clone(&self.inner), prefix.cloned());
        let offset = offset.clone();
        fate.damage_list(move || inner.list_with_offset(prefix.as_ref(), &offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let fate = self.desk.decide(Op::List, prefix.unwrap_or(&Path::ROOT));
        fate.apply(self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let fate = self.desk.decide(Op::Copy, to);
        fate.apply(self.inner.copy_opts(from, to, options)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let fate = self.desk.decide(Op::Rename, to);
        fate.apply(self.inner.rename_opts(from, to, options)).await
    }
}

#[async_trait]
impl MultipartStore for FaultyStore {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        let fate = self.desk.decide(Op::CreateMultipart, path);
        fate.apply(self.parts()?.create_multipart(path)).await
    }

    async fn put_part(
        &self,
        path: &Path,
        id: &MultipartId,
        part_idx: usize,
        data: PutPayload,
    ) -> Result<PartId> {
        let fate = self.desk.decide(Op::PutPart, path);
        let data = fate.damage_payload(data);
        let sent = self.parts()?.put_part(path, id, part_idx, data);
        fate.apply(sent).await
    }

    async fn complete_multipart(
        &self,
        path: &Path,
        id: &MultipartId,
        parts: Vec<PartId>,
    ) -> Result<PutResult> {
        let fate = self.desk.decide(Op::CompleteMultipart, path);
        let completed = self.parts()?.complete_multipart(path, id, parts);
        fate.apply(completed).await
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        let fate = self.desk.decide(Op::AbortMultipart, path);
        fate.apply(self.parts()?.abort_multipart(path, id)).await
    }
}

impl Fate {
    fn damage_list(
        self,
        list: impl FnOnce() -> BoxStream<'static, Result<ObjectMeta>> + Send + 'static,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let left = match self.fault() {
            Some(Fault::Truncate(count) | Fault::Cut(count)) => count,
            _ => usize::MAX,
        };
        let end = match self.fault() {
            Some(Fault::Cut(_)) => Some(Err(Failure::RESET.error(self.op, &self.path))),
            _ => None,
        };
        // Some stores look at once: nobody may before the request has come through.
        let listed = async move { self.apply(async { Ok(list()) }).await };
        let listed = listed.map(move |listed| match listed {
            Ok(entries) => entries.take(left).chain(stream::iter(end)).boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        });
        listed.into_stream().flatten().boxed()
    }
}
