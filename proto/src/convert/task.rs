//! Tasks down, outcomes up.
//!
//! The stage of a task travels without the list of all files and splits of its scan: the task's
//! own splits are in the task.

use std::sync::Arc;

use kiln_engine::error::LostOutput;
use kiln_engine::id::{JobId, StageId, TaskId};
use kiln_engine::metrics::{Counts, OperatorCounts, Warning};
use kiln_engine::plan::{
    OutputFile, PendingUpload, ShuffleInput, Split, Stage, StageSource, TaskFailure, TaskInput,
    TaskOutput, TaskSpec, TaskSuccess,
};
use kiln_engine::{ErrorKind, Result, limits};

use crate::convert::enums::Twin;
use crate::convert::shuffle::{
    decode_partitions, decode_range, decode_shuffle, decode_stretches, encode_partitions,
    encode_range, encode_shuffle, encode_stretches,
};
use crate::convert::{malformed, need, program, stage};
use crate::wire;
use crate::wire::task_spec::Input;
use crate::wire::task_success::Output;

/// Operators that counts are sent of: those of the longest stage, its source and its sink.
const OPERATORS_COUNTED_MAX: usize = limits::PLAN_NODES_MAX + 2;

/// A job's id.
///
/// # Errors
/// `Invalid` if it has more than 48 bits.
pub fn decode_job_id(value: u64) -> Result<JobId> {
    let id = JobId::new(value);
    if id.value() == value {
        Ok(id)
    } else {
        Err(malformed(format_args!("a job id of {value:x}")))
    }
}

pub(super) fn encode_task_id(id: TaskId) -> wire::TaskId {
    wire::TaskId {
        job: id.job.value(),
        stage: id.stage.0,
        task: id.task,
    }
}

pub(super) fn decode_task_id(id: Option<wire::TaskId>) -> Result<TaskId> {
    let wire::TaskId { job, stage, task } = need(id, "task id")?;
    Ok(TaskId {
        job: decode_job_id(job)?,
        stage: StageId(stage),
        task,
    })
}

/// A task on its way to an executor.
///
/// # Errors
/// `Invalid` if one of its expressions nests too deeply.
pub fn encode_spec(spec: &TaskSpec) -> Result<wire::TaskSpec> {
    let input = match &spec.input {
        TaskInput::Splits(splits) => Input::Splits(wire::Splits {
            splits: splits.iter().map(encode_split).collect(),
        }),
        TaskInput::Shuffle(inputs) => Input::Shuffle(wire::ShuffleInputs {
            inputs: inputs.iter().map(encode_shuffle).collect(),
        }),
        TaskInput::Range(range) => Input::Range(encode_range(range)),
    };
    Ok(wire::TaskSpec {
        id: Some(encode_task_id(spec.id)),
        attempt: spec.attempt,
        stage: Some(stage::encode(&spec.stage)?),
        input: Some(input),
        sides: spec.sides.iter().map(encode_shuffle).collect(),
        program: spec.program.as_deref().map(program::encode),
    })
}

/// A task as it arrives.
///
/// # Errors
/// `Invalid` if it is malformed, or is not of its stage.
pub fn decode_spec(spec: wire::TaskSpec) -> Result<TaskSpec> {
    let id = decode_task_id(spec.id)?;
    let stage = stage::decode(need(spec.stage, "stage of a task")?)?;
    if stage.id != id.stage {
        return Err(malformed(format_args!("task {id} of stage {}", stage.id)));
    }
    let input = decode_input(need(spec.input, "input of a task")?)?;
    check_input(&stage, &input)?;
    let sides = spec.sides.into_iter().map(decode_shuffle);
    let sides = sides.collect::<Result<Vec<_>>>()?;
    if !stages_of(&sides).eq(stage.sides.iter().map(|side| side.stage)) {
        return Err(malformed("the sides of a task are not those of its stage"));
    }
    Ok(TaskSpec {
        id,
        attempt: spec.attempt,
        stage: Arc::new(stage),
        input,
        sides,
        program: spec.program.map(program::decode).transpose()?.map(Arc::new),
    })
}

fn decode_input(input: Input) -> Result<TaskInput> {
    Ok(match input {
        Input::Splits(splits) => TaskInput::Splits(
            splits
                .splits
                .into_iter()
                .map(decode_split)
                .collect::<Result<_>>()?,
        ),
        Input::Shuffle(shuffle) => {
            let inputs = shuffle.inputs.into_iter().map(decode_shuffle);
            TaskInput::Shuffle(inputs.collect::<Result<_>>()?)
        }
        Input::Range(range) => TaskInput::Range(decode_range(range)?),
    })
}

