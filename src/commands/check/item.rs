//! One line of `cowflush check`.

use crate::pure::report::json::Object;

/// How one requirement is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As it should be.
    Found,
    /// Works, but worth knowing.
    Note,
    /// cowflush can't work without it.
    Missing,
}

impl State {
    pub const fn word(self) -> &'static str {
        match self {
            State::Found => "found",
            State::Note => "note",
            State::Missing => "missing",
        }
    }
}

/// One requirement: what it is, what there is, and what to do.
pub struct Item {
    /// What it is.
    pub name: &'static str,
    /// How it is met.
    pub state: State,
    /// What there is.
    pub found: String,
    /// What to do.
    pub advice: &'static str,
}

impl Item {
    /// As it should be.
    pub fn found(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Found, found: found.into(), advice: "" }
    }

    /// Works, but worth knowing.
    pub fn note(name: &'static str, found: impl Into<String>, advice: &'static str) -> Self {
        Self { name, state: State::Note, found: found.into(), advice }
    }

    /// cowflush can't work without it.
    pub fn missing(name: &'static str, found: impl Into<String>, advice: &'static str) -> Self {
        Self { name, state: State::Missing, found: found.into(), advice }
    }

    /// The item as JSON.
    pub fn to_json(&self) -> Object {
        Object::new()
            .text("name", self.name)
            .text("state", self.state.word())
            .text("found", &self.found)
            .text("advice", self.advice)
    }
}
