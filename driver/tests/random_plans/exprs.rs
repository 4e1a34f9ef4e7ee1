//! Random expressions over given columns, well typed by construction.
//!
//! Most are *firm*: one right value, whoever computes it in whichever order. A float that comes of
//! a division or of rounding is not; it is passed on and compared with tolerance, but nothing is
//! decided by it.

use arrow::datatypes::{DataType, Schema};
use fastrand::Rng;
use kiln_engine::expr::{
    Case, Expr, Literal, abs, case_when, coalesce, col, concat, contains, ends_with, length, lit,
    lower, starts_with, trim, typing, upper,
};

/// A column of a plan.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) data_type: DataType,
    /// Its values are exact, so that other things may depend on them.
    pub(crate) firm: bool,
}

/// Types that are computed with alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Int,
    Float,
    Decimal,
    Text,
    Bool,
    Date,
}

const CLASSES: [Class; 6] = [
    Class::Int,
    Class::Float,
    Class::Decimal,
    Class::Text,
    Class::Bool,
    Class::Date,
];

pub(crate) fn class(data_type: &DataType) -> Class {
    match data_type {
        DataType::Int32 | DataType::Int64 => Class::Int,
        DataType::Float64 => Class::Float,
        DataType::Utf8View => Class::Text,
        DataType::Boolean => Class::Bool,
        DataType::Date32 => Class::Date,
        other if other.is_decimal() => Class::Decimal,
        other => panic!("the generator makes no columns of this type: {other}"),
    }
}

/// Makes expressions over `columns`, of the rows of `schema`.
pub(crate) struct Exprs<'a> {
    pub(crate) random: &'a mut Rng,
    pub(crate) columns: Vec<Column>,
    pub(crate) schema: &'a Schema,
}