fn stages_of(inputs: &[ShuffleInput]) -> impl Iterator<Item = StageId> {
    inputs.iter().map(|input| input.stage)
}

fn check_input(stage: &Stage, input: &TaskInput) -> Result<()> {
    match (&stage.source, input) {
        (StageSource::Scan(_), TaskInput::Splits(_)) => Ok(()),
        (StageSource::Shuffle { stages, .. }, TaskInput::Shuffle(inputs))
            if stages_of(inputs).eq(stages.iter().copied()) && stage.read_order().is_none() =>
        {
            Ok(())
        }
        (StageSource::Shuffle { stages, .. }, TaskInput::Range(range))
            if stages[..] == [range.stage] && stage.read_order().is_some() =>
        {
            Ok(())
        }
        _ => Err(malformed(
            "the input of a task is not the source of its stage",
        )),
    }
}

pub(super) fn encode_split(split: &Split) -> wire::Split {
    let Split {
        url,
        file_bytes,
        start,
        end,
    } = split.clone();
    wire::Split {
        url,
        file_bytes,
        start,
        end,
    }
}

pub(super) fn decode_split(split: wire::Split) -> Result<Split> {
    let wire::Split {
        url,
        file_bytes,
        start,
        end,
    } = split;
    if start > end {
        return Err(malformed(format_args!("split {start}..{end} of {url}")));
    }
    Ok(Split {
        url,
        file_bytes,
        start,
        end,
    })
}

/// What a finished attempt reports.
pub fn encode_success(success: &TaskSuccess) -> wire::TaskSuccess {
    let output = match &success.output {
        TaskOutput::Shuffle(partitions) => Output::Shuffle(encode_partitions(partitions)),
        TaskOutput::Sorted(stretches) => Output::Sorted(encode_stretches(stretches)),
        TaskOutput::Files(files) => Output::Files(wire::Files {
            files: files.iter().map(encode_file).collect(),
        }),
    };
    wire::TaskSuccess {
        output: Some(output),
        counts: Some(encode_counts(&success.counts)),
        warnings: encode_warnings(&success.warnings),
    }
}

/// What a finished attempt has reported.
///
/// # Errors
/// `Invalid` if it is malformed.
pub fn decode_success(success: wire::TaskSuccess) -> Result<TaskSuccess> {
    let output = match need(success.output, "output of a task")? {
        Output::Shuffle(partitions) => TaskOutput::Shuffle(decode_partitions(partitions)?),
        Output::Sorted(run) => TaskOutput::Sorted(decode_stretches(run)?),
        Output::Files(files) => {
            TaskOutput::Files(files.files.into_iter().map(decode_file).collect())
        }
    };
    let counts = decode_counts(success.counts)?;
    Ok(TaskSuccess {
        output,
        counts,
        warnings: decode_warnings(success.warnings),
    })
}

fn encode_file(file: &OutputFile) -> wire::OutputFile {
    let OutputFile {
        name,
        rows,
        bytes,
        checksum,
        pending,
    } = file.clone();
    wire::OutputFile {
        name,
        rows,
        bytes,
        checksum,
        pending: pending.map(|PendingUpload { id, parts }| wire::PendingUpload { id, parts }),
    }
}

fn decode_file(file: wire::OutputFile) -> OutputFile {
    let wire::OutputFile {
        name,
        rows,
        bytes,
        checksum,
        pending,
    } = file;
    OutputFile {
        name,
        rows,
        bytes,
        checksum,
        pending: pending.map(|wire::PendingUpload { id, parts }| PendingUpload { id, parts }),
    }
}

pub(super) fn encode_counts(counts: &Counts) -> wire::Counts {
    // Taken apart without `..`: a counter that is added and not sent does not compile.
    let Counts {
        rows_in,
        bytes_in,
        rows_out,
        bytes_out,
        gets,
        puts,
        objects,
        compute_nanos,
        spilled_bytes,
        row_groups,
        row_groups_pruned,
        pages_pruned,
        rows_scanned,
        rows_pruned,
        build_rows,
        build_bytes,
        operators,
        user,
    } = counts.clone();
    wire::Counts {
        rows_in,
        bytes_in,
        rows_out,
        bytes_out,
        gets,
        puts,
        objects,
        compute_nanos,
        spilled_bytes,
        row_groups,
        row_groups_pruned,
        pages_pruned,
        rows_scanned,
        rows_pruned,
        build_rows,
        build_bytes,
        operators: encode_operators(&operators),
        user: *user,
    }
}

