//! The rows of a job as they arrive, taken up again where they broke off.
//!
//! A result is the same batches in the same order whichever driver sends it, so one that begins
//! again is passed over as far as it was delivered before. What is passed over is counted too: a
//! result of other rows is an error, never a mixture.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use kiln_engine::id::JobId;
use kiln_engine::shuffle::decode_blocks;
use kiln_engine::{Error, Result};
use kiln_proto::convert::schema;
use kiln_proto::wire;
use kiln_proto::wire::result_message::Message as ResultPart;
use tonic::{Status, Streaming};

use super::leader::{Absence, Leader, Leaders};
use super::request;

/// The rows of a job, over one driver after the other.
pub(super) struct Rows {
    leaders: Arc<Leaders>,
    job: JobId,
    absence: Absence,
    schema: SchemaRef,
    messages: Streaming<wire::ResultMessage>,
    leader: Leader,
    assembly: Assembly,
    arrived: VecDeque<RecordBatch>,
    replay: Replay,
}

/// How a part of a result was not there.
enum Broken {
    /// The stream broke.
    Lost(Status),
    /// What arrived makes no sense.
    Wrong(Error),
}

impl Rows {
    /// Waits for `job` to end and begins with its result.
    ///
    /// # Errors
    /// The job's failure, or why its rows are not to be had.
    pub(super) async fn open(leaders: Arc<Leaders>, job: JobId) -> Result<Self> {
        let mut absence = leaders.absence();
        let (messages, leader, schema) = begin(&leaders, job, &mut absence).await?;
        Ok(Rows {
            leaders,
            job,
            absence,
            schema,
            messages,
            leader,
            assembly: Assembly::default(),
            arrived: VecDeque::new(),
            replay: Replay::default(),
        })
    }

    /// Their columns.
    pub(super) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The rows themselves.
    pub(super) fn stream(self) -> BoxStream<'static, Result<RecordBatch>> {
        let batches = stream::try_unfold(self, |mut rows| async move {
            let next = rows.next().await?;
            Ok::<_, Error>(next.map(|batch| (batch, rows)))
        });
        batches.into_stream().boxed()
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            while let Some(batch) = self.arrived.pop_front() {
                if self.replay.is_new(&batch)? {
                    return Ok(Some(batch));
                }
            }
            match part(&mut self.messages).await {
                Ok(Some(ResultPart::Piece(piece))) => {
                    self.absence.end();
                    if let Some(blocks) = self.assembly.push(piece) {
                        self.arrived.extend(decode(blocks, &self.schema)?);
                    }
                }
                Ok(Some(ResultPart::Schema(_))) => {
                    return Err(malformed("has a part that is no piece"));
                }
                Ok(None) => return self.replay.end().map(|()| None),
                Err(Broken::Wrong(error)) => return Err(error),
                Err(Broken::Lost(status)) => {
                    let absence = &mut self.absence;
                    self.leaders.lost(&self.leader, &status, absence).await?;
                    self.begin_again().await?;
                }
            }
        }
    }

    async fn begin_again(&mut self) -> Result<()> {
        let begun = begin(&self.leaders, self.job, &mut self.absence).await?;
        let (messages, leader, schema) = begun;
        if schema != self.schema {
            return Err(changed(self.job));
        }
        (self.messages, self.leader) = (messages, leader);
        self.assembly = Assembly::default();
        self.arrived.clear();
        self.replay.start();
        Ok(())
    }
}

/// Asks for the result of `job` until its columns have arrived.
async fn begin(
    leaders: &Leaders,
    job: JobId,
    absence: &mut Absence,
) -> Result<(Streaming<wire::ResultMessage>, Leader, SchemaRef)> {
    loop {
        let question = |mut jobs: wire::jobs_client::JobsClient<_>| async move {
            jobs.result(request(job)).await
        };
        let (mut messages, leader) = leaders.ask(absence, question).await?;
        match part(&mut messages).await {
            Ok(Some(ResultPart::Schema(bytes))) => {
                return Ok((messages, leader, schema::decode(&bytes)?));
            }
            Ok(_) => return Err(malformed("does not begin with a schema")),
            Err(Broken::Wrong(error)) => return Err(error),
            Err(Broken::Lost(status)) => leaders.lost(&leader, &status, absence).await?,
        }
    }
}

