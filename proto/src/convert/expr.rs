//! Expressions as a flat table: children before parents, named by index, each used once.
//!
//! One table holds all expressions of a plan or stage. Writing recurses at most
//! [`limits::EXPR_DEPTH_MAX`] deep. Reading is a loop that takes operands out of the slots where
//! it put them, so a node can neither be missing nor be used twice (which would let a small
//! message make an exponentially large tree).

use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DECIMAL128_MAX_SCALE};
use kiln_engine::expr::{
    AggregateExpr, AggregateFunction, BinaryOp, Expr, Function, Literal, SortKey,
};
use kiln_engine::{Error, Result, limits};

use crate::convert::enums::Twin;
use crate::convert::{index, malformed, need, schema, udf};
use crate::wire;
use crate::wire::expr_node::Node;
use crate::wire::literal::Value;

/// Collects the expressions of one plan or stage.
#[derive(Default)]
pub(super) struct ExprWriter {
    nodes: Vec<wire::ExprNode>,
}

impl ExprWriter {
    /// Appends `expr` and answers with the index of its root.
    ///
    /// # Errors
    /// `Invalid` if it nests too deeply.
    pub(super) fn write(&mut self, expr: &Expr) -> Result<u32> {
        self.write_at(expr, 1)
    }

    /// Appends several.
    ///
    /// # Errors
    /// As for one.
    pub(super) fn write_all(&mut self, exprs: &[Expr]) -> Result<Vec<u32>> {
        exprs.iter().map(|expr| self.write(expr)).collect()
    }

    /// Appends one that may be absent.
    ///
    /// # Errors
    /// As for one.
    pub(super) fn write_some(&mut self, expr: Option<&Expr>) -> Result<Option<u32>> {
        expr.map(|expr| self.write(expr)).transpose()
    }

    /// Appends the keys of a join, given as pairs of expressions over either side.
    ///
    /// # Errors
    /// As for one.
    pub(super) fn write_pairs<'a>(
        &mut self,
        pairs: impl IntoIterator<Item = (&'a Expr, &'a Expr)>,
    ) -> Result<Vec<wire::KeyPair>> {
        let pairs = pairs.into_iter().map(|(left, right)| {
            let (left, right) = (self.write(left)?, self.write(right)?);
            Ok(wire::KeyPair { left, right })
        });
        pairs.collect()
    }

    /// Appends the operands of a group-by.
    ///
    /// # Errors
    /// As for one.
    pub(super) fn write_group(
        &mut self,
        keys: &[Expr],
        aggregates: &[AggregateExpr],
    ) -> Result<wire::Group> {
        let keys = self.write_all(keys)?;
        let aggregates = aggregates.iter().map(|aggregate| {
            let arguments = self.write_all(&aggregate.arguments)?;
            let filter = self.write_some(aggregate.filter.as_ref())?;
            let (function, udf) = udf::encode_aggregate(&aggregate.function);
            Ok(wire::Aggregate {
                function: function.into(),
                arguments,
                name: aggregate.name.clone(),
                filter,
                udf,
            })
        });
        Ok(wire::Group {
            aggregates: aggregates.collect::<Result<_>>()?,
            keys,
        })
    }

    /// Appends the operands of an order.
    ///
    /// # Errors
    /// As for one.
    pub(super) fn write_sort(
        &mut self,
        keys: &[SortKey],
        limit: Option<u64>,
    ) -> Result<wire::Sort> {
        let keys = keys.iter().map(|key| {
            let expr = self.write(&key.expr)?;
            let SortKey {
                descending,
                nulls_first,
                ..
            } = *key;
            Ok(wire::SortKey {
                expr,
                descending,
                nulls_first,
            })
        });
        Ok(wire::Sort {
            keys: keys.collect::<Result<_>>()?,
            limit,
        })
    }

    /// The table.
    pub(super) fn finish(self) -> Vec<wire::ExprNode> {
        self.nodes
    }

    fn write_at(&mut self, expr: &Expr, depth: usize) -> Result<u32> {
        check_depth(depth)?;
        let mut operand = |expr: &Expr| self.write_at(expr, depth + 1);
        let node = match expr {
            Expr::Column(name) => Node::Column(name.clone()),
            Expr::Literal(literal) => Node::Literal(encode_literal(literal)),
            Expr::Binary { left, op, right } => {
                let (left, right) = (operand(left)?, operand(right)?);
                Node::Binary(wire::Binary {
                    left,
                    op: op.encode(),
                    right,
                })
            }
            Expr::Not(expr) => Node::Not(operand(expr)?),
            Expr::Negate(expr) => Node::Negate(operand(expr)?),
            Expr::IsNull(expr) => Node::IsNull(operand(expr)?),
            Expr::Cast { expr, to, lenient } => Node::Cast(wire::Cast {
                expr: operand(expr)?,
                to: schema::encode_type(to),
                lenient: *lenient,
            }),
            Expr::Case {
                branches,
                otherwise,
            } => {
                let branches = branches.iter().map(|(condition, value)| {
                    let (condition, value) = (operand(condition)?, operand(value)?);
                    Ok(wire::Branch { condition, value })
                });
                Node::Case(wire::Case {
                    branches: branches.collect::<Result<_>>()?,
                    otherwise: otherwise.as_deref().map(operand).transpose()?,
                })
            }
            Expr::InList { expr, list } => Node::InList(wire::InList {
                expr: operand(expr)?,
                list: list.iter().map(operand).collect::<Result<_>>()?,
            }),
            Expr::Function { function, args } => {
                let args = args.iter().map(operand).collect::<Result<_>>()?;
                Node::Call(wire::Call {
                    function: function.encode(),
                    args,
                })
            }
            Expr::Udf { function, args } => {
                let args = args.iter().map(operand).collect::<Result<_>>()?;
                Node::Udf(udf::encode_call(function, args))
            }
            Expr::Alias { expr, name } => Node::Alias(wire::Alias {
                expr: operand(expr)?,
                name: name.clone(),
            }),
        };
        self.nodes.push(wire::ExprNode { node: Some(node) });
        index(self.nodes.len() - 1)
    }
}

