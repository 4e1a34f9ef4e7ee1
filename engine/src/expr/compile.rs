//! From an expression and a schema to steps that run on batches.
//!
//! Compiling is also the type check: there is one recursion that decides types, so what was
//! checked and what runs cannot differ. Everything that does not depend on rows happens here,
//! once: columns become indices, conversions are inserted, constants become arrays of length
//! one, patterns become automata.

use arrow::array::{Array, ArrayRef};
use arrow::compute::{CastOptions, can_cast_types, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema};

use super::choose::Choice;
use super::eval::{LENIENT, Node, Rows, STRICT, Step};
use super::exact::Exact;
use super::in_list::Set;
use super::typing::unknown_column;
use super::unify::{self, unify};
use super::{Expr, Literal, binary, coerce, function, literal, text, user};
use crate::error::{Error, Result};
use crate::limits;

/// An expression that is checked against a schema and ready to run.
pub struct Compiled {
    pub(super) node: Node,
    field: Field,
}

impl Compiled {
    /// Name, type and nullability of the result.
    pub fn field(&self) -> &Field {
        &self.field
    }
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Compiled({})", self.field)
    }
}

/// Checks `expr` against `schema` and makes it ready to run on batches of that schema.
///
/// # Errors
/// `Invalid`: an unknown column, types that do not fit, a bad pattern or too much nesting.
pub fn compile(expr: &Expr, schema: &Schema) -> Result<Compiled> {
    if !nests_at_most(expr, limits::EXPR_DEPTH_MAX) {
        return Err(Error::invalid(format!(
            "expression is nested too deep limit={}",
            limits::EXPR_DEPTH_MAX
        )));
    }
    let typed = Compiler { schema }.expr(expr)?;
    let field = Field::new(text::output_name(expr), typed.data_type, typed.nullable);
    Ok(Compiled {
        node: typed.node,
        field,
    })
}

/// Looks no deeper than `levels`, so that a hostile tree cannot exhaust the stack here either.
fn nests_at_most(expr: &Expr, levels: usize) -> bool {
    let Some(levels) = levels.checked_sub(1) else {
        return false;
    };
    let mut operands = expr.operands().into_iter();
    operands.all(|operand| nests_at_most(operand, levels))
}

/// A step with the type of what it makes.
pub(super) struct Typed {
    pub(super) node: Node,
    pub(super) data_type: DataType,
    pub(super) nullable: bool,
}

impl Typed {
    pub(super) fn new(step: Step, text: &Expr, data_type: DataType, nullable: bool) -> Self {
        Typed {
            node: Node {
                step,
                text: text.to_string().into(),
            },
            data_type,
            nullable,
        }
    }

    /// The constant of this step, if it is one.
    pub(super) fn constant(&self) -> Option<&ArrayRef> {
        match &self.node.step {
            Step::Constant(value) => Some(value),
            _ => None,
        }
    }

    /// Inserts a conversion, unless the type is right already. Constants are converted now.
    pub(super) fn cast(self, to: &DataType, text: &Expr) -> Result<Self> {
        self.cast_with(to, text, &STRICT)
    }

    fn cast_with(
        self,
        to: &DataType,
        text: &Expr,
        options: &'static CastOptions<'static>,
    ) -> Result<Self> {
        if self.data_type == *to {
            return Ok(self);
        }
        if !can_cast_types(&self.data_type, to) {
            return Err(Error::invalid(format!(
                "{text}: no conversion between these types from={} to={to}",
                self.data_type
            )));
        }
        if let Some(value) = self.constant() {
            let value = cast_with_options(value, to, options)
                .map_err(|error| Error::from(error).context(text))?;
            let nullable = self.nullable || value.null_count() > 0;
            return Ok(Typed::new(
                Step::Constant(value),
                text,
                to.clone(),
                nullable,
            ));
        }
        let widens = coerce::widens(&self.data_type, to);
        let nullable = self.nullable || options.safe && !widens;
        let step = Step::Cast {
            fits: widens || options.safe,
            inner: Box::new(self.node),
            options,
            to: to.clone(),
        };
        Ok(Typed::new(step, text, to.clone(), nullable))
    }

