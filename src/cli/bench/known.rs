//! The answers that are known without a file: digests, for the scales at which they were checked.

use super::answer::Answer;
use super::figures::Verdict;

/// Answers at one scale.
struct Known {
    /// Rows of `supplier`, which only this scale has.
    suppliers: u64,
    /// For each query, how many rows its answer has and what [`Answer::digest`] says of it.
    answers: [(usize, u64); kiln::tpch::QUERIES],
}

const KNOWN: [Known; 2] = [
    Known {
        suppliers: 100,
        answers: [
            (4, 0xa49a_3fce_2b53_a8d9),
            (4, 0xb877_c165_1261_d8d5),
            (10, 0xfa34_41e9_73db_6ce0),
            (5, 0xb448_87f1_b862_fba5),
            (5, 0xda61_053f_c85c_f084),
            (1, 0x6f6e_097d_5863_a787),
            (4, 0x35b7_3431_632d_745d),
            (2, 0xbbdf_8772_33bb_f2ed),
            (173, 0x56c9_41ee_b7d6_dbbf),
            (20, 0x3742_3ce0_bdbc_f5eb),
            (1, 0xf39c_75ab_f3e4_5b38),
            (2, 0xfdf2_8fdc_edc6_0247),
            (33, 0x0d08_7f8c_cca6_de77),
            (1, 0xe3fc_d61f_ed5c_6def),
            (1, 0xcc18_fad8_43db_e1f7),
            (296, 0xfdf2_cbac_731c_8521),
            (1, 0xf0d0_d915_890c_1971),
            (2, 0x1644_5863_0037_e559),
            (1, 0x6f01_0188_1132_16e0),
            (1, 0xacef_6f9b_06e5_c8a7),
            (1, 0xee2c_68ce_36e8_7b41),
            (7, 0x1674_37c3_a317_ab93),
        ],
    },
    Known {
        suppliers: 10_000,
        answers: [
            (4, 0xc9e5_c350_160c_ee3c),
            (100, 0x2db1_a657_7577_8244),
            (10, 0x1f70_98e9_a384_18b8),
            (5, 0xf65c_b59a_21f7_b8f3),
            (5, 0x87ea_2dd8_072a_010c),
            (1, 0xce99_6474_56d6_c71c),
            (4, 0x0c01_3fe9_c1d8_5a81),
            (2, 0xf898_dd39_cc43_b930),
            (175, 0x40aa_5383_ccfb_ec30),
            (20, 0x4567_cf20_2daa_5cee),
            (1_048, 0xc5ed_06a2_1320_d300),
            (2, 0x4e39_a045_9610_55d2),
            (42, 0xf08f_69d9_40bc_b969),
            (1, 0xf268_fc49_9488_fc18),
            (1, 0x4b23_b269_1fc4_ceb7),
            (18_314, 0x8bf6_5357_5d8a_07fa),
            (1, 0x700a_f6ef_1765_788a),
            (57, 0x2669_8bd4_2fa7_23fd),
            (1, 0x4232_3621_f7d3_7ac9),
            (186, 0xe57b_7155_f8bc_980d),
            (100, 0x3d76_9b3b_e103_f281),
            (7, 0x8ccd_3b1b_49cf_b231),
        ],
    },
];

/// What is known of the answer of query `number` over tables with so many suppliers.
pub(super) fn verdict(suppliers: u64, number: usize, answer: &Answer) -> Verdict {
    let known = KNOWN.iter().find(|known| known.suppliers == suppliers);
    let Some((rows, digest)) = known.and_then(|known| known.answers.get(number.wrapping_sub(1)))
    else {
        return Verdict::Unknown;
    };
    if answer.rows.len() != *rows {
        let found = answer.rows.len();
        return Verdict::Wrong(format!("{found} rows instead of {rows}"));
    }
    if answer.digest() == *digest {
        return Verdict::Right;
    }
    Verdict::Wrong("it is not the known one: --answers DIR says where".to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::answer;
    use super::*;

    #[test]
    fn the_digests_are_of_the_answers_that_were_checked() {
        const FLOATS: [&str; 6] = [
            "avg_qty",
            "avg_price",
            "avg_disc",
            "mkt_share",
            "promo_revenue",
            "avg_yearly",
        ];
        for number in 1..=kiln::tpch::QUERIES {
            let folder = env!("CARGO_MANIFEST_DIR");
            let file = format!("{folder}/tests/tpch/sf0.01/q{number:02}.csv");
            let text = fs::read_to_string(&file).expect("the answer is there");
            let mut lines = text.lines();
            let header = lines.next().expect("an answer has a header").split('|');
            let header: Vec<String> = header.map(str::to_owned).collect();
            let is_float = header
                .iter()
                .map(|name| FLOATS.contains(&name.as_str()))
                .collect();
            let cells = |line: &str| line.split('|').map(str::to_owned).collect();
            for tie in answer::ties(number) {
                assert!(header.iter().any(|column| column == tie), "query {number}");
            }
            let rows = lines.map(cells).collect();
            let mut answer = Answer::new(number, header, is_float, rows);
            let right = verdict(100, number, &answer);
            assert!(matches!(right, Verdict::Right), "query {number}: {right:?}");
            answer.rows[0][0].push('x');
            let wrong = verdict(100, number, &answer);
            assert!(matches!(wrong, Verdict::Wrong(_)), "query {number}");
            let unknown = verdict(12_345, number, &answer);
            assert!(matches!(unknown, Verdict::Unknown), "query {number}");
        }
    }
}