/// The expressions of one plan or stage, until somebody takes them.
pub(super) struct ExprReader {
    slots: Vec<Option<Slot>>,
}

struct Slot {
    expr: Expr,
    depth: usize,
}

impl ExprReader {
    /// Builds every tree of the table.
    ///
    /// # Errors
    /// `Invalid` if a node is malformed, names an operand that does not stand before it or is used
    /// already, or nests too deeply.
    pub(super) fn read(nodes: Vec<wire::ExprNode>) -> Result<Self> {
        let mut reader = ExprReader {
            slots: Vec::with_capacity(nodes.len()),
        };
        for node in nodes {
            let mut depth = 1;
            let expr = reader.read_node(need(node.node, "expression")?, &mut depth)?;
            check_depth(depth)?;
            reader.slots.push(Some(Slot { expr, depth }));
        }
        Ok(reader)
    }

    /// The expression whose root has this index.
    ///
    /// # Errors
    /// `Invalid` if there is none or it is used already.
    pub(super) fn take(&mut self, index: u32) -> Result<Expr> {
        Ok(self.take_slot(index)?.expr)
    }

    /// Several expressions.
    ///
    /// # Errors
    /// As for one.
    pub(super) fn take_all(&mut self, indices: Vec<u32>) -> Result<Vec<Expr>> {
        indices.into_iter().map(|index| self.take(index)).collect()
    }

    /// An expression that may be absent.
    ///
    /// # Errors
    /// As for one.
    pub(super) fn take_some(&mut self, index: Option<u32>) -> Result<Option<Expr>> {
        index.map(|index| self.take(index)).transpose()
    }

    /// The keys of a join.
    ///
    /// # Errors
    /// As for one.
    pub(super) fn take_pairs(&mut self, pairs: Vec<wire::KeyPair>) -> Result<Vec<(Expr, Expr)>> {
        let pairs = pairs.into_iter();
        pairs
            .map(|pair| Ok((self.take(pair.left)?, self.take(pair.right)?)))
            .collect()
    }

