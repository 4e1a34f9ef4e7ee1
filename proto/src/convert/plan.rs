//! Logical plans as a flat table of operators beside the table of their expressions.

use std::sync::Arc;

use bytes::Bytes;
use kiln_engine::plan::{
    CsvOptions, FileFormat, LogicalPlan, Output, Scan, ScanFormat, TextOptions, TextRecord,
};
use kiln_engine::{Error, Result, limits};
use prost::Message;

use crate::convert::enums::Twin;
use crate::convert::expr::{ExprReader, ExprWriter};
use crate::convert::{index, malformed, need, schema};
use crate::wire;
use crate::wire::plan_node::Node;
use crate::wire::scan_format::Format;

/// The plan as it is sent.
///
/// # Errors
/// `Invalid` if it has too many operators, or nests them or an expression too deeply.
pub fn encode(plan: &LogicalPlan) -> Result<wire::Plan> {
    let mut chain = vec![plan];
    while let Some(input) = chain[chain.len() - 1].input() {
        check_size(chain.len() + 1)?;
        chain.push(input);
    }
    let mut exprs = ExprWriter::default();
    let mut nodes: Vec<wire::PlanNode> = Vec::with_capacity(chain.len());
    for plan in chain.into_iter().rev() {
        let inputs = match nodes.len() {
            0 => Vec::new(),
            before => vec![index(before - 1)?],
        };
        nodes.push(wire::PlanNode {
            inputs,
            node: Some(encode_node(plan, &mut exprs)?),
        });
    }
    Ok(wire::Plan {
        exprs: exprs.finish(),
        nodes,
    })
}

/// The plan that was sent.
///
/// # Errors
/// `Invalid` if it is malformed or exceeds a limit.
pub fn decode(plan: wire::Plan) -> Result<LogicalPlan> {
    check_size(plan.nodes.len())?;
    let mut exprs = ExprReader::read(plan.exprs)?;
    let mut slots: Vec<Option<LogicalPlan>> = Vec::with_capacity(plan.nodes.len());
    for node in plan.nodes {
        let inputs = node.inputs.into_iter().map(|index| {
            let slot = slots.get_mut(index as usize).and_then(Option::take);
            slot.ok_or_else(|| malformed(format_args!("operator {index} is not there to be used")))
        });
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        slots.push(Some(decode_node(
            need(node.node, "operator")?,
            inputs,
            &mut exprs,
        )?));
    }
    exprs.finish()?;
    let root = need(slots.pop().flatten(), "root of the plan")?;
    if slots.iter().any(Option::is_some) {
        return Err(malformed("an operator that nothing reads"));
    }
    Ok(root)
}

/// The plan as bytes that may be kept: fields are never given another meaning.
///
/// # Errors
/// As for [`encode`].
pub fn to_bytes(plan: &LogicalPlan) -> Result<Bytes> {
    Ok(encode(plan)?.encode_to_vec().into())
}

/// The plan of such bytes.
///
/// # Errors
/// As for [`decode`].
pub fn from_bytes(bytes: &[u8]) -> Result<LogicalPlan> {
    decode(wire::Plan::decode(bytes).map_err(|error| malformed("no plan").with_source(error))?)
}

/// Planner, optimiser and printer recurse over a plan, so its depth is bounded; all operators have
/// one input so far, which makes its size the same as its depth.
fn check_size(operators: usize) -> Result<()> {
    let operators_max = limits::PLAN_NODES_MAX.min(limits::PLAN_DEPTH_MAX);
    if operators <= operators_max {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the plan has too many operators operators_max={operators_max}"
    )))
}

fn encode_node(plan: &LogicalPlan, exprs: &mut ExprWriter) -> Result<Node> {
    Ok(match plan {
        LogicalPlan::Scan(scan) => Node::Scan(encode_scan(scan)),
        LogicalPlan::Project { exprs: columns, .. } => Node::Project(wire::Project {
            exprs: exprs.write_all(columns)?,
        }),
        LogicalPlan::Filter { predicate, .. } => Node::Filter(exprs.write(predicate)?),
        LogicalPlan::Explode { column, .. } => Node::Explode(column.clone()),
        LogicalPlan::Aggregate {
            group_by,
            aggregates,
            ..
        } => Node::Group(exprs.write_group(group_by, aggregates)?),
        LogicalPlan::Sort { keys, limit, .. } => Node::Sort(exprs.write_sort(keys, *limit)?),
        LogicalPlan::Limit { offset, limit, .. } => Node::Limit(wire::Limit {
            offset: *offset,
            limit: *limit,
        }),
        LogicalPlan::Write { output, .. } => Node::Write(encode_output(output)),
    })
}

