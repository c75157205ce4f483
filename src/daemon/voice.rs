//! What the daemon says, and when it must not.

use crate::output::kmsg;

/// Tells whoever reads the daemon's output and the system's log.
///
/// While writers are held back it says things to the kernel log alone and keeps them for later:
/// a syslogd that waits for root takes no more messages, and the daemon, whose flush would end the
/// wait, would wait for syslogd.
pub struct Voice<'a> {
    tell: &'a mut dyn FnMut(&str),
    hushed: bool,
    kept: Vec<String>,
}

/// More than this nobody reads; the kernel log has all.
const MOST_KEPT: usize = 32;

impl<'a> Voice<'a> {
    /// Speaks through `tell`.
    pub fn new(tell: &'a mut dyn FnMut(&str)) -> Self {
        Self { tell, hushed: false, kept: Vec::new() }
    }

    /// Says something.
    pub fn tell(&mut self, text: &str) {
        if !self.hushed {
            return (self.tell)(text);
        }
        let _ = kmsg::say(kmsg::WARNING, text);
        if self.kept.len() < MOST_KEPT {
            self.kept.push(text.to_owned());
        }
    }

    /// From now on writers are held back, or not any more: what was kept is said then.
    pub fn hush(&mut self, hushed: bool) {
        self.hushed = hushed;
        if !hushed {
            for text in self.kept.drain(..) {
                (self.tell)(&text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_said_is_said_later_in_order() {
        let mut said = Vec::new();
        let mut tell = |text: &str| said.push(text.to_owned());
        let mut voice = Voice::new(&mut tell);
        voice.tell("one");
        voice.hush(true);
        voice.tell("two");
        voice.tell("three");
        voice.hush(false);
        voice.tell("four");
        assert_eq!(said, ["one", "two", "three", "four"]);
    }
}
