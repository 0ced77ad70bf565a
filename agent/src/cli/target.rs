//! Which service port a command is about, and names that are similar to an unknown one.

use std::{collections::BTreeSet, str::FromStr};

use crate::model::object::ObjectName;

/// A service, and one of its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub service: ObjectName,
    /// A number or a name.
    pub port: Option<String>,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not NAMESPACE/NAME or NAMESPACE/NAME:PORT");
        let (namespace, rest) = text.split_once('/').ok_or_else(wrong)?;
        let (name, port) = match rest.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (rest, None),
        };
        if namespace.is_empty() || name.is_empty() || name.contains('/') || port == Some("") {
            return Err(wrong());
        }
        Ok(Self { service: ObjectName::new(namespace, name), port: port.map(ToOwned::to_owned) })
    }
}

/// How many names are suggested.
const SUGGESTIONS: usize = 3;
/// How many characters of a name may differ.
const DISTANCE: usize = 2;

/// Of all names, those that are similar, the most similar ones first: the same name in another namespace, names that
/// begin alike, or with a few other characters.
pub fn similar(wanted: &ObjectName, all: &BTreeSet<ObjectName>) -> Vec<String> {
    let mut found: Vec<(usize, &ObjectName)> = all
        .iter()
        .filter_map(|name| {
            let by_characters = distance(&wanted.to_string(), &name.to_string());
            let same_name = wanted.name == name.name;
            let begins = wanted.namespace == name.namespace
                && (name.name.starts_with(&*wanted.name) || wanted.name.starts_with(&*name.name));
            (by_characters <= DISTANCE || same_name || begins).then_some((by_characters, name))
        })
        .collect();
    found.sort();
    found.iter().take(SUGGESTIONS).map(|(_, name)| name.to_string()).collect()
}

/// How many characters to insert, remove or replace to make one text of another (Levenshtein), where two neighbours
/// that change places count as two.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_and_its_port_are_read() {
        let target = |text: &str| text.parse::<Target>();
        let cart = ObjectName::new("shop", "cart");
        let of = |port: Option<&str>| Target {
            service: cart.clone(),
            port: port.map(ToOwned::to_owned),
        };
        assert_eq!(target("shop/cart"), Ok(of(None)));
        assert_eq!(target("shop/cart:80"), Ok(of(Some("80"))));
        assert_eq!(target("shop/cart:web"), Ok(of(Some("web"))));
        for wrong in ["cart", "/cart", "shop/", "shop/cart:", "shop/cart/x", "shop/:80", ""] {
            let error = target(wrong).unwrap_err();
            assert_eq!(error, format!("{wrong:?} is not NAMESPACE/NAME or NAMESPACE/NAME:PORT"));
        }
    }

    #[test]
    fn similar_names_are_suggested_the_most_similar_first() {
        let all = ["shop/cart", "shop/cart-db", "shop/ship", "other/cart", "shop/card"]
            .map(|name| name.parse::<Target>().unwrap().service)
            .into();
        let similar_to =
            |name: &str| similar(&name.parse::<Target>().unwrap().service, &all).join(" ");
        assert_eq!(similar_to("shop/crat"), "shop/cart");
        assert_eq!(similar_to("shop/carx"), "shop/card shop/cart");
        assert_eq!(similar_to("shop/cart-d"), "shop/cart-db shop/card shop/cart");
        assert_eq!(similar_to("wrong/ship"), "shop/ship");
        assert_eq!(similar_to("wrong/none"), "");
        assert_eq!(
            [distance("kitten", "sitting"), distance("", "ab"), distance("a", "a")],
            [3, 2, 0]
        );
    }
}
