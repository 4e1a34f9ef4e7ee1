//! What there is to choose from.

use kiln_engine::expr::{AggregateFunction, BinaryOp};
use kiln_engine::plan::StepKind;

pub(super) const OPS: [BinaryOp; 13] = [
    BinaryOp::Add,
    BinaryOp::Subtract,
    BinaryOp::Multiply,
    BinaryOp::Divide,
    BinaryOp::Modulo,
    BinaryOp::Equal,
    BinaryOp::NotEqual,
    BinaryOp::Less,
    BinaryOp::LessOrEqual,
    BinaryOp::Greater,
    BinaryOp::GreaterOrEqual,
    BinaryOp::And,
    BinaryOp::Or,
];

pub(super) const AGGREGATES: [AggregateFunction; 14] = [
    AggregateFunction::Count,
    AggregateFunction::Sum,
    AggregateFunction::Min,
    AggregateFunction::Max,
    AggregateFunction::Avg,
    AggregateFunction::CountDistinct,
    AggregateFunction::Variance,
    AggregateFunction::VariancePopulation,
    AggregateFunction::StdDev,
    AggregateFunction::StdDevPopulation,
    AggregateFunction::First,
    AggregateFunction::Last,
    AggregateFunction::Any,
    AggregateFunction::All,
];

pub(super) const STEPS: [StepKind; 8] = [
    StepKind::Inner,
    StepKind::ProbeOuter,
    StepKind::BuildOuter,
    StepKind::FullOuter,
    StepKind::ProbeSemi,
    StepKind::ProbeAnti,
    StepKind::BuildSemi,
    StepKind::BuildAnti,
];