    /// As [`cast`](Self::cast), but a constant number becomes the very number that it spells.
    pub(super) fn exactly(self, to: &DataType, text: &Expr) -> Result<Self> {
        let number = self.constant().and_then(|value| Exact::of(value));
        match number.and_then(|number| number.constant(to)) {
            Some(value) => Ok(Typed::new(Step::Constant(value), text, to.clone(), false)),
            None => self.cast(to, text),
        }
    }

    /// Computes what depends on no row, once. What fails stays as it is: there may be no row that
    /// needs it.
    fn folded(self) -> Self {
        let operands = self.node.operands();
        let constant = |node: &&Node| matches!(node.step, Step::Constant(_));
        // User code runs with rows only, and where it is watched over.
        let is_user = matches!(self.node.step, Step::Udf(..));
        if is_user || operands.is_empty() || !operands.iter().all(constant) {
            return self;
        }
        let value = self.node.run(&Rows::one());
        match value.and_then(|value| value.into_array(1)) {
            Ok(value) if value.data_type() == &self.data_type => Typed {
                node: Node {
                    step: Step::Constant(value),
                    text: self.node.text,
                },
                ..self
            },
            _ => self,
        }
    }
}

struct Compiler<'a> {
    schema: &'a Schema,
}

impl Compiler<'_> {
    fn expr(&self, expr: &Expr) -> Result<Typed> {
        Ok(self.unfolded(expr)?.folded())
    }

    fn unfolded(&self, expr: &Expr) -> Result<Typed> {
        match expr {
            Expr::Column(name) => self.column(name, expr),
            Expr::Literal(literal) => {
                let (value, nullable) = (literal::array(literal)?, *literal == Literal::Null);
                let data_type = value.data_type().clone();
                Ok(Typed::new(Step::Constant(value), expr, data_type, nullable))
            }
            Expr::Binary { left, op, right } => {
                binary::compile(expr, *op, self.expr(left)?, self.expr(right)?)
            }
            Expr::Not(inner) => {
                let inner = binary::boolean(expr, self.expr(inner)?)?;
                let nullable = inner.nullable;
                let step = Step::Not(inner.node.into());
                Ok(Typed::new(step, expr, DataType::Boolean, nullable))
            }
            Expr::Negate(inner) => negate(expr, self.expr(inner)?),
            Expr::IsNull(inner) => {
                let step = Step::IsNull(self.expr(inner)?.node.into());
                Ok(Typed::new(step, expr, DataType::Boolean, false))
            }
            Expr::Cast {
                expr: inner,
                to,
                lenient,
            } => {
                let options = if *lenient { &LENIENT } else { &STRICT };
                self.expr(inner)?.cast_with(to, expr, options)
            }
            Expr::Case {
                branches,
                otherwise,
            } => self.case(expr, branches, otherwise.as_deref()),
            Expr::InList { expr: inner, list } => self.in_list(expr, inner, list),
            Expr::Alias { expr: inner, .. } => self.expr(inner),
            Expr::Function { function, args } => {
                let args = args
                    .iter()
                    .map(|arg| self.expr(arg))
                    .collect::<Result<Vec<_>>>()?;
                function::compile(expr, *function, args)
            }
            Expr::Udf { function, args } => {
                let args = args.iter().map(|arg| self.expr(arg));
                user::compile(expr, function, args.collect::<Result<_>>()?)
            }
        }
    }

    fn column(&self, name: &str, expr: &Expr) -> Result<Typed> {
        let Ok(index) = self.schema.index_of(name) else {
            return Err(unknown_column(name, self.schema));
        };
        let field = self.schema.field(index);
        let typed = Typed::new(
            Step::Column(index),
            expr,
            field.data_type().clone(),
            field.is_nullable(),
        );
        Ok(typed)
    }

    fn case(
        &self,
        expr: &Expr,
        branches: &[(Expr, Expr)],
        otherwise: Option<&Expr>,
    ) -> Result<Typed> {
        let mut values = Vec::with_capacity(branches.len() + 1);
        let mut conditions = Vec::with_capacity(branches.len());
        for (condition, value) in branches {
            let condition = binary::boolean(condition, self.expr(condition)?)?;
            conditions.push(condition.node);
            values.push(self.expr(value)?);
        }
        values.push(self.expr(otherwise.unwrap_or(&Expr::Literal(Literal::Null)))?);
        let (mut values, data_type) = unify(expr, values)?;
        let nullable = values.iter().any(|value| value.nullable);
        let Some(otherwise) = values.pop().filter(|_| !branches.is_empty()) else {
            return Err(Error::invalid(format!("{expr}: a branch is needed")));
        };
        let nodes = values.into_iter().map(|value| value.node);
        let step = Step::Case(Choice {
            branches: conditions.into_iter().zip(nodes).collect(),
            otherwise: Box::new(otherwise.node),
        });
        Ok(Typed::new(step, expr, data_type, nullable))
    }

    /// A set where every item is a constant of a type that has one, else a chain of comparisons.
    fn in_list(&self, expr: &Expr, inner: &Expr, list: &[Expr]) -> Result<Typed> {
        let operand = self.expr(inner)?;
        let items = list
            .iter()
            .map(|item| self.expr(item))
            .collect::<Result<Vec<_>>>()?;
        let nullable = operand.nullable || items.iter().any(|item| item.nullable);
        let plain = coerce::plain(&operand.data_type);
        let constant = items.iter().all(|item| item.constant().is_some());
        if constant && operand.constant().is_none() && in_type(&plain, &items) {
            let operand = operand.cast(&plain, expr)?;
            let items = items
                .into_iter()
                // A number that the type does not have is equal to no value of it.
                .filter(|item| {
                    let number = item.constant().and_then(|value| Exact::of(value));
                    number.is_none_or(|number| number.constant(&plain).is_some())
                })
                .map(|item| item.exactly(&plain, expr))
                .collect::<Result<Vec<_>>>()?;
            let values: Vec<&ArrayRef> = items.iter().filter_map(Typed::constant).collect();
            if let Some(set) = Set::new(&values, &plain) {
                let step = Step::InList(operand.node.into(), set);
                return Ok(Typed::new(step, expr, DataType::Boolean, nullable));
            }
        }
        let Typed { node, .. } = self.expr(&any_equal(inner, list))?;
        Ok(Typed {
            node: Node {
                text: expr.to_string().into(),
                ..node
            },
            data_type: DataType::Boolean,
            nullable,
        })
    }
}

