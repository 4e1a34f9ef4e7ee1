//! Every layout of an index against a map from codes to rows.

use std::collections::HashMap;

use fastrand::Rng;

use super::fill::{PARALLEL_ROWS, PARTS_MAX};
use super::*;
use crate::operator::join::keys::MISS;

/// Looks up every code of `rows`, and as many others, in an index of that layout.
fn check(seed: u64, layout: Layout, rows: &[u64], threads: usize) {
    let codes = Codes::Stored(rows.to_vec());
    let index = Index::new(layout, rows.len() as u32, codes, threads).expect("codes are there");
    let mut expected: HashMap<u64, Vec<u32>> = HashMap::new();
    for (row, code) in (1..).zip(rows).filter(|(_, code)| **code != MISS) {
        expected.entry(*code).or_default().push(row);
    }
    let is_unique = expected.values().all(|rows| rows.len() == 1);
    assert_eq!(index.is_unique(), is_unique, "seed={seed} {layout:?}");
    let others = rows.iter().map(|code| code.wrapping_add(1));
    let asked: Vec<u64> = rows.iter().copied().chain(others).chain([MISS]).collect();
    let mut found = Vec::new();
    index.find(&asked, &mut found);
    for (code, mut row) in asked.into_iter().zip(found) {
        let mut chain = Vec::new();
        while row != 0 {
            chain.push(row);
            row = index.next(row);
        }
        chain.reverse();
        let rows = expected.get(&code).cloned().unwrap_or_default();
        assert_eq!(chain, rows, "seed={seed} {layout:?} code={code}");
    }
}

#[test]
fn every_layout_finds_all_rows_of_a_code_and_no_others() {
    for seed in 0..60 {
        let mut random = Rng::with_seed(seed);
        let rows = if seed % 10 == 0 {
            3 * PARALLEL_ROWS
        } else {
            random.usize(..200)
        };
        let most = random.u64(1..4 * rows as u64 + 2);
        let mut codes: Vec<u64> = (0..rows).map(|_| random.u64(..most)).collect();
        if random.bool() {
            // Without duplicates, in no order.
            codes = (0..rows as u64).collect();
            random.shuffle(&mut codes);
        }
        if random.bool() {
            codes.iter_mut().step_by(7).for_each(|code| *code = MISS);
        }
        let places = codes.iter().filter(|code| **code != MISS).max();
        let places = places.map_or(1, |code| *code as usize + 1);
        let threads = random.usize(1..6);
        check(seed, Layout::Places(places), &codes, threads);
        check(seed, Layout::Narrow, &codes, threads);
        let spread = |code: &u64| match *code {
            MISS => MISS,
            code => code.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 1,
        };
        let wide: Vec<u64> = codes.iter().map(spread).collect();
        check(seed, Layout::Wide, &wide, threads);
    }
}

#[test]
fn codes_that_all_want_one_part_still_fit() {
    // Sixteen parts of 8192 slots, and nearly as many codes that hash into the first.
    let codes = (0..u64::MAX).filter(|code| mix(*code) >> 60 == 0);
    let mut codes: Vec<u64> = codes.take(8000).collect();
    codes.resize(PARALLEL_ROWS, MISS);
    check(0, Layout::Narrow, &codes, PARTS_MAX);
}

#[test]
fn without_keys_a_row_leads_to_all_others() {
    let index = Index::all(3);
    let mut found = Vec::new();
    index.find(&[0, 0], &mut found);
    assert_eq!(found, [1, 1]);
    assert_eq!([index.next(1), index.next(2), index.next(3)], [2, 3, 0]);
    assert!(!index.is_unique() && Index::all(1).is_unique());
    Index::all(0).find(&[0], &mut found);
    assert_eq!(found, [0]);
}
