//! Grouping near-duplicate tasks of a ranked list (`spec/engramia/20` §2.3).

use std::collections::HashMap;

use crate::domain::text::WordSet;

/// Two tasks with a greater word Jaccard are one group.
const SAME_GROUP: f64 = 0.7;

/// One row of a ranked list.
#[derive(Debug, Clone)]
pub struct Row {
    /// Words of its task.
    pub words: WordSet,
    /// Decides which member stands for the group: what its rank owes to quality and age, not to likeness.
    pub merit: f64,
    /// Decides among members of equal merit.
    pub success_score: f64,
}

impl Row {
    fn stands_before(&self, other: &Self) -> bool {
        self.merit.total_cmp(&other.merit).then(self.success_score.total_cmp(&other.success_score)).is_gt()
    }
}

/// Positions of the rows that stand for their groups, in the order of the list.
///
/// The list is worked off in blocks of `block` rows. Inside a block, groups are connected components of "Jaccard over
/// 0.7", and the member with the most merit stands for the group (the first among equals). A row that belongs to a
/// group of an earlier block is dropped. What comes out for a block depends only on what stands before its end, so
/// that pages of any depth agree with each other.
pub fn representatives(rows: &[Row], block: usize) -> Vec<usize> {
    let mut groups = Groups { parent: (0..rows.len()).collect() };
    let mut by_word: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut out = Vec::with_capacity(rows.len());
    for start in (0..rows.len()).step_by(block.max(1)) {
        let end = rows.len().min(start + block.max(1));
        for at in start..end {
            let mut compared = Vec::new();
            for word in rows[at].words.prefix(SAME_GROUP) {
                let others = by_word.entry(word).or_default();
                compared.extend_from_slice(others);
                others.push(at);
            }
            compared.sort_unstable();
            compared.dedup();
            for other in compared {
                if rows[at].words.jaccard(&rows[other].words) > SAME_GROUP {
                    groups.join(at, other);
                }
            }
        }
        let mut best: HashMap<usize, usize> = HashMap::new();
        for (at, row) in rows.iter().enumerate().take(end).skip(start) {
            let group = groups.root(at);
            if group < start {
                continue;
            }
            let chosen = best.entry(group).or_insert(at);
            if row.stands_before(&rows[*chosen]) {
                *chosen = at;
            }
        }
        let mut chosen: Vec<usize> = best.into_values().collect();
        chosen.sort_unstable();
        out.append(&mut chosen);
    }
    out
}

/// Union-find whose roots are the smallest members.
struct Groups {
    parent: Vec<usize>,
}

impl Groups {
    fn root(&mut self, mut at: usize) -> usize {
        while self.parent[at] != at {
            self.parent[at] = self.parent[self.parent[at]];
            at = self.parent[at];
        }
        at
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.parent[a.max(b)] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(task: &str, success_score: f64) -> Row {
        Row { words: WordSet::of_words(task), merit: 1.0, success_score }
    }

    #[test]
    fn the_best_of_a_group_stays_where_it_stood() {
        let rows = [
            row("a b c d e f g h i 1", 4.0),
            row("something else entirely", 1.0),
            row("a b c d e f g h i 2", 9.5),
            row("a b c d e f g h i 3", 6.0),
        ];
        assert_eq!(representatives(&rows, 4), [1, 2]);
        assert_eq!(representatives(&rows, 2), [0, 1], "later blocks cannot replace an earlier choice");
    }

    #[test]
    fn equal_scores_keep_the_first() {
        let rows = [row("x y z", 5.0), row("x y z", 5.0)];
        assert_eq!(representatives(&rows, 2), [0]);
    }

    proptest! {
        /// Against the definition, without the word index.
        #[test]
        fn agrees_with_comparing_all_pairs(
            tasks in prop::collection::vec((prop::collection::vec(0u8..12, 1..8), 0u8..4), 0..40),
            block in 1usize..12,
        ) {
            let rows: Vec<Row> = tasks
                .iter()
                .map(|(words, score)| {
                    let text: Vec<String> = words.iter().map(|w| format!("w{w}")).collect();
                    row(&text.join(" "), f64::from(*score))
                })
                .collect();
            let mut kept: Vec<usize> = Vec::new();
            let mut groups = Groups { parent: (0..rows.len()).collect() };
            for start in (0..rows.len()).step_by(block) {
                let end = rows.len().min(start + block);
                for a in start..end {
                    for b in 0..a {
                        if rows[a].words.jaccard(&rows[b].words) > SAME_GROUP {
                            groups.join(a, b);
                        }
                    }
                }
                for a in start..end {
                    let root = groups.root(a);
                    let rivals: Vec<usize> = (start..end).filter(|b| groups.root(*b) == root).collect();
                    let first_best = rivals.iter().copied().reduce(|x, y| {
                        if rows[y].success_score > rows[x].success_score { y } else { x }
                    });
                    if root >= start && first_best == Some(a) {
                        kept.push(a);
                    }
                }
            }
            prop_assert_eq!(representatives(&rows, block), kept);
        }
    }
}
