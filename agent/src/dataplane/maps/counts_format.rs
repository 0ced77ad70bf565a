//! Where the counts of connections are in the records of this layout, pinned beside the maps: an agent of another layout
//! reads by it what was counted here. No program reads it.
//!
//! A JSON text, so that each side finds what both have by its name: `{"types": {"Backend": {"size": 128, "fields": {"service":
//! {"offset": 16, "size": 4}, …}}, …}, "trafficClasses": ["Unknown", …]}`. Offsets and sizes are in bytes, integers are
//! in the byte order of the machine. [`Record`] reads a record by it.
//!
//! What stays in all layouts: the names of these maps and of their types, `SERVICE_NAMES`, `BACKENDS` (an array of arrays),
//! `REMOVED_BACKENDS`, `SERVICE_STATS`, `SERVICE_COUNTERS` and `CARRIED_COUNTS` (hashes by service id). A count with another meaning
//! needs another name.

use std::{collections::BTreeMap, mem::offset_of};

use aya::maps::{Array, Map, MapData};
use serde::{Deserialize, Serialize};
use sockline_ebpf::{
    backend::Backend,
    carried::CarriedCounts,
    counters::ServiceCounters,
    name::NameKey,
    telemetry::{
        ConnectionCounts, Histogram, LIFETIME_BUCKETS, ROUND_TRIP_BUCKETS, RemovedBackends,
        ServiceStats,
    },
    traffic_class::TrafficClass,
};

use super::{COUNTS_FORMAT, open, typed};
use crate::{
    bpf::{error::BpfError, untyped},
    dataplane::{error::DataplaneError, pinning::layout::Pins},
};

