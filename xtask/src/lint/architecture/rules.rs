//! Compares what is used with the table.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::PathBuf,
};

use super::{
    resolve::Use,
    table::{Table, is_in},
};

type Graph<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

/// All violations, each a line for the reader.
pub(super) fn check(table: &Table, files: &BTreeMap<String, PathBuf>, uses: &[Use]) -> Vec<String> {
    let mut problems = of_table(table, files);
    let excepted = |used: &Use| {
        table.exceptions.iter().position(|exception| {
            is_in(&used.from, &exception.from) && is_in(&used.to, &exception.to)
        })
    };
    let mut needed = BTreeSet::new();
    for used in uses {
        let Some(rule) = table.rule_for(&used.from) else { continue };
        if is_allowed(table, used) {
            continue;
        }
        if let Some(exception) = excepted(used) {
            needed.insert(exception);
            continue;
        }
        problems.push(format!(
            "{}:{}: {} may not use {}, see {}:{}",
            files[&used.from].display(),
            used.line,
            rule.module,
            used.to,
            table.document,
            rule.line
        ));
    }
    for folder in folders(files) {
        let parts: Vec<(&str, &str, &Use)> = uses
            .iter()
            .filter_map(|used| {
                let (from, to) = (part_of(&used.from, folder)?, part_of(&used.to, folder)?);
                (from != to).then_some((from, to, used))
            })
            .collect();
        // An exception counts where the use that it names is part of a circle.
        let whole = graph(parts.iter().map(|(from, to, _)| (*from, *to)));
        for (from, to, used) in &parts {
            if let Some(exception) = excepted(used)
                && reaches(&whole, to, from)
            {
                needed.insert(exception);
            }
        }
        let kept = parts.iter().filter(|(_, _, used)| excepted(used).is_none());
        let kept: Vec<&(&str, &str, &Use)> = kept.collect();
        let rest = graph(kept.iter().map(|(from, to, _)| (*from, *to)));
        for circle in circles(&rest) {
            problems.push(format!("a circle: {}", circle.join(" -> ")));
            for pair in circle.windows(2) {
                let lines = kept.iter().filter(|(from, to, _)| (*from, *to) == (pair[0], pair[1]));
                problems.extend(lines.map(|(_, _, used)| {
                    format!("  {}:{}: uses {}", files[&used.from].display(), used.line, used.to)
                }));
            }
        }
    }
    for (number, exception) in table.exceptions.iter().enumerate() {
        if !needed.contains(&number) {
            problems.push(format!(
                "{}:{}: the exception {} -> {} is not needed any more, remove it",
                table.document, exception.line, exception.from, exception.to
            ));
        }
    }
    problems
}

/// A module may use what has the same line, what is below that line's folder, and what the line lists.
fn is_allowed(table: &Table, used: &Use) -> bool {
    let Some(rule) = table.rule_for(&used.from) else { return false };
    let same = table.rule_for(&used.to).is_some_and(|other| other.module == rule.module);
    same || is_in(&used.to, &rule.module)
        || rule.may_use.iter().any(|allowed| covers(table, allowed, &rule.module, &used.to))
}

/// Whether a name on the right of a line covers a module: a folder covers all that is in it. The folder that
/// the line's own module is in covers only what has no line of its own.
fn covers(table: &Table, allowed: &str, from: &str, module: &str) -> bool {
    if is_in(from, allowed) {
        table.rule_for(module).is_some_and(|rule| rule.module == allowed)
    } else {
        is_in(module, allowed)
    }
}

/// Modules without a line, lines without a module, and circles among the lines.
fn of_table(table: &Table, files: &BTreeMap<String, PathBuf>) -> Vec<String> {
    let mut problems = Vec::new();
    for (module, file) in files {
        // A library's root declares its modules and nothing else.
        if table.rule_for(module).is_none() && !file.ends_with("lib.rs") {
            problems.push(format!(
                "{}: no line of {} is about {module}",
                file.display(),
                table.document
            ));
        }
    }
    for rule in &table.rules {
        for name in std::iter::once(&rule.module).chain(&rule.may_use) {
            if !files.keys().any(|module| is_in(module, name)) {
                let place = format!("{}:{}", table.document, rule.line);
                problems.push(format!("{place}: there is no module {name}"));
            }
        }
    }
    let lines = table.rules.iter().flat_map(|rule| {
        let reached = table.rules.iter().filter(|other| {
            let is_relative =
                is_in(&other.module, &rule.module) || is_in(&rule.module, &other.module);
            let listed = |allowed: &String| covers(table, allowed, &rule.module, &other.module);
            !is_relative && rule.may_use.iter().any(listed)
        });
        reached.map(|other| (rule.module.as_str(), other.module.as_str()))
    });
    for circle in circles(&graph(lines)) {
        problems.push(format!(
            "{}: the lines form a circle: {}",
            table.document,
            circle.join(" -> ")
        ));
    }
    problems
}

/// Every folder that has modules in it, and the repository itself.
fn folders(files: &BTreeMap<String, PathBuf>) -> BTreeSet<&str> {
    let parents =
        |module: &'_ str| -> Vec<usize> { module.match_indices('/').map(|(at, _)| at).collect() };
    let below = files.keys().flat_map(|module| parents(module).into_iter().map(|at| &module[..at]));
    below.chain([""]).collect()
}

/// The part of a folder that a module is in: of `agent/model/index` in `agent` that is `agent/model`.
fn part_of<'a>(module: &'a str, folder: &str) -> Option<&'a str> {
    let start = if folder.is_empty() { 0 } else { folder.len() + 1 };
    if !folder.is_empty() && (!is_in(module, folder) || module == folder) {
        return None;
    }
    let end = module[start..].find('/').map_or(module.len(), |at| start + at);
    Some(&module[..end])
}

fn graph<'a>(edges: impl Iterator<Item = (&'a str, &'a str)>) -> Graph<'a> {
    let mut graph = Graph::new();
    for (from, to) in edges {
        graph.entry(from).or_default().insert(to);
    }
    graph
}

fn reaches(graph: &Graph<'_>, from: &str, to: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut next = vec![from];
    while let Some(module) = next.pop() {
        if module == to {
            return true;
        }
        if seen.insert(module) {
            next.extend(graph.get(module).into_iter().flatten());
        }
    }
    false
}

/// For each group of modules that reach each other the shortest circle, with its first module again at the
/// end.
fn circles<'a>(graph: &Graph<'a>) -> Vec<Vec<&'a str>> {
    let mut circles: Vec<Vec<&str>> =
        graph.keys().filter_map(|start| shortest_from(graph, start)).collect();
    circles.sort_by_key(Vec::len);
    let mut of_groups: Vec<Vec<&str>> = Vec::new();
    for circle in circles {
        let is_known = |known: &Vec<&str>| {
            reaches(graph, known[0], circle[0]) && reaches(graph, circle[0], known[0])
        };
        if !of_groups.iter().any(is_known) {
            of_groups.push(circle);
        }
    }
    of_groups
}

/// The shortest path from a module back to itself, found breadth first.
fn shortest_from<'a>(graph: &Graph<'a>, start: &'a str) -> Option<Vec<&'a str>> {
    let mut paths: VecDeque<Vec<&str>> = VecDeque::from([vec![start]]);
    let mut seen = BTreeSet::new();
    while let Some(path) = paths.pop_front() {
        for &module in graph.get(path[path.len() - 1]).into_iter().flatten() {
            let longer = [path.as_slice(), &[module]].concat();
            if module == start {
                return Some(longer);
            }
            if seen.insert(module) {
                paths.push_back(longer);
            }
        }
    }
    None
}