impl Exprs<'_> {
    fn chance(&mut self, one_in: u8) -> bool {
        self.random.u8(0..one_in) == 0
    }

    /// Any value, with its type and whether it is firm.
    pub(crate) fn value(&mut self, depth: u32) -> (Expr, DataType, bool) {
        if self.chance(6) {
            let loose = self.loose();
            return (loose, DataType::Float64, false);
        }
        let class = self.any_class();
        let expr = self.of(class, depth);
        match self.type_of(&expr) {
            Some(data_type) => (expr, data_type, true),
            None => (lit(7), DataType::Int64, true),
        }
    }

    /// The type of an expression that is not just null.
    fn type_of(&self, expr: &Expr) -> Option<DataType> {
        let data_type = typing::data_type(expr, self.schema);
        data_type
            .ok()
            .filter(|data_type| *data_type != DataType::Null)
    }

    /// Of the columns that there are, mostly.
    fn any_class(&mut self) -> Class {
        let column = self.random.choice(&self.columns);
        match column.map(|column| class(&column.data_type)) {
            Some(class) if self.random.u8(0..4) > 0 => class,
            _ => *self.random.choice(&CLASSES).expect("some"),
        }
    }

    fn column(&mut self, wanted: Class) -> Option<Expr> {
        let firm = |column: &&Column| column.firm && class(&column.data_type) == wanted;
        let columns: Vec<&Column> = self.columns.iter().filter(firm).collect();
        let column = self.random.choice(columns)?;
        Some(col(&column.name))
    }

    fn literal(&mut self, class: Class) -> Expr {
        let number = self.random.i64(-5..=9);
        match class {
            _ if self.chance(15) => lit(None::<i64>),
            Class::Int => lit(number),
            Class::Float => lit(number as f64 / 4.0 + 0.25 * f64::from(u8::from(number == 0))),
            Class::Decimal => Expr::Literal(Literal::Decimal {
                unscaled: i128::from(number) * 5,
                precision: 4,
                scale: 1,
            }),
            Class::Text => {
                let texts = ["", "a", "B", "it's", "exactly 12 c", "ünïcode"];
                lit(*self.random.choice(&texts).expect("some"))
            }
            Class::Bool => lit(number > 2),
            Class::Date => Expr::Literal(Literal::Date(9_000 + number as i32)),
        }
    }

    fn leaf(&mut self, class: Class) -> Expr {
        match self.chance(4) {
            true => self.literal(class),
            false => self.column(class).unwrap_or_else(|| self.literal(class)),
        }
    }

    /// A firm value of a class.
    pub(crate) fn of(&mut self, class: Class, depth: u32) -> Expr {
        if depth == 0 || self.chance(3) {
            return self.leaf(class);
        }
        let made = match self.random.u8(0..10) {
            0 => {
                let condition = self.of(Class::Bool, depth - 1);
                let value = self.of(class, depth - 1);
                let case: Case = case_when(condition, value);
                match self.chance(3) {
                    true => case.end(),
                    false => case.otherwise(self.of(class, depth - 1)),
                }
            }
            1 => coalesce([self.of(class, depth - 1), self.of(class, depth - 1)]),
            _ => self.computed(class, depth - 1),
        };
        match self.type_of(&made) {
            Some(_) => made,
            None => self.leaf(class),
        }
    }

    fn computed(&mut self, class: Class, depth: u32) -> Expr {
        let choice = self.random.u8(0..6);
        let one = self.of(class, depth);
        match (class, choice) {
            (Class::Int, 0) => one + self.of(class, depth),
            (Class::Int, 1) => one - self.of(class, depth),
            // 32 bits overflow where the reference does not.
            (Class::Int, 2) => one.cast(DataType::Int64) * self.of(class, depth),
            (Class::Int, 3) => one / self.of(class, depth),
            (Class::Int, 4) => one % self.of(class, depth),
            (Class::Int, _) if depth == 0 => length(self.of(Class::Text, depth)),
            (Class::Int, _) if self.random.bool() => abs(one),
            (Class::Int, _) => -one.cast(DataType::Int64),
            (Class::Float, 0 | 1) => one + self.of(class, depth),
            (Class::Float, 2 | 3) => one - self.of(class, depth),
            (Class::Float, 4) => abs(one),
            (Class::Float, _) => self.random.choice([one, lit(0.5)]).expect("some"),
            (Class::Decimal, 0) => one + self.of(class, depth),
            (Class::Decimal, 1) => one - self.of(class, depth),
            (Class::Decimal, 2) => one * self.leaf(class),
            (Class::Decimal, 3) => one + self.leaf(Class::Int),
            (Class::Decimal, 4) => self.leaf(Class::Int).cast(DataType::Decimal128(25, 2)),
            (Class::Decimal, _) if self.random.bool() => abs(one),
            (Class::Decimal, _) => -one,
            (Class::Text, 0 | 1) => upper(one),
            (Class::Text, 2) => lower(one),
            (Class::Text, 3) => trim(one),
            (Class::Text, _) => concat([one, self.of(class, depth)]),
            (Class::Bool, _) => self.condition(depth),
            (Class::Date, _) => one,
        }
    }

    fn condition(&mut self, depth: u32) -> Expr {
        let class = self.any_class();
        match self.random.u8(0..14) {
            0 => self.of(class, depth).is_null(),
            1 => self.of(class, depth).is_not_null(),
            2 => !self.of(Class::Bool, depth),
            3 | 4 => self.of(Class::Bool, depth).and(self.of(Class::Bool, depth)),
            5 | 6 => self.of(Class::Bool, depth).or(self.of(Class::Bool, depth)),
            7 if class != Class::Bool => Expr::InList {
                expr: Box::new(self.of(class, depth)),
                list: (0..3).map(|_| self.literal(class)).collect(),
            },
            8 => starts_with(self.of(Class::Text, depth), self.literal(Class::Text)),
            9 => contains(self.of(Class::Text, depth), self.literal(Class::Text)),
            10 => ends_with(self.of(Class::Text, depth), self.literal(Class::Text)),
            11 => {
                let divisor = self.leaf(Class::Int);
                let quotient = self.of(Class::Int, depth) / divisor.clone();
                divisor.not_eq(0).and(quotient.gt(self.literal(Class::Int)))
            }
            _ => self.comparison(class, depth),
        }
    }

    fn comparison(&mut self, class: Class, depth: u32) -> Expr {
        let other = match class {
            Class::Int if self.chance(4) => Class::Decimal,
            Class::Decimal if self.chance(4) => Class::Int,
            other => other,
        };
        let (left, right) = (self.of(class, depth), self.of(other, depth));
        match self.random.u8(0..6) {
            0 | 1 => left.eq(right),
            2 => left.not_eq(right),
            3 => left.lt(right),
            4 => left.lt_eq(right),
            _ => left.gt(right),
        }
    }

    /// A float that is not firm.
    fn loose(&mut self) -> Expr {
        let loose = self.columns.iter().filter(|column| !column.firm);
        let loose: Vec<String> = loose.map(|column| column.name.clone()).collect();
        let made = match (self.random.u8(0..6), self.random.choice(loose)) {
            (0..3, Some(name)) => col(name) + self.leaf(Class::Float),
            (0 | 3, _) => self.leaf(Class::Decimal) / self.leaf(Class::Decimal),
            (1 | 4, _) => self.leaf(Class::Decimal).cast(DataType::Float64),
            (2, _) => self.leaf(Class::Float) * self.leaf(Class::Float),
            _ => self.leaf(Class::Float) / self.leaf(Class::Float),
        };
        match self.type_of(&made) {
            Some(DataType::Float64) => made,
            _ => lit(1.5),
        }
    }
}
