//! A join step checked against the columns of both sides and made ready to run.
//!
//! Everything that does not depend on rows is decided here: names become positions, keys get a
//! conversion to the type they have in common, and only those columns of the build rows are kept
//! that come out or that the condition reads.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::can_cast_types;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use crate::error::{Error, Result};
use crate::expr::eval::{Compiled, compile};
use crate::expr::{Expr, typing};
use crate::operator::join::keys::is_key;
use crate::operator::join::table::FilterRequest;
use crate::plan::{JoinStep, StepKind};

/// A join step that fits its columns.
#[derive(Debug)]
pub struct JoinSpec {
    pub(super) kind: StepKind,
    /// Over the probe rows, each of the type in `key_types`.
    pub(super) probe_keys: Vec<Compiled>,
    /// Over the build rows, likewise.
    pub(super) build_keys: Vec<Compiled>,
    pub(super) key_types: Vec<DataType>,
    /// Positions in the build rows of the columns that a table keeps.
    pub(super) kept: Vec<usize>,
    pub(super) kept_types: Vec<DataType>,
    /// Where in a piece of build rows each key is: the kept columns come first, then those keys
    /// that are none of them.
    key_places: Vec<usize>,
    /// The columns of pieces.
    piece: SchemaRef,
    /// The columns of probe rows.
    probe: SchemaRef,
    pub(super) filter: Option<PairFilter>,
    pub(super) output: Vec<Origin>,
    schema: SchemaRef,
}

/// Where a column of a pair is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Position in the probe rows.
    Probe(usize),
    /// Position in the columns that the table keeps.
    Build(usize),
}

/// A condition on pairs, over a batch of just the columns that it reads.
#[derive(Debug)]
pub(super) struct PairFilter {
    pub(super) predicate: Compiled,
    pub(super) columns: Vec<Origin>,
    pub(super) schema: SchemaRef,
    /// The condition is the untyped null, which is true of no pair.
    pub(super) never: bool,
}

impl JoinSpec {
    /// Prepares `step` for probe rows of `probe` and build rows of `build`.
    ///
    /// # Errors
    /// `Invalid` if the step does not fit them.
    pub fn new(step: &JoinStep, probe: &Schema, build: &Schema) -> Result<Self> {
        if step.probe_keys.len() != step.build_keys.len() {
            return Err(Error::invalid(format!(
                "a join has different numbers of keys probe={} build={}",
                step.probe_keys.len(),
                step.build_keys.len()
            )));
        }
        let mut columns = Columns {
            probe,
            build,
            kept: Vec::new(),
        };
        let filter = match &step.filter {
            Some(filter) => Some(columns.filter(filter)?),
            None => None,
        };
        let (output, fields) = columns.output(step)?;
        let kept = columns.kept;
        let kept_type = |&column: &usize| build.field(column).data_type().clone();
        let kept_types = kept.iter().map(kept_type).collect();
        let mut spec = JoinSpec {
            kind: step.kind,
            probe_keys: Vec::new(),
            build_keys: Vec::new(),
            key_types: Vec::new(),
            kept,
            kept_types,
            key_places: Vec::new(),
            piece: Arc::new(Schema::empty()),
            probe: nullable(probe.fields().iter().map(|field| field.data_type())),
            filter,
            output,
            schema: Arc::new(Schema::new(fields)),
        };
        for (probe_key, build_key) in step.probe_keys.iter().zip(&step.build_keys) {
            let common = typing::check_keys(probe_key, probe, build_key, build)?;
            if !is_key(&common) {
                return Err(Error::invalid(format!(
                    "{probe_key} = {build_key}: a join does not look up values of this type \
                     found={common}"
                )));
            }
            spec.probe_keys.push(key(probe_key, probe, &common)?);
            spec.build_keys.push(key(build_key, build, &common)?);
            spec.key_types.push(common);
        }
        spec.lay_out_pieces(step, build);
        Ok(spec)
    }

