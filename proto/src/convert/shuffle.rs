//! Where the rows of a shuffle are: partitions and ranges of an order, and what a task reads of
//! them.
//!
//! They travel as packed columns, because they are what makes a task's message large.

use kiln_engine::id::StageId;
use kiln_engine::plan::{Cut, PartitionMeta, RangeInput, ShuffleInput, ShuffleSource, Stretch};
use kiln_engine::{Result, limits};

use crate::convert::{malformed, need};
use crate::wire;

/// A range of an order, for a task to read.
pub(super) fn encode_range(range: &RangeInput) -> wire::RangeInput {
    wire::RangeInput {
        stage: range.stage.0,
        start: range.start.as_ref().map(encode_cut),
        end: range.end.as_ref().map(encode_cut),
        sources: range.sources.iter().map(encode_source).collect(),
    }
}

pub(super) fn decode_range(range: wire::RangeInput) -> Result<RangeInput> {
    let start = range.start.map(decode_cut).transpose()?;
    let end = range.end.map(decode_cut).transpose()?;
    if let (Some(start), Some(end)) = (&start, &end)
        && start > end
    {
        return Err(malformed("a range of an order ends before it begins"));
    }
    Ok(RangeInput {
        stage: StageId(range.stage),
        start,
        end,
        sources: range
            .sources
            .into_iter()
            .map(decode_source)
            .collect::<Result<_>>()?,
    })
}

pub(super) fn encode_cut(cut: &Cut) -> wire::Cut {
    let Cut { key, task } = cut.clone();
    wire::Cut { key, task }
}

pub(super) fn decode_cut(cut: wire::Cut) -> Result<Cut> {
    let wire::Cut { key, task } = cut;
    check_key(&key)?;
    if Cut::new(key.clone(), task).task != task {
        return Err(malformed("a task where a key is cut off"));
    }
    Ok(Cut { key, task })
}

fn check_key(key: &[u8]) -> Result<()> {
    match key.len() <= limits::CUT_KEY_BYTES_MAX {
        true => Ok(()),
        false => Err(malformed(format_args!("a key of {} bytes", key.len()))),
    }
}

pub(super) fn encode_shuffle(input: &ShuffleInput) -> wire::ShuffleInput {
    let ShuffleInput {
        stage,
        partitions,
        sources,
    } = input;
    wire::ShuffleInput {
        stage: stage.0,
        start: partitions.start,
        end: partitions.end,
        sources: sources.iter().map(encode_source).collect(),
    }
}

pub(super) fn decode_shuffle(input: wire::ShuffleInput) -> Result<ShuffleInput> {
    let wire::ShuffleInput {
        stage,
        start,
        end,
        sources,
    } = input;
    if start > end || end > limits::SHUFFLE_PARTITIONS_MAX {
        return Err(malformed(format_args!("partitions {start}..{end}")));
    }
    let count = (end - start) as usize;
    let sources = sources.into_iter().map(|source| {
        let source = decode_source(source)?;
        match source.partitions.len() {
            found if found == count => Ok(source),
            found => Err(malformed(format_args!(
                "a source of {found} partitions in a range of {count}"
            ))),
        }
    });
    Ok(ShuffleInput {
        stage: StageId(stage),
        partitions: start..end,
        sources: sources.collect::<Result<_>>()?,
    })
}

fn encode_source(source: &ShuffleSource) -> wire::SourceRange {
    wire::SourceRange {
        task: source.task,
        attempt: source.attempt,
        offset: source.offset,
        partitions: Some(encode_partitions(&source.partitions)),
    }
}

fn decode_source(source: wire::SourceRange) -> Result<ShuffleSource> {
    let wire::SourceRange {
        task,
        attempt,
        offset,
        partitions,
    } = source;
    let partitions = decode_partitions(need(partitions, "partitions of a source")?)?;
    let mut end = Some(offset);
    for partition in &partitions {
        end = end.and_then(|end| end.checked_add(partition.bytes));
    }
    need(end, "end of an object below 2^64")?;
    Ok(ShuffleSource {
        task,
        attempt,
        offset,
        partitions,
    })
}

pub(super) fn encode_partitions(partitions: &[PartitionMeta]) -> wire::Partitions {
    wire::Partitions {
        bytes: partitions.iter().map(|partition| partition.bytes).collect(),
        rows: partitions.iter().map(|partition| partition.rows).collect(),
        checksums: partitions
            .iter()
            .map(|partition| partition.checksum)
            .collect(),
    }
}

