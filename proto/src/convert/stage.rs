//! Stages, as they travel inside a task.

use kiln_engine::id::StageId;
use kiln_engine::plan::{
    AggregateMode, OperatorSpec, Partitioning, ScanSpec, SinkSpec, Stage, StageSource,
};
use kiln_engine::{Result, limits};

use crate::convert::enums::Twin;
use crate::convert::expr::{ExprReader, ExprWriter};
use crate::convert::plan::{decode_format, decode_output, encode_format, encode_output};
use crate::convert::{index, malformed, need, schema};
use crate::wire;
use crate::wire::operator::Operator;
use crate::wire::sink::Sink;
use crate::wire::stage_source::Source;

/// A stage without the files and splits of its scan.
///
/// # Errors
/// `Invalid` if one of its expressions nests too deeply.
pub(super) fn encode(stage: &Stage) -> Result<wire::Stage> {
    let mut exprs = ExprWriter::default();
    let operators = stage.operators.iter().map(|operator| {
        let operator = Some(encode_operator(operator, &mut exprs)?);
        Ok(wire::Operator { operator })
    });
    let operators = operators.collect::<Result<_>>()?;
    Ok(wire::Stage {
        id: stage.id.0,
        exprs: exprs.finish(),
        source: Some(wire::StageSource {
            source: Some(encode_source(&stage.source)?),
        }),
        operators,
        sink: Some(wire::Sink {
            sink: Some(encode_sink(&stage.sink)),
        }),
        schema: schema::encode(&stage.schema),
    })
}

/// A stage as it arrives.
///
/// # Errors
/// `Invalid` if it is malformed or exceeds a limit.
pub(super) fn decode(stage: wire::Stage) -> Result<Stage> {
    if stage.operators.len() > limits::PLAN_NODES_MAX {
        return Err(malformed(format_args!(
            "a stage of {} operators",
            stage.operators.len()
        )));
    }
    let mut exprs = ExprReader::read(stage.exprs)?;
    let operators = stage.operators.into_iter().map(|operator| {
        decode_operator(need(operator.operator, "operator of a stage")?, &mut exprs)
    });
    let operators = operators.collect::<Result<_>>()?;
    exprs.finish()?;
    let source = stage.source.and_then(|source| source.source);
    let sink = stage.sink.and_then(|sink| sink.sink);
    Ok(Stage {
        id: StageId(stage.id),
        source: decode_source(need(source, "source of a stage")?)?,
        operators,
        sink: decode_sink(need(sink, "sink of a stage")?)?,
        schema: schema::decode(&stage.schema)?,
    })
}

fn encode_source(source: &StageSource) -> Result<Source> {
    Ok(match source {
        StageSource::Scan(scan) => Source::Scan(wire::ScanSource {
            format: Some(encode_format(&scan.format)),
            file_schema: schema::encode(&scan.file_schema),
            projection: scan
                .projection
                .iter()
                .map(|&i| index(i))
                .collect::<Result<_>>()?,
        }),
        StageSource::Shuffle {
            stage,
            schema,
            gather,
        } => Source::Shuffle(wire::ShuffleSource {
            stage: stage.0,
            schema: schema::encode(schema),
            gather: *gather,
        }),
    })
}

fn decode_source(source: Source) -> Result<StageSource> {
    Ok(match source {
        Source::Scan(scan) => {
            let file_schema = schema::decode(&scan.file_schema)?;
            let projection: Vec<_> = scan.projection.into_iter().map(|i| i as usize).collect();
            if let Some(column) = projection
                .iter()
                .find(|&&i| i >= file_schema.fields().len())
            {
                return Err(malformed(format_args!(
                    "no column {column} in the files of a scan"
                )));
            }
            let (files, tasks) = (Vec::new(), Vec::new());
            let format = decode_format(scan.format)?;
            StageSource::Scan(ScanSpec {
                format,
                file_schema,
                projection,
                files,
                tasks,
            })
        }
        Source::Shuffle(shuffle) => StageSource::Shuffle {
            stage: StageId(shuffle.stage),
            schema: schema::decode(&shuffle.schema)?,
            gather: shuffle.gather,
        },
    })
}

