//! Stages, as they travel inside a task.

use arrow::datatypes::Schema;
use kiln_engine::id::StageId;
use kiln_engine::plan::{
    AggregateMode, Deal, JoinStep, KeyFilterSpec, OperatorSpec, Partitioning, ScanSpec, Side,
    SinkSpec, Stage, StageSource, StepKind,
};
use kiln_engine::{Error, Result, limits};

use crate::convert::enums::Twin;
use crate::convert::expr::{ExprReader, ExprWriter};
use crate::convert::output::{decode_output, encode_output};
use crate::convert::plan::{decode_format, encode_format};
use crate::convert::{index, malformed, need, schema, udf};
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
    let source = Some(encode_source(&stage.source, &mut exprs)?);
    Ok(wire::Stage {
        id: stage.id.0,
        exprs: exprs.finish(),
        source: Some(wire::StageSource { source }),
        sides: stage.sides.iter().map(encode_side).collect(),
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
    let operators = operators.collect::<Result<Vec<_>>>()?;
    let source = stage.source.and_then(|source| source.source);
    let source = decode_source(need(source, "source of a stage")?, &mut exprs)?;
    exprs.finish()?;
    let sides = stage.sides.into_iter().map(decode_side);
    let sink = stage.sink.and_then(|sink| sink.sink);
    let stage = Stage {
        id: StageId(stage.id),
        source,
        sides: sides.collect::<Result<_>>()?,
        operators,
        sink: decode_sink(need(sink, "sink of a stage")?)?,
        schema: schema::decode(&stage.schema)?,
    };
    check_sides(&stage)?;
    check_order(&stage)?;
    check_key_filters(&stage)?;
    Ok(stage)
}

/// Every join looks up in a side that the stage has.
fn check_sides(stage: &Stage) -> Result<()> {
    let sides = stage.sides.len();
    for operator in &stage.operators {
        if let OperatorSpec::Join(JoinStep { side, .. }) = operator
            && *side >= sides
        {
            return Err(malformed(format_args!(
                "a join with side {side} of {sides}"
            )));
        }
    }
    Ok(())
}

/// What is written in order, or read by ranges of one, has an order; only one stage wrote it.
fn check_order(stage: &Stage) -> Result<()> {
    let sorted = SinkSpec::Shuffle {
        partitioning: Partitioning::Sorted,
    };
    if stage.sink == sorted && stage.written_order().is_none() {
        return Err(malformed("a stage that writes in order does not sort"));
    }
    let StageSource::Shuffle { stages, deal, .. } = &stage.source else {
        return Ok(());
    };
    if *deal == Deal::Ranges && (stage.read_order().is_none() || stages.len() != 1) {
        return Err(malformed("a stage that reads ranges of no order"));
    }
    Ok(())
}

/// Every key filter names a column of the files and a key of a join.
fn check_key_filters(stage: &Stage) -> Result<()> {
    let StageSource::Scan(scan) = &stage.source else {
        return Ok(());
    };
    for filter in &scan.key_filters {
        let KeyFilterSpec {
            column,
            operator,
            key,
        } = *filter;
        check_column(column, &scan.file_schema)?;
        let keys = match stage.operators.get(operator) {
            Some(OperatorSpec::Join(join)) => join.probe_keys.len(),
            _ => {
                return Err(malformed(format_args!(
                    "a key filter of operator {operator}, which is no join"
                )));
            }
        };
        if key >= keys {
            return Err(malformed(format_args!(
                "a key filter of key {key} of {keys}"
            )));
        }
    }
    Ok(())
}

fn check_column(column: usize, file_schema: &Schema) -> Result<()> {
    if column < file_schema.fields().len() {
        return Ok(());
    }
    Err(malformed(format_args!(
        "no column {column} in the files of a scan"
    )))
}

fn encode_side(side: &Side) -> wire::Side {
    wire::Side {
        stage: side.stage.0,
        schema: schema::encode(&side.schema),
        broadcast: side.broadcast,
    }
}

fn decode_side(side: wire::Side) -> Result<Side> {
    Ok(Side {
        stage: StageId(side.stage),
        schema: schema::decode(&side.schema)?,
        broadcast: side.broadcast,
    })
}

fn encode_source(source: &StageSource, exprs: &mut ExprWriter) -> Result<Source> {
    Ok(match source {
        StageSource::Scan(scan) => Source::Scan(encode_scan(scan, exprs)?),
        StageSource::Shuffle {
            stages,
            schema,
            deal,
        } => Source::Shuffle(wire::ShuffleSource {
            stages: stages.iter().map(|stage| stage.0).collect(),
            schema: schema::encode(schema),
            deal: deal.encode(),
        }),
    })
}

fn decode_source(source: Source, exprs: &mut ExprReader) -> Result<StageSource> {
    Ok(match source {
        Source::Scan(scan) => StageSource::Scan(decode_scan(scan, exprs)?),
        Source::Shuffle(shuffle) => {
            if shuffle.stages.is_empty() {
                return Err(malformed("a shuffle that no stage wrote"));
            }
            StageSource::Shuffle {
                stages: shuffle.stages.into_iter().map(StageId).collect(),
                schema: schema::decode(&shuffle.schema)?,
                deal: Deal::decode(shuffle.deal)?,
            }
        }
    })
}

fn encode_scan(scan: &ScanSpec, exprs: &mut ExprWriter) -> Result<wire::ScanSource> {
    let projection = scan.projection.iter().map(|&i| index(i));
    let key_filters = scan.key_filters.iter().map(|filter| {
        Ok(wire::KeyFilter {
            column: index(filter.column)?,
            operator: index(filter.operator)?,
            key: index(filter.key)?,
        })
    });
    Ok(wire::ScanSource {
        format: Some(encode_format(&scan.format)),
        file_schema: schema::encode(&scan.file_schema),
        projection: projection.collect::<Result<_>>()?,
        predicate: exprs.write_some(scan.predicate.as_ref())?,
        key_filters: key_filters.collect::<Result<_>>()?,
    })
}

fn decode_scan(scan: wire::ScanSource, exprs: &mut ExprReader) -> Result<ScanSpec> {
    let file_schema = schema::decode(&scan.file_schema)?;
    let projection: Vec<_> = scan.projection.into_iter().map(|i| i as usize).collect();
    for &column in &projection {
        check_column(column, &file_schema)?;
    }
    let key_filters = scan.key_filters.into_iter().map(|filter| KeyFilterSpec {
        column: filter.column as usize,
        operator: filter.operator as usize,
        key: filter.key as usize,
    });
    Ok(ScanSpec {
        format: decode_format(scan.format)?,
        file_schema,
        projection,
        predicate: exprs.take_some(scan.predicate)?,
        key_filters: key_filters.collect(),
        files: Vec::new(),
        tasks: Vec::new(),
    })
}

fn encode_operator(operator: &OperatorSpec, exprs: &mut ExprWriter) -> Result<Operator> {
    Ok(match operator {
        OperatorSpec::Project { exprs: columns } => Operator::Project(wire::Project {
            exprs: exprs.write_all(columns)?,
        }),
        OperatorSpec::Filter { predicate } => Operator::Filter(exprs.write(predicate)?),
        OperatorSpec::Explode { column } => Operator::Explode(column.clone()),
        OperatorSpec::Apply { function } => Operator::Apply(udf::encode_apply(function)),
        OperatorSpec::Reduce {
            keys,
            order,
            function,
            local,
        } => {
            let order = exprs.write_sort(order, None)?.keys;
            Operator::Reduce(udf::encode_reduce(function, keys, order, *local))
        }
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
        OperatorSpec::Join(join) => Operator::Join(encode_join(join, exprs)?),
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
        Operator::Apply(apply) => OperatorSpec::Apply {
            function: udf::decode_apply(apply)?,
        },
        Operator::Reduce(reduce) => OperatorSpec::Reduce {
            keys: reduce.keys,
            order: exprs.take_sort(reduce.order)?,
            function: udf::decode_reduce(reduce.function, &reduce.schema)?,
            local: reduce.local,
        },
        Operator::Group(step) => {
            let mode = AggregateMode::decode(step.mode)?;
            let (group_by, aggregates) = exprs.take_group(need(step.group, "group of a step")?)?;
            OperatorSpec::Aggregate {
                mode,
                group_by,
                aggregates,
            }
        }
        Operator::Join(join) => OperatorSpec::Join(decode_join(join, exprs)?),
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

fn encode_join(join: &JoinStep, exprs: &mut ExprWriter) -> Result<wire::JoinStep> {
    let (probe, build) = (join.probe_keys.len(), join.build_keys.len());
    if probe != build {
        return Err(Error::internal(format!(
            "a join with different numbers of keys probe={probe} build={build}"
        )));
    }
    Ok(wire::JoinStep {
        side: index(join.side)?,
        kind: join.kind.encode(),
        on: exprs.write_pairs(join.probe_keys.iter().zip(&join.build_keys))?,
        filter: exprs.write_some(join.filter.as_ref())?,
        output: join.output.clone(),
    })
}

/// Keys travel in pairs, so there are as many on either side.
fn decode_join(join: wire::JoinStep, exprs: &mut ExprReader) -> Result<JoinStep> {
    let (probe_keys, build_keys) = exprs.take_pairs(join.on)?.into_iter().unzip();
    Ok(JoinStep {
        side: join.side as usize,
        kind: StepKind::decode(join.kind)?,
        probe_keys,
        build_keys,
        filter: exprs.take_some(join.filter)?,
        output: join.output,
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
        SinkSpec::Shuffle {
            partitioning: Partitioning::Sorted,
        } => Sink::Sorted(wire::Unit {}),
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
        Sink::Sorted(wire::Unit {}) => SinkSpec::Shuffle {
            partitioning: Partitioning::Sorted,
        },
        Sink::Files(output) => SinkSpec::Files {
            output: decode_output(output)?,
        },
    })
}
