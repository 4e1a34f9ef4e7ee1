//! A strict stand-in for S3, in memory, that fails as it is told.
//!
//! It speaks the dialect that `object_store` uses, path style: conditional writes that are atomic
//! (one lock), tags that are MD5 sums, ranges, uploads in parts that nobody sees before they are
//! complete and whose parts have to be large enough, pages of lists, deletes one by one and in
//! bulk, copies. It checks the key id of a signature, not the signature. What is not there is
//! refused, not guessed.
//!
//! A server has a thread of its own and ends when it is dropped, so that tests with and without a
//! runtime can use it; `s3-stand-in` is the same as a program, for tests of processes.

mod bucket;
mod fault;
mod http;
mod xml;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

pub use fault::{S3Fault, S3Op, S3Rule};

use bucket::{Buckets, refuse};
use fault::Rules;
use http::{Connection, HttpRequest, HttpResponse};

/// The key id that the server takes.
const KEY_ID: &str = "kiln-test-key";

/// The secret that goes with it.
const SECRET: &str = "kiln-test-secret";

/// A request that was made.
#[derive(Debug, Clone, Serialize)]
pub struct S3Request {
    /// What was asked for.
    #[serde(skip)]
    pub op: S3Op,
    /// As the client spelled it.
    pub method: String,
    /// The bucket.
    pub bucket: String,
    /// The key; for lists, the prefix.
    pub key: String,
    /// The status of the answer; 0 if there was none.
    pub status: u16,
    /// What went wrong on purpose.
    pub fault: Option<String>,
}

/// A server on a free port of this machine.
#[derive(Debug)]
pub struct S3Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What a rule has done so far, for whoever made it.
#[derive(Debug, Clone)]
pub struct S3Fired {
    shared: Arc<Shared>,
    number: usize,
}

impl S3Fired {
    /// How many requests have met it.
    pub fn count(&self) -> u64 {
        self.shared.lock().rules.fired()[self.number]
    }

    /// Ends the rule.
    pub fn end(&self) {
        self.shared.lock().rules.end(self.number);
    }
}

#[derive(Debug)]
struct Shared {
    inside: Mutex<Inside>,
    /// Counts how often requests were let go.
    released: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inside {
    buckets: Buckets,
    rules: Rules,
    log: Vec<S3Request>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl S3Server {
    /// Starts a server with these buckets on a free port.
    pub fn start(buckets: &[&str]) -> Self {
        S3Server::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), buckets)
    }

    /// The same at a certain address.
    pub fn start_at(address: SocketAddr, buckets: &[&str]) -> Self {
        let listener = std::net::TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        listener.set_nonblocking(true).expect("a socket");
        let inside = Mutex::new(Inside {
            buckets: Buckets::new(buckets),
            rules: Rules::new(),
            log: Vec::new(),
        });
        let (released, _) = watch::channel(0);
        let shared = Arc::new(Shared { inside, released });
        let (stop, stopped) = oneshot::channel();
        let served = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            // Connections end with the runtime.
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                tokio::select! {
                    () = accept(listener, served) => {}
                    _ = stopped => {}
                }
            });
        });
        S3Server {
            address,
            shared,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Where it listens, as `http://127.0.0.1:PORT` unless it was started elsewhere.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Environment variables with which a client finds it.
    pub fn variables(&self) -> Vec<(String, String)> {
        variables(&self.url())
    }

    /// Adds a rule behind those that are there.
    pub fn add(&self, rule: S3Rule) -> S3Fired {
        let number = self.shared.lock().rules.add(rule);
        S3Fired {
            shared: Arc::clone(&self.shared),
            number: number.expect("a test's own pattern is valid"),
        }
    }

    /// Ends every rule; what is held is let go.
    pub fn clear(&self) {
        self.shared.lock().rules.end_all();
        self.release();
    }

    /// Lets go of all requests that are held.
    pub fn release(&self) {
        self.shared.released.send_modify(|count| *count += 1);
    }

    /// Begins chance anew with `seed`.
    pub fn seed(&self, seed: u64) {
        self.shared.lock().rules.seed(seed);
    }

    /// Lets pages of lists have so many entries.
    pub fn set_page(&self, entries: usize) {
        self.shared.lock().buckets.page = entries;
    }

    /// Every request so far, in order.
    pub fn requests(&self) -> Vec<S3Request> {
        self.shared.lock().log.clone()
    }

    /// How many requests of these kinds there were.
    pub fn count(&self, ops: &[S3Op]) -> usize {
        let inside = self.shared.lock();
        inside
            .log
            .iter()
            .filter(|made| ops.contains(&made.op))
            .count()
    }

    /// The keys of a bucket, in order.
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        let inside = self.shared.lock();
        let objects = inside.buckets.buckets.get(bucket);
        objects
            .into_iter()
            .flat_map(|objects| objects.keys().cloned())
            .collect()
    }

    /// What is stored under a key.
    pub fn read(&self, bucket: &str, key: &str) -> Option<Bytes> {
        let inside = self.shared.lock();
        let object = inside.buckets.buckets.get(bucket)?.get(key)?;
        Some(object.data.clone())
    }

    /// Puts an object, past every rule.
    pub fn put(&self, bucket: &str, key: &str, data: impl Into<Bytes>) {
        self.shared.lock().buckets.keep(bucket, key, data.into());
    }

    /// The keys of uploads that were begun and not ended.
    pub fn uploads(&self) -> Vec<String> {
        let inside = self.shared.lock();
        let uploads = inside.buckets.uploads.values();
        uploads.map(|upload| upload.key.clone()).collect()
    }

    /// The keys of those that have parts.
    pub fn uploads_with_parts(&self) -> Vec<String> {
        let inside = self.shared.lock();
        let uploads = inside.buckets.uploads.values();
        let with_parts = uploads.filter(|upload| !upload.parts.is_empty());
        with_parts.map(|upload| upload.key.clone()).collect()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Its panic, if any, has been printed.
            let _ = thread.join();
        }
    }
}