pub(super) fn decode_partitions(partitions: wire::Partitions) -> Result<Vec<PartitionMeta>> {
    let wire::Partitions {
        bytes,
        rows,
        checksums,
    } = partitions;
    if bytes.len() != rows.len() || bytes.len() != checksums.len() {
        return Err(malformed("columns of partitions differ in length"));
    }
    if bytes.len() > limits::SHUFFLE_PARTITIONS_MAX as usize {
        return Err(malformed(format_args!("{} partitions", bytes.len())));
    }
    let columns = bytes.into_iter().zip(rows).zip(checksums);
    let meta = |((bytes, rows), checksum)| PartitionMeta {
        bytes,
        rows,
        checksum,
    };
    Ok(columns.map(meta).collect())
}

pub(super) fn encode_stretches(stretches: &[Stretch]) -> wire::SortedRun {
    let partitions: Vec<PartitionMeta> = stretches.iter().map(|one| one.partition).collect();
    wire::SortedRun {
        stretches: Some(encode_partitions(&partitions)),
        first_keys: stretches.iter().map(|one| one.first_key.clone()).collect(),
    }
}

/// Stretches have rows, and their keys are in order: others rely on it.
pub(super) fn decode_stretches(run: wire::SortedRun) -> Result<Vec<Stretch>> {
    let partitions = decode_partitions(need(run.stretches, "stretches of an order")?)?;
    if partitions.len() != run.first_keys.len() {
        return Err(malformed(format_args!(
            "{} keys of {} stretches",
            run.first_keys.len(),
            partitions.len()
        )));
    }
    run.first_keys.iter().try_for_each(|key| check_key(key))?;
    if !run.first_keys.is_sorted() {
        return Err(malformed("stretches that are not in order"));
    }
    if partitions.iter().any(|one| one.rows == 0 || one.bytes == 0) {
        return Err(malformed("a stretch without rows"));
    }
    let stretches = partitions.into_iter().zip(run.first_keys);
    let stretch = |(partition, first_key)| Stretch {
        partition,
        first_key,
    };
    Ok(stretches.map(stretch).collect())
}

#[cfg(test)]
mod tests {
    use kiln_engine::ErrorKind;

    use super::*;

    fn refused<T: std::fmt::Debug>(decoded: Result<T>) -> String {
        let error = decoded.expect_err("malformed");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        error.message().replace("malformed message: ", "")
    }

    #[test]
    fn malformed_stretches_are_refused_with_what_is_wrong() {
        let run = |rows: &[u64], keys: &[&'static [u8]]| {
            decode_stretches(wire::SortedRun {
                stretches: Some(wire::Partitions {
                    bytes: vec![64; rows.len()],
                    rows: rows.to_vec(),
                    checksums: vec![7; rows.len()],
                }),
                first_keys: keys.iter().map(|&key| key.into()).collect(),
            })
        };
        assert_eq!(run(&[1, 2], &[b"a", b"a"]).expect("fine").len(), 2);
        assert_eq!(run(&[], &[]).expect("fine"), []);
        assert_eq!(refused(run(&[1], &[])), "0 keys of 1 stretches");
        assert_eq!(
            refused(run(&[1, 2], &[b"b", b"a"])),
            "stretches that are not in order"
        );
        assert_eq!(
            refused(run(&[1, 0], &[b"a", b"b"])),
            "a stretch without rows"
        );
        assert_eq!(refused(run(&[1], &[&[1; 129]])), "a key of 129 bytes");
        let none = decode_stretches(wire::SortedRun::default());
        assert!(refused(none).contains("stretches of an order"));
    }

    #[test]
    fn malformed_ranges_are_refused_with_what_is_wrong() {
        let cut = |key: &'static [u8], task| wire::Cut {
            key: key.into(),
            task,
        };
        let range = |start, end| {
            decode_range(wire::RangeInput {
                start: Some(start),
                end: Some(end),
                ..wire::RangeInput::default()
            })
        };
        assert!(range(cut(b"a", 1), cut(b"a", 2)).is_ok());
        assert_eq!(
            refused(range(cut(b"a", 2), cut(b"a", 1))),
            "a range of an order ends before it begins"
        );
        assert_eq!(refused(decode_cut(cut(&[1; 129], 0))), "a key of 129 bytes");
        assert!(decode_cut(cut(&[1; 128], 0)).is_ok());
        assert_eq!(
            refused(decode_cut(cut(&[1; 128], 1))),
            "a task where a key is cut off"
        );
    }
}