/// `expr` compared with every item. Halving the list keeps the tree shallow, however long it is.
fn any_equal(expr: &Expr, list: &[Expr]) -> Expr {
    match list {
        // False, or null where the operand is.
        [] => expr.clone().not_eq(expr.clone()),
        [item] => expr.clone().eq(item.clone()),
        _ => {
            let (some, others) = list.split_at(list.len() / 2);
            any_equal(expr, some).or(any_equal(expr, others))
        }
    }
}

/// Whether constants can be looked for as values of `data_type`.
fn in_type(data_type: &DataType, items: &[Typed]) -> bool {
    let is_number = data_type.is_integer() || data_type.is_decimal();
    items.iter().all(|item| {
        let number = || {
            item.constant()
                .is_some_and(|value| Exact::of(value).is_some())
        };
        is_number && number() || unify::beside(item, data_type) || item.data_type == *data_type
    })
}

fn negate(expr: &Expr, operand: Typed) -> Result<Typed> {
    use DataType::{Int8, Int16, Int32, Int64, Null, UInt8, UInt16, UInt32, UInt64};
    let to = match coerce::plain(&operand.data_type) {
        UInt8 => Int16,
        UInt16 => Int32,
        UInt32 | UInt64 | Null => Int64,
        Int8 => Int8,
        other if other.is_numeric() || matches!(other, DataType::Duration(_)) => other,
        other => {
            return Err(Error::invalid(format!(
                "{expr}: a number is needed found={other}"
            )));
        }
    };
    let operand = operand.cast(&to, expr)?;
    let nullable = operand.nullable;
    Ok(Typed::new(
        Step::Negate(operand.node.into()),
        expr,
        to,
        nullable,
    ))
}