    /// The operands of a group-by.
    ///
    /// # Errors
    /// As for one, or if only count may lack its argument and something else does.
    pub(super) fn take_group(
        &mut self,
        group: wire::Group,
    ) -> Result<(Vec<Expr>, Vec<AggregateExpr>)> {
        let keys = self.take_all(group.keys)?;
        let aggregates = group.aggregates.into_iter().map(|aggregate| {
            let function = udf::decode_aggregate(aggregate.function, aggregate.udf)?;
            let arguments = self.take_all(aggregate.arguments)?;
            let filter = self.take_some(aggregate.filter)?;
            let fits = match &function {
                AggregateFunction::Udf(function) => {
                    arguments.len() == function.output().arguments.len()
                }
                AggregateFunction::Count => arguments.len() <= 1,
                _ => arguments.len() == 1,
            };
            if !fits {
                let found = arguments.len();
                return Err(malformed(format_args!("{function:?} of {found} arguments")));
            }
            Ok(AggregateExpr {
                function,
                arguments,
                filter,
                name: aggregate.name,
            })
        });
        Ok((keys, aggregates.collect::<Result<_>>()?))
    }

    /// The keys of an order.
    ///
    /// # Errors
    /// As for one.
    pub(super) fn take_sort(&mut self, keys: Vec<wire::SortKey>) -> Result<Vec<SortKey>> {
        let keys = keys.into_iter().map(|key| {
            let wire::SortKey {
                expr,
                descending,
                nulls_first,
            } = key;
            Ok(SortKey {
                expr: self.take(expr)?,
                descending,
                nulls_first,
            })
        });
        keys.collect()
    }

    /// Nothing may be left over.
    ///
    /// # Errors
    /// `Invalid` if something is.
    pub(super) fn finish(self) -> Result<()> {
        match self.slots.iter().position(Option::is_some) {
            None => Ok(()),
            Some(index) => Err(malformed(format_args!(
                "expression {index} belongs to nothing"
            ))),
        }
    }

    fn take_slot(&mut self, index: u32) -> Result<Slot> {
        let slot = self.slots.get_mut(index as usize).and_then(Option::take);
        slot.ok_or_else(|| malformed(format_args!("expression {index} is not there to be used")))
    }

    /// Turns one node into an expression, taking its operands; `depth` becomes its depth.
    fn read_node(&mut self, node: Node, depth: &mut usize) -> Result<Expr> {
        let mut operand = |index| -> Result<Expr> {
            let slot = self.take_slot(index)?;
            *depth = (*depth).max(slot.depth + 1);
            Ok(slot.expr)
        };
        Ok(match node {
            Node::Column(name) => Expr::Column(name),
            Node::Literal(literal) => Expr::Literal(decode_literal(literal)?),
            Node::Binary(wire::Binary { left, op, right }) => Expr::Binary {
                left: Box::new(operand(left)?),
                op: BinaryOp::decode(op)?,
                right: Box::new(operand(right)?),
            },
            Node::Not(index) => Expr::Not(Box::new(operand(index)?)),
            Node::Negate(index) => Expr::Negate(Box::new(operand(index)?)),
            Node::IsNull(index) => Expr::IsNull(Box::new(operand(index)?)),
            Node::Cast(wire::Cast { expr, to, lenient }) => Expr::Cast {
                expr: Box::new(operand(expr)?),
                to: schema::decode_type(&to)?,
                lenient,
            },
            Node::Case(wire::Case {
                branches,
                otherwise,
            }) => {
                if branches.is_empty() {
                    return Err(malformed("a case without a branch"));
                }
                let branches = branches
                    .into_iter()
                    .map(|branch| Ok((operand(branch.condition)?, operand(branch.value)?)))
                    .collect::<Result<_>>()?;
                let otherwise = otherwise.map(operand).transpose()?.map(Box::new);
                Expr::Case {
                    branches,
                    otherwise,
                }
            }
            Node::InList(wire::InList { expr, list }) => Expr::InList {
                expr: Box::new(operand(expr)?),
                list: list.into_iter().map(operand).collect::<Result<_>>()?,
            },
            Node::Call(wire::Call { function, args }) => Expr::Function {
                function: Function::decode(function)?,
                args: args.into_iter().map(operand).collect::<Result<_>>()?,
            },
            Node::Udf(mut call) => {
                let args = std::mem::take(&mut call.args).into_iter();
                let args = args.map(operand).collect::<Result<_>>()?;
                let function = udf::decode_call(call)?;
                Expr::Udf { function, args }
            }
            Node::Alias(wire::Alias { expr, name }) => Expr::Alias {
                expr: Box::new(operand(expr)?),
                name,
            },
        })
    }
}

