//! The journal of a driver: bytes, for whoever stores them.
//!
//! Entries are read by later versions, and by a stranger's eyes when something has gone wrong, so
//! they are encoded as everything else that leaves a process; and what is read is trusted as
//! little: a store may have kept half of it.

use std::sync::Arc;

use bytes::Bytes;
use kiln_engine::Result;
use kiln_engine::id::{JobId, StageId};
use kiln_engine::plan::{
    ClusterShape, FileMeta, Stage, StageFacts, StageGraph, StageSource, TaskSuccess,
};
use prost::Message as _;

use crate::convert::enums::Twin;
use crate::convert::job;
use crate::convert::output::{decode_output, encode_output};
use crate::convert::shuffle::{decode_cut, encode_cut};
use crate::convert::task::{
    decode_failure, decode_job_id, decode_split, decode_success, decode_task_id, encode_failure,
    encode_split, encode_success, encode_task_id,
};
use crate::convert::{malformed, need, plan, program, stage};
use crate::message::{
    Ended, Entry, JobState, PROTOCOL_VERSION, Planned, Prepared, Record, Submission, Submitted,
    Won, WriterId,
};
use crate::wire;
use crate::wire::journal_record::Record as WireRecord;

/// A record of a journal, for [`encode_entry`].
///
/// # Errors
/// `Invalid` if an expression in it nests too deeply.
pub fn encode_record(record: &Record) -> Result<Bytes> {
    Ok(to_wire(record)?.encode_to_vec().into())
}

/// An entry of a journal with records that are encoded already.
pub fn encode_entry(term: u64, writer: WriterId, sequence: u64, records: Vec<Bytes>) -> Vec<u8> {
    let entry = wire::JournalEntry {
        term,
        writer: encode_writer(writer),
        sequence,
        records,
    };
    entry.encode_to_vec()
}

/// An entry of a journal, as it was stored.
///
/// # Errors
/// `Invalid` if it is malformed, or has a record that this version does not know.
pub fn decode_entry(bytes: &[u8]) -> Result<Entry> {
    let entry = wire::JournalEntry::decode(bytes).map_err(malformed)?;
    let records = entry.records.iter().map(|record| {
        let record = wire::JournalRecord::decode(&**record).map_err(malformed)?;
        decode_record(record)
    });
    Ok(Entry {
        term: entry.term,
        writer: decode_writer(&entry.writer)?,
        sequence: entry.sequence,
        records: records.collect::<Result<_>>()?,
    })
}

fn encode_writer(writer: WriterId) -> Bytes {
    Bytes::copy_from_slice(&writer.0.to_be_bytes())
}

fn decode_writer(bytes: &[u8]) -> Result<WriterId> {
    let bytes = bytes.try_into();
    let bytes = bytes.map_err(|_| malformed("the writer of an entry is not 16 bytes"))?;
    Ok(WriterId(u128::from_be_bytes(bytes)))
}

fn to_wire(record: &Record) -> Result<wire::JournalRecord> {
    let of = |job: JobId| wire::JobRecord { job: job.value() };
    let record = match record {
        Record::Term { url, at_ms } => WireRecord::Term(wire::TermRecord {
            url: url.clone(),
            at_ms: *at_ms,
        }),
        Record::Submitted(submitted) => WireRecord::Submitted(encode_submitted(submitted)?),
        Record::Planned(planned) => WireRecord::Planned(encode_planned(planned)?),
        Record::Prepared(prepared) => WireRecord::Prepared(wire::PreparedRecord {
            job: prepared.job.value(),
            stage: prepared.stage.0,
            ends: prepared.ends.clone(),
            producers: prepared.producers.clone(),
            cuts: prepared.cuts.iter().map(encode_cut).collect(),
        }),
        Record::Won(won) => WireRecord::Won(encode_won(won)),
        Record::Revoked { task, attempt } => WireRecord::Revoked(wire::RevokedRecord {
            task: Some(encode_task_id(*task)),
            attempt: *attempt,
        }),
        Record::Committing { job } => WireRecord::Committing(of(*job)),
        Record::Ended(ended) => WireRecord::Ended(wire::EndedRecord {
            job: ended.job.value(),
            at_ms: ended.at_ms,
            state: ended.state.encode(),
            failure: ended.failure.as_ref().map(encode_failure),
        }),
        Record::Cleaned { job } => WireRecord::Cleaned(of(*job)),
        Record::Untidy { job } => WireRecord::Untidy(of(*job)),
        Record::ResultDropped { job } => WireRecord::ResultDropped(of(*job)),
        Record::Forgotten { job } => WireRecord::Forgotten(of(*job)),
        Record::Archived {
            key,
            status,
            cleaned,
        } => WireRecord::Archived(wire::ArchivedRecord {
            key: *key,
            status: Some(job::encode(status)),
            cleaned: *cleaned,
        }),
        Record::Alive => WireRecord::Alive(wire::Unit {}),
        Record::Resigned => WireRecord::Resigned(wire::Unit {}),
    };
    Ok(wire::JournalRecord {
        record: Some(record),
    })
}