fn decode_node(
    node: Node,
    inputs: Vec<LogicalPlan>,
    exprs: &mut ExprReader,
) -> Result<LogicalPlan> {
    if let Node::Scan(scan) = node {
        return match inputs.len() {
            0 => Ok(LogicalPlan::Scan(decode_scan(scan)?)),
            inputs => Err(malformed(format_args!("a scan of {inputs} inputs"))),
        };
    }
    let input = match <[LogicalPlan; 1]>::try_from(inputs) {
        Ok([input]) => Arc::new(input),
        Err(inputs) => {
            return Err(malformed(format_args!(
                "an operator of {} inputs",
                inputs.len()
            )));
        }
    };
    Ok(match node {
        Node::Scan(_) => return Err(Error::internal("a scan has been decoded above")),
        Node::Project(project) => LogicalPlan::Project {
            input,
            exprs: exprs.take_all(project.exprs)?,
        },
        Node::Filter(predicate) => LogicalPlan::Filter {
            input,
            predicate: exprs.take(predicate)?,
        },
        Node::Explode(column) => LogicalPlan::Explode { input, column },
        Node::Group(group) => {
            let (group_by, aggregates) = exprs.take_group(group)?;
            LogicalPlan::Aggregate {
                input,
                group_by,
                aggregates,
            }
        }
        Node::Sort(sort) => {
            let keys = exprs.take_sort(sort.keys)?;
            LogicalPlan::Sort {
                input,
                keys,
                limit: sort.limit,
            }
        }
        Node::Limit(wire::Limit { offset, limit }) => LogicalPlan::Limit {
            input,
            offset,
            limit,
        },
        Node::Write(output) => LogicalPlan::Write {
            input,
            output: decode_output(output)?,
        },
    })
}

fn encode_scan(scan: &Scan) -> wire::Scan {
    wire::Scan {
        locations: scan.locations.clone(),
        format: Some(encode_format(&scan.format)),
        schema: schema::encode(&scan.schema),
        projection: scan.projection.clone().map(|names| wire::Names { names }),
    }
}

fn decode_scan(scan: wire::Scan) -> Result<Scan> {
    Ok(Scan {
        locations: scan.locations,
        format: decode_format(scan.format)?,
        schema: schema::decode(&scan.schema)?,
        projection: scan.projection.map(|names| names.names),
    })
}

pub(super) fn encode_format(format: &ScanFormat) -> wire::ScanFormat {
    let format = match format {
        ScanFormat::Text(TextOptions { record, strict }) => Format::Text(wire::TextOptions {
            record: record.encode(),
            strict: *strict,
        }),
        ScanFormat::Csv(CsvOptions { header, delimiter }) => Format::Csv(wire::CsvOptions {
            header: *header,
            delimiter: u32::from(*delimiter),
        }),
        ScanFormat::Parquet => Format::Parquet(wire::Unit {}),
    };
    wire::ScanFormat {
        format: Some(format),
    }
}

pub(super) fn decode_format(format: Option<wire::ScanFormat>) -> Result<ScanFormat> {
    let format = need(format.and_then(|format| format.format), "format of a scan")?;
    Ok(match format {
        Format::Text(wire::TextOptions { record, strict }) => ScanFormat::Text(TextOptions {
            record: TextRecord::decode(record)?,
            strict,
        }),
        Format::Csv(wire::CsvOptions { header, delimiter }) => {
            let wide = |_| malformed(format_args!("a delimiter of several bytes: {delimiter}"));
            let delimiter = u8::try_from(delimiter).map_err(wide)?;
            ScanFormat::Csv(CsvOptions { header, delimiter })
        }
        Format::Parquet(wire::Unit {}) => ScanFormat::Parquet,
    })
}

pub(super) fn encode_output(output: &Output) -> wire::Output {
    wire::Output {
        url: output.url.clone(),
        format: output.format.encode(),
    }
}

pub(super) fn decode_output(output: wire::Output) -> Result<Output> {
    Ok(Output {
        url: output.url,
        format: FileFormat::decode(output.format)?,
    })
}
