//! A stage under construction: rows on their way from a source through operators.
//!
//! Nothing here decides anything; it keeps what has been decided so far consistent: the columns
//! behind the last operator, whether one task sees all rows, and by which columns rows that
//! belong together have been brought together. When a stage is complete, its joins tell its scan
//! which rows they would drop.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use kiln_engine::Result;
use kiln_engine::expr::{Expr, col};
use kiln_engine::id::StageId;
use kiln_engine::operator::join::can_filter;
use kiln_engine::plan::{
    Deal, JoinStep, KeyFilterSpec, OperatorSpec, ScanSpec, Side, SinkSpec, Stage, StageSource,
};
use kiln_engine::task::output_schema;

/// Rows on their way, and the stage that brings them so far.
#[derive(Debug, Clone)]
pub(super) struct Pipe {
    source: StageSource,
    sides: Vec<Side>,
    operators: Vec<OperatorSpec>,
    schema: SchemaRef,
    one_task: bool,
    /// All rows that have the same values in these columns are in the same task.
    together: Option<BTreeSet<String>>,
}

impl Pipe {
    /// The rows of input files.
    pub(super) fn scan(spec: ScanSpec) -> Self {
        let schema = spec.schema();
        let one_task = spec.tasks.len() == 1;
        Pipe::new(StageSource::Scan(spec), schema, one_task)
    }

    /// The rows that `stages` wrote.
    pub(super) fn read(stages: Vec<StageId>, schema: SchemaRef, deal: Deal) -> Self {
        let one_task = deal == Deal::Gather;
        let source = StageSource::Shuffle {
            stages,
            schema: Arc::clone(&schema),
            deal,
        };
        Pipe::new(source, schema, one_task)
    }

    fn new(source: StageSource, schema: SchemaRef, one_task: bool) -> Self {
        Pipe {
            source,
            sides: Vec::new(),
            operators: Vec::new(),
            schema,
            one_task,
            together: None,
        }
    }

    /// The same rows, known to have been brought together by `keys`.
    pub(super) fn brought_together(mut self, keys: &[String]) -> Self {
        self.together = Some(keys.iter().cloned().collect());
        self
    }

    /// The columns behind the last operator.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Whether one task sees all rows.
    pub(super) fn is_one_task(&self) -> bool {
        self.one_task
    }

    /// Whether all rows of a group are in one task.
    pub(super) fn has_whole_groups(&self, keys: &[String]) -> bool {
        let within = |together: &BTreeSet<String>| together.iter().all(|key| keys.contains(key));
        self.one_task || !keys.is_empty() && self.together.as_ref().is_some_and(within)
    }

    /// Appends an operator.
    ///
    /// # Errors
    /// `Invalid` if it does not fit the columns.
    pub(super) fn push(&mut self, operator: OperatorSpec) -> Result<()> {
        self.schema = output_schema(&operator, &self.schema, &self.sides)?;
        if let Some(together) = &self.together
            && !together.iter().all(|key| keeps(&operator, key))
        {
            self.together = None;
        }
        self.operators.push(operator);
        Ok(())
    }

    /// Appends a join with `side`; `step.side` is set here.
    ///
    /// # Errors
    /// As for [`push`](Self::push).
    pub(super) fn join(&mut self, side: Side, mut step: JoinStep) -> Result<()> {
        step.side = self.sides.len();
        self.sides.push(side);
        self.push(OperatorSpec::Join(step))
    }

    /// Drops every column that is not `needed`.
    ///
    /// # Errors
    /// As for [`push`](Self::push).
    pub(super) fn keep_only(&mut self, needed: &BTreeSet<String>) -> Result<()> {
        let names = self.schema.fields().iter().map(|field| field.name());
        let kept: Vec<Expr> = names
            .filter(|name| needed.contains(*name))
            .map(col)
            .collect();
        if kept.len() < self.schema.fields().len() {
            self.push(OperatorSpec::Project { exprs: kept })?;
        }
        Ok(())
    }