fn decode_record(record: wire::JournalRecord) -> Result<Record> {
    let known = "record of a journal, which a newer version of kiln may have written,";
    Ok(match need(record.record, known)? {
        WireRecord::Term(wire::TermRecord { url, at_ms }) => Record::Term { url, at_ms },
        WireRecord::Submitted(submitted) => {
            Record::Submitted(Box::new(decode_submitted(submitted)?))
        }
        WireRecord::Planned(planned) => Record::Planned(Box::new(decode_planned(planned)?)),
        WireRecord::Prepared(prepared) => Record::Prepared(decode_prepared(prepared)?),
        WireRecord::Won(won) => Record::Won(Box::new(decode_won(won)?)),
        WireRecord::Revoked(revoked) => Record::Revoked {
            task: decode_task_id(revoked.task)?,
            attempt: revoked.attempt,
        },
        WireRecord::Committing(of) => Record::Committing {
            job: decode_job_id(of.job)?,
        },
        WireRecord::Ended(ended) => Record::Ended(Box::new(decode_ended(ended)?)),
        WireRecord::Cleaned(of) => Record::Cleaned {
            job: decode_job_id(of.job)?,
        },
        WireRecord::Untidy(of) => Record::Untidy {
            job: decode_job_id(of.job)?,
        },
        WireRecord::ResultDropped(of) => Record::ResultDropped {
            job: decode_job_id(of.job)?,
        },
        WireRecord::Forgotten(of) => Record::Forgotten {
            job: decode_job_id(of.job)?,
        },
        WireRecord::Archived(archived) => Record::Archived {
            key: archived.key,
            status: Box::new(job::decode(need(archived.status, "status of a job")?)?),
            cleaned: archived.cleaned,
        },
        WireRecord::Alive(wire::Unit {}) => Record::Alive,
        WireRecord::Resigned(wire::Unit {}) => Record::Resigned,
    })
}

fn encode_submitted(submitted: &Submitted) -> Result<wire::SubmittedRecord> {
    let Submission {
        name,
        key,
        plan,
        program,
        weight,
    } = &submitted.submission;
    Ok(wire::SubmittedRecord {
        job: submitted.job.value(),
        at_ms: submitted.at_ms,
        term: submitted.term,
        request: Some(wire::SubmitRequest {
            protocol: PROTOCOL_VERSION,
            name: name.clone(),
            key: *key,
            plan: Some(plan::encode(plan)?),
            program: program.as_ref().map(program::encode_offered),
            weight: Some(*weight),
        }),
    })
}

fn decode_submitted(submitted: wire::SubmittedRecord) -> Result<Submitted> {
    let request = need(submitted.request, "request for a job")?;
    Ok(Submitted {
        job: decode_job_id(submitted.job)?,
        at_ms: submitted.at_ms,
        term: submitted.term,
        submission: Submission {
            name: request.name,
            key: request.key,
            plan: plan::decode(need(request.plan, "plan of a job")?)?,
            program: request.program.map(program::decode_offered).transpose()?,
            weight: request.weight.unwrap_or(1),
        },
    })
}

fn encode_planned(planned: &Planned) -> Result<wire::PlannedRecord> {
    let Planned {
        job,
        cluster,
        done,
        graph,
    } = planned;
    let ClusterShape {
        executors,
        threads,
        memory,
        may_grow,
    } = *cluster;
    let stages = graph.stages.iter().map(|stage| encode_stage(stage));
    Ok(wire::PlannedRecord {
        job: job.value(),
        cluster: Some(wire::ClusterShape {
            executors,
            threads,
            memory,
            may_grow,
        }),
        done: done.iter().map(encode_facts).collect(),
        stages: stages.collect::<Result<_>>()?,
        complete: graph.complete,
        output: graph.output.as_ref().map(encode_output),
    })
}

