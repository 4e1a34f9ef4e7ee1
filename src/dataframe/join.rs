//! Steps that bring two data frames together.
//!
//! A plan refuses two columns of one name. Here the one case in which that is what everybody means
//! is taken care of: a key that is called the same on both sides comes out once. Whatever else is
//! called the same has to be renamed by whoever knows which is which.

use std::collections::BTreeSet;

use kiln_engine::expr::{Expr, coalesce, col};
use kiln_engine::plan::{JoinKind, LogicalPlan};
use kiln_engine::{Error, Result};

use super::DataFrame;

/// The columns of two data frames that have to be equal in a join: `("left", "right")`, or one
/// name that both have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinKey {
    left: String,
    right: String,
}

impl JoinKey {
    /// The name, if both sides have the same.
    fn shared(&self) -> Option<&str> {
        (self.left == self.right).then_some(self.right.as_str())
    }
}

impl From<&str> for JoinKey {
    fn from(name: &str) -> Self {
        (name, name).into()
    }
}

impl From<(&str, &str)> for JoinKey {
    fn from((left, right): (&str, &str)) -> Self {
        JoinKey {
            left: left.to_owned(),
            right: right.to_owned(),
        }
    }
}

impl DataFrame {
    /// Rows of this and of `other` side by side where the columns `on` are equal; null equals
    /// nothing. A key that is called the same on both sides comes out once, with the value of the
    /// side that has a row.
    ///
    /// ```
    /// use kiln::{JoinKind, Session};
    /// # std::env::set_current_dir(env!("CARGO_MANIFEST_DIR"))?;
    /// let session = Session::local()?;
    /// let sales = session.read_csv("examples/data/sales.csv")?;
    /// let managers = session.read_csv("examples/data/managers.csv")?;
    /// let joined = sales.join(&managers, JoinKind::Left, ["region"])?;
    /// assert_eq!(joined.count()?, sales.count()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Invalid` if a column is unknown, types do not fit, another name is on both sides
    /// ([`DataFrame::rename`] helps), or the other side belongs to another session.
    pub fn join<K: Into<JoinKey>>(
        &self,
        other: &DataFrame,
        kind: JoinKind,
        on: impl IntoIterator<Item = K>,
    ) -> Result<Self> {
        let on: Vec<JoinKey> = on.into_iter().map(Into::into).collect();
        if on.is_empty() {
            return Err(Error::invalid(
                "a join needs at least one key: cross_join has none",
            ));
        }
        for key in &on {
            self.check_column(&key.left)?;
            other.check_column(&key.right)?;
        }
        let rights: BTreeSet<&str> = on.iter().map(|key| key.right.as_str()).collect();
        let only_chooses = matches!(kind, JoinKind::Semi | JoinKind::Anti);
        // What is called the same on both sides has to be hidden. Of a side that only chooses
        // rows nothing but the keys matters, and none of their names comes out.
        let hide: BTreeSet<&str> = match only_chooses {
            true => rights.clone(),
            false => on.iter().filter_map(JoinKey::shared).collect(),
        };
        let right = match (only_chooses, hide.is_empty()) {
            (true, _) => other.select(rights.iter().map(|key| col(*key).alias(hidden(key))))?,
            (false, true) => other.clone(),
            (false, false) => other.renamed(|name| hide.contains(name).then(|| hidden(name)))?,
        };
        let pairs = on.iter().map(|key| {
            let right = match hide.contains(key.right.as_str()) {
                true => hidden(&key.right),
                false => key.right.clone(),
            };
            (col(key.left.as_str()), col(right))
        });
        let joined = self.join_on(&right, kind, pairs, None)?;
        match only_chooses || hide.is_empty() {
            true => Ok(joined),
            false => joined.without_hidden(kind, &hide),
        }
    }

    /// The rows of this that have a match in `other`, once each.
    ///
    /// # Errors
    /// `Invalid` if a column is unknown, types do not fit, or the other side belongs to another
    /// session.
    pub fn semi_join<K: Into<JoinKey>>(
        &self,
        other: &DataFrame,
        on: impl IntoIterator<Item = K>,
    ) -> Result<Self> {
        self.join(other, JoinKind::Semi, on)
    }

