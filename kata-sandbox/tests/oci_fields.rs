//! Every field of config.json is in the table of `docs/oci.md`.
//!
//! The specification's types are walked by deserializing them from nothing: a
//! deserializer is told the names of every structure's fields, and answers each
//! with a value that leads further down.
use std::cell::RefCell;
use std::collections::BTreeSet;

use kata_sandbox::oci::Spec;
use serde::de::value::{Error, StrDeserializer, U32Deserializer};
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

const TABLE: &str = include_str!("../../docs/oci.md");

/// Platforms that are not this one: known as a whole.
const ELSEWHERE: [&str; 4] = ["solaris.", "windows.", "vm.", "zos."];

#[test]
fn every_field_of_the_specification_is_in_the_table_and_nothing_else() {
    let found = RefCell::default();
    let walk = Walk {
        path: String::new(),
        found: &found,
    };
    <Spec as serde::Deserialize>::deserialize(walk).unwrap();
    let is_here = |path: &String| !ELSEWHERE.iter().any(|platform| path.starts_with(platform));
    let fields: BTreeSet<String> = found.into_inner().into_iter().filter(is_here).collect();
    assert!(fields.contains("linux.resources.cpu.quota"), "{fields:#?}");
    let listed: BTreeSet<String> = TABLE.lines().flat_map(names).collect();
    let forgotten: Vec<_> = fields.difference(&listed).collect();
    let invented: Vec<_> = listed.difference(&fields).collect();
    assert!(
        forgotten.is_empty() && invented.is_empty(),
        "not in docs/oci.md: {forgotten:#?}\nin no specification: {invented:#?}"
    );
}

/// The fields of a row: in its first column, in backticks.
fn names(line: &str) -> Vec<String> {
    let Some(column) = line
        .strip_prefix("| `")
        .and_then(|row| row.split(" | ").next())
    else {
        return Vec::new();
    };
    let names = column.split('`').step_by(2);
    names
        .map(str::to_owned)
        .filter(|name| !name.is_empty())
        .collect()
}

/// Answers whatever is asked for, and notes fields by their path.
struct Walk<'a> {
    path: String,
    found: &'a RefCell<BTreeSet<String>>,
}

impl Walk<'_> {
    fn below(&self, name: &str) -> Self {
        let dot = if self.path.is_empty() { "" } else { "." };
        Walk {
            path: format!("{}{dot}{name}", self.path),
            found: self.found,
        }
    }

    fn again(&self) -> Self {
        Walk {
            path: self.path.clone(),
            found: self.found,
        }
    }
}

impl<'de> Deserializer<'de> for Walk<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_bool(true)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        // Some texts have a form of their own.
        visitor.visit_str(match self.path.as_str() {
            path if path.starts_with("process.capabilities.") => "CAP_KILL",
            path if path.starts_with("process.execCPUAffinity.") => "0",
            _ => "x",
        })
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_string(visitor)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_u64(1)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_u32(1)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_u16(1)
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_u8(1)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_i64(1)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_i32(1)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Items(Some(self)))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Fields {
            walk: self,
            left: ["*"].iter(),
            next: None,
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let mut found = self.found.borrow_mut();
        found.extend(fields.iter().map(|field| self.below(field).path));
        drop(found);
        visitor.visit_map(Fields {
            walk: self,
            left: fields.iter(),
            next: None,
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_enum(First(variants[0]))
    }

    forward_to_deserialize_any! {
        i8 i16 i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct
        identifier ignored_any
    }
}

/// One item.
struct Items<'a>(Option<Walk<'a>>);

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        self.0.take().map(|walk| seed.deserialize(walk)).transpose()
    }
}

/// Every field.
struct Fields<'a> {
    walk: Walk<'a>,
    left: std::slice::Iter<'static, &'static str>,
    next: Option<&'static str>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        self.next = self.left.next().copied();
        let key = |name: &'static str| {
            let name: StrDeserializer<'_, Error> = name.into_deserializer();
            seed.deserialize(name)
        };
        self.next.map(key).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let name = self.next.unwrap_or_default();
        // What is in a map has no name of its own.
        let below = if name == "*" {
            self.walk.again()
        } else {
            self.walk.below(name)
        };
        seed.deserialize(below)
    }
}

/// The first variant.
struct First(&'static str);

impl<'de> EnumAccess<'de> for First {
    type Error = Error;
    type Variant = Unit;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Unit), Error> {
        let name: StrDeserializer<'_, Error> = self.0.into_deserializer();
        Ok((seed.deserialize(name)?, Unit))
    }
}

struct Unit;

impl<'de> VariantAccess<'de> for Unit {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        let one: U32Deserializer<Error> = 1u32.into_deserializer();
        seed.deserialize(one)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }
}