pub(super) fn decode_counts(counts: Option<wire::Counts>) -> Result<Counts> {
    let counts = need(counts, "counts")?;
    if counts.user.len() > limits::USER_COUNTERS_MAX {
        let found = counts.user.len();
        return Err(malformed(format_args!("{found} counters of a program")));
    }
    Ok(Counts {
        rows_in: counts.rows_in,
        bytes_in: counts.bytes_in,
        rows_out: counts.rows_out,
        bytes_out: counts.bytes_out,
        gets: counts.gets,
        puts: counts.puts,
        objects: counts.objects,
        compute_nanos: counts.compute_nanos,
        spilled_bytes: counts.spilled_bytes,
        row_groups: counts.row_groups,
        row_groups_pruned: counts.row_groups_pruned,
        pages_pruned: counts.pages_pruned,
        rows_scanned: counts.rows_scanned,
        rows_pruned: counts.rows_pruned,
        build_rows: counts.build_rows,
        build_bytes: counts.build_bytes,
        operators: counts.operators.map_or(Ok(Vec::new()), decode_operators)?,
        user: Box::new(counts.user),
    })
}

/// None where nothing was counted, as for most attempts that run.
fn encode_operators(operators: &[OperatorCounts]) -> Option<wire::OperatorCounts> {
    let column = |counter: fn(&OperatorCounts) -> u64| operators.iter().map(counter).collect();
    (!operators.is_empty()).then(|| wire::OperatorCounts {
        rows_out: column(|counts| counts.rows_out),
        batches: column(|counts| counts.batches),
        nanos: column(|counts| counts.nanos),
    })
}

fn decode_operators(operators: wire::OperatorCounts) -> Result<Vec<OperatorCounts>> {
    let wire::OperatorCounts {
        rows_out,
        batches,
        nanos,
    } = operators;
    if rows_out.len() != batches.len() || rows_out.len() != nanos.len() {
        return Err(malformed("columns of operator counts differ in length"));
    }
    if rows_out.len() > OPERATORS_COUNTED_MAX {
        return Err(malformed(format_args!(
            "counts of {} operators",
            rows_out.len()
        )));
    }
    let columns = rows_out.into_iter().zip(batches).zip(nanos);
    let counts = |((rows_out, batches), nanos)| OperatorCounts {
        rows_out,
        batches,
        nanos,
    };
    Ok(columns.map(counts).collect())
}

pub(super) fn encode_warnings(warnings: &[Warning]) -> Vec<wire::Warning> {
    let encode = |warning: &Warning| {
        let Warning {
            subject,
            message,
            count,
        } = warning.clone();
        wire::Warning {
            subject,
            message,
            count,
        }
    };
    warnings.iter().map(encode).collect()
}

pub(super) fn decode_warnings(warnings: Vec<wire::Warning>) -> Vec<Warning> {
    let decode = |warning| {
        let wire::Warning {
            subject,
            message,
            count,
        } = warning;
        Warning {
            subject,
            message,
            count,
        }
    };
    warnings.into_iter().map(decode).collect()
}

/// Why an attempt, a job or a request failed.
pub fn encode_failure(failure: &TaskFailure) -> wire::TaskFailure {
    wire::TaskFailure {
        kind: failure.kind.encode(),
        message: failure.message.clone(),
        lost: failure.lost.map(|lost| {
            let LostOutput {
                stage,
                task,
                attempt,
            } = lost;
            wire::LostOutput {
                stage: stage.0,
                task,
                attempt,
            }
        }),
    }
}

/// Why an attempt, a job or a request has failed.
///
/// # Errors
/// `Invalid` if the kind is unknown.
pub fn decode_failure(failure: wire::TaskFailure) -> Result<TaskFailure> {
    let lost = failure.lost.map(|lost| {
        let wire::LostOutput {
            stage,
            task,
            attempt,
        } = lost;
        LostOutput {
            stage: StageId(stage),
            task,
            attempt,
        }
    });
    Ok(TaskFailure {
        kind: ErrorKind::decode(failure.kind)?,
        message: failure.message,
        lost,
    })
}
