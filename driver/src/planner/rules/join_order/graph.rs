//! What is joined, what connects it, and how many rows any part of it makes.
//!
//! Columns that have to be equal form classes: whichever two members of a class are at hand can be
//! a key, even if the user wrote it of two others. A set of leaves and choices is a bit mask,
//! leaves in the low bits.

use std::collections::BTreeSet;

use arrow::datatypes::{DataType, SchemaRef};
use kiln_engine::expr::{BinaryOp, Expr};
use kiln_engine::limits::JOIN_PARTS_MAX;
use kiln_engine::plan::schema_of;

use super::Region;
use crate::planner::rewrite::columns;
use crate::planner::statistics::{Relation, key_domain, semi_share, share_of};

/// A column of a leaf.
type Member = (usize, Expr);

/// An equality that is not one of two columns: over some leaves, at least one, on either side.
struct Edge {
    left: (Expr, u64),
    right: (Expr, u64),
}

/// A semi or anti join.
pub(super) struct Chooser {
    /// The leaves that it reads.
    pub(super) needs: u64,
    /// The leaves that have a column of a name that its own side has, too.
    pub(super) conflicts: u64,
    /// The share of rows that it keeps.
    share: f64,
}

/// The leaves of a region and what connects them.
pub(super) struct Graph {
    leaves: Vec<Relation>,
    classes: Vec<Vec<Member>>,
    edges: Vec<Edge>,
    pub(super) choosers: Vec<Chooser>,
    /// The leaves that each part of what is asked reads.
    pub(super) asked: Vec<u64>,
    /// The share of rows that each of them keeps.
    shares: Vec<f64>,
    /// What each pair of leaves makes of the rows of both, by the classes that they share.
    pairs: Vec<Pair>,
}

/// Two leaves that share classes.
struct Pair {
    leaves: (usize, usize),
    classes: Vec<usize>,
}

impl Graph {
    /// None if the region has too many parts, if a name in it means two columns, or if a key
    /// reads no column: there is no telling between which leaves that one belongs.
    pub(super) fn new(
        region: &Region,
        leaves: Vec<Relation>,
        choices: &[Relation],
    ) -> Option<Self> {
        if leaves.len() + choices.len() > JOIN_PARTS_MAX {
            return None;
        }
        let schemas: Vec<SchemaRef> = region
            .leaves
            .iter()
            .map(|leaf| schema_of(leaf).ok())
            .collect::<Option<_>>()?;
        let names = Names::new(&schemas)?;
        let mut graph = Graph {
            choosers: Vec::new(),
            asked: region
                .asked
                .iter()
                .map(|part| names.mask(part))
                .collect::<Option<_>>()?,
            shares: Vec::new(),
            classes: Vec::new(),
            edges: Vec::new(),
            pairs: Vec::new(),
            leaves,
        };
        for (left, right) in &region.equal {
            graph.add_equality(left, right, &names)?;
        }
        graph.pairs = pairs_of(&graph.classes);
        graph.shares = region.asked.iter().map(|part| graph.share(part)).collect();
        for (choice, relation) in region.choices.iter().zip(choices) {
            let keys = choice.on.iter().map(|(left, _)| left);
            let own = schema_of(choice.right).ok()?;
            let own: BTreeSet<&str> = own.fields().iter().map(|f| f.name().as_str()).collect();
            let mut needs: u64 = 0;
            for name in columns(keys.chain(choice.filter)) {
                if !own.contains(name.as_str()) {
                    needs |= 1 << names.leaf(&name)?;
                }
            }
            let first = graph.leaves.get(needs.trailing_zeros() as usize);
            let share = first.map_or(1.0, |first| {
                semi_share(first, relation, choice.kind, choice.on, choice.filter)
            });
            graph.choosers.push(Chooser {
                needs,
                conflicts: names.sharing(&own),
                share,
            });
        }
        Some(graph)
    }

    fn add_equality(&mut self, left: &Expr, right: &Expr, names: &Names) -> Option<()> {
        match (names.member(left), names.member(right)) {
            (Some((one, left_type)), Some((other, right_type)))
                if left_type == right_type && !left_type.is_floating() && one.0 != other.0 =>
            {
                self.add_to_classes(one, other);
            }
            _ => {
                let read = |key: &Expr| names.mask(key).filter(|mask| *mask != 0);
                self.edges.push(Edge {
                    left: (left.clone(), read(left)?),
                    right: (right.clone(), read(right)?),
                });
            }
        }
        Some(())
    }