    /// Decides what pieces of build rows look like. A key that is kept anyway is there once.
    fn lay_out_pieces(&mut self, step: &JoinStep, build: &Schema) {
        let mut types = self.kept_types.clone();
        for (key, common) in step.build_keys.iter().zip(&self.key_types) {
            let index = match key {
                Expr::Column(name) => build.index_of(name).ok(),
                _ => None,
            };
            let index = index.filter(|index| build.field(*index).data_type() == common);
            let place = index.and_then(|index| self.kept.iter().position(|kept| *kept == index));
            self.key_places.push(place.unwrap_or(types.len()));
            if place.is_none() {
                types.push(common.clone());
            }
        }
        self.piece = nullable(types.iter());
    }

    /// The columns of pieces of build rows.
    pub(super) fn piece_schema(&self) -> &SchemaRef {
        &self.piece
    }

    /// The columns of probe rows, which may all be null.
    pub(super) fn probe_schema(&self) -> &SchemaRef {
        &self.probe
    }

    /// What is needed of a batch of build rows.
    ///
    /// # Errors
    /// `Invalid` if a key cannot be computed.
    pub(super) fn piece(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let kept = self.kept.iter();
        let mut columns: Vec<ArrayRef> = kept.map(|&at| Arc::clone(batch.column(at))).collect();
        for (key, place) in self.build_keys.iter().zip(&self.key_places) {
            if *place == columns.len() {
                columns.push(key.evaluate(batch)?);
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let schema = Arc::clone(&self.piece);
        Ok(RecordBatch::try_new_with_options(
            schema, columns, &options,
        )?)
    }

    /// The keys of a piece.
    pub(super) fn keys_of(&self, piece: &RecordBatch) -> Vec<ArrayRef> {
        let key = |&place: &usize| Arc::clone(piece.column(place));
        self.key_places.iter().map(key).collect()
    }

    /// The keys of probe rows.
    ///
    /// # Errors
    /// `Invalid` if one cannot be computed.
    pub(super) fn probe_keys(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let keys = self.probe_keys.iter();
        keys.map(|key| key.evaluate(batch)).collect()
    }

    /// The columns that come out.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// How the scan column of `data_type` has to be asked for, if it is the probe rows' key `key`
    /// as it is: none if values of that type cannot be told from the keys.
    pub fn filter_request(&self, key: usize, data_type: &DataType) -> Option<FilterRequest> {
        let common = self.key_types.get(key)?;
        let can_cast = can_cast_types(common, data_type);
        (can_cast && can_filter(data_type, common)).then(|| FilterRequest {
            key,
            data_type: data_type.clone(),
        })
    }

    /// Whether nothing comes out where there are no build rows.
    pub fn needs_build_rows(&self) -> bool {
        !matches!(
            self.kind,
            StepKind::ProbeOuter | StepKind::FullOuter | StepKind::ProbeAnti
        )
    }

    /// Whether pairs come out, and not rows of one side.
    pub(super) fn emits_pairs(&self) -> bool {
        matches!(
            self.kind,
            StepKind::Inner | StepKind::ProbeOuter | StepKind::BuildOuter | StepKind::FullOuter
        )
    }

    /// Whether probe rows without a match come out.
    pub(super) fn keeps_probe_rows(&self) -> bool {
        matches!(self.kind, StepKind::ProbeOuter | StepKind::FullOuter)
    }

    /// Whether it has to be known of a probe row if it has any match at all.
    pub(super) fn decides_by_match(&self) -> bool {
        self.keeps_probe_rows() || matches!(self.kind, StepKind::ProbeSemi | StepKind::ProbeAnti)
    }

    /// Whether build rows are only marked, pair by pair: then those that are marked are left out.
    pub(super) fn only_marks_pairs(&self) -> bool {
        self.kind.emits_build_rows() && !self.emits_pairs() && self.filter.is_some()
    }
}

/// Whether a column of type `column` can be filtered by keys of type `keys`. Among exact numbers
/// it can: a key that is brought to the column's type either keeps its value or is none that the
/// column has.
pub fn can_filter(column: &DataType, keys: &DataType) -> bool {
    let is_exact = |data_type: &DataType| data_type.is_integer() || data_type.is_decimal();
    column == keys || is_exact(column) && is_exact(keys)
}

fn key(key: &Expr, schema: &Schema, to: &DataType) -> Result<Compiled> {
    match typing::data_type(key, schema)? == *to {
        true => compile(key, schema),
        false => compile(&key.clone().cast(to.clone()), schema),
    }
}

/// Columns of these types, of which nothing else has to be known.
fn nullable<'a>(types: impl Iterator<Item = &'a DataType>) -> SchemaRef {
    let field =
        |(at, data_type): (usize, &DataType)| Field::new(at.to_string(), data_type.clone(), true);
    let fields = types.enumerate().map(field);
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

struct Columns<'a> {
    probe: &'a Schema,
    build: &'a Schema,
    kept: Vec<usize>,
}

impl Columns<'_> {
    /// Where the column `name` of a pair is found, and its field there.
    fn find(&mut self, name: &str, probe: bool, build: bool) -> Result<(Origin, Field)> {
        if let Some((index, field)) = self.probe.column_with_name(name).filter(|_| probe) {
            return Ok((Origin::Probe(index), field.clone()));
        }
        let Some((index, field)) = self.build.column_with_name(name).filter(|_| build) else {
            let sides = [(self.probe, probe), (self.build, build)];
            let fields = sides.into_iter().filter(|(_, may)| *may);
            let fields = fields.flat_map(|(schema, _)| schema.fields().iter().cloned());
            return Err(typing::unknown_column(
                name,
                &Schema::new(fields.collect::<Vec<_>>()),
            ));
        };
        let kept = self.kept.iter().position(|kept| *kept == index);
        let place = kept.unwrap_or_else(|| {
            self.kept.push(index);
            self.kept.len() - 1
        });
        Ok((Origin::Build(place), field.clone()))
    }

