//! The words of the lines of a text are the words of the text.
//!
//! White space never spans the end of a line, because the end itself is white space. So when only
//! the words of the lines are wanted, the lines need not be found: the scan makes the words.
//! Changing case commutes with that, since neither direction makes or removes white space and
//! the case of a letter depends on nothing beyond its word.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use kiln_engine::Result;
use kiln_engine::expr::{Expr, Function, col, output_name};
use kiln_engine::plan::{LogicalPlan, Scan, ScanFormat, TextOptions, TextRecord};

use crate::planner::rewrite::{named, rewrite_up, unaliased};

/// Turns `explode(words(line))` over lines, with no other column, into a scan of words.
pub(in crate::planner) fn words_at_scan(plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(rewrite_up(&plan, |node| words_of(&node).unwrap_or(node)))
}

fn words_of(node: &LogicalPlan) -> Option<LogicalPlan> {
    let LogicalPlan::Explode { input, column } = node else {
        return None;
    };
    let LogicalPlan::Project { input, exprs } = input.as_ref() else {
        return None;
    };
    let LogicalPlan::Scan(scan) = input.as_ref() else {
        return None;
    };
    let ScanFormat::Text(
        options @ TextOptions {
            record: TextRecord::Line,
            ..
        },
    ) = scan.format
    else {
        return None;
    };
    let [made] = exprs.as_slice() else {
        return None;
    };
    if output_name(made) != *column {
        return None;
    }
    let word = per_word(argument_of(unaliased(made), Function::Words)?)?;
    let scan = LogicalPlan::Scan(Scan {
        locations: scan.locations.clone(),
        format: ScanFormat::Text(TextOptions {
            record: TextRecord::Word,
            ..options
        }),
        schema: Arc::new(Schema::new(vec![Field::new(
            "word",
            DataType::Utf8View,
            false,
        )])),
        projection: None,
        predicate: None,
    });
    if word == col("word") && column == "word" {
        return Some(scan);
    }
    Some(LogicalPlan::Project {
        input: scan.into(),
        exprs: vec![named(word, column)],
    })
}

/// What is done to a line, done to a word of it; none if that is not the same.
fn per_word(line: &Expr) -> Option<Expr> {
    match line {
        Expr::Column(name) => (name == "line").then(|| col("word")),
        Expr::Alias { expr, .. } => per_word(expr),
        Expr::Function {
            function: function @ (Function::Lower | Function::Upper),
            args,
        } => {
            let [inner] = args.as_slice() else {
                return None;
            };
            Some(Expr::Function {
                function: *function,
                args: vec![per_word(inner)?],
            })
        }
        _ => None,
    }
}

/// The argument of a call of `function` with one argument.
fn argument_of(expr: &Expr, function: Function) -> Option<&Expr> {
    match expr {
        Expr::Function {
            function: called,
            args,
        } if *called == function => match args.as_slice() {
            [argument] => Some(argument),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use kiln_engine::expr::{concat, lower, words};

    use super::super::fixture::{check, lines};
    use super::*;

    #[test]
    fn words_of_lines_are_words_of_the_text() {
        let plan = lines()
            .project([words(col("line")).alias("word")])
            .explode("word");
        check(
            words_at_scan,
            plan,
            expect![[r#"
            explode word
              project words(line) AS word
                scan text lines [path, offset, line] from memory:///in
            →
            scan text words [word] from memory:///in
        "#]],
        );
    }

    #[test]
    fn names_and_case_are_kept() {
        let plan = lines()
            .project([words(lower(col("line")))])
            .explode("words(lower(line))");
        check(
            words_at_scan,
            plan,
            expect![[r#"
            explode words(lower(line))
              project words(lower(line))
                scan text lines [path, offset, line] from memory:///in
            →
            project lower(word) AS `words(lower(line))`
              scan text words [word] from memory:///in
        "#]],
        );
    }

    #[test]
    fn whatever_needs_the_line_keeps_it() {
        let twice = concat([col("line"), col("line")]);
        for plan in [
            lines()
                .project([words(col("line")).alias("w"), col("path")])
                .explode("w"),
            lines()
                .project([words(col("path")).alias("w")])
                .explode("w"),
            lines().project([words(twice).alias("w")]).explode("w"),
            lines()
                .filter(col("offset").gt(9))
                .project([words(col("line")).alias("w")])
                .explode("w"),
            lines().project([words(col("line")).alias("w")]),
        ] {
            assert_eq!(words_at_scan(plan.0.clone()).expect("a plan"), plan.0);
        }
    }
}
