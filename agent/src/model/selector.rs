//! Label selectors, as kubectl's `-l` takes them.
//!
//! The grammar and what it means for labels that are missing:
//! <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors>

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
    sync::Arc,
};

/// Requirements that must all hold, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    Exists(String),
    Missing(String),
    In(String, BTreeSet<String>),
    /// Holds for objects without the label as well.
    NotIn(String, BTreeSet<String>),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{requirement:?} is not a requirement on labels: {reason}")]
pub struct SelectorError {
    requirement: String,
    reason: &'static str,
}

impl Selector {
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<Arc<str>, Arc<str>>) -> bool {
        self.0.iter().all(|requirement| requirement.holds(labels))
    }
}

impl Requirement {
    fn holds(&self, labels: &BTreeMap<Arc<str>, Arc<str>>) -> bool {
        match self {
            Self::Exists(key) => labels.contains_key(key.as_str()),
            Self::Missing(key) => !labels.contains_key(key.as_str()),
            Self::In(key, values) => {
                labels.get(key.as_str()).is_some_and(|value| values.contains(&**value))
            }
            Self::NotIn(key, values) => {
                labels.get(key.as_str()).is_none_or(|value| !values.contains(&**value))
            }
        }
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        split(text).into_iter().map(requirement).collect::<Result<_, _>>().map(Self)
    }
}

/// Splits at commas outside parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    text.split(|c| {
        depth += match c {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        c == ',' && depth == 0
    })
    .collect()
}

fn requirement(text: &str) -> Result<Requirement, SelectorError> {
    let text = text.trim();
    let wrong = |reason| SelectorError { requirement: text.to_owned(), reason };
    let key = |key: &str| {
        let key = key.trim();
        if key.is_empty() {
            Err(wrong("a label's key is missing"))
        } else if key.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c)) {
            Ok(key.to_owned())
        } else {
            Err(wrong("a label's key has letters, digits and -_./ only"))
        }
    };
    let value = |value: &str| {
        let value = value.trim();
        if value.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            Ok(value.to_owned())
        } else {
            Err(wrong("a label's value has letters, digits and -_. only"))
        }
    };
    let one = |text: &str| Ok(BTreeSet::from([value(text)?]));
    if let Some(rest) = text.strip_suffix(')') {
        let (before, values) =
            rest.split_once('(').ok_or_else(|| wrong("a parenthesis is not opened"))?;
        let (name, operator) = before
            .trim()
            .rsplit_once(char::is_whitespace)
            .ok_or_else(|| wrong("it must be KEY in (VALUE, …) or KEY notin (VALUE, …)"))?;
        let values = values.split(',').map(value).collect::<Result<_, _>>()?;
        return match operator {
            "in" => Ok(Requirement::In(key(name)?, values)),
            "notin" => Ok(Requirement::NotIn(key(name)?, values)),
            _ => Err(wrong("the operator before a list is in or notin")),
        };
    }
    if let Some((name, other)) = text.split_once("!=") {
        Ok(Requirement::NotIn(key(name)?, one(other)?))
    } else if let Some((name, same)) = text.split_once("==").or_else(|| text.split_once('=')) {
        Ok(Requirement::In(key(name)?, one(same)?))
    } else if let Some(name) = text.strip_prefix('!') {
        Ok(Requirement::Missing(key(name)?))
    } else {
        Ok(Requirement::Exists(key(text)?))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            f.write_str(comma)?;
            let list = |values: &BTreeSet<String>| {
                values.iter().map(String::as_str).collect::<Vec<_>>().join(",")
            };
            match requirement {
                Requirement::Exists(key) => f.write_str(key)?,
                Requirement::Missing(key) => write!(f, "!{key}")?,
                Requirement::In(key, values) => write!(f, "{key} in ({})", list(values))?,
                Requirement::NotIn(key, values) => write!(f, "{key} notin ({})", list(values))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(selector: &str, labels: &[(&str, &str)]) -> bool {
        let labels = labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        selector.parse::<Selector>().unwrap().matches(&labels)
    }

    #[test]
    fn requirements_mean_what_kubectl_means_by_them() {
        let web = [("app", "web"), ("tier", "front"), ("example.com/mesh", "")];
        for (selector, expected) in [
            ("app=web", true),
            ("app==web", true),
            ("app=db", false),
            ("app!=db", true),
            ("app!=web", false),
            ("owner!=me", true),
            ("app", true),
            ("owner", false),
            ("!owner", true),
            ("!app", false),
            ("example.com/mesh", true),
            ("example.com/mesh=", true),
            ("app in (db, web)", true),
            ("app in (db)", false),
            ("owner in (me)", false),
            ("app notin (db,cache)", true),
            ("app notin (db,web)", false),
            ("owner notin (me)", true),
            (" app = web , tier in (front,back) , !owner ", true),
            ("app=web,tier=back", false),
        ] {
            assert_eq!(matches(selector, &web), expected, "{selector}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_part_that_is_wrong() {
        for selector in
            ["", "app=web,", "=web", "app=a b", "app in web", "app of (a)", "app)", "a b", "(a)"]
        {
            let error = selector.parse::<Selector>().expect_err(selector);
            assert!(error.to_string().contains("is not a requirement on labels"), "{error}");
        }
        let error = "app=web,tier of (x)".parse::<Selector>().unwrap_err().to_string();
        assert!(error.starts_with("\"tier of (x)\""), "{error}");
    }

    #[test]
    fn a_selector_prints_as_one_that_says_the_same() {
        let selector: Selector = "app=web,!owner,tier notin (a,b),x".parse().unwrap();
        assert_eq!(selector.to_string(), "app in (web),!owner,tier notin (a,b),x");
        assert_eq!(selector.to_string().parse(), Ok(selector));
    }
}