    fn filter(&mut self, filter: &Expr) -> Result<PairFilter> {
        let (mut columns, mut fields) = (Vec::new(), Vec::new());
        for name in column_names(filter) {
            let (from, field) = self.find(name, true, true)?;
            columns.push(from);
            fields.push(field);
        }
        let schema = Arc::new(Schema::new(fields));
        let predicate = compile(filter, &schema)?;
        let never = match predicate.field().data_type() {
            DataType::Boolean => false,
            DataType::Null => true,
            other => {
                return Err(Error::invalid(format!(
                    "{filter}: the condition of a join has to be a boolean found={other}"
                )));
            }
        };
        Ok(PairFilter {
            predicate,
            columns,
            schema,
            never,
        })
    }

    fn output(&mut self, step: &JoinStep) -> Result<(Vec<Origin>, Vec<Field>)> {
        use StepKind::{
            BuildAnti, BuildOuter, BuildSemi, FullOuter, ProbeAnti, ProbeOuter, ProbeSemi,
        };
        let probe = !matches!(step.kind, BuildSemi | BuildAnti);
        let build = !matches!(step.kind, ProbeSemi | ProbeAnti);
        let (mut output, mut fields) = (Vec::new(), Vec::new());
        for name in &step.output {
            let (from, field) = self.find(name, probe, build)?;
            let gets_nulls = match from {
                Origin::Probe(_) => matches!(step.kind, BuildOuter | FullOuter),
                Origin::Build(_) => matches!(step.kind, ProbeOuter | FullOuter),
            };
            let nullable = field.is_nullable() || gets_nulls;
            output.push(from);
            fields.push(field.with_nullable(nullable));
        }
        Ok((output, fields))
    }
}

/// The columns that `expr` reads, each once.
fn column_names(expr: &Expr) -> Vec<&str> {
    let mut names = Vec::new();
    let mut open = vec![expr];
    while let Some(expr) = open.pop() {
        if let Expr::Column(name) = expr
            && !names.contains(&name.as_str())
        {
            names.push(name);
        }
        open.extend(expr.operands());
    }
    names
}
