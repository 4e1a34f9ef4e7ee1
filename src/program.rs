//! The program of a session on a cluster: how its binary gets there, and what is said of it.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use kiln_driver::client::{Client, PROGRAM_PIECE_BYTES};
use kiln_engine::id::JobId;
use kiln_engine::plan::{Binary, Program, Sha256};
use kiln_engine::storage::sha256_of_file;
use kiln_engine::{Error, Result, limits};
use kiln_proto::message::{OfferedProgram, PROTOCOL_VERSION, platform};
use tokio::io::AsyncReadExt as _;
use tokio::sync::OnceCell;

/// The environment variable that names a file for the ids of the jobs that a program submits, a
/// line each: how `kiln submit` learns of them.
pub const JOBS_FILE_VARIABLE: &str = "KILN_JOBS_FILE";

/// Functions whose names begin with this are Kiln's own: every executor has them.
pub(crate) const OWN_PREFIX: &str = "kiln.";

/// A program and what its processes on a cluster are given.
#[derive(Debug)]
pub(crate) struct Hosted {
    functions: Vec<String>,
    limits: ProgramLimits,
    environment: BTreeMap<String, String>,
    jobs_file: Option<PathBuf>,
    /// Whether it is Kiln itself, which every executor has.
    is_kiln: bool,
    /// The SHA-256 of its binary, and its bytes.
    hashed: OnceCell<(Sha256, u64)>,
}

/// What the functions of a program may use in one process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProgramLimits {
    /// Bytes of memory.
    pub(crate) memory: u64,
    /// Milliseconds that a call may go on without a sign of life.
    pub(crate) call_ms: u64,
}

impl Default for ProgramLimits {
    fn default() -> Self {
        ProgramLimits {
            memory: limits::PROGRAM_MEMORY_BYTES,
            call_ms: limits::PROGRAM_CALL_MS,
        }
    }
}

impl Hosted {
    /// The program that this process runs, with the functions that it has registered.
    pub(crate) fn this_process(
        functions: Vec<String>,
        limits: ProgramLimits,
        environment: BTreeMap<String, String>,
    ) -> Self {
        Hosted {
            functions,
            limits,
            environment,
            jobs_file: std::env::var_os(JOBS_FILE_VARIABLE).map(PathBuf::from),
            is_kiln: false,
            hashed: OnceCell::new(),
        }
    }

    /// What every executor has.
    fn kiln(functions: Vec<String>) -> Self {
        let limits = ProgramLimits::default();
        Hosted {
            is_kiln: true,
            ..Hosted::this_process(functions, limits, BTreeMap::new())
        }
    }

    /// The program as a driver is told of it, in its storage by then. That is asked for each job
    /// anew: what no job has called for long does not stay there.
    ///
    /// # Errors
    /// What reading the binary and the driver answer.
    async fn offer(&self, client: &Client) -> Result<OfferedProgram> {
        let binary = match self.is_kiln {
            true => Binary::Kiln,
            false => self.stage_this_process(client).await?,
        };
        let ProgramLimits { memory, call_ms } = self.limits;
        Ok(OfferedProgram {
            program: Program {
                binary,
                memory,
                call_ms,
                environment: self.environment.clone(),
            },
            platform: platform(),
            protocol: PROTOCOL_VERSION,
            functions: self.functions.clone(),
        })
    }

    /// Puts the binary of this process into the cluster's storage, unless it is there.
    async fn stage_this_process(&self, client: &Client) -> Result<Binary> {
        let path = this_binary()?;
        let hashed = self.hashed.get_or_try_init(|| hash(path.clone())).await;
        let (sha256, bytes) = *hashed?;
        tracing::debug!(%sha256, bytes, "staging the program");
        let binary = || pieces(path.clone());
        client.stage_program(sha256, bytes, binary).await?;
        Ok(Binary::Staged { sha256, bytes })
    }

    /// Tells whoever started this program, if they asked, that it has submitted a job.
    ///
    /// # Errors
    /// `Unavailable` if the file cannot be written.
    pub(crate) fn announce(&self, job: JobId) -> Result<()> {
        let Some(path) = &self.jobs_file else {
            return Ok(());
        };
        let opened = OpenOptions::new().append(true).open(path);
        let written = opened.and_then(|mut file| file.write_all(format!("{job}\n").as_bytes()));
        written.or_else(|error| {
            // Whoever asked knows of a job by now and has left.
            if error.kind() == io::ErrorKind::NotFound {
                return Ok(());
            }
            let text = format!("cannot say which job was submitted path={}", path.display());
            Err(Error::unavailable(text).with_source(error))
        })
    }
}

/// What a plan that calls the functions `called` has to come with.
///
/// # Errors
/// As for [`Hosted::offer`].
pub(crate) async fn offered(
    hosted: Option<&Hosted>,
    called: impl IntoIterator<Item = String>,
    client: &Client,
) -> Result<Option<OfferedProgram>> {
    let called: Vec<String> = called.into_iter().collect();
    if called.is_empty() {
        return Ok(None);
    }
    if called.iter().all(|name| name.starts_with(OWN_PREFIX)) {
        return Hosted::kiln(called).offer(client).await.map(Some);
    }
    match hosted {
        Some(hosted) => hosted.offer(client).await.map(Some),
        None => Ok(None),
    }
}

async fn hash(path: PathBuf) -> Result<(Sha256, u64)> {
    let hashed = tokio::task::spawn_blocking(move || sha256_of_file(&path)).await;
    hashed.map_err(|error| Error::internal("hashing the program was cut off").with_source(error))?
}

/// The file that this process was started from, even if another has its name by now.
fn this_binary() -> Result<PathBuf> {
    let running = Path::new("/proc/self/exe");
    if running.exists() {
        return Ok(running.to_owned());
    }
    std::env::current_exe().map_err(|error| {
        Error::unavailable("cannot find the binary of this program").with_source(error)
    })
}

/// A file, piece by piece.
fn pieces(path: PathBuf) -> BoxStream<'static, Result<bytes::Bytes>> {
    let failed = |error| Error::unavailable("cannot read the program").with_source(error);
    let opened = async move { tokio::fs::File::open(path).await.map_err(failed) };
    let read = stream::once(opened).flat_map(move |file| match file {
        Err(error) => stream::once(async { Err(error) }).boxed(),
        Ok(file) => stream::try_unfold(file, move |mut file| async move {
            let mut piece = BytesMut::with_capacity(PROGRAM_PIECE_BYTES);
            let mut room = (&mut file).take(PROGRAM_PIECE_BYTES as u64);
            while room.read_buf(&mut piece).await.map_err(failed)? > 0 {}
            Ok((!piece.is_empty()).then(|| (piece.freeze(), file)))
        })
        .boxed(),
    });
    read.boxed()
}