    /// Brings the columns into the order of `schema`, which has the same names.
    ///
    /// # Errors
    /// As for [`push`](Self::push).
    pub(super) fn in_order_of(&mut self, schema: &Schema) -> Result<()> {
        let names = |schema: &Schema| -> Vec<String> {
            let fields = schema.fields().iter();
            fields.map(|field| field.name().clone()).collect()
        };
        let wanted = names(schema);
        if names(&self.schema) != wanted {
            let exprs = wanted.into_iter().map(col).collect();
            self.push(OperatorSpec::Project { exprs })?;
        }
        Ok(())
    }

    /// The complete stage.
    pub(super) fn into_stage(self, id: StageId, sink: SinkSpec) -> Stage {
        let mut source = self.source;
        if let StageSource::Scan(scan) = &mut source {
            scan.key_filters = key_filters(scan, &self.sides, &self.operators);
        }
        Stage {
            id,
            source,
            sides: self.sides,
            operators: self.operators,
            sink,
            schema: self.schema,
        }
    }
}

/// Whether rows pass `operator` with the values of column `name` as they are.
fn keeps(operator: &OperatorSpec, name: &str) -> bool {
    let is_plain = |expr: &Expr| matches!(expr, Expr::Column(column) if column == name);
    match operator {
        OperatorSpec::Filter { .. } | OperatorSpec::TopK { .. } | OperatorSpec::Sort { .. } => true,
        OperatorSpec::Limit { .. } => true,
        OperatorSpec::Project { exprs } => exprs.iter().any(is_plain),
        OperatorSpec::Aggregate { group_by, .. } => group_by.iter().any(is_plain),
        OperatorSpec::Explode { column } => column != name,
        OperatorSpec::Apply { .. } | OperatorSpec::Reduce { .. } => false,
        OperatorSpec::Join(join) => !join.kind.emits_build_rows() && join.output_has(name),
    }
}

/// What the joins of a stage say of the columns of its scan: a row whose key no join knows comes
/// to nothing, as long as the row meets the join as it was scanned.
fn key_filters(scan: &ScanSpec, sides: &[Side], operators: &[OperatorSpec]) -> Vec<KeyFilterSpec> {
    // For each column that is still what the scan made it: its name now, and where it comes from.
    let names = scan.projection.iter().map(|&column| {
        let field: &Field = scan.file_schema.field(column);
        (field.name().clone(), column)
    });
    let mut traced: Vec<(String, usize)> = names.collect();
    let mut found = Vec::new();
    for (position, operator) in operators.iter().enumerate() {
        match operator {
            OperatorSpec::Filter { .. } => {}
            OperatorSpec::Explode { column } => traced.retain(|(name, _)| name != column),
            OperatorSpec::Project { exprs } => traced = renamed(&traced, exprs),
            OperatorSpec::Join(join) => {
                if join.kind.drops_probe_rows() {
                    let side = &sides[join.side].schema;
                    found.extend(filters_of(join, position, side, scan, &traced));
                }
                if join.kind.emits_build_rows() {
                    break;
                }
                traced.retain(|(name, _)| join.output_has(name));
            }
            // From here on rows are others, or which rows come matters.
            OperatorSpec::Apply { .. }
            | OperatorSpec::Reduce { .. }
            | OperatorSpec::Aggregate { .. }
            | OperatorSpec::TopK { .. }
            | OperatorSpec::Sort { .. }
            | OperatorSpec::Limit { .. } => break,
        }
    }
    found
}

