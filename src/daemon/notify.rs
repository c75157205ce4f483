//! The daemon's messages: logged at once, or deferred while root is suspended.

use crate::output::kmsg;

/// Logs the daemon's messages to its output and to the system's log.
///
/// While writers are held back it logs to the kernel log alone and keeps messages for later:
/// a syslogd that waits for root takes no more messages, and the daemon, whose flush would end the
/// wait, would wait for syslogd.
pub struct Notify<'a> {
    log: &'a mut dyn FnMut(&str),
    deferring: bool,
    kept: Vec<String>,
}

/// The most messages that are kept; the kernel log has all.
const MOST_KEPT: usize = 32;

impl<'a> Notify<'a> {
    /// A notifier that passes messages to `log`.
    pub fn new(log: &'a mut dyn FnMut(&str)) -> Self {
        Self { log, deferring: false, kept: Vec::new() }
    }

    /// Logs a message, or keeps it for later.
    pub fn log(&mut self, text: &str) {
        if !self.deferring {
            return (self.log)(text);
        }
        let _ = kmsg::say(kmsg::WARNING, text);
        if self.kept.len() < MOST_KEPT {
            self.kept.push(text.to_owned());
        }
    }

    /// Sets whether messages wait from now on, since writers are held back. When they no longer
    /// wait, it logs those that were kept.
    pub fn defer(&mut self, deferring: bool) {
        self.deferring = deferring;
        if !deferring {
            for text in self.kept.drain(..) {
                (self.log)(&text);
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
        let mut log = |text: &str| said.push(text.to_owned());
        let mut notify = Notify::new(&mut log);
        notify.log("one");
        notify.defer(true);
        notify.log("two");
        notify.log("three");
        notify.defer(false);
        notify.log("four");
        assert_eq!(said, ["one", "two", "three", "four"]);
    }
}
