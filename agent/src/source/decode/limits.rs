//! Deserializes a document with a limit on the size of each object.
//!
//! The items of a list are passed on one by one while they are read: as a tree of values, the list of a large
//! cluster's services would take a hundred times the memory of the services themselves.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// The most values in one object. etcd takes objects of 1.5 MiB (`--max-request-bytes`), in which a
/// value takes some six bytes.
const MAX_VALUES: usize = 1 << 18;
/// The most bytes in the keys and strings of one object.
const MAX_BYTES: usize = 4 << 20;

/// An object, up to the limit.
#[derive(Debug)]
pub(in crate::source) struct Content {
    pub(in crate::source) value: Value,
    /// The object exceeded the limit; `value` has only the beginning.
    pub(in crate::source) is_cut: bool,
}

/// What remains of an object's limit. When it is used up, the rest of the object is skipped.
struct Budget {
    values: usize,
    bytes: usize,
    is_cut: bool,
}

impl Budget {
    const fn new() -> Self {
        Self { values: MAX_VALUES, bytes: MAX_BYTES, is_cut: false }
    }

    /// Takes this many values and bytes; returns whether there were enough.
    fn take(&mut self, values: usize, bytes: usize) -> bool {
        let left = self.values.checked_sub(values).zip(self.bytes.checked_sub(bytes));
        match left {
            Some(left) if !self.is_cut => (self.values, self.bytes) = left,
            _ => self.is_cut = true,
        }
        !self.is_cut
    }
}

/// Reads one object.
fn object<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Content, D::Error> {
    let mut budget = Budget::new();
    let value = One { budget: &mut budget }.deserialize(deserializer)?;
    Ok(Content { value, is_cut: budget.is_cut })
}

/// Any value, within the budget.
struct One<'a> {
    budget: &'a mut Budget,
}

impl<'de> DeserializeSeed<'de> for One<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.budget.take(1, 0) {
            deserializer.deserialize_any(self)
        } else {
            deserializer.deserialize_ignored_any(IgnoredAny).map(|_| Value::Null)
        }
    }
}

/// Scalars that use no budget beyond the value itself.
macro_rules! free_scalars {
    () => {
        fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
            Ok(value.into())
        }

        fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
            Ok(value.into())
        }

        fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
            Ok(value.into())
        }

        fn visit_unit<E>(self) -> Result<Value, E> {
            Ok(Value::Null)
        }

        fn visit_none<E>(self) -> Result<Value, E> {
            Ok(Value::Null)
        }
    };
}

impl<'de> Visitor<'de> for One<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    free_scalars!();

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(if self.budget.take(0, value.len()) { value.into() } else { Value::Null })
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = sequence.next_element_seed(One { budget: self.budget })? {
            // After the budget is used up, elements are null; do not collect those.
            if !self.budget.is_cut {
                values.push(value);
            }
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let fits = self.budget.take(0, key.len());
            let value = entries.next_value_seed(One { budget: self.budget })?;
            if fits {
                map.insert(key, value);
            }
        }
        Ok(Value::Object(map))
    }
}

/// Reads a whole document. Calls `item` with each element of `items` and its index. The return value stays in the
/// document.
pub(in crate::source) fn document<'de, D: Deserializer<'de>>(
    deserializer: D,
    item: &mut impl FnMut(usize, Content) -> Option<Value>,
) -> Result<Content, D::Error> {
    let mut budget = Budget::new();
    let value = deserializer.deserialize_any(Whole { budget: &mut budget, item })?;
    Ok(Content { value, is_cut: budget.is_cut })
}

/// A scalar where an object or a list must be: the caller reports it, and needs to know only whether it is null.
macro_rules! misplaced_scalars {
    () => {
        free_scalars!();

        fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
            Ok(0.into())
        }

        fn visit_str<E>(self, _: &str) -> Result<Value, E> {
            Ok("".into())
        }
    };
}

struct Whole<'a, F> {
    budget: &'a mut Budget,
    item: &'a mut F,
}

impl<'de, F: FnMut(usize, Content) -> Option<Value>> Visitor<'de> for Whole<'_, F> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a Kubernetes object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let fits = self.budget.take(0, key.len());
            let value = if key == "items" && !map.contains_key("items") {
                entries.next_value_seed(Items { item: &mut *self.item })?
            } else {
                entries.next_value_seed(One { budget: &mut *self.budget })?
            };
            if fits {
                map.insert(key, value);
            }
        }
        Ok(Value::Object(map))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Array(Vec::new()))
    }

    misplaced_scalars!();
}

struct Items<'a, F> {
    item: &'a mut F,
}

impl<'de, F: FnMut(usize, Content) -> Option<Value>> DeserializeSeed<'de> for Items<'_, F> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, F: FnMut(usize, Content) -> Option<Value>> Visitor<'de> for Items<'_, F> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut left = Vec::new();
        let mut index = 0;
        while let Some(content) = sequence.next_element_seed(Item)? {
            // At the same index, which messages name.
            left.push((self.item)(index, content).unwrap_or_default());
            index += 1;
        }
        Ok(Value::Array(left))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Object(Map::new()))
    }

    misplaced_scalars!();
}

struct Item;

impl<'de> DeserializeSeed<'de> for Item {
    type Value = Content;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        object(deserializer)
    }
}
