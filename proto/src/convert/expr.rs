//! Expressions as a flat table: children before parents, named by index, each used once.
//!
//! One table holds all expressions of a plan or stage. Writing recurses at most
//! [`limits::EXPR_DEPTH_MAX`] deep. Reading is a loop that takes operands out of the slots where
//! it put them, so a node can neither be missing nor be used twice (which would let a small
//! message make an exponentially large tree).

use kiln_engine::expr::{
    AggregateExpr, AggregateFunction, BinaryOp, Expr, Function, Literal, SortKey,
};
use kiln_engine::{Error, Result, limits};

use crate::convert::enums::Twin;
use crate::convert::{index, malformed, need, schema};
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
            let argument = aggregate
                .argument
                .as_ref()
                .map(|expr| self.write(expr))
                .transpose()?;
            let function = aggregate.function.encode();
            Ok(wire::Aggregate {
                function,
                argument,
                name: aggregate.name.clone(),
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
            Expr::Cast { expr, to } => Node::Cast(wire::Cast {
                expr: operand(expr)?,
                to: schema::encode_type(to),
            }),
            Expr::Function { function, args } => {
                let args = args.iter().map(operand).collect::<Result<_>>()?;
                Node::Call(wire::Call {
                    function: function.encode(),
                    args,
                })
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
            let function = AggregateFunction::decode(aggregate.function)?;
            let argument = aggregate
                .argument
                .map(|index| self.take(index))
                .transpose()?;
            if argument.is_none() && function != AggregateFunction::Count {
                return Err(malformed(format_args!("{function:?} without an argument")));
            }
            Ok(AggregateExpr {
                function,
                argument,
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
            Node::Cast(wire::Cast { expr, to }) => Expr::Cast {
                expr: Box::new(operand(expr)?),
                to: schema::decode_type(&to)?,
            },
            Node::Call(wire::Call { function, args }) => Expr::Function {
                function: Function::decode(function)?,
                args: args.into_iter().map(operand).collect::<Result<_>>()?,
            },
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
    })
}
