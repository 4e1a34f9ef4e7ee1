//! The search for the best order.
//!
//! Up to a dozen parts every order is looked at, each set of parts once (dynamic programming over
//! subsets, with bushy trees: Moerkotte and Neumann, "Analysis of Two Existing and One New Dynamic
//! Programming Algorithm", 2006, there DPsub). Beyond that the pair whose join costs least, by the
//! same measure, is joined first. What is not connected is joined only where nothing else is left.

use kiln_engine::limits;

use super::graph::Graph;

/// What putting a row into a hash table costs, where looking one up costs 1.
const BUILD_COST: f64 = 2.0;

/// What joining two sets of so many rows costs that makes `rows` of them: each row of the larger is
/// looked up among the smaller, and what comes of it is made.
fn join_cost(one: f64, other: f64, rows: f64) -> f64 {
    one.max(other) + BUILD_COST * one.min(other) + rows
}

/// An order of joins.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Tree {
    /// A leaf of the region.
    Leaf(usize),
    /// An inner join of two.
    Join(Box<Tree>, Box<Tree>),
    /// A semi or anti join of the region over a tree.
    Choice(Box<Tree>, usize),
}

/// The best order of all parts; none if there is none, because names are in the way.
pub(super) fn best(graph: &Graph) -> Option<Tree> {
    let parts = graph.leaf_count() + graph.choosers.len();
    if parts > limits::JOIN_ORDER_EXHAUSTIVE_MAX {
        return greedy(graph);
    }
    exhaustive(graph, false).or_else(|| exhaustive(graph, true))
}

/// How the best tree of a set is made of smaller ones.
#[derive(Clone, Copy)]
enum Step {
    Leaf(usize),
    Join(u64, u64),
    Choice(u64, usize),
}

#[derive(Clone, Copy)]
struct Best {
    cost: f64,
    rows: f64,
    step: Step,
}

fn exhaustive(graph: &Graph, unconnected: bool) -> Option<Tree> {
    let all = graph.all();
    let mut table: Vec<Option<Best>> = vec![None; usize::try_from(all).ok()? + 1];
    for parts in 1..=all {
        table[index(parts)] = best_of(graph, &table, parts, unconnected);
    }
    tree(&table, all)
}

fn index(parts: u64) -> usize {
    usize::try_from(parts).expect("a set of a dozen parts")
}

fn best_of(graph: &Graph, table: &[Option<Best>], parts: u64, unconnected: bool) -> Option<Best> {
    let leaves = graph.leaves(parts);
    if leaves == 0 {
        return None;
    }
    let rows = graph.rows(parts);
    if parts.is_power_of_two() {
        let step = Step::Leaf(parts.trailing_zeros() as usize);
        let cost = 0.0;
        return Some(Best { cost, rows, step });
    }
    let mut found: Option<Best> = None;
    let mut offer = |cost: f64, step| {
        if found.is_none_or(|found| cost < found.cost) {
            found = Some(Best { cost, rows, step });
        }
    };
    for (choice, chooser) in graph.choosers.iter().enumerate() {
        let input = parts & !graph.bit_of_choice(choice);
        let there = chooser.needs & leaves == chooser.needs && chooser.conflicts & leaves == 0;
        if input != parts
            && there
            && let Some(before) = table[index(input)]
        {
            offer(
                before.cost + before.rows + rows,
                Step::Choice(input, choice),
            );
        }
    }
    // Every way to split the parts in two, the half with the first leaf being the one.
    let first = leaves & leaves.wrapping_neg();
    let rest = parts & !first;
    let mut subset = rest;
    while subset != 0 {
        subset = (subset - 1) & rest;
        let (one, other) = (subset | first, rest & !subset);
        if let (Some(left), Some(right)) = (table[index(one)], table[index(other)])
            && (unconnected || graph.connects(one, other))
        {
            let own = join_cost(left.rows, right.rows, rows);
            offer(left.cost + right.cost + own, Step::Join(one, other));
        }
    }
    found
}

fn tree(table: &[Option<Best>], parts: u64) -> Option<Tree> {
    Some(match table[index(parts)]?.step {
        Step::Leaf(leaf) => Tree::Leaf(leaf),
        Step::Choice(input, choice) => Tree::Choice(Box::new(tree(table, input)?), choice),
        Step::Join(one, other) => {
            Tree::Join(Box::new(tree(table, one)?), Box::new(tree(table, other)?))
        }
    })
}

/// Joins the two whose join costs least until one is left; semi and anti joins as soon as what
/// they read is there.
fn greedy(graph: &Graph) -> Option<Tree> {
    let mut open: Vec<(u64, Tree)> = (0..graph.leaf_count())
        .map(|leaf| (1 << leaf, Tree::Leaf(leaf)))
        .collect();
    loop {
        for item in &mut open {
            choose(graph, item);
        }
        if open.len() == 1 {
            break;
        }
        let mut found: Option<(bool, f64, usize, usize)> = None;
        for (one, (left, _)) in open.iter().enumerate() {
            for (other, (right, _)) in open.iter().enumerate().skip(one + 1) {
                let apart = !graph.connects(*left, *right);
                let rows = graph.rows(left | right);
                let cost = join_cost(graph.rows(*left), graph.rows(*right), rows);
                let better = |(least_apart, least, _, _): &(bool, f64, usize, usize)| {
                    (apart, cost) < (*least_apart, *least)
                };
                if found.as_ref().is_none_or(better) {
                    found = Some((apart, cost, one, other));
                }
            }
        }
        let (_, _, one, other) = found?;
        let (right, right_tree) = open.remove(other);
        let (left, left_tree) = open.remove(one);
        let joined = Tree::Join(Box::new(left_tree), Box::new(right_tree));
        open.insert(one, (left | right, joined));
    }
    let (parts, tree) = open.pop()?;
    (parts == graph.all()).then_some(tree)
}

/// Applies to an item what can choose among its rows.
fn choose(graph: &Graph, (parts, tree): &mut (u64, Tree)) {
    for (choice, chooser) in graph.choosers.iter().enumerate() {
        let (bit, leaves) = (graph.bit_of_choice(choice), graph.leaves(*parts));
        let there = chooser.needs & leaves == chooser.needs && chooser.conflicts & leaves == 0;
        if *parts & bit == 0 && there {
            *parts |= bit;
            *tree = Tree::Choice(Box::new(tree.clone()), choice);
        }
    }
}