    fn add_to_classes(&mut self, one: Member, other: Member) {
        let find = |classes: &[Vec<Member>], member: &Member| {
            classes.iter().position(|class| class.contains(member))
        };
        match (find(&self.classes, &one), find(&self.classes, &other)) {
            (Some(a), Some(b)) if a == b => {}
            (Some(a), Some(b)) => {
                let (first, second) = (a.min(b), a.max(b));
                let members = self.classes.remove(second);
                self.classes[first].extend(members);
            }
            (Some(a), None) => self.classes[a].push(other),
            (None, Some(b)) => self.classes[b].push(one),
            (None, None) => self.classes.push(vec![one, other]),
        }
    }

    fn share(&self, part: &Expr) -> f64 {
        let mut all = Relation {
            rows: 1.0,
            base: f64::MAX,
            known: true,
            columns: Default::default(),
        };
        for leaf in &self.leaves {
            all.columns.extend(leaf.columns.clone());
        }
        share_of(part, &all)
    }

    pub(super) fn leaf_count(&self) -> usize {
        self.leaves.len()
    }

    pub(super) fn bit_of_choice(&self, choice: usize) -> u64 {
        1 << (self.leaves.len() + choice)
    }

    /// All leaves and all choices.
    pub(super) fn all(&self) -> u64 {
        let parts = self.leaves.len() + self.choosers.len();
        u64::MAX >> (JOIN_PARTS_MAX - parts)
    }

    /// The leaves of a set.
    pub(super) fn leaves(&self, parts: u64) -> u64 {
        parts & (u64::MAX >> (JOIN_PARTS_MAX - self.leaves.len()))
    }

    /// Rows of the join of a set.
    pub(super) fn rows(&self, parts: u64) -> f64 {
        let has = |bit: usize| parts >> bit & 1 == 1;
        let mut rows = 1.0;
        for (index, leaf) in self.leaves.iter().enumerate() {
            if has(index) {
                rows *= leaf.rows;
            }
        }
        rows *= self.shares_of_keys(parts);
        for (mask, share) in self.asked.iter().zip(&self.shares) {
            if *mask != 0 && parts & mask == *mask {
                rows *= share;
            }
        }
        for (index, chooser) in self.choosers.iter().enumerate() {
            if has(self.leaves.len() + index) {
                rows *= chooser.share;
            }
        }
        rows.max(1.0)
    }

    /// What the keys within a set leave of all combinations: for each class as many equalities as
    /// connect its members, between the leaves that have most of them in common.
    fn shares_of_keys(&self, parts: u64) -> f64 {
        let has = |leaf: usize| parts >> leaf & 1 == 1;
        // For each class, the leaves that are connected by it already, as sets.
        let mut connected: Vec<Vec<u64>> = vec![Vec::new(); self.classes.len()];
        let mut share = 1.0;
        for Pair { leaves, classes } in &self.pairs {
            let (one, other) = *leaves;
            if !has(one) || !has(other) {
                continue;
            }
            let mut keys = Vec::new();
            for &class in classes {
                if connect(&mut connected[class], one, other) {
                    let column = |leaf| self.member(class, leaf);
                    keys.extend(column(one).zip(column(other)));
                }
            }
            if !keys.is_empty() {
                share /= key_domain(&self.leaves[one], &self.leaves[other], &keys);
            }
        }
        for edge in &self.edges {
            let mask = edge.left.1 | edge.right.1;
            if parts & mask == mask {
                let bits = (0..self.leaves.len()).filter(|leaf| mask >> leaf & 1 == 1);
                let largest = bits.map(|leaf| self.leaves[leaf].base).fold(1.0, f64::max);
                share /= largest;
            }
        }
        share
    }

    /// A column of `leaf` in a class.
    fn member(&self, class: usize, leaf: usize) -> Option<&Expr> {
        let mut members = self.classes[class].iter();
        members
            .find(|member| member.0 == leaf)
            .map(|member| &member.1)
    }

    /// What has to be equal within one leaf, because all of it has to equal the same elsewhere.
    pub(super) fn equal_within(&self, leaf: usize) -> Vec<Expr> {
        let mut parts = Vec::new();
        for class in &self.classes {
            let mut own = class.iter().filter(|member| member.0 == leaf);
            if let Some((_, first)) = own.next() {
                parts.extend(own.map(|(_, other)| first.clone().eq(other.clone())));
            }
        }
        parts
    }

    /// Whether something has to be equal between two sets.
    pub(super) fn connects(&self, one: u64, other: u64) -> bool {
        let in_both = |class: &Vec<Member>| {
            let has = |parts: u64| class.iter().any(|(leaf, _)| parts >> leaf & 1 == 1);
            has(one) && has(other)
        };
        self.classes.iter().any(in_both)
            || self.edges.iter().any(|edge| edge.key(one, other).is_some())
    }