fn decode_planned(planned: wire::PlannedRecord) -> Result<Planned> {
    let wire::ClusterShape {
        executors,
        threads,
        memory,
        may_grow,
    } = need(planned.cluster, "cluster of a plan")?;
    let stages = planned.stages.into_iter().map(decode_stage);
    Ok(Planned {
        job: decode_job_id(planned.job)?,
        cluster: ClusterShape {
            executors,
            threads,
            memory,
            may_grow,
        },
        done: planned.done.iter().map(decode_facts).collect(),
        graph: StageGraph {
            stages: stages.collect::<Result<_>>()?,
            complete: planned.complete,
            output: planned.output.map(decode_output).transpose()?,
        },
    })
}

fn encode_facts(facts: &StageFacts) -> wire::StageFacts {
    let StageFacts { stage, rows, bytes } = *facts;
    let stage = stage.0;
    wire::StageFacts { stage, rows, bytes }
}

fn decode_facts(facts: &wire::StageFacts) -> StageFacts {
    let wire::StageFacts { stage, rows, bytes } = *facts;
    let stage = StageId(stage);
    StageFacts { stage, rows, bytes }
}

fn encode_stage(stage: &Stage) -> Result<wire::PlannedStage> {
    let (files, tasks) = match &stage.source {
        StageSource::Scan(scan) => (scan.files.as_slice(), scan.tasks.as_slice()),
        StageSource::Shuffle { .. } => (&[][..], &[][..]),
    };
    let file = |file: &FileMeta| wire::InputFile {
        url: file.url.clone(),
        bytes: file.bytes,
    };
    let splits = |splits: &Vec<_>| wire::Splits {
        splits: splits.iter().map(encode_split).collect(),
    };
    Ok(wire::PlannedStage {
        stage: Some(stage::encode(stage)?),
        files: files.iter().map(file).collect(),
        tasks: tasks.iter().map(splits).collect(),
    })
}

fn decode_stage(planned: wire::PlannedStage) -> Result<Arc<Stage>> {
    let mut stage = stage::decode(need(planned.stage, "stage of a plan")?)?;
    let file = |file: wire::InputFile| FileMeta {
        url: file.url,
        bytes: file.bytes,
    };
    let splits = |splits: wire::Splits| splits.splits.into_iter().map(decode_split).collect();
    match &mut stage.source {
        StageSource::Scan(scan) => {
            scan.files = planned.files.into_iter().map(file).collect();
            let tasks = planned.tasks.into_iter().map(splits);
            scan.tasks = tasks.collect::<Result<_>>()?;
        }
        StageSource::Shuffle { .. } if planned.files.is_empty() && planned.tasks.is_empty() => {}
        StageSource::Shuffle { .. } => return Err(malformed("a shuffle of files")),
    }
    Ok(Arc::new(stage))
}

fn decode_prepared(prepared: wire::PreparedRecord) -> Result<Prepared> {
    if !prepared.ends.is_sorted() {
        return Err(malformed("the tasks of a stage are not in order"));
    }
    if !prepared.producers.is_empty() && prepared.producers.len() != prepared.ends.len() {
        return Err(malformed("producers of other tasks than a stage has"));
    }
    let cuts = prepared.cuts.into_iter().map(decode_cut);
    let cuts = cuts.collect::<Result<Vec<_>>>()?;
    if !cuts.is_sorted_by(|one, next| one < next) {
        return Err(malformed("the cuts of an order are not in order"));
    }
    Ok(Prepared {
        job: decode_job_id(prepared.job)?,
        stage: StageId(prepared.stage),
        ends: prepared.ends,
        producers: prepared.producers,
        cuts,
    })
}

fn encode_won(won: &Won) -> wire::WonRecord {
    wire::WonRecord {
        task: Some(encode_task_id(won.task)),
        attempt: won.attempt,
        executor: won.executor.to_string(),
        started_ms: won.started_ms,
        ended_ms: won.ended_ms,
        success: Some(encode_success(&won.success)),
    }
}

fn decode_won(won: wire::WonRecord) -> Result<Won> {
    let success: TaskSuccess = decode_success(need(won.success, "output of a task")?)?;
    Ok(Won {
        task: decode_task_id(won.task)?,
        attempt: won.attempt,
        executor: won.executor.into(),
        started_ms: won.started_ms,
        ended_ms: won.ended_ms,
        success,
    })
}

fn decode_ended(ended: wire::EndedRecord) -> Result<Ended> {
    let state = JobState::decode(ended.state)?;
    if !state.is_final() {
        return Err(malformed("a job ended in a state that is no end"));
    }
    Ok(Ended {
        job: decode_job_id(ended.job)?,
        at_ms: ended.at_ms,
        state,
        failure: ended.failure.map(decode_failure).transpose()?,
    })
}