fn encode_operator(operator: &OperatorSpec, exprs: &mut ExprWriter) -> Result<Operator> {
    Ok(match operator {
        OperatorSpec::Project { exprs: columns } => Operator::Project(wire::Project {
            exprs: exprs.write_all(columns)?,
        }),
        OperatorSpec::Filter { predicate } => Operator::Filter(exprs.write(predicate)?),
        OperatorSpec::Explode { column } => Operator::Explode(column.clone()),
        OperatorSpec::Aggregate {
            mode,
            group_by,
            aggregates,
        } => {
            let group = Some(exprs.write_group(group_by, aggregates)?);
            Operator::Group(wire::GroupStep {
                mode: mode.encode(),
                group,
            })
        }
        OperatorSpec::TopK { keys, limit } => Operator::TopK(exprs.write_sort(keys, Some(*limit))?),
        OperatorSpec::Sort { keys } => Operator::Sort(exprs.write_sort(keys, None)?),
        OperatorSpec::Limit { offset, limit } => Operator::Limit(wire::Limit {
            offset: *offset,
            limit: *limit,
        }),
    })
}

fn decode_operator(operator: Operator, exprs: &mut ExprReader) -> Result<OperatorSpec> {
    Ok(match operator {
        Operator::Project(project) => OperatorSpec::Project {
            exprs: exprs.take_all(project.exprs)?,
        },
        Operator::Filter(predicate) => OperatorSpec::Filter {
            predicate: exprs.take(predicate)?,
        },
        Operator::Explode(column) => OperatorSpec::Explode { column },
        Operator::Group(step) => {
            let mode = AggregateMode::decode(step.mode)?;
            let (group_by, aggregates) = exprs.take_group(need(step.group, "group of a step")?)?;
            OperatorSpec::Aggregate {
                mode,
                group_by,
                aggregates,
            }
        }
        Operator::TopK(sort) => OperatorSpec::TopK {
            keys: exprs.take_sort(sort.keys)?,
            limit: need(sort.limit, "limit of a top-k")?,
        },
        Operator::Sort(sort) => match sort.limit {
            None => OperatorSpec::Sort {
                keys: exprs.take_sort(sort.keys)?,
            },
            Some(limit) => return Err(malformed(format_args!("a sort with a limit of {limit}"))),
        },
        Operator::Limit(wire::Limit { offset, limit }) => OperatorSpec::Limit { offset, limit },
    })
}

fn encode_sink(sink: &SinkSpec) -> Sink {
    match sink {
        SinkSpec::Shuffle {
            partitioning: Partitioning::Hash { keys, partitions },
        } => Sink::Hash(wire::HashSink {
            keys: keys.clone(),
            partitions: *partitions,
        }),
        SinkSpec::Shuffle {
            partitioning: Partitioning::Single,
        } => Sink::Single(wire::Unit {}),
        SinkSpec::Files { output } => Sink::Files(encode_output(output)),
    }
}

fn decode_sink(sink: Sink) -> Result<SinkSpec> {
    Ok(match sink {
        Sink::Hash(wire::HashSink { keys, partitions }) => {
            if !(1..=limits::SHUFFLE_PARTITIONS_MAX).contains(&partitions) {
                return Err(malformed(format_args!(
                    "a shuffle of {partitions} partitions"
                )));
            }
            SinkSpec::Shuffle {
                partitioning: Partitioning::Hash { keys, partitions },
            }
        }
        Sink::Single(wire::Unit {}) => SinkSpec::Shuffle {
            partitioning: Partitioning::Single,
        },
        Sink::Files(output) => SinkSpec::Files {
            output: decode_output(output)?,
        },
    })
}
