//! The contract of a pipeline: stages in order, joined by what they read and write (`spec/engramia/20` §4, W-54).
//!
//! A stage reads what the nearest stage before it wrote, or what is there from the start. From these edges follow what
//! is missing, what goes in a circle, and which writer is ambiguous. Reading and writing again in a definite order is
//! sound.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::Regex;

/// One stage as far as data are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// What it is to do.
    pub task: String,
    /// What it needs.
    pub reads: Vec<String>,
    /// What it makes.
    pub writes: Vec<String>,
}

/// Most stages of a pipeline.
pub const MOST_STAGES: usize = 4;

static FILE: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = r"(?i)[\w][\w./-]*\.(?:csv|json|txt|xlsx|xls|parquet|yaml|toml|xml|html)\b";
    Regex::new(pattern).expect("a valid pattern")
});

/// Files that a task names, and the names that its formats go by; what a pipeline may read without making it.
pub fn initial_inputs(task: &str) -> BTreeSet<String> {
    let mut inputs = BTreeSet::new();
    for found in FILE.find_iter(task) {
        let path = found.as_str();
        inputs.insert(path.to_owned());
        inputs.extend(path.rsplit('/').next().map(str::to_owned));
    }
    if inputs.is_empty() {
        let task = task.to_lowercase();
        inputs.extend(["csv", "json"].iter().filter(|format| task.contains(**format)).map(|f| format!("sample.{f}")));
    }
    inputs
}

/// Everything that is wrong with the data flow of `stages`; empty where it is sound.
pub fn contract_errors(stages: &[Stage], initial: &BTreeSet<String>) -> Vec<String> {
    let flow = Flow::of(stages, initial);
    let mut errors = Vec::new();
    let circle = flow.circle();
    for (at, stage) in stages.iter().enumerate() {
        let own: Vec<&String> = flow.unmet(at).filter(|file| stage.writes.contains(file)).collect();
        if !own.is_empty() {
            errors.push(format!("Stage '{}' has a self-cycle: it both reads and writes {}.", stage.name, listed(&own)));
        }
        let in_circle = |file: &str| circle.as_ref().is_some_and(|circle| circle.carries(stages, at, file));
        let missing: Vec<&String> =
            flow.unmet(at).filter(|file| !stage.writes.contains(file) && !in_circle(file)).collect();
        if !missing.is_empty() {
            errors.push(format!(
                "Stage '{}' reads {} but these files are not produced by any prior stage.",
                stage.name,
                listed(&missing)
            ));
        }
        for file in &stage.writes {
            if let Some(other) = flow.rival(stages, at, file) {
                errors.push(format!(
                    "Stage '{}' writes '{file}' which was already written by stage '{}'. This creates a circular or \
                     ambiguous data-flow.",
                    stage.name, stages[other].name
                ));
            }
        }
    }
    if let Some(Circle(path)) = &circle {
        let names: Vec<String> = path.iter().chain(path.first()).map(|at| format!("'{}'", stages[*at].name)).collect();
        errors.push(format!("The stages form a cycle: {}.", names.join(" -> ")));
    }
    errors
}

/// Who feeds whom.
struct Flow<'a> {
    /// Stages whose output a stage reads, by its number; also from later stages, which is wrong.
    feeds: Vec<BTreeSet<usize>>,
    /// What a stage reads that is neither there from the start nor made before it.
    unmet: Vec<Vec<&'a String>>,
}

/// Stages that wait for each other, each for the one before it.
struct Circle(Vec<usize>);

impl Circle {
    /// Whether the missing `file` of a stage is what another stage of the circle makes.
    fn carries(&self, stages: &[Stage], reader: usize, file: &str) -> bool {
        self.0.contains(&reader) && self.0.iter().any(|at| stages[*at].writes.iter().any(|written| written == file))
    }
}

impl<'a> Flow<'a> {
    fn of(stages: &'a [Stage], initial: &BTreeSet<String>) -> Self {
        let mut flow = Self { feeds: vec![BTreeSet::new(); stages.len()], unmet: vec![Vec::new(); stages.len()] };
        for (at, stage) in stages.iter().enumerate() {
            for file in &stage.reads {
                let makes = |other: &usize| stages[*other].writes.contains(file);
                if let Some(before) = (0..at).rev().find(makes) {
                    flow.feeds[at].insert(before);
                } else if !initial.contains(file) {
                    flow.unmet[at].push(file);
                    flow.feeds[at].extend((at + 1..stages.len()).find(makes));
                }
            }
        }
        flow
    }

    fn unmet(&self, at: usize) -> impl Iterator<Item = &'a String> {
        self.unmet[at].iter().copied()
    }

    /// Whether `later` needs, directly or through others, what `earlier` makes.
    fn depends(&self, later: usize, earlier: usize) -> bool {
        let (mut open, mut seen) = (vec![later], BTreeSet::new());
        while let Some(at) = open.pop() {
            if at == earlier {
                return true;
            }
            if seen.insert(at) {
                open.extend(&self.feeds[at]);
            }
        }
        false
    }

    /// An earlier stage that writes `file`, too, without a definite order between the two.
    fn rival(&self, stages: &[Stage], at: usize, file: &String) -> Option<usize> {
        (0..at).rev().find(|other| stages[*other].writes.contains(file) && !self.depends(at, *other))
    }

    /// The first circle, found by walking against the flow.
    fn circle(&self) -> Option<Circle> {
        fn walk(feeds: &[BTreeSet<usize>], path: &mut Vec<usize>, done: &mut BTreeSet<usize>) -> Option<Circle> {
            let at = *path.last()?;
            for &before in &feeds[at] {
                if let Some(start) = path.iter().position(|stage| *stage == before) {
                    let mut circle = path[start..].to_vec();
                    // Along the flow, not against it, and from the first stage on.
                    circle.reverse();
                    let first = circle.iter().enumerate().min_by_key(|(_, stage)| **stage)?.0;
                    circle.rotate_left(first);
                    return Some(Circle(circle));
                }
                if !done.contains(&before) {
                    path.push(before);
                    if let Some(circle) = walk(feeds, path, done) {
                        return Some(circle);
                    }
                    path.pop();
                }
            }
            done.insert(at);
            None
        }
        let mut done = BTreeSet::new();
        (0..self.feeds.len()).find_map(|at| walk(&self.feeds, &mut vec![at], &mut done))
    }
}