/// Environment variables with which a client finds the stand-in at `url`.
pub fn variables(url: &str) -> Vec<(String, String)> {
    let pairs = [
        ("AWS_ENDPOINT_URL", url),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", KEY_ID),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
    ];
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        // A client that was gone before it was accepted is no reason to stop.
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Arc::clone(&shared)));
        }
    }
}

/// What a request is for.
struct Target {
    op: S3Op,
    bucket: String,
    key: String,
}

impl Target {
    fn of(request: &HttpRequest) -> Self {
        let path = request.path.trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let has = |name: &str| request.query(name).is_some();
        let is_object = !key.is_empty();
        let op = match request.method.as_str() {
            "GET" if is_object => S3Op::Get,
            "GET" => S3Op::List,
            "HEAD" if is_object => S3Op::Head,
            "PUT" if has("uploadId") => S3Op::PutPart,
            "PUT" if request.header("x-amz-copy-source").is_some() => S3Op::Copy,
            "PUT" if is_object => S3Op::Put,
            "DELETE" if has("uploadId") => S3Op::AbortMultipart,
            "DELETE" if is_object => S3Op::Delete,
            "POST" if has("uploads") => S3Op::CreateMultipart,
            "POST" if has("uploadId") => S3Op::CompleteMultipart,
            "POST" if has("delete") => S3Op::BulkDelete,
            _ => S3Op::Other,
        };
        let key = match op {
            S3Op::List => request.query("prefix").unwrap_or_default(),
            _ => key,
        };
        Target {
            op,
            bucket: bucket.to_owned(),
            key: key.to_owned(),
        }
    }
}

/// What becomes of a connection behind an answer.
enum Next {
    Request,
    Close,
    Reset,
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    // Small answers must not wait for each other.
    let _ = stream.set_nodelay(true);
    let mut connection = Connection::new(stream);
    while let Ok(Some(request)) = connection.read().await {
        match answer(&mut connection, request, &shared).await {
            Ok(Next::Request) => {}
            Ok(Next::Close) => return connection.close().await,
            Ok(Next::Reset) => return connection.reset(),
            Err(_) => return,
        }
    }
}

