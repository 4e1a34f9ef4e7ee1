//! What of a journal is worth to be kept.

use std::collections::BTreeMap;

use kiln_engine::Result;
use kiln_engine::id::JobId;
use kiln_proto::convert::journal::{encode_entry, encode_record};
use kiln_proto::message::{Entry, JobState, Record};

use crate::journal::election::is_beginning;
use crate::journal::store::JournalStore;
use crate::scheduler::{Detail, Scheduler};
use crate::settings::DriverSettings;

/// Replaces all entries up to now by a snapshot of what is still of use; gives its bytes. Who does
/// that need not lead: a snapshot says nothing new, and what it stands for does not change.
///
/// # Errors
/// `Corrupt` if the journal makes no sense; what the store answers.
pub(crate) async fn compact(store: &JournalStore) -> Result<u64> {
    let loaded = store.load().await?;
    let Some(last) = loaded.entries.last() else {
        return Ok(0);
    };
    let (end, term, writer) = (last.sequence, last.term, last.writer);
    let before = loaded.snapshot.as_ref().map_or(0, |one| one.sequence);
    let replaced = loaded.entries.iter().filter(|entry| !is_beginning(entry));
    let mut gone: Vec<u64> = replaced.map(|entry| entry.sequence).collect();
    let kept = fold(loaded.records().cloned().collect())?;
    let kept = kept.iter().map(encode_record).collect::<Result<_>>()?;
    let snapshot = encode_entry(term, writer, end, kept);
    store.put_snapshot(end, &snapshot).await?;
    // Further back there are only beginnings of leaderships, and what was left behind when
    // somebody was cut off right here.
    for number in store.numbers().await?.into_iter().filter(|&n| n <= before) {
        let entry: Option<Entry> = store.entry(number).await?;
        gone.extend(entry.filter(|entry| !is_beginning(entry)).map(|_| number));
    }
    store.remove_before(end, &gone).await?;
    Ok(snapshot.len() as u64)
}

/// Records that say the same as these of who leads and of every job, as far as anybody still
/// needs it: a job that has ended and whose result is gone is its last status, and a forgotten one
/// is nothing.
///
/// # Errors
/// `Corrupt` if they contradict one another.
pub(crate) fn fold(records: Vec<Record>) -> Result<Vec<Record>> {
    let mut order = Vec::new();
    let mut jobs: BTreeMap<JobId, Vec<Record>> = BTreeMap::new();
    let mut leadership = Vec::new();
    for record in records {
        let Some(job) = record.job() else {
            match record {
                Record::Term { .. } => leadership = vec![record],
                Record::Resigned => leadership.push(record),
                _ => {}
            }
            continue;
        };
        let of_job = jobs.entry(job).or_insert_with(|| {
            order.push(job);
            Vec::new()
        });
        of_job.push(record);
    }
    let mut kept = leadership;
    for job in order {
        let records = jobs.remove(&job).unwrap_or_default();
        let is_forgotten = |record: &Record| matches!(record, Record::Forgotten { .. });
        if !records.iter().any(is_forgotten) {
            kept.extend(fold_job(job, records)?);
        }
    }
    Ok(kept)
}

fn fold_job(job: JobId, records: Vec<Record>) -> Result<Vec<Record>> {
    let has_ended = |record: &Record| match record {
        Record::Ended(ended) => Some(ended.state),
        _ => None,
    };
    let Some(state) = records.iter().find_map(has_ended) else {
        return Ok(records);
    };
    let key = records.iter().find_map(|record| match record {
        Record::Submitted(submitted) => Some(submitted.submission.key),
        _ => None,
    });
    let is_tidy = |record: &Record| match record {
        Record::Cleaned { .. } => Some(true),
        Record::Untidy { .. } => Some(false),
        _ => None,
    };
    let cleaned = records.iter().rev().find_map(is_tidy).unwrap_or_default();
    let mut scheduler = Scheduler::new(DriverSettings::default());
    for record in &records {
        scheduler.restore(record.clone())?;
    }
    let is_kept = state == JobState::Done && scheduler.result(job).is_some();
    let status = scheduler.status(job, Detail::Stages);
    match (key, status) {
        (Some(key), Some(status)) if !is_kept => Ok(vec![Record::Archived {
            key,
            status: Box::new(status),
            cleaned,
        }]),
        _ => Ok(records),
    }
}