/// `['a', 'b']`.
fn listed(files: &[&String]) -> String {
    let quoted: Vec<String> = files.iter().map(|file| format!("'{file}'")).collect();
    format!("[{}]", quoted.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn errors_of(specs: &[(&str, &[&str], &[&str])], task: &str) -> Vec<String> {
        let texts = |list: &[&str]| list.iter().map(|file| (*file).to_owned()).collect();
        let stages: Vec<Stage> = specs
            .iter()
            .map(|(name, reads, writes)| Stage {
                name: (*name).into(),
                task: "t".into(),
                reads: texts(reads),
                writes: texts(writes),
            })
            .collect();
        contract_errors(&stages, &initial_inputs(task))
    }

    #[test]
    fn a_chain_is_sound() {
        let chain: &[(&str, &[&str], &[&str])] =
            &[("a", &[], &["a.json", "b.json"]), ("b", &["a.json"], &["c"]), ("c", &["b.json", "c"], &["d"])];
        assert_eq!(errors_of(chain, "t"), [""; 0]);
        assert_eq!(errors_of(&[("a", &["in.csv"], &["out"])], "read IN and data/in.csv"), [""; 0]);
        assert_eq!(errors_of(&[], "t"), [""; 0]);
    }

    #[test]
    fn what_nobody_makes_is_missing() {
        assert_eq!(
            errors_of(&[("load", &[], &["a"]), ("report", &["x", "a", "y"], &["r"])], "t"),
            ["Stage 'report' reads ['x', 'y'] but these files are not produced by any prior stage."]
        );
        assert_eq!(
            errors_of(&[("report", &["a"], &["r"]), ("load", &[], &["a"])], "t"),
            ["Stage 'report' reads ['a'] but these files are not produced by any prior stage."],
            "the wrong order"
        );
    }

    #[test]
    fn circles_are_named_by_their_path() {
        assert_eq!(
            errors_of(&[("one", &["b"], &["a"]), ("two", &["a"], &["b"])], "t"),
            ["The stages form a cycle: 'one' -> 'two' -> 'one'."]
        );
        assert_eq!(
            errors_of(&[("x", &["c"], &["a"]), ("y", &["a"], &["b"]), ("z", &["b", "q"], &["c"])], "t"),
            [
                "Stage 'z' reads ['q'] but these files are not produced by any prior stage.",
                "The stages form a cycle: 'x' -> 'y' -> 'z' -> 'x'."
            ]
        );
        assert_eq!(
            errors_of(&[("one", &["a.json"], &["a.json"])], "t"),
            ["Stage 'one' has a self-cycle: it both reads and writes ['a.json']."]
        );
    }

    #[test]
    fn writing_again_in_a_definite_order_is_sound() {
        let append: &[(&str, &[&str], &[&str])] =
            &[("start", &[], &["log"]), ("more", &["log"], &["log"]), ("end", &["log"], &["log", "done"])];
        assert_eq!(errors_of(append, "t"), [""; 0]);
        assert_eq!(errors_of(&[("mend", &["in.json"], &["in.json"])], "mend in.json"), [""; 0]);
        let through: &[(&str, &[&str], &[&str])] = &[("a", &[], &["f", "g"]), ("b", &["g"], &["f"])];
        assert_eq!(errors_of(through, "t"), [""; 0], "b waits for a");
    }

    #[test]
    fn two_writers_without_an_order_are_ambiguous() {
        assert_eq!(
            errors_of(&[("a", &[], &["f"]), ("b", &[], &["f"])], "t"),
            [
                "Stage 'b' writes 'f' which was already written by stage 'a'. This creates a circular or ambiguous data-flow."
            ]
        );
    }

    #[test]
    fn a_task_names_its_files_or_their_format() {
        let inputs = |task: &str| initial_inputs(task).into_iter().collect::<Vec<_>>();
        assert_eq!(inputs("Join A.CSV with b.xlsx (see data/c.json)."), ["A.CSV", "b.xlsx", "c.json", "data/c.json"]);
        assert_eq!(inputs("read a CSV, write JSON"), ["sample.csv", "sample.json"]);
        assert_eq!(inputs("say hello.world"), [""; 0]);
    }

    proptest! {
        /// Stages that only read what an earlier stage writes, each file written once.
        #[test]
        fn what_only_looks_back_is_sound(reads in prop::collection::vec(prop::collection::vec(0usize..4, 0..3), 1..5)) {
            let stages: Vec<Stage> = reads.iter().enumerate().map(|(at, reads)| Stage {
                name: at.to_string(),
                task: "t".into(),
                reads: reads.iter().filter(|from| **from < at).map(|from| format!("f{from}")).collect(),
                writes: vec![format!("f{at}")],
            }).collect();
            prop_assert_eq!(contract_errors(&stages, &BTreeSet::new()), Vec::<String>::new());
        }
    }
}