/// Bytes that the text may have; the rest is NUL.
pub type Text = [u8; 8192];

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CountsFormat {
    types: BTreeMap<String, Type>,
    /// Where counts by class are in an array of them.
    traffic_classes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Type {
    size: usize,
    fields: BTreeMap<String, Field>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Field {
    offset: usize,
    size: usize,
}

/// The size of a field, which `_get` returns.
const fn size_of_field<T, F>(_get: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

/// The format of a type, of which these are the fields.
macro_rules! type_of {
    ($type:ty { $($field:ident),+ }) => {
        Type {
            size: size_of::<$type>(),
            fields: [$((
                stringify!($field).to_owned(),
                Field {
                    offset: offset_of!($type, $field),
                    size: size_of_field(|record: &$type| &record.$field),
                },
            )),+]
            .into(),
        }
    };
}

impl CountsFormat {
    fn own() -> Self {
        let types = [
            ("NameKey", type_of!(NameKey { service, chunk })),
            ("Backend", type_of!(Backend { service, class, counts })),
            (
                "ConnectionCounts",
                type_of!(ConnectionCounts {
                    opened,
                    closed,
                    sent,
                    received,
                    untracked,
                    retransmitted,
                    unanswered,
                    failed
                }),
            ),
            ("RemovedBackends", type_of!(RemovedBackends { counts })),
            ("ServiceStats", type_of!(ServiceStats { closed, round_trips, lifetimes, of_removed })),
            ("RoundTrips", type_of!(Histogram<ROUND_TRIP_BUCKETS> { sum, buckets })),
            ("Lifetimes", type_of!(Histogram<LIFETIME_BUCKETS> { sum, buckets })),
            (
                "ServiceCounters",
                type_of!(ServiceCounters { refused, bypassed, failed_open, bypassed_stale }),
            ),
            ("CarriedCounts", type_of!(CarriedCounts { stats, calls, sources })),
        ];
        Self {
            types: types.into_iter().map(|(name, of)| (name.to_owned(), of)).collect(),
            traffic_classes: TrafficClass::ALL.iter().map(|class| format!("{class:?}")).collect(),
        }
    }

    /// A record of this type.
    pub fn record<'a>(&'a self, name: &str, bytes: &'a [u8]) -> Record<'a> {
        Record { bytes, of: self.types.get(name), format: self }
    }

    /// The place of an own class among the classes here.
    fn class_at(&self, index: usize) -> TrafficClass {
        let name = self.traffic_classes.get(index);
        let known = |class: &TrafficClass| name.is_some_and(|name| *name == format!("{class:?}"));
        TrafficClass::ALL.into_iter().find(known).unwrap_or(TrafficClass::Unknown)
    }
}

/// A record of another layout. What that layout does not have is 0.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    bytes: &'a [u8],
    of: Option<&'a Type>,
    format: &'a CountsFormat,
}

impl<'a> Record<'a> {
    fn field(&self, name: &str) -> &'a [u8] {
        let field = self.of.and_then(|of| of.fields.get(name));
        let bytes = field.and_then(|field| self.bytes.get(field.offset..)?.get(..field.size));
        bytes.unwrap_or_default()
    }

    /// An integer of up to eight bytes.
    pub fn number(&self, name: &str) -> u64 {
        number(self.field(name))
    }

    /// Integers of this many bytes each.
    pub fn numbers<const N: usize>(&self, name: &str, size: usize) -> [u64; N] {
        let mut numbers = [0; N];
        let all = self.field(name).chunks_exact(size);
        numbers.iter_mut().zip(all).for_each(|(place, bytes)| *place = number(bytes));
        numbers
    }

    /// A field that is a record of this type.
    pub fn record(&self, name: &str, of: &str) -> Self {
        self.format.record(of, self.field(name))
    }

    /// A field that has a record of this type for each traffic class.
    pub fn by_class(&self, name: &str, of: &str) -> impl Iterator<Item = (TrafficClass, Self)> {
        let format = self.format;
        let size = format.types.get(of).map_or(1, |of| of.size.max(1));
        let records =
            self.field(name).chunks_exact(size).map(move |bytes| format.record(of, bytes));
        records.enumerate().map(|(index, record)| (format.class_at(index), record))
    }

    /// A field that is a byte of a traffic class.
    pub fn class(&self, name: &str) -> TrafficClass {
        let classes = self.format.traffic_classes.len();
        // What another process wrote has bits beyond those of classes.
        let index = self.number(name) as usize % classes.max(1);
        self.format.class_at(index)
    }
}

fn number(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    let size = bytes.len().min(8);
    if cfg!(target_endian = "big") {
        word[8 - size..].copy_from_slice(&bytes[..size]);
    } else {
        word[..size].copy_from_slice(&bytes[..size]);
    }
    u64::from_ne_bytes(word)
}

/// Writes the format of this layout.
pub fn write(pins: &Pins) -> Result<(), DataplaneError> {
    let mut array: Array<MapData, Text> =
        typed(COUNTS_FORMAT, Map::Array(open(pins, COUNTS_FORMAT)?))?;
    let written = array.set(0, encode(&CountsFormat::own()), 0);
    written.map_err(|error| DataplaneError::map(COUNTS_FORMAT, "write", error))
}

/// Reads what an agent of another layout wrote to a map; `None` if there is nothing that can be read.
pub fn read(map: &MapData) -> Result<Option<CountsFormat>, BpfError> {
    let mut format = None;
    untyped::for_each(COUNTS_FORMAT, map, |_, text| {
        let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
        format = format.take().or_else(|| serde_json::from_slice(&text[..end]).ok());
    })?;
    Ok(format)
}

fn encode(format: &CountsFormat) -> Text {
    let mut text = [0; size_of::<Text>()];
    // Strings and numbers only, and a test sees that there is room.
    let bytes = serde_json::to_vec(format).unwrap_or_default();
    if let Some(place) = text.get_mut(..bytes.len()) {
        place.copy_from_slice(&bytes);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_room_to_spare_and_is_read_back() {
        let text = encode(&CountsFormat::own());
        let end = text.iter().position(|&byte| byte == 0).unwrap();
        assert!((1..text.len() / 2).contains(&end), "{end}");
        assert_eq!(
            serde_json::from_slice::<CountsFormat>(&text[..end]).unwrap(),
            CountsFormat::own()
        );
    }

    #[test]
    fn a_record_is_read_by_the_names_of_its_fields_and_lacks_what_the_other_layout_lacks() {
        let text = r#"{"types": {
            "Backend": {"size": 32, "fields": {
                "counts": {"offset": 8, "size": 24}, "class": {"offset": 1, "size": 1},
                "beyond": {"offset": 30, "size": 8}
            }},
            "ConnectionCounts": {"size": 12, "fields": {
                "opened": {"offset": 4, "size": 8}, "failed": {"offset": 0, "size": 4}
            }}
        }, "trafficClasses": ["OtherZone", "Moon"]}"#;
        let format: CountsFormat = serde_json::from_str(text).unwrap();
        let bytes: Vec<u8> = (0..32).collect();
        let backend = format.record("Backend", &bytes);
        assert_eq!(backend.class("class"), TrafficClass::Unknown);
        assert_eq!(backend.number("class"), 1);
        assert_eq!((backend.number("beyond"), backend.number("none")), (0, 0));
        let opened = u64::from_ne_bytes([12, 13, 14, 15, 16, 17, 18, 19]);
        assert_eq!(backend.record("counts", "ConnectionCounts").number("opened"), opened);
        let by_class: Vec<_> = backend
            .by_class("counts", "ConnectionCounts")
            .map(|(class, counts)| (class, counts.numbers::<3>("failed", 2)))
            .collect();
        let two = |bytes: [u8; 2]| u64::from(u16::from_ne_bytes(bytes));
        assert_eq!(
            by_class,
            [
                (TrafficClass::OtherZone, [two([8, 9]), two([10, 11]), 0]),
                (TrafficClass::Unknown, [two([20, 21]), two([22, 23]), 0]),
            ]
        );
    }
}
