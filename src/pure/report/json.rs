//! A writer for the few JSON objects that cowflush prints. Flat calls, no tree: a serialiser
//! would be a tenth of the binary.

use std::fmt::{Display, Write};

/// A JSON object under construction.
pub struct Object(String);

impl Default for Object {
    fn default() -> Self {
        Self::new()
    }
}

impl Object {
    /// `{}` so far.
    pub fn new() -> Self {
        Self(String::from("{"))
    }

    fn key(&mut self, key: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        quote(&mut self.0, key);
        self.0.push(':');
    }

    fn raw(mut self, key: &str, value: impl Display) -> Self {
        self.key(key);
        let _ = write!(self.0, "{value}");
        self
    }

    /// Adds a number.
    pub fn number(self, key: &str, value: u64) -> Self {
        self.raw(key, value)
    }

    /// Adds a number that may be unknown, as `null`.
    pub fn maybe(self, key: &str, value: Option<u64>) -> Self {
        match value {
            Some(value) => self.raw(key, value),
            None => self.raw(key, "null"),
        }
    }

    /// Adds a signed number.
    pub fn signed(self, key: &str, value: i64) -> Self {
        self.raw(key, value)
    }

    /// Adds true or false.
    pub fn flag(self, key: &str, value: bool) -> Self {
        self.raw(key, value)
    }

    /// Adds a string.
    pub fn text(mut self, key: &str, value: &str) -> Self {
        self.key(key);
        quote(&mut self.0, value);
        self
    }

    /// Adds an object, or `null`.
    pub fn object(self, key: &str, value: Option<Object>) -> Self {
        match value {
            Some(object) => self.raw(key, object.end()),
            None => self.raw(key, "null"),
        }
    }

    /// Adds a list of objects.
    pub fn list(self, key: &str, values: impl Iterator<Item = Object>) -> Self {
        let items: Vec<String> = values.map(Object::end).collect();
        self.raw(key, format_args!("[{}]", items.join(",")))
    }

    /// The finished text.
    pub fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

fn quote(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if c < ' ' || c == '\x7f' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_valid_json() {
        let inner = Object::new().number("a", 1);
        let json = Object::new()
            .text("t", "say \"hi\"\\\n\u{1}é")
            .signed("s", -5)
            .flag("f", true)
            .maybe("m", None)
            .object("o", Some(inner))
            .object("n", None)
            .list("l", [Object::new(), Object::new().number("b", 2)].into_iter())
            .end();
        assert_eq!(
            json,
            r#"{"t":"say \"hi\"\\\n\u0001é","s":-5,"f":true,"m":null,"o":{"a":1},"n":null,"l":[{},{"b":2}]}"#
        );
    }
}
