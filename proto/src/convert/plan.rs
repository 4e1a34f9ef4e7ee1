//! Logical plans as a flat table of operators beside the table of their expressions.

use std::collections::HashMap;
use std::ptr;
use std::sync::Arc;

use bytes::Bytes;
use kiln_engine::plan::{
    CsvOptions, JoinKind, LogicalPlan, Scan, ScanFormat, TextOptions, TextRecord,
};
use kiln_engine::{Error, Result, limits};
use prost::Message;

use crate::convert::enums::Twin;
use crate::convert::expr::{ExprReader, ExprWriter};
use crate::convert::output::{decode_output, encode_output};
use crate::convert::{index, malformed, need, schema, udf};
use crate::wire;
use crate::wire::plan_node::Node;
use crate::wire::scan_format::Format;

/// The plan as it is sent. An operator that several others read from, which is one [`Arc`] in
/// memory, is written once.
///
/// # Errors
/// `Invalid` if it has too many operators, or nests them or an expression too deeply.
pub fn encode(plan: &LogicalPlan) -> Result<wire::Plan> {
    let mut exprs = ExprWriter::default();
    let mut nodes = Vec::new();
    let mut extents: Vec<Extent> = Vec::new();
    let mut written: HashMap<*const LogicalPlan, u32> = HashMap::new();
    // A node is met first to open its inputs, and again, in the end, to be written after them.
    let mut open = vec![(plan, false)];
    let mut met = 0;
    while let Some((plan, inputs_written)) = open.pop() {
        if written.contains_key(&ptr::from_ref(plan)) {
            continue;
        }
        if !inputs_written {
            met += 1;
            check_operators(met)?;
            open.push((plan, true));
            let inputs = plan.inputs().into_iter().rev();
            open.extend(inputs.map(|input| (input.as_ref(), false)));
            continue;
        }
        let inputs = plan.inputs().into_iter();
        let inputs: Vec<u32> = inputs.map(|input| written[&Arc::as_ptr(input)]).collect();
        extents.push(Extent::over(inputs.iter().map(|&i| extents[i as usize]))?);
        written.insert(plan, index(nodes.len())?);
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

/// The plan that was sent. What several operators read from is one [`Arc`] again.
///
/// # Errors
/// `Invalid` if it is malformed or exceeds a limit.
pub fn decode(plan: wire::Plan) -> Result<LogicalPlan> {
    check_operators(plan.nodes.len())?;
    let mut exprs = ExprReader::read(plan.exprs)?;
    let mut slots: Vec<Slot> = Vec::with_capacity(plan.nodes.len());
    for node in plan.nodes {
        check_operators(node.inputs.len())?;
        let mut inputs = Vec::with_capacity(node.inputs.len());
        let mut extents = Vec::with_capacity(node.inputs.len());
        for index in node.inputs {
            let missing = || malformed(format_args!("operator {index} is not there to be used"));
            let slot = slots.get_mut(index as usize).ok_or_else(missing)?;
            slot.used = true;
            inputs.push(Arc::clone(&slot.plan));
            extents.push(slot.extent);
        }
        let extent = Extent::over(extents.into_iter())?;
        let plan = decode_node(need(node.node, "operator")?, inputs, &mut exprs)?;
        slots.push(Slot {
            plan: Arc::new(plan),
            extent,
            used: false,
        });
    }
    exprs.finish()?;
    let root = need(slots.pop(), "root of the plan")?;
    if slots.iter().any(|slot| !slot.used) {
        return Err(malformed("an operator that nothing reads"));
    }
    drop(slots);
    Ok(Arc::unwrap_or_clone(root.plan))
}

/// An operator that has arrived.
struct Slot {
    plan: Arc<LogicalPlan>,
    extent: Extent,
    used: bool,
}

/// How large the tree is that ends in an operator. What is shared counts as often as it is met on
/// the way from the root, because that is how planner, optimiser and printer walk: without a bound
/// a small message could unfold into an exponentially large tree.
#[derive(Clone, Copy)]
struct Extent {
    operators: usize,
    depth: usize,
}

impl Extent {
    /// One operator on top of inputs of these extents.
    fn over(inputs: impl Iterator<Item = Extent>) -> Result<Extent> {
        let mut extent = Extent {
            operators: 1,
            depth: 1,
        };
        for input in inputs {
            // Neither sum overflows: both summands are within their limits.
            extent.operators += input.operators;
            extent.depth = extent.depth.max(input.depth + 1);
            check_operators(extent.operators)?;
            check_depth(extent.depth)?;
        }
        Ok(extent)
    }
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

fn check_operators(operators: usize) -> Result<()> {
    let limit = limits::PLAN_NODES_MAX;
    if operators <= limit {
        return Ok(());
    }
    let text = format!("the plan has too many operators limit={limit}");
    Err(Error::invalid(text))
}

fn check_depth(depth: usize) -> Result<()> {
    let limit = limits::PLAN_DEPTH_MAX;
    if depth <= limit {
        return Ok(());
    }
    let text = format!("the plan is nested too deeply limit={limit}");
    Err(Error::invalid(text))
}

fn encode_node(plan: &LogicalPlan, exprs: &mut ExprWriter) -> Result<Node> {
    Ok(match plan {
        LogicalPlan::Scan(scan) => Node::Scan(encode_scan(scan, exprs)?),
        LogicalPlan::Project { exprs: columns, .. } => Node::Project(wire::Project {
            exprs: exprs.write_all(columns)?,
        }),
        LogicalPlan::Filter { predicate, .. } => Node::Filter(exprs.write(predicate)?),
        LogicalPlan::Explode { column, .. } => Node::Explode(column.clone()),
        LogicalPlan::Apply { function, .. } => Node::Apply(udf::encode_apply(function)),
        LogicalPlan::Reduce {
            keys,
            order,
            function,
            local,
            ..
        } => {
            let order = exprs.write_sort(order, None)?.keys;
            Node::Reduce(udf::encode_reduce(function, keys, order, *local))
        }
        LogicalPlan::Aggregate {
            group_by,
            aggregates,
            ..
        } => Node::Group(exprs.write_group(group_by, aggregates)?),
        LogicalPlan::Sort { keys, limit, .. } => Node::Sort(exprs.write_sort(keys, *limit)?),
        LogicalPlan::Repartition {
            keys, partitions, ..
        } => Node::Repartition(wire::Repartition {
            keys: keys.clone(),
            partitions: *partitions,
        }),
        LogicalPlan::SortPartitions { keys, .. } => {
            Node::SortPartitions(exprs.write_sort(keys, None)?)
        }
        LogicalPlan::Limit { offset, limit, .. } => Node::Limit(wire::Limit {
            offset: *offset,
            limit: *limit,
        }),
        LogicalPlan::Join {
            kind, on, filter, ..
        } => Node::Join(wire::Join {
            kind: kind.encode(),
            on: exprs.write_pairs(on.iter().map(|(left, right)| (left, right)))?,
            filter: exprs.write_some(filter.as_ref())?,
        }),
        LogicalPlan::Union { .. } => Node::Union(wire::Unit {}),
        LogicalPlan::Write { output, .. } => Node::Write(encode_output(output)),
    })
}

fn decode_node(
    node: Node,
    inputs: Vec<Arc<LogicalPlan>>,
    exprs: &mut ExprReader,
) -> Result<LogicalPlan> {
    let count = inputs.len();
    Ok(match node {
        Node::Scan(scan) if inputs.is_empty() => LogicalPlan::Scan(decode_scan(scan, exprs)?),
        Node::Scan(_) => return Err(malformed(format_args!("a scan of {count} inputs"))),
        Node::Join(join) => {
            let of = |_| malformed(format_args!("a join of {count} inputs"));
            let [left, right] = <[_; 2]>::try_from(inputs).map_err(of)?;
            LogicalPlan::Join {
                left,
                right,
                kind: JoinKind::decode(join.kind)?,
                on: exprs.take_pairs(join.on)?,
                filter: exprs.take_some(join.filter)?,
            }
        }
        Node::Union(wire::Unit {}) if inputs.is_empty() => {
            return Err(malformed("a union of 0 inputs"));
        }
        Node::Union(wire::Unit {}) => LogicalPlan::Union { inputs },
        node => {
            let of = |_| malformed(format_args!("an operator of {count} inputs"));
            let [input] = <[_; 1]>::try_from(inputs).map_err(of)?;
            decode_over_one(node, input, exprs)?
        }
    })
}

/// An operator with one input.
fn decode_over_one(
    node: Node,
    input: Arc<LogicalPlan>,
    exprs: &mut ExprReader,
) -> Result<LogicalPlan> {
    Ok(match node {
        Node::Scan(_) | Node::Join(_) | Node::Union(_) => {
            return Err(Error::internal("an operator with one input was expected"));
        }
        Node::Project(project) => LogicalPlan::Project {
            input,
            exprs: exprs.take_all(project.exprs)?,
        },
        Node::Filter(predicate) => LogicalPlan::Filter {
            input,
            predicate: exprs.take(predicate)?,
        },
        Node::Explode(column) => LogicalPlan::Explode { input, column },
        Node::Apply(apply) => LogicalPlan::Apply {
            input,
            function: udf::decode_apply(apply)?,
        },
        Node::Reduce(reduce) => LogicalPlan::Reduce {
            input,
            keys: reduce.keys,
            order: exprs.take_sort(reduce.order)?,
            function: udf::decode_reduce(reduce.function, &reduce.schema)?,
            local: reduce.local,
        },
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
        Node::Repartition(wire::Repartition { keys, partitions }) => LogicalPlan::Repartition {
            input,
            keys,
            partitions,
        },
        Node::SortPartitions(sort) if sort.limit.is_some() => {
            return Err(malformed("partitions in order with a limit"));
        }
        Node::SortPartitions(sort) => LogicalPlan::SortPartitions {
            input,
            keys: exprs.take_sort(sort.keys)?,
        },
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

fn encode_scan(scan: &Scan, exprs: &mut ExprWriter) -> Result<wire::Scan> {
    Ok(wire::Scan {
        locations: scan.locations.clone(),
        format: Some(encode_format(&scan.format)),
        schema: schema::encode(&scan.schema),
        projection: scan.projection.clone().map(|names| wire::Names { names }),
        predicate: exprs.write_some(scan.predicate.as_ref())?,
    })
}

fn decode_scan(scan: wire::Scan, exprs: &mut ExprReader) -> Result<Scan> {
    Ok(Scan {
        locations: scan.locations,
        format: decode_format(scan.format)?,
        schema: schema::decode(&scan.schema)?,
        projection: scan.projection.map(|names| names.names),
        predicate: exprs.take_some(scan.predicate)?,
    })
}

pub(super) fn encode_format(format: &ScanFormat) -> wire::ScanFormat {
    let format = match format {
        ScanFormat::Text(TextOptions { record, strict }) => Format::Text(wire::TextOptions {
            record: record.encode(),
            strict: *strict,
        }),
        ScanFormat::Csv(CsvOptions {
            header,
            delimiter,
            null_value,
        }) => Format::Csv(wire::CsvOptions {
            header: *header,
            delimiter: u32::from(*delimiter),
            null_value: null_value.clone(),
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
        Format::Csv(wire::CsvOptions {
            header,
            delimiter,
            null_value,
        }) => {
            let wide = |_| malformed(format_args!("a delimiter of several bytes: {delimiter}"));
            let delimiter = u8::try_from(delimiter).map_err(wide)?;
            ScanFormat::Csv(CsvOptions {
                header,
                delimiter,
                null_value,
            })
        }
        Format::Parquet(wire::Unit {}) => ScanFormat::Parquet,
    })
}