async fn answer(
    connection: &mut Connection,
    mut request: HttpRequest,
    shared: &Shared,
) -> std::io::Result<Next> {
    if request.path.starts_with("/__") {
        let told = told(&request, shared);
        connection.write(&told, usize::MAX).await?;
        return Ok(Next::Request);
    }
    let target = Target::of(&request);
    let mut released = shared.released.subscribe();
    let (fault, number) = begin(&request, &target, shared);
    match fault {
        // The sender is in what is shared.
        Some(S3Fault::Hold) => drop(released.changed().await),
        Some(S3Fault::Reset) => return Ok(Next::Reset),
        Some(S3Fault::Hang) => std::future::pending().await,
        Some(S3Fault::Delay(_)) => {
            tokio::time::sleep(fault.map(S3Fault::delay).unwrap_or_default()).await;
        }
        Some(S3Fault::Tear) => request.body.truncate(request.body.len() / 2),
        _ => {}
    }
    let mut answer = match fault {
        Some(S3Fault::Status(status)) => refuse((status, code(status))),
        _ => carry_out(&request, &target, shared),
    };
    if fault == Some(S3Fault::LoseAnswer) {
        return Ok(Next::Close);
    }
    shared.lock().log[number].status = answer.status;
    let mut sent = if request.method == "HEAD" {
        0
    } else {
        usize::MAX
    };
    let mut next = Next::Request;
    match fault {
        Some(S3Fault::Truncate) => {
            sent = answer.body.len() / 2;
            next = Next::Close;
        }
        Some(S3Fault::FlipBit) if !answer.body.is_empty() => {
            let mut damaged = answer.body.to_vec();
            let middle = damaged.len() / 2;
            damaged[middle] ^= 1;
            answer.body = damaged.into();
        }
        _ => {}
    }
    connection.write(&answer, sent).await?;
    Ok(next)
}

/// Notes a request and decides what happens to it; its number in the log.
fn begin(request: &HttpRequest, target: &Target, shared: &Shared) -> (Option<S3Fault>, usize) {
    let mut inside = shared.lock();
    let fault = inside.rules.decide(target.op, &target.key);
    inside.log.push(S3Request {
        op: target.op,
        method: request.method.clone(),
        bucket: target.bucket.clone(),
        key: target.key.clone(),
        status: 0,
        fault: fault.map(|fault| format!("{fault:?}")),
    });
    (fault, inside.log.len() - 1)
}

fn carry_out(request: &HttpRequest, target: &Target, shared: &Shared) -> HttpResponse {
    let signature = request.header("authorization").unwrap_or_default();
    let credential = signature.split("Credential=").nth(1).unwrap_or_default();
    match credential.split('/').next() {
        Some(KEY_ID) => {}
        Some("") | None => return refuse((403, "AccessDenied")),
        Some(_) => return refuse((403, "InvalidAccessKeyId")),
    }
    let mut inside = shared.lock();
    inside
        .buckets
        .answer(target.op, &target.bucket, &target.key, request)
}

fn code(status: u16) -> &'static str {
    match status {
        403 => "AccessDenied",
        409 => "ConditionalRequestConflict",
        429 | 503 => "SlowDown",
        _ => "InternalError",
    }
}

/// Answers whoever runs the server as a program: `POST /__fault` adds a rule and tells its number,
/// `GET /__fault` how often each fired, `DELETE /__fault` ends all; `GET /__log`, `/__uploads` and
/// `/__keys/BUCKET` tell the rest.
fn told(request: &HttpRequest, shared: &Shared) -> HttpResponse {
    let json = |value: serde_json::Value| {
        HttpResponse::new(200).with_body("application/json", value.to_string())
    };
    let mut inside = shared.lock();
    match (request.method.as_str(), request.path.as_str()) {
        ("POST", "/__fault") => {
            let rule = serde_json::from_slice(&request.body).map_err(|error| error.to_string());
            let added =
                rule.and_then(|rule| inside.rules.add(rule).map_err(|error| error.to_string()));
            match added {
                Ok(number) => json(number.into()),
                Err(error) => HttpResponse::new(400).with_body("text/plain", error),
            }
        }
        ("GET", "/__fault") => json(inside.rules.fired().into()),
        ("DELETE", "/__fault") => {
            inside.rules.end_all();
            shared.released.send_modify(|count| *count += 1);
            json(serde_json::Value::Null)
        }
        ("GET", "/__log") => json(serde_json::json!(inside.log)),
        ("GET", "/__uploads") => {
            let uploads = inside.buckets.uploads.values();
            let keys: Vec<_> = uploads
                .map(|upload| (&upload.bucket, &upload.key, upload.parts.len()))
                .collect();
            json(serde_json::json!(keys))
        }
        ("GET", path) if path.starts_with("/__keys/") => {
            let bucket = path.trim_start_matches("/__keys/");
            let objects = inside.buckets.buckets.get(bucket);
            let keys: Vec<_> = objects
                .into_iter()
                .flat_map(|objects| objects.keys())
                .collect();
            json(serde_json::json!(keys))
        }
        _ => HttpResponse::new(404),
    }
}
