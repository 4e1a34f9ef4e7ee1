//! Two projections in a row are one, and one that changes nothing is none.

use std::collections::HashMap;

use kiln_engine::expr::{Expr, Literal, output_name};
use kiln_engine::plan::LogicalPlan;
use kiln_engine::{Result, limits};

use crate::planner::rewrite::{
    column_names, columns, depth, each_column, map_expr, named, rewrite_up, unaliased,
};

/// Joins adjacent projections where nothing is computed twice by that, and drops those that only
/// repeat their input.
pub(in crate::planner) fn projections_together(plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(rewrite_up(&plan, |node| match node {
        LogicalPlan::Project { input, exprs } => {
            let (input, exprs) = match input.as_ref() {
                LogicalPlan::Project {
                    input: below,
                    exprs: inner,
                } => match join(&exprs, inner) {
                    Some(joined) => (below.clone(), joined),
                    None => (input, exprs),
                },
                _ => (input, exprs),
            };
            if repeats(&exprs, &input) {
                input.as_ref().clone()
            } else {
                LogicalPlan::Project { input, exprs }
            }
        }
        other => other,
    }))
}

/// `outer` with the columns of `inner` put in place; none if something would be computed twice or
/// the expressions would nest too deep.
fn join(outer: &[Expr], inner: &[Expr]) -> Option<Vec<Expr>> {
    let made: HashMap<String, &Expr> = inner
        .iter()
        .map(|expr| (output_name(expr), unaliased(expr)))
        .collect();
    let mut uses: HashMap<&str, usize> = HashMap::new();
    for expr in outer {
        each_column(expr, &mut |name| *uses.entry(name).or_default() += 1);
    }
    let twice = |(name, uses): (&&str, &usize)| {
        let trivial = made
            .get(*name)
            .is_some_and(|expr| matches!(expr, Expr::Column(_) | Expr::Literal(_)));
        *uses > 1 && !trivial
    };
    // A constant takes the type of what it stands beside; a column that is constant has its own.
    let constant = |name: &String| {
        let made = made.get(name).filter(|expr| columns([**expr]).is_empty());
        made.is_some_and(|expr| !matches!(expr, Expr::Literal(Literal::Boolean(_))))
    };
    let adapts = |expr: &Expr| {
        !matches!(unaliased(expr), Expr::Column(_)) && columns([expr]).iter().any(constant)
    };
    if uses.iter().any(twice) || outer.iter().any(adapts) {
        return None;
    }
    let joined: Vec<Expr> = outer.iter().map(|expr| put_in_place(expr, &made)).collect();
    joined
        .iter()
        .all(|expr| depth(expr) <= limits::EXPR_DEPTH_MAX)
        .then_some(joined)
}

fn put_in_place(expr: &Expr, made: &HashMap<String, &Expr>) -> Expr {
    let joined = map_expr(expr.clone(), &mut |part| match part {
        Expr::Column(name) => match made.get(&name) {
            Some(&source) => source.clone(),
            None => Expr::Column(name),
        },
        other => other,
    });
    named(joined, &output_name(expr))
}

/// Whether the expressions are the columns of `input`, in their order.
fn repeats(exprs: &[Expr], input: &LogicalPlan) -> bool {
    let names = column_names(input);
    let plain = |(expr, name): (&Expr, &String)| matches!(expr, Expr::Column(own) if own == name);
    names.len() == exprs.len() && exprs.iter().zip(&names).all(plain)
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;
    use expect_test::expect;
    use kiln_engine::expr::{coalesce, col, lit, lower};

    use super::super::fixture::{check, table};
    use super::*;

    #[test]
    fn a_constant_column_keeps_its_type() {
        let plan = table()
            .project([
                col("a").cast(DataType::Int32).alias("narrow"),
                lit(7).alias("wide"),
            ])
            .project([
                col("wide"),
                coalesce([col("narrow"), col("wide")]).alias("either"),
            ]);
        check(
            projections_together,
            plan,
            expect![[r#"
            project wide, coalesce(narrow, wide) AS either
              project CAST(a AS Int32) AS narrow, 7 AS wide
                scan parquet [s, a, b, c] from memory:///in
            →
            project wide, coalesce(narrow, wide) AS either
              project CAST(a AS Int32) AS narrow, 7 AS wide
                scan parquet [s, a, b, c] from memory:///in
        "#]],
        );
    }

    #[test]
    fn projections_in_a_row_are_one() {
        let plan = table()
            .project([col("s").alias("t"), col("a") + col("b"), col("a")])
            .project([
                lower(col("t")),
                col("a + b") * 2,
                col("a"),
                (col("a") + 1).alias("n"),
            ]);
        check(
            projections_together,
            plan,
            expect![[r#"
            project lower(t), `a + b` * 2, a, a + 1 AS n
              project s AS t, a + b, a
                scan parquet [s, a, b, c] from memory:///in
            →
            project lower(s) AS `lower(t)`, (a + b) * 2 AS ```a + b`` * 2`, a, a + 1 AS n
              scan parquet [s, a, b, c] from memory:///in
        "#]],
        );
    }

    #[test]
    fn nothing_is_computed_twice() {
        let plan = table()
            .project([lower(col("s")).alias("t")])
            .project([col("t"), col("t").eq("x")])
            .0;
        assert_eq!(projections_together(plan.clone()).expect("a plan"), plan);
    }

    #[test]
    fn a_projection_that_changes_nothing_goes() {
        let plan = table()
            .project([col("b"), col("a")])
            .filter(col("a").gt(1))
            .project([col("b"), col("a")]);
        check(
            projections_together,
            plan,
            expect![[r#"
            project b, a
              filter a > 1
                project b, a
                  scan parquet [s, a, b, c] from memory:///in
            →
            filter a > 1
              project b, a
                scan parquet [s, a, b, c] from memory:///in
        "#]],
        );
    }

    #[test]
    fn expressions_do_not_grow_past_the_limit() {
        let mut plan = table().project([col("a")]);
        for _ in 0..3 {
            let deep = (0..40).fold(col("a"), |expr, _| -expr);
            plan = plan.project([deep.alias("a")]);
        }
        let plan = projections_together(plan.0).expect("a plan");
        kiln_engine::plan::schema_of(&plan).expect("expressions within the limit");
    }
}
