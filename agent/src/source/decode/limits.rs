//! Values of a document, no more of them than one object may have.
//!
//! The items of a list are handed over one by one, as they are read: a list of a large cluster's
//! services would be a hundred times as much in memory as the services are in the end.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// The most values in one object. etcd takes objects of 1.5 MiB (`--max-request-bytes`), in which a
/// value takes some six bytes.
const MAX_VALUES: usize = 1 << 18;
/// The most bytes in the keys and strings of one object.
const MAX_BYTES: usize = 4 << 20;

/// What an object holds, as far as it was read.
#[derive(Debug)]
pub(in crate::source) struct Content {
    pub(in crate::source) value: Value,
    /// There was more, and it is not in `value`.
    pub(in crate::source) is_cut: bool,
}

/// How much more of an object is taken; the rest is read and forgotten.
struct Room {
    values: usize,
    bytes: usize,
    is_cut: bool,
}

impl Room {
    const fn new() -> Self {
        Self { values: MAX_VALUES, bytes: MAX_BYTES, is_cut: false }
    }

    /// Whether there is room for so many more values and bytes.
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
    let mut room = Room::new();
    let value = One { room: &mut room }.deserialize(deserializer)?;
    Ok(Content { value, is_cut: room.is_cut })
}

/// Any value, as long as there is room.
struct One<'a> {
    room: &'a mut Room,
}

impl<'de> DeserializeSeed<'de> for One<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.room.take(1, 0) {
            deserializer.deserialize_any(self)
        } else {
            deserializer.deserialize_ignored_any(IgnoredAny).map(|_| Value::Null)
        }
    }
}

/// These are as they are wherever they stand.
macro_rules! scalars_that_need_no_room {
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

    scalars_that_need_no_room!();

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(if self.room.take(0, value.len()) { value.into() } else { Value::Null })
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = sequence.next_element_seed(One { room: self.room })? {
            // What there was no room for is nothing; it needs no place either.
            if !self.room.is_cut {
                values.push(value);
            }
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let has_room = self.room.take(0, key.len());
            let value = entries.next_value_seed(One { room: self.room })?;
            if has_room {
                map.insert(key, value);
            }
        }
        Ok(Value::Object(map))
    }
}

/// Reads a whole document. Each element of its `items` goes to `item` with its index; what that gives
/// back stays in the document.
pub(in crate::source) fn document<'de, D: Deserializer<'de>>(
    deserializer: D,
    item: &mut impl FnMut(usize, Content) -> Option<Value>,
) -> Result<Content, D::Error> {
    let mut room = Room::new();
    let value = deserializer.deserialize_any(Whole { room: &mut room, item })?;
    Ok(Content { value, is_cut: room.is_cut })
}

/// What is of another kind than it should be is for the reader to tell: that it is there counts, and
/// whether it is nothing.
macro_rules! scalars_that_are_out_of_place {
    () => {
        scalars_that_need_no_room!();

        fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
            Ok(0.into())
        }

        fn visit_str<E>(self, _: &str) -> Result<Value, E> {
            Ok("".into())
        }
    };
}

struct Whole<'a, F> {
    room: &'a mut Room,
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
            let has_room = self.room.take(0, key.len());
            let value = if key == "items" && !map.contains_key("items") {
                entries.next_value_seed(Items { item: &mut *self.item })?
            } else {
                entries.next_value_seed(One { room: &mut *self.room })?
            };
            if has_room {
                map.insert(key, value);
            }
        }
        Ok(Value::Object(map))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Array(Vec::new()))
    }

    scalars_that_are_out_of_place!();
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
            // Where it was, so that it is told by its index.
            left.push((self.item)(index, content).unwrap_or_default());
            index += 1;
        }
        Ok(Value::Array(left))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Object(Map::new()))
    }

    scalars_that_are_out_of_place!();
}

struct Item;

impl<'de> DeserializeSeed<'de> for Item {
    type Value = Content;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        object(deserializer)
    }
}