/// The keys of one join that are columns as they were scanned, of types by which they can be
/// filtered.
fn filters_of(
    join: &JoinStep,
    operator: usize,
    side: &Schema,
    scan: &ScanSpec,
    traced: &[(String, usize)],
) -> Vec<KeyFilterSpec> {
    let pairs = join.probe_keys.iter().zip(&join.build_keys).enumerate();
    let filter = |(key, (probe, build)): (usize, (&Expr, &Expr))| {
        let Expr::Column(build) = build else {
            return None;
        };
        let of = |probe: &str| {
            let &(_, column) = traced.iter().find(|(name, _)| name == probe)?;
            Some((column, scan.file_schema.field(column).data_type()))
        };
        let (column, scanned) = match probe {
            Expr::Column(probe) => of(probe)?,
            Expr::Cast { expr, to, .. } => match &**expr {
                Expr::Column(probe) => of(probe).filter(|(_, from)| is_wider(from, to))?,
                _ => return None,
            },
            _ => return None,
        };
        let build = side.field_with_name(build).ok()?;
        can_filter(scanned, build.data_type()).then_some(KeyFilterSpec {
            column,
            operator,
            key,
        })
    };
    pairs.filter_map(filter).collect()
}

/// Whether every whole number of one type is one of the other, so that a cast neither fails nor
/// changes which rows are equal.
fn is_wider(from: &DataType, to: &DataType) -> bool {
    from.is_signed_integer()
        && to.is_signed_integer()
        && from.primitive_width() <= to.primitive_width()
}

/// The traced columns that `exprs` pass on, under their new names.
fn renamed(traced: &[(String, usize)], exprs: &[Expr]) -> Vec<(String, usize)> {
    let of = |name: &String| traced.iter().find(|(known, _)| known == name);
    let passed = exprs.iter().filter_map(|expr| match expr {
        Expr::Column(name) => of(name).cloned(),
        Expr::Alias { expr, name } => match &**expr {
            Expr::Column(old) => of(old).map(|&(_, column)| (name.clone(), column)),
            _ => None,
        },
        _ => None,
    });
    passed.collect()
}

#[cfg(test)]
mod tests {
    use kiln_engine::plan::{ScanFormat, StepKind};

    use super::*;

    /// Whether the scan of a column `a` is filtered by a join on `key` with a `b` of type `build`.
    fn is_filtered(a: DataType, key: Expr, build: DataType) -> bool {
        let one = |name: &str, data_type| Schema::new(vec![Field::new(name, data_type, true)]);
        let scan = ScanSpec {
            format: ScanFormat::Parquet,
            file_schema: Arc::new(one("a", a)),
            projection: vec![0],
            predicate: None,
            key_filters: vec![],
            files: vec![],
            tasks: vec![],
        };
        let side = Side {
            stage: StageId(0),
            schema: Arc::new(one("b", build)),
            broadcast: true,
        };
        let join = OperatorSpec::Join(JoinStep {
            side: 0,
            kind: StepKind::Inner,
            probe_keys: vec![key],
            build_keys: vec![col("b")],
            filter: None,
            output: vec![],
        });
        !key_filters(&scan, &[side], &[join]).is_empty()
    }

    #[test]
    fn scans_are_filtered_by_keys_of_other_exact_types() {
        use DataType::{Date32, Decimal64, Float64, Int32, Int64, UInt32, Utf8View};
        for (scanned, cast, build, expected) in [
            (Int64, None, Int64, true),
            (Int32, None, Int64, true),
            (Int64, None, Int32, true),
            (Decimal64(15, 2), None, Decimal64(10, 4), true),
            (Int32, Some(Int64), Int64, true),
            // The cast may fail, and somebody may want to know.
            (Int64, Some(Int32), Int32, false),
            (UInt32, Some(Int32), Int32, false),
            (Decimal64(15, 2), Some(Int64), Int64, false),
            (Date32, None, Date32, true),
            (Utf8View, None, Utf8View, true),
            (Int64, None, Float64, false),
            (Float64, None, Int64, false),
        ] {
            let key = match cast.clone() {
                Some(to) => col("a").cast(to),
                None => col("a"),
            };
            let found = is_filtered(scanned.clone(), key, build.clone());
            assert_eq!(found, expected, "{scanned} {cast:?} {build}");
        }
    }
}