    /// The rows of this that have no match in `other`.
    ///
    /// # Errors
    /// As for [`DataFrame::semi_join`].
    pub fn anti_join<K: Into<JoinKey>>(
        &self,
        other: &DataFrame,
        on: impl IntoIterator<Item = K>,
    ) -> Result<Self> {
        self.join(other, JoinKind::Anti, on)
    }

    /// Every row of this beside every row of `other`. An aggregate of all rows has one row, so
    /// that this puts its values beside each row.
    ///
    /// # Errors
    /// `Invalid` if a name is on both sides, or the other side belongs to another session.
    pub fn cross_join(&self, other: &DataFrame) -> Result<Self> {
        self.join_on(other, JoinKind::Inner, [], None)
    }

    /// Rows of this and of `other` side by side where the pairs of expressions in `on`, the first
    /// of each over this and the second over `other`, are equal and `filter`, over the columns of
    /// both, is true.
    ///
    /// # Errors
    /// `Invalid` if a column is unknown, types do not fit, a name is on both sides
    /// ([`DataFrame::rename`] and [`DataFrame::with_prefix`] help), or the other side belongs to
    /// another session.
    pub fn join_on(
        &self,
        other: &DataFrame,
        kind: JoinKind,
        on: impl IntoIterator<Item = (Expr, Expr)>,
        filter: Option<Expr>,
    ) -> Result<Self> {
        self.check_session(other)?;
        let both: Vec<&str> = self
            .names()
            .filter(|name| other.schema.field_with_name(name).is_ok())
            .collect();
        if !both.is_empty() {
            return Err(Error::invalid(format!(
                "both sides of a join have columns of these names: give those of one side others \
                 with rename or with_prefix, or drop them names={both:?}"
            )));
        }
        self.then(LogicalPlan::Join {
            left: self.input(),
            right: other.input(),
            kind,
            on: on.into_iter().collect(),
            filter,
        })
    }

    /// The rows of this, then those of `other`, which has columns of the same names and types.
    ///
    /// # Errors
    /// `Invalid` if the columns differ or the other rows belong to another session.
    pub fn union(&self, other: &DataFrame) -> Result<Self> {
        self.check_session(other)?;
        let reordered = self.schema.fields().len() == other.schema.fields().len()
            && self
                .names()
                .all(|name| other.schema.field_with_name(name).is_ok())
            && !self.names().eq(other.names());
        let other = if reordered {
            other.select(self.every_column())?
        } else {
            other.clone()
        };
        // A chain of unions is one union, which is what a reader of `explain` expects.
        let mut inputs = match self.plan.as_ref() {
            LogicalPlan::Union { inputs } => inputs.clone(),
            _ => vec![self.input()],
        };
        inputs.push(other.input());
        self.then(LogicalPlan::Union { inputs })
    }

    /// Without the keys of the right side that are hidden, whose values go where the left has
    /// none.
    fn without_hidden(&self, kind: JoinKind, keys: &BTreeSet<&str>) -> Result<Self> {
        let left_may_lack = matches!(kind, JoinKind::Right | JoinKind::Full);
        let names = self.names().filter(|name| {
            let is_hidden = keys.iter().any(|key| *name == hidden(key));
            !is_hidden
        });
        let columns = names.map(|name| match left_may_lack && keys.contains(name) {
            true => coalesce([col(name), col(hidden(name))]).alias(name),
            false => col(name),
        });
        self.select(columns.collect::<Vec<_>>())
    }

    fn check_session(&self, other: &DataFrame) -> Result<()> {
        if self.connection.is(&other.connection) {
            return Ok(());
        }
        Err(Error::invalid(
            "the data frames belong to different sessions",
        ))
    }
}

/// What a key of the right side is called while the left has one of the same name.
const HIDDEN: &str = ":right";

fn hidden(name: &str) -> String {
    format!("{name}{HIDDEN}")
}
