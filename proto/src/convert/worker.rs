//! What goes between an executor and a worker process: bytes, for whoever frames them.

use kiln_engine::Result;
use prost::Message as _;

use crate::convert::task::{
    decode_counts, decode_failure, decode_spec, decode_success, encode_counts, encode_failure,
    encode_spec, encode_success,
};
use crate::convert::{malformed, need};
use crate::message::{FromWorker, ToWorker, WorkerHello, WorkerRun, WorkerStart};
use crate::wire;
use crate::wire::{supervisor_message, worker_message};

/// A message of a worker process.
pub fn encode_from_worker(message: &FromWorker) -> Vec<u8> {
    use worker_message::Message;
    let message = match message {
        FromWorker::Hello(hello) => Message::Hello(wire::WorkerHello {
            protocol: hello.protocol,
            platform: hello.platform.clone(),
            functions: hello.functions.clone(),
        }),
        FromWorker::Progress(counts) => Message::Progress(Box::new(encode_counts(counts))),
        FromWorker::Ended(Ok(success)) => Message::Success(Box::new(encode_success(success))),
        FromWorker::Ended(Err(failure)) => Message::Failure(encode_failure(failure)),
    };
    let message = Some(message);
    wire::WorkerMessage { message }.encode_to_vec()
}

/// A message of a worker process, as its executor gets it.
///
/// # Errors
/// `Invalid` if it is malformed.
pub fn decode_from_worker(bytes: &[u8]) -> Result<FromWorker> {
    use worker_message::Message;
    let message = wire::WorkerMessage::decode(bytes).map_err(malformed)?;
    Ok(match need(message.message, "message of a worker")? {
        Message::Hello(hello) => FromWorker::Hello(WorkerHello {
            protocol: hello.protocol,
            platform: hello.platform,
            functions: hello.functions,
        }),
        Message::Progress(counts) => FromWorker::Progress(decode_counts(Some(*counts))?),
        Message::Success(success) => FromWorker::Ended(Ok(decode_success(*success)?)),
        Message::Failure(failure) => FromWorker::Ended(Err(decode_failure(failure)?)),
    })
}

/// A message to a worker process.
///
/// # Errors
/// `Invalid` if it is a task with an expression that nests too deeply.
pub fn encode_to_worker(message: &ToWorker) -> Result<Vec<u8>> {
    use supervisor_message::Message;
    let message = match message {
        ToWorker::Start(start) => Message::Start(wire::WorkerStart {
            threads: start.threads,
            memory: start.memory,
            board: start.board.clone(),
            tick_ms: start.tick_ms,
        }),
        ToWorker::Run(run) => Message::Run(Box::new(wire::WorkerRun {
            storage: run.storage.clone(),
            memory: run.memory,
            spec: Some(encode_spec(&run.spec)?),
        })),
        ToWorker::Cancel => Message::Cancel(wire::WorkerCancel {}),
    };
    let message = Some(message);
    Ok(wire::SupervisorMessage { message }.encode_to_vec())
}

/// A message of the executor, as a worker process gets it.
///
/// # Errors
/// `Invalid` if it is malformed.
pub fn decode_to_worker(bytes: &[u8]) -> Result<ToWorker> {
    use supervisor_message::Message;
    let message = wire::SupervisorMessage::decode(bytes).map_err(malformed)?;
    Ok(match need(message.message, "message to a worker")? {
        Message::Start(start) => {
            if start.threads == 0 {
                return Err(malformed("a worker of 0 threads"));
            }
            ToWorker::Start(WorkerStart {
                threads: start.threads,
                memory: start.memory,
                board: start.board,
                tick_ms: start.tick_ms,
            })
        }
        Message::Run(run) => ToWorker::Run(WorkerRun {
            storage: run.storage,
            memory: run.memory,
            spec: decode_spec(need(run.spec, "task of a run")?)?,
        }),
        Message::Cancel(wire::WorkerCancel {}) => ToWorker::Cancel,
    })
}
