//! What an expression is made of.
//!
//! Whoever goes through expressions without caring what each of them does goes through these, so
//! that a new kind of expression is taken apart in one place.

use super::{BinaryOp, Expr};

impl Expr {
    /// The expressions that this one is computed from, in the order in which they are written.
    pub fn operands(&self) -> Vec<&Expr> {
        match self {
            Expr::Column(_) | Expr::Literal(_) => Vec::new(),
            Expr::Binary { left, right, .. } => vec![left, right],
            Expr::Not(inner) | Expr::Negate(inner) | Expr::IsNull(inner) => vec![inner],
            Expr::Cast { expr, .. } | Expr::Alias { expr, .. } => vec![expr],
            Expr::Case {
                branches,
                otherwise,
            } => {
                let pairs = branches.iter();
                let pairs = pairs.flat_map(|(condition, value)| [condition, value]);
                pairs.chain(otherwise.as_deref()).collect()
            }
            Expr::InList { expr, list } => std::iter::once(expr.as_ref()).chain(list).collect(),
            Expr::Function { args, .. } | Expr::Udf { args, .. } => args.iter().collect(),
        }
    }

    /// The expressions that this one is directly computed from, to be changed.
    pub fn operands_mut(&mut self) -> Vec<&mut Expr> {
        match self {
            Expr::Column(_) | Expr::Literal(_) => Vec::new(),
            Expr::Binary { left, right, .. } => vec![left, right],
            Expr::Not(expr)
            | Expr::Negate(expr)
            | Expr::IsNull(expr)
            | Expr::Cast { expr, .. }
            | Expr::Alias { expr, .. } => vec![expr],
            Expr::Case {
                branches,
                otherwise,
            } => {
                let pairs = branches.iter_mut();
                let parts = pairs.flat_map(|(condition, value)| [condition, value]);
                parts.chain(otherwise.as_deref_mut()).collect()
            }
            Expr::InList { expr, list } => [&mut **expr].into_iter().chain(list).collect(),
            Expr::Function { args, .. } | Expr::Udf { args, .. } => args.iter_mut().collect(),
        }
    }

    /// Whether a function of a user's program is called somewhere in it.
    pub fn calls_functions(&self) -> bool {
        matches!(self, Expr::Udf { .. }) || self.operands().into_iter().any(Expr::calls_functions)
    }

    /// The parts of `a AND b AND …`, without names that they have been given.
    pub fn conjuncts(&self) -> Vec<&Expr> {
        let mut parts = Vec::new();
        self.split(BinaryOp::And, &mut parts);
        parts
    }

    /// The parts of `a OR b OR …`, without names that they have been given.
    pub fn disjuncts(&self) -> Vec<&Expr> {
        let mut parts = Vec::new();
        self.split(BinaryOp::Or, &mut parts);
        parts
    }

    fn split<'a>(&'a self, by: BinaryOp, parts: &mut Vec<&'a Expr>) {
        match self {
            Expr::Binary { left, op, right } if *op == by => {
                left.split(by, parts);
                right.split(by, parts);
            }
            Expr::Alias { expr, .. } => expr.split(by, parts),
            part => parts.push(part),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{case_when, coalesce, col, lit};
    use super::*;

    fn shown(parts: Vec<&Expr>) -> String {
        let parts: Vec<String> = parts.into_iter().map(Expr::to_string).collect();
        parts.join("; ")
    }

    #[test]
    fn operands_are_in_order() {
        let one_of = Expr::InList {
            expr: Box::new(col("a")),
            list: vec![lit(1), lit(2)],
        };
        for (expr, expected) in [
            (col("a"), ""),
            (col("a") - col("b"), "a; b"),
            (!col("a").alias("x"), "a AS x"),
            (case_when(col("a"), lit(1)).otherwise(col("b")), "a; 1; b"),
            (case_when(col("a"), lit(1)).end(), "a; 1"),
            (one_of, "a; 1; 2"),
            (coalesce([col("a"), lit(3)]), "a; 3"),
        ] {
            assert_eq!(shown(expr.operands()), expected, "{expr}");
        }
    }

    #[test]
    fn parts_are_those_of_one_operator() {
        let both = col("a").and(col("b")).alias("both");
        let expr = both.and(col("c").or(col("d")));
        assert_eq!(shown(expr.conjuncts()), "a; b; c OR d");
        assert_eq!(expr.disjuncts(), [&expr]);
        assert_eq!(
            shown(col("a").or(col("b")).or(col("c")).disjuncts()),
            "a; b; c"
        );
    }
}