async fn part(messages: &mut Streaming<wire::ResultMessage>) -> Result<Option<ResultPart>, Broken> {
    match messages.message().await.map_err(Broken::Lost)? {
        None => Ok(None),
        Some(message) => match message.message {
            Some(part) => Ok(Some(part)),
            None => Err(Broken::Wrong(malformed("has a part that is no piece"))),
        },
    }
}

fn malformed(what: &str) -> Error {
    Error::invalid(format!("malformed message: a result {what}"))
}

fn changed(job: JobId) -> Error {
    let text = "the result is another one than the one whose first rows were delivered";
    Error::internal(format!("{text} job={job}"))
}

fn decode(blocks: Bytes, schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
    let mut batches = Vec::new();
    decode_blocks(blocks, Some(schema), &mut |batch| {
        batches.push(batch);
        Ok(())
    })?;
    Ok(batches)
}

/// What was delivered, and how far a result that began again has come to that.
#[derive(Debug, Default)]
struct Replay {
    delivered: Passed,
    passed: Passed,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Passed {
    batches: u64,
    rows: u64,
}

impl Replay {
    /// The result begins again.
    fn start(&mut self) {
        self.passed = Passed::default();
    }

    /// Whether `batch`, the next one, was not delivered yet; it is now.
    fn is_new(&mut self, batch: &RecordBatch) -> Result<bool> {
        let was_behind = self.passed.batches < self.delivered.batches;
        self.passed.batches += 1;
        self.passed.rows += batch.num_rows() as u64;
        if !was_behind {
            self.delivered = self.passed;
            return Ok(true);
        }
        let is_level = self.passed.batches == self.delivered.batches;
        if is_level && self.passed.rows != self.delivered.rows {
            return Err(other_rows());
        }
        Ok(false)
    }

    /// The result is at its end.
    fn end(&self) -> Result<()> {
        match self.passed == self.delivered {
            true => Ok(()),
            false => Err(other_rows()),
        }
    }
}

fn other_rows() -> Error {
    Error::internal("a result that was read again has other rows than before")
}

/// Puts the pieces of a run of blocks together again.
#[derive(Default)]
struct Assembly(BytesMut);

impl Assembly {
    /// The run of blocks, when its last piece has arrived. A run of one piece is not copied.
    fn push(&mut self, piece: wire::Piece) -> Option<Bytes> {
        if piece.last && self.0.is_empty() {
            return Some(piece.data);
        }
        self.0.extend_from_slice(&piece.data);
        piece.last.then(|| self.0.split().freeze())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};

    use super::*;
    use crate::service::pieces;

    #[test]
    fn pieces_fit_into_messages_and_are_put_together_again() {
        let most = wire::PIECE_BYTES_MAX;
        let mut assembly = Assembly::default();
        for (len, count) in [
            (0, 1),
            (1, 1),
            (most, 1),
            (most + 1, 2),
            (2 * most, 2),
            (9, 1),
        ] {
            let chunk: Bytes = (0..len).map(|i| (i % 251) as u8).collect();
            let pieces = pieces(chunk.clone());
            assert_eq!(pieces.len(), count, "len={len}");
            assert!(pieces.iter().all(|piece| piece.data.len() <= most));
            let runs: Vec<_> = pieces
                .into_iter()
                .filter_map(|p| assembly.push(p))
                .collect();
            assert!(runs == [chunk], "len={len}");
        }
    }

    fn batch(rows: i64) -> RecordBatch {
        let column: ArrayRef = Arc::new((0..rows).collect::<Int64Array>());
        RecordBatch::try_from_iter([("n", column)]).expect("one column")
    }

    /// Which of the batches with so many rows each are new, until an error.
    fn new(replay: &mut Replay, rows: &[i64]) -> String {
        replay.start();
        let told = rows.iter().map(|&rows| match replay.is_new(&batch(rows)) {
            Ok(true) => "new",
            Ok(false) => "old",
            Err(_) => "wrong",
        });
        told.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn batches_that_were_delivered_are_passed_over_and_others_noticed() {
        let mut replay = Replay::default();
        assert_eq!(new(&mut replay, &[5, 0, 3]), "new new new");
        assert_eq!(new(&mut replay, &[5, 0]), "old old");
        assert!(replay.end().is_err(), "it ended before what was delivered");
        assert_eq!(new(&mut replay, &[5, 0, 3, 2]), "old old old new");
        replay.end().expect("all was delivered");
        assert_eq!(new(&mut replay, &[5, 0, 3, 1]), "old old old wrong");
    }
}