fn check_depth(depth: usize) -> Result<()> {
    let depth_max = limits::EXPR_DEPTH_MAX;
    if depth <= depth_max {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "an expression is nested too deeply depth_max={depth_max}"
    )))
}

fn encode_literal(literal: &Literal) -> wire::Literal {
    let value = match literal {
        Literal::Null => Value::Null(wire::Unit {}),
        Literal::Boolean(value) => Value::Boolean(*value),
        Literal::Int64(value) => Value::Int64(*value),
        Literal::Float64(value) => Value::Float64(*value),
        Literal::Utf8(value) => Value::Utf8(value.clone()),
        Literal::Binary(value) => Value::Binary(value.clone().into()),
        Literal::Decimal {
            unscaled,
            precision,
            scale,
        } => Value::Decimal(encode_decimal(*unscaled, *precision, *scale)),
        Literal::Date(days) => Value::Date(*days),
        Literal::Timestamp { micros, zone } => Value::Timestamp(wire::Timestamp {
            micros: *micros,
            zone: zone.clone(),
        }),
        Literal::Interval {
            months,
            days,
            nanos,
        } => Value::Interval(wire::Interval {
            months: *months,
            days: *days,
            nanos: *nanos,
        }),
    };
    wire::Literal { value: Some(value) }
}

fn decode_literal(literal: wire::Literal) -> Result<Literal> {
    Ok(match need(literal.value, "value of a literal")? {
        Value::Null(wire::Unit {}) => Literal::Null,
        Value::Boolean(value) => Literal::Boolean(value),
        Value::Int64(value) => Literal::Int64(value),
        Value::Float64(value) => Literal::Float64(value),
        Value::Utf8(value) => Literal::Utf8(value),
        Value::Binary(value) => Literal::Binary(value.into()),
        Value::Decimal(decimal) => decode_decimal(decimal)?,
        Value::Date(days) => Literal::Date(days),
        Value::Timestamp(wire::Timestamp { micros, zone }) => Literal::Timestamp { micros, zone },
        Value::Interval(wire::Interval {
            months,
            days,
            nanos,
        }) => Literal::Interval {
            months,
            days,
            nanos,
        },
    })
}

fn encode_decimal(unscaled: i128, precision: u8, scale: i8) -> wire::Decimal {
    wire::Decimal {
        high: (unscaled >> 64) as i64,
        low: unscaled as u64,
        precision: u32::from(precision),
        scale: i32::from(scale),
    }
}

fn decode_decimal(decimal: wire::Decimal) -> Result<Literal> {
    let wire::Decimal {
        high,
        low,
        precision,
        scale,
    } = decimal;
    let unknown = || malformed(format_args!("a decimal({precision}, {scale})"));
    let digits = u8::try_from(precision)
        .ok()
        .filter(|digits| (1..=DECIMAL128_MAX_PRECISION).contains(digits));
    let digits = digits.ok_or_else(unknown)?;
    let behind = i8::try_from(scale)
        .ok()
        .filter(|behind| *behind >= -DECIMAL128_MAX_SCALE && i32::from(digits) >= scale);
    Ok(Literal::Decimal {
        unscaled: i128::from(high) << 64 | i128::from(low),
        precision: digits,
        scale: behind.ok_or_else(unknown)?,
    })
}