    /// What has to be equal between two sets, as keys and, where it is not of one set each, as
    /// predicates.
    pub(super) fn keys(&self, left: u64, right: u64) -> (Vec<(Expr, Expr)>, Vec<Expr>) {
        let mut keys = Vec::new();
        let mut asked = Vec::new();
        for class in &self.classes {
            let of = |parts: u64| class.iter().find(|(leaf, _)| parts >> leaf & 1 == 1);
            if let (Some((_, left)), Some((_, right))) = (of(left), of(right)) {
                keys.push((left.clone(), right.clone()));
            }
        }
        for edge in &self.edges {
            let mask = edge.left.1 | edge.right.1;
            let covered = |parts: u64| parts & mask == mask;
            if !covered(left | right) || covered(left) || covered(right) {
                continue;
            }
            match edge.key(left, right) {
                Some(key) => keys.push(key),
                None => asked.push(Expr::binary(
                    edge.left.0.clone(),
                    BinaryOp::Equal,
                    edge.right.0.clone(),
                )),
            }
        }
        (keys, asked)
    }
}

impl Edge {
    /// The equality as a key between two sets, if each has a side of it.
    fn key(&self, one: u64, other: u64) -> Option<(Expr, Expr)> {
        let within = |side: &(Expr, u64), parts: u64| side.1 & parts == side.1;
        let (left, right) = (&self.left, &self.right);
        if within(left, one) && within(right, other) {
            Some((left.0.clone(), right.0.clone()))
        } else if within(left, other) && within(right, one) {
            Some((right.0.clone(), left.0.clone()))
        } else {
            None
        }
    }
}

/// Joins the sets of `one` and `other`; whether they were apart.
fn connect(sets: &mut Vec<u64>, one: usize, other: usize) -> bool {
    let mut joined = 1 << one | 1 << other;
    if sets.iter().any(|set| set & joined == joined) {
        return false;
    }
    sets.retain(|set| {
        let meets = set & joined != 0;
        if meets {
            joined |= set;
        }
        !meets
    });
    sets.push(joined);
    true
}

/// The pairs of leaves with classes in common, those with most of them first.
fn pairs_of(classes: &[Vec<Member>]) -> Vec<Pair> {
    let mut pairs: Vec<Pair> = Vec::new();
    for (class, members) in classes.iter().enumerate() {
        for (index, (one, _)) in members.iter().enumerate() {
            for (other, _) in &members[index + 1..] {
                let leaves = (*one.min(other), *one.max(other));
                if leaves.0 == leaves.1 {
                    continue;
                }
                match pairs.iter_mut().find(|pair| pair.leaves == leaves) {
                    Some(pair) if pair.classes.contains(&class) => {}
                    Some(pair) => pair.classes.push(class),
                    None => pairs.push(Pair {
                        leaves,
                        classes: vec![class],
                    }),
                }
            }
        }
    }
    pairs.sort_by_key(|pair| (usize::MAX - pair.classes.len(), pair.leaves));
    pairs
}

/// Which leaf has which column.
struct Names<'a> {
    schemas: &'a [SchemaRef],
}

impl<'a> Names<'a> {
    /// None if two leaves have a column of the same name, as a projection between them may allow.
    fn new(schemas: &'a [SchemaRef]) -> Option<Self> {
        let mut seen = BTreeSet::new();
        let fields = schemas.iter().flat_map(|schema| schema.fields());
        let unique = fields.into_iter().all(|field| seen.insert(field.name()));
        unique.then_some(Names { schemas })
    }

    fn leaf(&self, name: &str) -> Option<usize> {
        let mut schemas = self.schemas.iter();
        schemas.position(|schema| schema.index_of(name).is_ok())
    }

    /// The leaves that `expr` reads.
    fn mask(&self, expr: &Expr) -> Option<u64> {
        let mut mask = 0;
        for name in columns([expr]) {
            mask |= 1 << self.leaf(&name)?;
        }
        Some(mask)
    }

    /// The leaf and the type of an expression that is a column.
    fn member(&self, expr: &Expr) -> Option<(Member, DataType)> {
        let Expr::Column(name) = expr else {
            return None;
        };
        let leaf = self.leaf(name)?;
        let field = self.schemas[leaf].field_with_name(name).ok()?;
        Some(((leaf, expr.clone()), field.data_type().clone()))
    }

    /// The leaves that have a column of one of these names.
    fn sharing(&self, names: &BTreeSet<&str>) -> u64 {
        let mut mask = 0;
        for (leaf, schema) in self.schemas.iter().enumerate() {
            let mut fields = schema.fields().iter();
            if fields.any(|field| names.contains(field.name().as_str())) {
                mask |= 1 << leaf;
            }
        }
        mask
    }
}
